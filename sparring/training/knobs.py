"""Turning the knobs: what the next step samples and explores with, by alarms and by measured entropy.

Pure functions, as the monitors are: a resumed run turns them as it would have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, isfinite, log, prod

from sparring.errors import UserError
from sparring.training.monitors import Alarm, Monitor


def steer(
    monitors: Sequence[Monitor],
    alarms: Sequence[Alarm],
    settings: Mapping[str, float],
    home: Mapping[str, float],
) -> dict[str, float]:
    """Settings of the next step: alarms push a knob by their factors, without an alarm it steps back home.

    Args:
        monitors: all that watch this policy; only those with action `sample` steer.
        settings: knob -> value now.
        home: knob -> value as configured, where a knob returns to once its alarms are over.
    """
    result = dict(settings)
    for knob in settings:
        mine = [m for m in monitors if m.action == "sample" and m.knob == knob]
        if not mine:
            continue
        low, high = max(m.bounds[0] for m in mine), min(m.bounds[1] for m in mine)
        pushes = [alarm.change[knob] for alarm in alarms if knob in alarm.change]
        if pushes:
            result[knob] = max(low, min(settings[knob] * prod(pushes), high))
        else:
            back = max(max(m.factor, 1 / m.factor) for m in mine)
            result[knob] = _towards(settings[knob], home[knob], back, low)
    return result


def _towards(value: float, home: float, factor: float, low: float) -> float:
    """One step by `factor` from `value` to `home`, which it never passes; home may be 0, below `low`."""
    if value > home:
        nearer = value / factor
        return nearer if nearer > max(home, low) else home
    return min(home, max(value * factor, low))


def adapt_entropy(
    coefficient: float, entropy: float | None, target: float, rate: float, bounds: tuple[float, float]
) -> float:
    """The next entropy coefficient c: ln c grows by rate * (target - entropy), held within bounds.

    The temperature update of soft actor-critic (Haarnoja et al. 1812.05905, eq. 18) in log space, so that c
    stays positive. A step without a measured entropy changes nothing.

    Args:
        entropy: mean over tokens, in nats.
        target: nats; below it the coefficient rises.
        rate: per step, 1/nats.
        bounds: lowest and highest coefficient, both above 0.
    """
    low, high = bounds
    if not 0 < low <= high:
        raise UserError(
            f"bounds of the entropy coefficient must be above 0 and in order, not {low:g} to {high:g}"
        )
    start = max(low, min(coefficient, high))
    if entropy is None or not isfinite(entropy):
        return start
    return max(low, min(exp(log(start) + rate * (target - entropy)), high))

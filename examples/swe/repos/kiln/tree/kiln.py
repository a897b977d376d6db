"""Waiting for the kiln, and firing programmes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

Reading = Callable[[], float]


class TooCold(Exception):
    """The kiln did not get there in time."""


def wait_until(
    reading: Reading,
    target: float,
    timeout: float,
    interval: float = 0.1,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> float:
    """Wait until the kiln has at least `target` degrees; returns the temperature it has then.

    Args:
        timeout: seconds after which to give up.
        interval: seconds between two readings.

    Raises:
        TooCold: `timeout` seconds have gone by.
    """
    deadline = clock() + timeout
    seen = float("-inf")
    while clock() < deadline:
        seen = reading()
        if seen >= target:
            return seen
        sleep(interval)
    raise TooCold(f"{seen:.0f} of {target:.0f}")


@dataclass(frozen=True)
class Step:
    """Heat to a temperature, then hold it for some seconds."""

    degrees: float
    hold: float = 0.0


def fire(steps: list[Step], reading: Reading, timeout: float) -> list[float]:
    """Run a programme; the temperatures at which its steps began to hold."""
    reached = []
    for step in steps:
        reached.append(wait_until(reading, step.degrees, timeout))
        time.sleep(step.hold)
    return reached


def duration(steps: list[Step], rate: float, start: float = 20.0) -> float:
    """Seconds that a programme takes in a kiln that heats by `rate` degrees a second."""
    total, at = 0.0, start
    for step in steps:
        total += max(0.0, step.degrees - at) / rate + step.hold
        at = max(at, step.degrees)
    return total

"""Learning curves and comparisons as PNG files, drawn from plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from sparring.errors import UserError, unknown
from sparring.graphs.drawing import (
    COLOURS,
    GREY,
    Point,
    add_legend,
    count_steps,
    draw_band,
    draw_line,
    finite,
    new_figure,
    number_of,
    plain,
    save,
    say_empty,
    span_of,
)
from sparring.graphs.stats import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DECISIONS = {"promote": ("^", "#009E73"), "reject": ("X", "#D55E00"), "underpowered": ("o", "#666666")}
"""A gate's decision -> marker and colour."""
PANELS: tuple[tuple[str, str, tuple[tuple[str, ...], ...]], ...] = (
    ("Reward", "mean per turn", (("reward",),)),
    ("Entropy", "nats per token", (("entropy",),)),
    ("KL divergence", "nats per token", (("kl_reference",), ("kl",), ("kl_old_k3",))),
    ("Clipped tokens", "share", (("clip_fraction",), ("clip_low", "clip_high"))),
    ("Completion length", "tokens", (("length",),)),
    ("Prompts whose rewards differ", "share", (("informative",),)),
)
"""Title, unit, and metrics: the first alternative that a series has, its metrics added up."""
SHARES = ("Clipped tokens", "Prompts whose rewards differ")

AxisName = Literal["step", "seconds"]


def training_plot(
    series: Sequence[Point],
    out: str | Path,
    *,
    evaluations: Mapping[str, Sequence[Point]] | None = None,
    decisions: Sequence[Point] = (),
    alarms: Sequence[Point] = (),
    axis: AxisName = "step",
    title: str = "Training",
) -> Path:
    """Draw a run's learning curves to a PNG of 1100 x 950 pixels: accuracy on top, six metrics below.

    Args:
        series: metrics per step, `policy` naming whose they are where there are several policies.
        evaluations: curve ("live", "training head") -> points {step, mean, low, high, n}, shares of 1.
        decisions: of the gate, {step, decision: promote | reject | underpowered}.
        alarms: {step, monitor}.
        axis: `seconds` of training; rows without them are placed by their step.

    Raises:
        UserError: nothing to draw, an unknown axis, or a file that cannot be written.
    """
    if axis not in ("step", "seconds"):
        raise unknown("axis", axis, ("step", "seconds"))
    curves = {label: points for label, points in (evaluations or {}).items() if points}
    if not series and not curves:
        raise UserError("nothing to plot: no step of training and no evaluation yet")
    clock = _Clock(axis, series)
    with new_figure(11, 9.5, title) as figure:
        grid = figure.add_gridspec(3, 3, height_ratios=(1.35, 1, 1))
        top = figure.add_subplot(grid[0, :2])
        _draw_accuracy(top, curves, decisions, clock)
        policies = _by_policy(series)
        panels = [figure.add_subplot(grid[1 + place // 3, place % 3], sharex=top) for place in range(6)]
        for panel, (name, unit, choices) in zip(panels, PANELS, strict=True):
            panel.set_title(name)
            panel.set_ylabel(unit)
            _draw_metric(panel, policies, choices, clock)
            if name in SHARES:
                panel.set_ylim(-0.03, 1.03)
        _mark_alarms([top, *panels], alarms, clock)
        for panel in (top, *panels[3:]):
            panel.set_xlabel("seconds of training" if axis == "seconds" else "step")
        if len(policies) > 1:
            add_legend(panels[0], "inside")
        add_legend(top, "overhanging")
        return save(figure, out)


class _Clock:
    """Where a row stands on the horizontal axis."""

    def __init__(self, axis: AxisName, series: Sequence[Point]) -> None:
        self.axis = axis
        known = {number_of(row, "step"): number_of(row, "seconds") for row in series}
        pairs = sorted(
            (step, seconds) for step, seconds in known.items() if isfinite(step) and isfinite(seconds)
        )
        self.steps, self.seconds = [step for step, _ in pairs], [seconds for _, seconds in pairs]

    def __call__(self, row: Point) -> float:
        """Step or seconds; NaN, which is not drawn, where neither says it."""
        place, step = number_of(row, self.axis), number_of(row, "step")
        if isfinite(place) or self.axis == "step" or not self.steps or not isfinite(step):
            return place
        return float(np.interp(step, self.steps, self.seconds))


def _draw_accuracy(
    panel: Axes, curves: Mapping[str, Sequence[Point]], decisions: Sequence[Point], clock: _Clock
) -> None:
    panel.set_title("Accuracy, with 95 % intervals; the gate's decisions above")
    panel.set_ylabel("share right")
    panel.set_ylim(-0.03, 1.14)
    panel.set_yticks(np.linspace(0, 1, 6))
    count_steps(panel)
    for place, (label, points) in enumerate(curves.items()):
        columns = [[number_of(point, name) for point in points] for name in ("mean", "low", "high")]
        counts = {int(n) for n in (number_of(point, "n") for point in points) if isfinite(n)}
        size = f", n = {span_of(counts)}" if counts else ""
        draw_band(panel, [clock(point) for point in points], columns, f"{plain(label)}{size}", place)
    for decision in dict.fromkeys(str(row.get("decision", "?")) for row in decisions):
        marker, colour = DECISIONS.get(decision, ("s", COLOURS[-1]))
        places = [clock(row) for row in decisions if str(row.get("decision", "?")) == decision]
        label = f"gate: {plain(decision)}"
        panel.scatter(places, [1.08] * len(places), s=36, c=colour, marker=marker, label=label, zorder=4)
    if not curves:
        say_empty(panel)


def _draw_metric(
    panel: Axes,
    policies: Mapping[str, Sequence[Point]],
    choices: Sequence[Sequence[str]],
    clock: _Clock,
) -> None:
    drawn = False
    for number, (policy, rows) in enumerate(policies.items()):
        for names in choices:
            values = np.array([[number_of(row, name) for name in names] for row in rows]).sum(axis=1)
            if np.isfinite(values).any():
                draw_line(panel, np.array([clock(row) for row in rows]), values, policy, number)
                drawn = True
                break
    if not drawn:
        say_empty(panel)


def _by_policy(series: Iterable[Point]) -> dict[str, list[Point]]:
    policies: dict[str, list[Point]] = {}
    for row in series:
        policies.setdefault(str(row.get("policy", "policy")), []).append(row)
    return policies


def _mark_alarms(panels: Sequence[Axes], alarms: Sequence[Point], clock: _Clock) -> None:
    """A vertical line per alarm in every panel, and one entry per monitor in the first one's legend."""
    names = list(dict.fromkeys(str(row.get("monitor", "?")) for row in alarms))
    for number, name in enumerate(names):
        places = {clock(row) for row in alarms if str(row.get("monitor", "?")) == name}
        dash = (number, (1 + 2 * (number % 3), 2 + number // 3))
        for panel in panels:
            for place in sorted(place for place in places if isfinite(place)):
                panel.axvline(place, color="#A00000", linewidth=1, linestyle=dash, alpha=0.7)
        panels[0].plot([], [], color="#A00000", linewidth=1, linestyle=dash, label=f"alarm: {plain(name)}")


def before_after_plot(
    before: Mapping[str, Estimate],
    after: Mapping[str, Estimate],
    out: str | Path,
    *,
    title: str = "Accuracy before and after training",
    labels: tuple[str, str] = ("before", "after"),
) -> Path:
    """Draw two accuracies by kind ("all", "sums") as bars with 95 % intervals.

    Raises:
        UserError: nothing to draw, or a file that cannot be written.
    """
    kinds = list(dict.fromkeys([*before, *after]))
    if not kinds:
        raise UserError("nothing to plot: no accuracy before or after training")
    with new_figure(max(5.0, 1.6 + 1.5 * len(kinds)), 4.2, title) as figure:
        panel = figure.add_subplot()
        for number, (label, side) in enumerate(zip(labels, (before, after), strict=True)):
            colour = (GREY, COLOURS[0])[number]
            shown = [(place, side[kind]) for place, kind in enumerate(kinds) if kind in side]
            x = [place + 0.38 * (number - 0.5) for place, _ in shown]
            means = [each.mean for _, each in shown]
            reach = [
                [each.mean - each.low for _, each in shown],
                [each.high - each.mean for _, each in shown],
            ]
            panel.bar(x, means, 0.34, color=colour, alpha=0.85, label=plain(label))
            panel.errorbar(
                x, means, np.maximum(reach, 0), fmt="none", ecolor="black", capsize=4, linewidth=1.2
            )
            for place, (_, each) in zip(x, shown, strict=True):
                panel.annotate(
                    f"{each.mean:.3f}", (place, each.high), (0, 3), textcoords="offset points", ha="center"
                )
        panel.set_xticks(range(len(kinds)), [_tick(kind, before, after) for kind in kinds])
        panel.set_xlim(-0.6, len(kinds) - 0.4)
        panel.set_ylim(0, 1.12)
        panel.set_yticks(np.linspace(0, 1, 6))
        panel.set_ylabel("share right, 95 % interval")
        panel.grid(visible=False, axis="x")
        add_legend(panel)
        return save(figure, out)


def _tick(kind: str, before: Mapping[str, Estimate], after: Mapping[str, Estimate]) -> str:
    counts = {side[kind].n for side in (before, after) if kind in side}
    return f"{plain(kind, 16)}\nn = {span_of(counts)}"


def curves_plot(
    runs: Mapping[str, Sequence[tuple[float, float, float, float]]],
    out: str | Path,
    *,
    title: str = "Runs compared",
    x_label: str = "step",
    y_label: str = "share right, 95 % interval",
    level: tuple[str, float] | None = None,
) -> Path:
    """Draw several runs (seeds, a control) as lines with bands.

    Args:
        runs: label -> points (x, mean, low, high).
        level: label and height of a horizontal line, such as the accuracy before.

    Raises:
        UserError: nothing to draw, or a file that cannot be written.
    """
    if not any(runs.values()):
        raise UserError("nothing to plot: no run has a point")
    with new_figure(8, 4.8, title) as figure:
        panel = figure.add_subplot()
        for number, (label, points) in enumerate(runs.items()):
            if points:
                x, *columns = ([finite(value) for value in column] for column in zip(*points, strict=True))
                draw_band(panel, x, columns, plain(label), number)
        if level is not None:
            panel.axhline(level[1], color=GREY, linewidth=1, linestyle=(0, (5, 3)), label=plain(level[0]))
        count_steps(panel)
        panel.set_xlabel(plain(x_label))
        panel.set_ylabel(plain(y_label))
        add_legend(panel)
        return save(figure, out)

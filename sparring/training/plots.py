"""Learning curves and comparisons as PNG files, drawn from plain data.

Matplotlib is imported when something is drawn, through its object interface: no window, no global figure.
Colours are those of Okabe and Ito, which the colour-blind can tell apart; lines differ in dash too.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from math import isfinite
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from sparring.errors import UserError, unknown
from sparring.graphs.stats import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 100
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
GREY = "#666666"
STYLE: dict[Any, Any] = {
    "font.size": 9, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": "#dddddd", "grid.linewidth": 0.6, "axes.axisbelow": True,
    "legend.fontsize": 8, "legend.frameon": False, "lines.linewidth": 1.5,
}  # fmt: skip
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
LABEL_CHARS = 36

Point = Mapping[str, Any]
"""A row of a journal: `step` and `seconds` of training, with numbers beside them."""
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
    with _figure(11, 9.5, title) as figure:
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
            _legend(panels[0], "inside")
        _legend(top, "overhanging")
        return _save(figure, out)


class _Clock:
    """Where a row stands on the horizontal axis."""

    def __init__(self, axis: AxisName, series: Sequence[Point]) -> None:
        self.axis = axis
        known = {_value(row, "step"): _value(row, "seconds") for row in series}
        pairs = sorted(
            (step, seconds) for step, seconds in known.items() if isfinite(step) and isfinite(seconds)
        )
        self.steps, self.seconds = [step for step, _ in pairs], [seconds for _, seconds in pairs]

    def __call__(self, row: Point) -> float:
        """Step or seconds; NaN, which is not drawn, where neither says it."""
        place, step = _value(row, self.axis), _value(row, "step")
        if isfinite(place) or self.axis == "step" or not self.steps or not isfinite(step):
            return place
        return float(np.interp(step, self.steps, self.seconds))


def _draw_accuracy(
    panel: Axes, curves: Mapping[str, Sequence[Point]], decisions: Sequence[Point], clock: _Clock
) -> None:
    from matplotlib.ticker import MaxNLocator

    panel.set_title("Accuracy, with 95 % intervals; the gate's decisions above")
    panel.set_ylabel("share right")
    panel.set_ylim(-0.03, 1.14)
    panel.set_yticks(np.linspace(0, 1, 6))
    panel.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10], integer=True, min_n_ticks=1))
    for place, (label, points) in enumerate(curves.items()):
        columns = [[_value(point, name) for point in points] for name in ("mean", "low", "high")]
        counts = {int(n) for n in (_value(point, "n") for point in points) if isfinite(n)}
        size = f", n = {_range(counts)}" if counts else ""
        _draw_band(panel, [clock(point) for point in points], columns, f"{_plain(label)}{size}", place)
    for decision in dict.fromkeys(str(row.get("decision", "?")) for row in decisions):
        marker, colour = DECISIONS.get(decision, ("s", COLOURS[-1]))
        places = [clock(row) for row in decisions if str(row.get("decision", "?")) == decision]
        label = f"gate: {_plain(decision)}"
        panel.scatter(places, [1.08] * len(places), s=36, c=colour, marker=marker, label=label, zorder=4)
    if not curves:
        _say_empty(panel)


def _draw_band(
    panel: Axes, places: Sequence[float], columns: Sequence[Sequence[float]], label: str, number: int
) -> None:
    """A line through the means and a band from low to high; `columns` are mean, low, high, each (N,)."""
    table = np.array([places, *columns], np.float64)
    x, mean, low, high = table[:, np.argsort(table[0], kind="stable")]
    colour = COLOURS[number % len(COLOURS)]
    marker = "o" if len(x) < 40 else ""
    line = DASHES[number % len(DASHES)]
    panel.plot(x, mean, line, color=colour, marker=marker, markersize=3.5, label=label, zorder=3)
    panel.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    if marker:  # a lone point has no band
        panel.vlines(x, low, high, color=colour, alpha=0.4, linewidth=1)


def _draw_metric(
    panel: Axes,
    policies: Mapping[str, Sequence[Point]],
    choices: Sequence[Sequence[str]],
    clock: _Clock,
) -> None:
    drawn = False
    for number, (policy, rows) in enumerate(policies.items()):
        for names in choices:
            values = np.array([[_value(row, name) for name in names] for row in rows]).sum(axis=1)
            if np.isfinite(values).any():
                _draw_line(panel, np.array([clock(row) for row in rows]), values, policy, number)
                drawn = True
                break
    if not drawn:
        _say_empty(panel)


def _draw_line(
    panel: Axes, x: NDArray[np.float64], values: NDArray[np.float64], label: str, number: int
) -> None:
    """A line; steps without a value are gaps, and a value between two gaps is a dot."""
    order = np.argsort(x, kind="stable")
    x, values = x[order], values[order]
    known = np.concatenate([[False], np.isfinite(values), [False]])
    alone = known[1:-1] & ~known[:-2] & ~known[2:]
    colour, dash = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
    panel.plot(x, values, dash, color=colour, label=_plain(label))
    panel.plot(x[alone], values[alone], "o", color=colour, markersize=3)


def _mark_alarms(panels: Sequence[Axes], alarms: Sequence[Point], clock: _Clock) -> None:
    """A vertical line per alarm in every panel, and one entry per monitor in the first one's legend."""
    names = list(dict.fromkeys(str(row.get("monitor", "?")) for row in alarms))
    for number, name in enumerate(names):
        places = {clock(row) for row in alarms if str(row.get("monitor", "?")) == name}
        dash = (number, (1 + 2 * (number % 3), 2 + number // 3))
        for panel in panels:
            for place in sorted(place for place in places if isfinite(place)):
                panel.axvline(place, color="#A00000", linewidth=1, linestyle=dash, alpha=0.7)
        panels[0].plot([], [], color="#A00000", linewidth=1, linestyle=dash, label=f"alarm: {_plain(name)}")


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
    with _figure(max(5.0, 1.6 + 1.5 * len(kinds)), 4.2, title) as figure:
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
            panel.bar(x, means, 0.34, color=colour, alpha=0.85, label=_plain(label))
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
        _legend(panel)
        return _save(figure, out)


def _tick(kind: str, before: Mapping[str, Estimate], after: Mapping[str, Estimate]) -> str:
    counts = {side[kind].n for side in (before, after) if kind in side}
    return f"{_plain(kind, 16)}\nn = {_range(counts)}"


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
    with _figure(8, 4.8, title) as figure:
        panel = figure.add_subplot()
        for number, (label, points) in enumerate(runs.items()):
            if points:
                x, *columns = ([_finite(value) for value in column] for column in zip(*points, strict=True))
                _draw_band(panel, x, columns, _plain(label), number)
        if level is not None:
            panel.axhline(level[1], color=GREY, linewidth=1, linestyle=(0, (5, 3)), label=_plain(level[0]))
        panel.set_xlabel(_plain(x_label))
        panel.set_ylabel(_plain(y_label))
        _legend(panel)
        return _save(figure, out)


# --- what they share ---------------------------------------------------------------------------------


@contextmanager
def _figure(width: float, height: float, title: str) -> Iterator[Figure]:
    """A figure of so many inches, independent of the user's own matplotlib settings."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(_plain(title, int(9 * width)), fontsize=12)
        yield figure


def _save(figure: Figure, out: str | Path) -> Path:
    """Write the PNG beside its place and move it there, so that a reader never sees half a file."""
    target = Path(out).expanduser()
    part = target.with_name(f".{secrets.token_hex(4)}.part")
    image = BytesIO()
    figure.savefig(image, format="png", dpi=DPI)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(image.getvalue())
        os.replace(part, target)
    except OSError as error:
        with suppress(OSError):  # its folder may be what is wrong
            part.unlink()
        raise UserError(f"plot {target} cannot be written: {error.strerror or error}") from None
    return target


def _legend(panel: Axes, where: Literal["inside", "beside", "overhanging"] = "beside") -> None:
    """A legend inside the panel, or right of it in room of its own or over its neighbour's; none where
    nothing has a label."""
    handles, labels = panel.get_legend_handles_labels()
    if handles and where == "inside":
        panel.legend(handles, labels, loc="best")
    elif handles:
        legend = panel.legend(handles, labels, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
        legend.set_in_layout(where == "beside")


def _say_empty(panel: Axes) -> None:
    panel.set_yticks([])
    panel.text(0.5, 0.5, "not measured", ha="center", va="center", transform=panel.transAxes, color=GREY)


def _by_policy(series: Iterable[Point]) -> dict[str, list[Point]]:
    policies: dict[str, list[Point]] = {}
    for row in series:
        policies.setdefault(str(row.get("policy", "policy")), []).append(row)
    return policies


def _value(row: Point, name: str) -> float:
    return _finite(row.get(name))


def _finite(value: Any) -> float:
    """The number, or NaN, which is drawn as a gap."""
    return float(value) if isinstance(value, Real) and isfinite(value) else float("nan")


def _range(counts: Iterable[int]) -> str:
    ordered = sorted(counts)
    return f"{ordered[0]}" if ordered[0] == ordered[-1] else f"{ordered[0]} to {ordered[-1]}"


def _plain(text: str, most: int = LABEL_CHARS) -> str:
    """Text that matplotlib draws as it is: no mathematics, nothing hidden, no character its font lacks."""
    from matplotlib.font_manager import findfont, get_font

    known = get_font(findfont("DejaVu Sans")).get_charmap()
    line = " ".join(str(text).split())
    line = line if len(line) <= most else line[: most - 1] + "…"
    drawn = "".join(char if ord(char) in known else char.encode("unicode_escape").decode() for char in line)
    hidden = not drawn or drawn.startswith("_")  # either keeps a line out of the legend
    return (" " if hidden else "") + drawn.replace("$", r"\$")

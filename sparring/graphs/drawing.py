"""What all plots share: the figure and its style, lines and bands, legends, and text drawn as it is.

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

from sparring.errors import UserError

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
LABEL_CHARS = 36

Point = Mapping[str, Any]
"""A row of a journal: `step` and `seconds` of training, with numbers beside them."""


@contextmanager
def new_figure(width: float, height: float, title: str) -> Iterator[Figure]:
    """A figure of so many inches, independent of the user's own matplotlib settings."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(plain(title, int(9 * width)), fontsize=12)
        yield figure


def save(figure: Figure, out: str | Path) -> Path:
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


def add_legend(panel: Axes, where: Literal["inside", "beside", "overhanging"] = "beside") -> None:
    """A legend inside the panel, or right of it in room of its own or over its neighbour's; none where
    nothing has a label."""
    handles, labels = panel.get_legend_handles_labels()
    if handles and where == "inside":
        panel.legend(handles, labels, loc="best")
    elif handles:
        legend = panel.legend(handles, labels, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
        legend.set_in_layout(where == "beside")


def say_empty(panel: Axes) -> None:
    panel.set_yticks([])
    panel.text(0.5, 0.5, "not measured", ha="center", va="center", transform=panel.transAxes, color=GREY)


def count_steps(panel: Axes) -> None:
    """Whole numbers along the bottom, at most eight parts of them."""
    from matplotlib.ticker import MaxNLocator

    panel.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10], integer=True, min_n_ticks=1))


def draw_band(
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


def draw_line(
    panel: Axes, x: NDArray[np.float64], values: NDArray[np.float64], label: str, number: int
) -> None:
    """A line, x (N,) and y (N,); steps without a value are gaps, a value between two gaps is a dot."""
    order = np.argsort(x, kind="stable")
    x, values = x[order], values[order]
    known = np.concatenate([[False], np.isfinite(values), [False]])
    alone = known[1:-1] & ~known[:-2] & ~known[2:]
    colour, dash = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
    panel.plot(x, values, dash, color=colour, label=plain(label))
    panel.plot(x[alone], values[alone], "o", color=colour, markersize=3)


def number_of(row: Point, name: str) -> float:
    return finite(row.get(name))


def finite(value: Any) -> float:
    """The number, or NaN, which is drawn as a gap."""
    return float(value) if isinstance(value, Real) and isfinite(value) else float("nan")


def span_of(counts: Iterable[int]) -> str:
    ordered = sorted(counts)
    return f"{ordered[0]}" if ordered[0] == ordered[-1] else f"{ordered[0]} to {ordered[-1]}"


def plain(text: str, most: int = LABEL_CHARS) -> str:
    """Text that matplotlib draws as it is: no mathematics, nothing hidden, no character its font lacks."""
    from matplotlib.font_manager import findfont, get_font

    known = get_font(findfont("DejaVu Sans")).get_charmap()
    line = " ".join(str(text).split())
    line = line if len(line) <= most else line[: most - 1] + "…"
    drawn = "".join(char if ord(char) in known else char.encode("unicode_escape").decode() for char in line)
    hidden = not drawn or drawn.startswith("_")  # either keeps a line out of the legend
    return (" " if hidden else "") + drawn.replace("$", r"\$")

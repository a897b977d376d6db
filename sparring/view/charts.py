"""Curves as a page draws them: what uPlot wants, and a table of the same for those who see no chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, TypeVar

from sparring.view.text import is_number

_T = TypeVar("_T")
MOST = 400
"""Points of a line that are drawn."""
TABLED = 60
"""Rows of the table beside a chart."""
Line = Sequence[tuple[float, float | None]]


@dataclass(frozen=True)
class Chart:
    """Lines over one axis."""

    id: str
    title: str
    x: str
    series: list[str]
    rows: list[list[float | None]]
    """The axis, then a list of the same length for each line."""
    bands: list[list[int]] = field(default_factory=list)
    """Places of a line, of its lower and of its upper bound."""
    share: bool = False
    """Whether the lines are shares, to be seen between 0 and 1."""
    step: int = 1
    """Of the points that there are, which are drawn: every one, every second, ..."""

    def data(self) -> dict[str, Any]:
        """What the script reads."""
        names = ("x", "series", "rows", "bands", "share")
        return {name: getattr(self, name) for name in names}

    @property
    def stride(self) -> int:
        """Of the drawn points, which are in the table."""
        return -(-len(self.rows[0]) // TABLED)

    @property
    def table(self) -> list[tuple[float | None, ...]]:
        """Rows of the table, the last point always among them."""
        return list(zip(*(thinned(row, self.stride) for row in self.rows), strict=True))

    @property
    def every(self) -> int:
        """Of the points that there are, which are in the table."""
        return self.step * self.stride


def chart(
    name: str,
    title: str,
    lines: Mapping[str, Line],
    *,
    x: str = "step",
    bands: Sequence[str] = (),
    share: bool = False,
) -> Chart | None:
    """A chart of lines that each have points of their own; None where none has a figure.

    Args:
        lines: label -> points (x, y); a y that is None or no finite number is a gap.
        bands: labels that are followed by two lines, their lower and their upper bound.
    """
    kept = {label: {at: y for at, y in line if plain(y) is not None} for label, line in lines.items()}
    with_bounds = [at for at, label in enumerate(kept) if label in bands]
    if not any(kept.values()):
        return None
    places = sorted({at for line in kept.values() for at in line})
    step = -(-len(places) // MOST)
    axis = thinned(places, step)
    rows: list[list[float | None]] = [list(axis), *([line.get(at) for at in axis] for line in kept.values())]
    return Chart(name, title, x, list(kept), rows, [[at, at + 1, at + 2] for at in with_bounds], share, step)


def plain(value: Any) -> float | None:
    """A finite number, or None: JSON has no other."""
    return value if is_number(value) and isfinite(value) else None


def thinned(values: Sequence[_T], step: int) -> list[_T]:
    """One value of so many, the last one always."""
    return list(values[(len(values) - 1) % step :: step]) if values else []

"""Two runs beside each other, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.text import Text

from sparring.graphs.display import amount, columns, interval
from sparring.graphs.paired import RunComparison


def comparison_parts(found: RunComparison) -> list[Any]:
    """Two runs for people: accuracy with the paired interval, tasks won and lost, what each took."""
    table = columns(("", "accuracy", "difference", "[95 %]", "won", "tied", "lost"), ())
    gap = found.difference
    table.add_row(Text(found.first), f"{found.accuracy_first:.3f}")
    counts = map(str, (found.wins, found.ties, found.losses))
    paired = (f"{gap.mean:+.3f}", interval(gap, "+"))
    table.add_row(Text(found.second), f"{found.accuracy_second:.3f}", *paired, *counts)
    rows = [
        (
            one.unit.replace("_", " "), amount(one.first), amount(one.second),
            "-" if one.ratio is None else f"{one.ratio:.3g}",
        )
        for one in found.spending
        if one.first or one.second
    ]  # fmt: skip
    spent = columns(("an episode of these tasks", found.first, found.second, "ratio"), rows)
    said = [
        f"{found.tasks} tasks that both have; sign test of tasks won and lost: p = {found.sign_test:.3g}",
        *_left_out(found),
        found.conclusion,
    ]
    return [table, spent, Text("\n".join(said))]


def _left_out(found: RunComparison) -> list[str]:
    alone = ((found.first, found.only_first), (found.second, found.only_second))
    said = [f"judged only in {run}: {_few(tasks)}" for run, tasks in alone if tasks]
    if found.differs:
        said.append(f"of one name, but another question or reference: {_few(found.differs)}")
    if found.unfinished:
        said.append(f"not finished, so its easiest tasks may weigh most: {', '.join(found.unfinished)}")
    return said


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{len(names)} tasks ({', '.join(names[:5])}{more})"

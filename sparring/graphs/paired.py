"""Two runs on the tasks that both have: how their accuracies differ, task by task, and what each took.

    with Journal.open("debates.db") as journal:
        print(compare_runs(journal, "debate-1", "debate-2").difference)

A task's accuracy is the mean over its episodes, so that copies make a task no heavier; tasks are resampled,
each with both of its sides (`stats.bootstrap`). A failed episode counts as wrong, as in every report; what
nobody could judge is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import comb
from typing import Any

import numpy as np

from sparring.errors import UserError
from sparring.graphs.pool import share
from sparring.graphs.report import references, scored_by_task
from sparring.graphs.results import Result, played_row, read_results
from sparring.graphs.stats import Estimate, bootstrap
from sparring.memory.journal import Journal

UNFINISHED = ("open", "interrupted")
UNITS = ("calls", "prompt_tokens", "completion_tokens", "total_tokens", "cost")


@dataclass(frozen=True, slots=True)
class Spending:
    """What an episode of a common task took, in the mean over tasks; and the ratio of the two."""

    unit: str
    """`calls`, `prompt_tokens`, `completion_tokens`, `total_tokens` or `cost`."""
    first: float | None
    """None of money where an engine that was asked has no price."""
    second: float | None

    @property
    def ratio(self) -> float | None:
        """Second over first; None where the first took nothing, or one of them is not known."""
        return self.second / self.first if self.first and self.second is not None else None


@dataclass(frozen=True)
class RunComparison:
    """A second run beside a first one."""

    first: str
    second: str
    tasks: int
    """Tasks that both have, with a reference and an episode that was judged or failed."""
    accuracy_first: float
    accuracy_second: float
    """Means over the common tasks."""
    difference: Estimate
    """Second minus first, paired by task."""
    wins: int
    """Tasks on which the second has more episodes right, in share."""
    ties: int
    losses: int
    sign_test: float
    """Two-sided p of as uneven wins and losses by chance, ties left out: McNemar's exact test where each task
    has one episode in each run."""
    spending: tuple[Spending, ...]
    only_first: tuple[str, ...]
    """Tasks that count in the first run alone: the second has none such, or has not come to its verdict."""
    only_second: tuple[str, ...]
    differs: tuple[str, ...] = ()
    """Tasks of one name that ask something else, or are judged by another reference: they are not common."""
    unfinished: tuple[str, ...] = ()
    """Runs that are not over: what they came to first may be their easiest tasks."""

    @property
    def conclusion(self) -> str:
        """One sentence on what the interval allows to say."""
        said = {"better": "is better than", "worse": "is worse than", "open": "cannot be told from"}
        return f"By these {self.tasks} tasks, `{self.second}` {said[self.difference.verdict]} `{self.first}`."

    def to_json(self) -> dict[str, Any]:
        found = asdict(self) | {"conclusion": self.conclusion, "verdict": self.difference.verdict}
        found["spending"] = {
            one.unit: {"first": one.first, "second": one.second, "ratio": one.ratio} for one in self.spending
        }
        return found


def compare_runs(journal: Journal, first: str, second: str) -> RunComparison:
    """Compare two runs of a journal.

    Raises:
        UserError: there is no such run, one is made of other runs (an evolution, a tournament), or no task
            that both have with a reference and an ended episode.
    """
    rows = [played_row(journal, run) for run in dict.fromkeys((first, second))]
    sides = [_judged(journal, run) for run in (first, second)]
    one, other = sides
    asked = [references(journal, run) for run in (first, second)]
    both = [task for task in one if task in other]
    differs = tuple(task for task in both if asked[0][task] != asked[1][task])
    common = [task for task in both if task not in differs]
    if not common:
        raise UserError(_nothing(first, second, one, other, differs))
    before, after = ([share(side[task]) for task in common] for side in sides)
    gaps = np.asarray(after) - np.asarray(before)
    wins, losses = int((gaps > 1e-12).sum()), int((gaps < -1e-12).sum())
    return RunComparison(
        first=first,
        second=second,
        tasks=len(common),
        accuracy_first=float(np.mean(before)),
        accuracy_second=float(np.mean(after)),
        difference=bootstrap(gaps),
        wins=wins,
        ties=len(common) - wins - losses,
        losses=losses,
        sign_test=sign_test(wins, losses),
        spending=tuple(Spending(unit, *(_mean(side, common, unit) for side in sides)) for unit in UNITS),
        only_first=tuple(task for task in one if task not in other),
        only_second=tuple(task for task in other if task not in one),
        differs=differs,
        unfinished=tuple(row.id for row in rows if row.status in UNFINISHED),
    )


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact binomial p of so uneven a split, or a more uneven one, where both were as likely."""
    n, few = wins + losses, min(wins, losses)
    return min(1.0, float(2 * sum(comb(n, k) for k in range(few + 1)) / 2**n))


def _judged(journal: Journal, run: str) -> dict[str, list[Result]]:
    """Task -> its episodes that count, in the order of the run's tasks."""
    return scored_by_task(journal, run, read_results(journal, run))


def _mean(side: Mapping[str, Sequence[Result]], tasks: Sequence[str], unit: str) -> float | None:
    """Mean over tasks of what an episode took; None where nobody knows of one."""
    took = [[_took(row, unit) for row in side[task]] for task in tasks]
    if any(one is None for rows in took for one in rows):
        return None
    return float(np.mean([np.mean(np.array(rows, np.float64)) for rows in took]))


def _took(row: Result, unit: str) -> float | None:
    if unit == "total_tokens":
        return row.prompt_tokens + row.completion_tokens
    value: float | None = getattr(row, unit)
    return value


def _nothing(
    first: str, second: str, one: Mapping[str, Any], other: Mapping[str, Any], differs: Sequence[str]
) -> str:
    """Why two runs cannot be compared."""
    for run, side in ((first, one), (second, other)):
        if not side:
            return (
                f"run `{run}` has no task with a reference and an episode that has ended: nothing to compare"
            )
    if differs:
        return (
            f"runs `{first}` and `{second}` share no task: those of one name ask or expect something else "
            f"({', '.join(differs[:3])})"
        )
    return (
        f"runs `{first}` and `{second}` share no task: the first has {_some(one)}, the second {_some(other)}"
    )


def _some(tasks: Iterable[str]) -> str:
    names = list(tasks)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(f'`{name}`' for name in names[:3])}{more}"

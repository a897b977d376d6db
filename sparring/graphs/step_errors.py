"""How well a critic finds wrong steps: recalls, false alarms, accuracy, first-error F1.

    with Journal.open("checks.db") as journal:
        print(step_errors(journal, "first").counted.average)

Two ways of scoring, which answer different questions:

    item      each step up to and including the labelled first error is one item, right or wrong
              (SPC, 2504.19162). Steps after the first error have no label.
    solution  the index of the first step judged wrong has to be the label (ProcessBench, 2412.06559).

A verdict that cannot be read is left out of every denominator (`valid`, as SPC's released evaluation does)
or counted as wrong (`counted`): both are given, so that nothing is gained by not answering. The intervals
are Wilson's over items and take them for independent; steps of one solution are not quite.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import select

from sparring.graphs.stats import Estimate, mean, wilson
from sparring.memory.journal import Journal
from sparring.memory.schema import Episode, Task

T = TypeVar("T")
ENDED = ("done", "capped", "failed")
SUBSETS = ("subset", "data_type")
"""The fields of a task that name its subset; the second is that of SPC's files."""
_PROCESSBENCH = re.compile(r"(gsm8k|math|olympiadbench|omnimath)-[0-9]+")
"""Ids of ProcessBench's rows, which have no field for it."""


@dataclass(frozen=True, slots=True)
class Item:
    """One judged step."""

    right: bool
    """Its label."""
    verdict: bool | None
    """What the critic said: right, wrong, or nothing that can be read."""
    subset: str = ""
    kind: str | None = None
    """Of a wrong step: what is wrong with it, where that is known."""

    @property
    def hit(self) -> bool:
        return self.verdict is self.right


@dataclass(frozen=True, slots=True)
class Solution:
    """One judged solution."""

    label: int
    """Index of its first wrong step, -1 where it has none."""
    verdicts: Sequence[bool | None]
    """Of its steps in order; of those after the label there may be none."""
    subset: str = ""
    kind: str | None = None

    @property
    def items(self) -> list[Item]:
        """The steps that have a label."""
        steps = self.verdicts if self.label < 0 else self.verdicts[: self.label + 1]
        return [
            Item(place != self.label, verdict, self.subset, self.kind if place == self.label else None)
            for place, verdict in enumerate(steps)
        ]


def first_rejected(verdicts: Sequence[bool | None]) -> int | None:
    """Index of the first step judged wrong, -1 if none is; None where that hangs on an unreadable verdict."""
    for place, verdict in enumerate(verdicts):
        if not verdict:
            return None if verdict is None else place
    return -1


@dataclass(frozen=True, slots=True)
class Recalls:
    """Item metrics under one treatment of unreadable verdicts; None where a class has no item."""

    correct: Estimate
    """Of the right steps, the share judged right."""
    error: Estimate
    """Of the wrong steps, the share judged wrong."""
    false_alarm: Estimate
    """Of the right steps, the share judged wrong; with `correct` it makes 1 only where all can be read."""
    average: float | None
    """Mean of the two recalls: balanced accuracy."""
    harmonic: float | None
    accuracy: dict[str, Estimate]
    """Subset -> share of its items judged as labelled, whatever the balance of classes."""
    macro: float | None
    """Unweighted mean over the subsets."""
    kinds: dict[str, Estimate]
    """Kind of error -> `error` on it alone."""


@dataclass(frozen=True, slots=True)
class FirstError:
    """ProcessBench's metric; a solution without a readable result is wrong."""

    correct: Estimate
    """Of the solutions without an error, the share in which no step was judged wrong."""
    error: Estimate
    """Of those with one, the share whose first step judged wrong is that one."""
    f1: float | None
    """Harmonic mean of the two; None where one kind of solution is missing."""


@dataclass(frozen=True, slots=True)
class StepErrors:
    """Everything that is measured of a run of `step_check`."""

    solutions: int
    items: int
    unreadable: int
    """Items without a readable verdict, those of failed episodes among them."""
    counted: Recalls
    """Unreadable is wrong."""
    valid: Recalls
    """Unreadable is left out."""
    first: dict[str, FirstError]
    """Subset -> ProcessBench's metric."""
    f1: float | None
    """Unweighted mean over the subsets that have one."""


def recalls(items: Iterable[Item], *, valid: bool) -> Recalls:
    """Item metrics.

    Args:
        items: Labelled steps with their verdicts.
        valid: Leave out what has no readable verdict; otherwise it counts as wrong.
    """
    kept = [item for item in items if not (valid and item.verdict is None)]
    right, wrong = [item for item in kept if item.right], [item for item in kept if not item.right]
    correct, error = _hits(right), _hits(wrong)
    pair = (correct.mean, error.mean) if right and wrong else None
    accuracy = {name: _hits(group) for name, group in _grouped(kept, "subset").items()}
    return Recalls(
        correct=correct,
        error=error,
        false_alarm=wilson(sum(item.verdict is False for item in right), len(right)),
        average=sum(pair) / 2 if pair else None,
        harmonic=harmonic(*pair) if pair else None,
        accuracy=accuracy,
        macro=mean([share.mean for share in accuracy.values()]),
        kinds={name: _hits(group) for name, group in _grouped(wrong, "kind").items() if name},
    )


def first_error(solutions: Iterable[Solution]) -> FirstError:
    """ProcessBench's accuracy on solutions with and without an error, and their F1."""
    found: dict[bool, list[bool]] = {True: [], False: []}
    for solution in solutions:
        found[solution.label >= 0].append(first_rejected(solution.verdicts) == solution.label)
    error, correct = (wilson(sum(hits), len(hits)) for hits in found.values())
    f1 = harmonic(correct.mean, error.mean) if all(found.values()) else None
    return FirstError(correct, error, f1)


def measured(solutions: Sequence[Solution]) -> StepErrors:
    """All metrics of judged solutions."""
    items = [item for solution in solutions for item in solution.items]
    first = {name: first_error(group) for name, group in _grouped(solutions, "subset").items()}
    return StepErrors(
        solutions=len(solutions),
        items=len(items),
        unreadable=sum(item.verdict is None for item in items),
        counted=recalls(items, valid=False),
        valid=recalls(items, valid=True),
        first=first,
        f1=mean([found.f1 for found in first.values() if found.f1 is not None]),
    )


def step_errors(journal: Journal, run: str, episodes: Sequence[int] | None = None) -> StepErrors:
    """The metrics of a journaled run of `step_check`, over its ended episodes whose task has a label.

    Args:
        episodes: only those with these numbers.

    A failed or capped episode has no verdicts: its items count as unreadable.
    """
    query = (
        select(Episode.outcome, Task.name, Task.answer, Task.meta)
        .join(Task, Task.id == Episode.task_id)
        .where(Episode.run_id == run, Episode.status.in_(ENDED))
        .order_by(Episode.number)
    )
    if episodes is not None:
        query = query.where(Episode.number.in_(episodes))
    return measured([_solution(row) for row in journal.read(query) if row.answer is not None])


def _solution(row: Any) -> Solution:
    label, meta = int(str(row.answer)), row.meta
    unread = [None] * (label + 1 or len(meta["steps"]))
    verdicts = row.outcome["detail"]["verdicts"] if row.outcome else unread
    named = _PROCESSBENCH.fullmatch(row.name)
    subset = next((str(meta[name]) for name in SUBSETS if name in meta), named[1] if named else "")
    return Solution(label, verdicts, subset, meta.get("kind"))


def figures(found: StepErrors) -> dict[str, float]:
    """The numbers of a run in one flat row, unreadable verdicts counted as wrong; balanced accuracy first.
    What there is nothing of is left out."""
    counted = found.counted
    row = {
        "balanced_accuracy": counted.average,
        "correct_recall": _known(counted.correct),
        "error_recall": _known(counted.error),
        "false_alarm": _known(counted.false_alarm),
        "harmonic": counted.harmonic,
        "accuracy": counted.macro,
        "f1": found.f1,
        "valid_balanced_accuracy": found.valid.average,
        "unreadable": found.unreadable / found.items if found.items else None,
        **{f"error_recall/{kind}": share.mean for kind, share in sorted(counted.kinds.items())},
    }
    return {name: value for name, value in row.items() if value is not None}


def _known(share: Estimate) -> float | None:
    return share.mean if share.n else None


def harmonic(first: float, second: float) -> float:
    """Harmonic mean of two shares; 0 where both are."""
    return 2 * first * second / (first + second) if first + second else 0.0


def _hits(items: Sequence[Item]) -> Estimate:
    return wilson(sum(item.hit for item in items), len(items))


def _grouped(things: Iterable[T], name: str) -> dict[str, list[T]]:
    groups: dict[str, list[T]] = defaultdict(list)
    for thing in things:
        groups[getattr(thing, name) or ""].append(thing)
    return dict(groups)

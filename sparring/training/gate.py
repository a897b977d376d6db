"""The gate: whether a candidate becomes the live version (DESIGN section 6).

Candidate and live play the same held-out tasks with the same seeds. Items are added until the 95 %
interval of the paired difference is narrow enough or the budget is spent. The candidate is promoted iff
the interval was narrow enough and its lower bound is above -margin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from sparring.graphs.results import Result
from sparring.graphs.stats import Z95, Estimate
from sparring.training.config import GateConfig
from sparring.training.evaluate import Evaluator, Lineup, Measure, accuracy, grown, unjudged

Verdict = Literal["promote", "reject", "underpowered"]
FAILED = "failed"
"""Status of an episode that the world, and not the model, brought to nothing."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a gate decided, and every number it was decided by."""

    verdict: Verdict
    difference: Estimate
    """Candidate minus live, paired by item."""
    candidate: Estimate
    live: Estimate
    items: int
    """Pairs that were compared."""
    failed: int
    """Pairs that were not, because an episode failed or nobody could judge it."""
    margin: float
    half_width: float
    """Asked for."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


async def decide(
    evaluator: Evaluator, candidate: Lineup, live: Lineup, measure: Measure, config: GateConfig
) -> Decision:
    """Compare two line-ups, a block of items at a time."""
    most = config.items
    if measure.sampling.get("temperature") == 0:
        most = min(most, len(measure.tasks))  # greedy copies of a task repeat each other, and prove nothing
    measure, items = grown(measure, most), 0
    while True:
        items = min(items + config.block, most)
        ours = await evaluator(candidate, measure, items)
        theirs = await evaluator(live, measure, items)
        decision = judge(ours, theirs, config, last=items >= most)
        if decision is not None:
            return decision


def judge(
    candidate: Sequence[Result], live: Sequence[Result], config: GateConfig, *, last: bool
) -> Decision | None:
    """The decision on these items; None asks for more of them.

    No answer counts as wrong. A pair of which an episode failed or was judged by nobody is left out: an
    outage proves nothing.
    """
    ours, theirs = (
        {
            (row.task_id, row.copy): bool(row.correct)
            for row in side
            if row.status != FAILED and not unjudged(row)
        }
        for side in (candidate, live)
    )
    paired = sorted(ours.keys() & theirs.keys())
    tasks: dict[str, list[float]] = {}
    for key in paired:
        tasks.setdefault(key[0], []).append(float(ours[key]) - float(theirs[key]))
    difference = paired_difference([float(np.mean(values)) for values in tasks.values()])
    narrow = half_width(difference) <= config.half_width
    if not narrow and not last:
        return None
    verdict: Verdict = "underpowered"
    if narrow:
        verdict = "promote" if difference.low > -config.margin else "reject"
    return Decision(
        verdict,
        difference,
        accuracy(candidate),
        accuracy(live),
        len(paired),
        len(candidate) - len(paired),
        config.margin,
        config.half_width,
    )


def half_width(difference: Estimate) -> float:
    return (difference.high - difference.low) / 2


def paired_difference(values: Sequence[float]) -> Estimate:
    """Mean of paired differences over tasks, with its 95 % interval.

    Half an item is added to each cell of the paired table, two of them a difference of 1 and -1 (Agresti and
    Min, Statistics in Medicine 2005): n equal differences would have an interval of width 0 for any n. For
    means over several copies of a task, between -1 and 1, it is the same formula.
    """
    array = np.asarray(values, np.float64)
    n = len(array)
    if not n:
        return Estimate(0.0, -1.0, 1.0, 0)
    centre = float(array.sum()) / (n + 2)
    square = (float(np.square(array).sum()) + 1) / (n + 2)
    spread = Z95 * float(np.sqrt((square - centre**2) / (n + 2)))
    return Estimate(float(array.mean()), max(-1.0, centre - spread), min(1.0, centre + spread), n)

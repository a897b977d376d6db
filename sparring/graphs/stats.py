"""The statistics of a comparison: intervals, and what a pool of samples is worth at a budget.

Pure functions over arrays, seeded, numpy only. Correctness and equality of answers are decided before,
once per task, so that thousands of subsets cost nothing but counting.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054
RESAMPLES = 10_000
DRAWS = 400
"""Random subsets of a pool; DESIGN section 5 asks for at least 200."""
FEWEST = 10
"""With fewer tasks than this a bootstrap interval is too narrow to conclude anything from."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % interval over `n` items."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def verdict(self) -> str:
        """Of a difference: `better`, `worse`, or `open` where the interval holds 0 or the items are few."""
        if self.n < FEWEST or self.low <= 0 <= self.high:
            return "open"
        return "better" if self.low > 0 else "worse"


@dataclass(frozen=True, slots=True)
class Samples:
    """The pool of one task; all arrays have shape (N,), in the order of the samples' keys."""

    classes: NDArray[np.int64]
    """Class of each answer under the task's equality; -1 is no answer, which never votes."""
    correct: NDArray[np.bool_]
    completion_tokens: NDArray[np.int64]
    total_tokens: NDArray[np.int64]

    def costs(self, unit: str) -> NDArray[np.int64]:
        """What each sample takes from a budget of `calls`, `completion_tokens` or `total_tokens`."""
        if unit == "calls":
            return np.ones(len(self.classes), np.int64)
        return self.completion_tokens if unit == "completion_tokens" else self.total_tokens


def mean(values: Iterable[float]) -> float | None:
    """The mean; None of nothing."""
    listed = list(values)
    return sum(listed) / len(listed) if listed else None


def wilson(hits: float, n: int, z: float = Z95) -> Estimate:
    """Wilson's score interval of a share (Wilson 1927); of 0 items it is 0 to 1."""
    if n == 0:
        return Estimate(0.0, 0.0, 1.0, 0)
    share, weight = hits / n, z * z / n
    centre = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * float(np.sqrt(share * (1 - share) / n + weight / (4 * n)))
    # By rounding 0 of n would have a lower end of 1e-17, and n of n an upper one short of 1.
    return Estimate(share, centre - half if hits > 0 else 0.0, centre + half if hits < n else 1.0, n)


def bootstrap(values: Numbers | list[float], seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Mean over items and its 95 % percentile bootstrap interval, items resampled with replacement.

    Of paired differences this is the paired bootstrap: an item carries both sides with it.
    """
    items = np.asarray(values, np.float64)
    n = len(items)
    if n == 0:
        return Estimate(0.0, 0.0, 0.0, 0)
    rng = np.random.default_rng(seed)
    block = max(1, 4_000_000 // n)  # indices held at once
    sizes = [min(block, resamples - start) for start in range(0, resamples, block)]
    means = np.concatenate([items[rng.integers(0, n, (size, n))].mean(axis=1) for size in sizes])
    low, high = np.percentile(means, (2.5, 97.5))
    return Estimate(float(items.mean()), float(low), float(high), n)


def single_answer(pool: Samples) -> float:
    """Expected accuracy of one sample: the exact mean over the pool."""
    return float(pool.correct.mean())


def vote_at(
    pool: Samples, unit: str, budget: float, seed: int = 0, draws: int = DRAWS
) -> tuple[float, float]:
    """Majority vote on what fits into `budget`: mean accuracy over random subsets, and mean spending.

    A subset is the start of a random order of the pool, drawn without replacement: as many samples as
    fit, at least one, and the next one with the probability that makes the expected spending equal to
    the budget. Ties go to the answer that was drawn first, as in `aggregate`, where the earliest key
    wins. No answer in the whole subset is wrong.
    """
    costs, size, rows = pool.costs(unit), len(pool.classes), np.arange(draws)
    rng = np.random.default_rng(seed)
    order = rng.permuted(np.tile(np.arange(size), (draws, 1)), axis=1)
    spent = np.cumsum(costs[order], axis=1)
    taken = spent <= budget
    following = np.minimum(taken.sum(axis=1), size - 1)
    price = np.maximum(costs[order[rows, following]], 1)
    left = budget - (spent[rows, following] - price)
    taken[rows, following] |= rng.random(draws) < left / price
    taken[:, 0] = True
    longest = int(taken.sum(axis=1).max())
    order, taken = order[:, :longest], taken[:, :longest]
    right = _majority(pool, order, taken)
    return float(right.mean()), float(np.where(taken, costs[order], 0).sum(axis=1).mean())


def _majority(pool: Samples, order: NDArray[np.int64], taken: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether each subset's vote is right: shapes (draws, k), (draws, k) -> (draws,)."""
    draws, longest = order.shape
    best = np.zeros(draws, np.int64)
    right = np.zeros(draws, np.bool_)
    voted = np.where(taken, pool.classes[order], -1)
    for answer in range(int(pool.classes.max(initial=-1)) + 1):
        mine = voted == answer
        count, first = mine.sum(axis=1), mine.argmax(axis=1)
        score = np.where(count > 0, count * (longest + 1) - first, 0)  # more votes, then drawn earlier
        wins = score > best
        best = np.where(wins, score, best)
        right = np.where(wins, pool.correct[order[np.arange(draws), first]], right)
    return right

"""Which agents have children: a pure function of what is known of them, the seed and the generation.

Darwin Goedel Machine (2505.22954), `DGM_outer.py`: p_i = s_i h_i / sum_j s_j h_j with
s_i = 1 / (1 + exp(-10 (accuracy_i - 0.5))) and h_i = 1 / (1 + children_i).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sparring.memory.seeds import derive_seed

Method = Literal["score_child_prop", "score_prop", "random", "best", "last"]
METHODS: tuple[str, ...] = get_args(Method)
STEEPNESS, MIDDLE = 10.0, 0.5


@dataclass(frozen=True, slots=True)
class Candidate:
    """An agent of the archive as far as its chances go."""

    id: str
    accuracy: float
    """Share of judged instances that it resolved, 0..1."""
    children: int
    """Agents of the archive that it is the parent of; those that did not get in do not count."""


def probabilities(archive: Sequence[Candidate], method: Method) -> NDArray[np.float64]:
    """The chance of each to be drawn, shape (agents,), of the methods that draw."""
    weights: NDArray[np.float64] = np.ones(len(archive))
    if method in ("score_prop", "score_child_prop"):
        accuracy = np.array([each.accuracy for each in archive])
        weights = 1 / (1 + np.exp(-STEEPNESS * (accuracy - MIDDLE)))
    if method == "score_child_prop":
        weights = weights / (1 + np.array([each.children for each in archive]))
    chances: NDArray[np.float64] = weights / weights.sum()
    return chances


def choose_parents(
    archive: Sequence[Candidate], count: int, method: Method, seed: int, generation: int
) -> list[str]:
    """The parents of a generation's children, drawn with replacement.

    `best` takes the `count` with the highest accuracy, of equal ones the older (the original sorts the other
    way round and so takes the worst), and begins again where there are fewer; `last` is whoever came last,
    which is no archive at all.

    Args:
        archive: in the order in which they entered.
    """
    if method == "last":
        return [archive[-1].id] * count
    if method == "best":
        order = sorted(range(len(archive)), key=lambda place: (-archive[place].accuracy, place))
        return [archive[order[place % len(order)]].id for place in range(count)]
    rng = np.random.default_rng(derive_seed(seed, "archive", generation, 0, "parents"))
    drawn = rng.choice(len(archive), size=count, p=probabilities(archive, method))
    return [archive[place].id for place in drawn]

"""Who does what in a round of a discussion: who solves, evaluates and scores, and what the solvers read.

Pure functions of the random generator that they are given. Agents are numbers from 0.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import Literal, TypedDict

Assignment = Literal["balanced", "uniform", "no_self_review"]
"""balanced: every agent as often as any other (CoMAS's code). uniform: each drawn for itself (its paper).
no_self_review: as even as it can be while nobody judges what it said itself."""
TRIES = 64
"""Deals that are tried for an even one; with three agents or more a third of them or more are even."""


class Roster(TypedDict):
    """One round; a slot is a solution with its reviews."""

    solvers: list[int]
    """(slots,)"""
    evaluators: list[list[int]]
    """(slots, evaluations)"""
    scorers: list[list[int]]
    """(slots, scores)"""
    background: list[int]
    """Slots of the round before that everybody reads; empty where all of the last rounds are read."""


def deal(barred: Sequence[Collection[int]], agents: int, how: Assignment, rng: random.Random) -> list[int]:
    """An agent for each place.

    Args:
        barred: (places,) whose words are judged there; heeded by `no_self_review` alone.
    """
    if how == "uniform":
        return [rng.randrange(agents) for _ in barred]
    bars = barred if how == "no_self_review" else [()] * len(barred)
    deals = (_dealt(bars, agents, rng) for _ in range(TRIES))
    best, least = [], len(barred) + 1
    for dealt in deals:
        counts = [dealt.count(agent) for agent in range(agents)]
        if (spread := max(counts) - min(counts)) < least:
            best, least = dealt, spread
        if least <= 1:
            break
    return best


def _dealt(barred: Sequence[Collection[int]], agents: int, rng: random.Random) -> list[int]:
    """For each place one of those who had the fewest so far and may."""
    had = [0] * agents
    chosen = []
    for bar in barred:
        may = [agent for agent in range(agents) if agent not in bar]
        few = min(had[agent] for agent in may)
        chosen.append(rng.choice([agent for agent in may if had[agent] == few]))
        had[chosen[-1]] += 1
    return chosen


def reviewers(
    solvers: Sequence[int], agents: int, evaluations: int, scored: bool, how: Assignment, rng: random.Random
) -> tuple[list[list[int]], list[list[int]]]:
    """(slots, evaluations) evaluators and (slots, scores) scorers of a round.

    A scorer reads a solution and one evaluation of it, or, without evaluations, the solution alone. With
    `no_self_review` nobody evaluates a solution twice either, as far as there are others. Two agents cannot
    keep out of their own way twice: there a scorer may be the evaluator, not the solver.
    """

    def dealt(barred: list[list[set[int]]], *, once: bool = False) -> list[list[int]]:
        """One deal over the slots for each evaluation; of a single slot, one over its evaluations."""
        if len(barred) == 1 and not once:
            return [deal(barred[0], agents, how, rng)]
        rows: list[list[int]] = [[] for _ in barred]
        for column in zip(*barred, strict=True):
            bars = [bar | {*row} if once else bar for bar, row in zip(column, rows, strict=True)]
            for row, agent in zip(rows, deal(bars, agents, how, rng), strict=True):
                row.append(agent)
        return rows

    once = how == "no_self_review" and evaluations < agents
    evaluators = dealt([[{solver}] * evaluations for solver in solvers], once=once)
    if not scored:
        return evaluators, [[] for _ in solvers]
    apart = agents > 2
    scorers = dealt(
        [
            [{solver, evaluator} if apart else {solver} for evaluator in row] or [{solver}]
            for solver, row in zip(solvers, evaluators, strict=True)
        ]
    )
    return evaluators, scorers

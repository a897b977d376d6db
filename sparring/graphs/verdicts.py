"""Verdicts on two responses: what several readings come to, and what grades and checklists say.

A verdict is `1`, `2`, `tie`, or None where it cannot be read, which is neither a tie nor a loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Verdict = str | None
FIRST, SECOND, TIE = "1", "2", "tie"
CLEAN = "clean"
LIKELIHOOD = "likelihood"
POINTS = {FIRST: 1.0, TIE: 0.5, SECOND: 0.0}
"""What a verdict gives to the first response."""


def debiased(orders: Sequence[Verdict]) -> Verdict:
    """What holds in every order; a tie where they disagree, None where one cannot be read."""
    if None in orders:
        return None
    return orders[0] if len(set(orders)) == 1 else TIE


def higher(first: float | None, second: float | None) -> Verdict:
    """The response with the higher number; a tie where they are equal, None where one is not known."""
    if first is None or second is None:
        return None
    return TIE if first == second else FIRST if first > second else SECOND


def met_more(first: Sequence[bool | None], second: Sequence[bool | None]) -> Verdict:
    """The response that meets more of a checklist, over the questions that are answered for both.

    None where there are none.
    """
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    return higher(sum(a for a, _ in pairs), sum(b for _, b in pairs)) if pairs else None


def likelier(chances: Sequence[float]) -> Verdict:
    """The response with the higher probability, each of which is one order's for the first (DBG, 2506.02592:
    their mean); a tie where they are even to nine places."""
    first = sum(chances) / len(chances)
    return higher(round(first, 9), round(1 - first, 9))


def settled(judge: Mapping[str, Any], how: str, guise: str = CLEAN) -> Verdict:
    """What a judge's part of an outcome (`graphs.protocols.pairwise`) comes to over its orders."""
    if how == LIKELIHOOD:
        return likelier(judge["chances"][guise])
    return debiased(judge["verdicts"][how][guise])


def majority(votes: Iterable[Verdict]) -> Verdict:
    """The response with more votes, a tie being half a vote for each; None where no vote can be read."""
    points = [POINTS[vote] for vote in votes if vote is not None]
    return higher(sum(points), len(points) - sum(points)) if points else None

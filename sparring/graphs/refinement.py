"""What a second attempt did to the first: confidence, critique, and how much of what could be gained was.

Yang et al. 2412.19513 take a question's first answers and those that followed them apart:

    CL    sum P(a) P(b|a) / sum P(a)                   how often what was right stays right
    CS    sum (1 - P(a)) P(b|not a) / sum (1 - P(a))   how often what was wrong is put right
    RSS   (Acc2 - Acc1^2) / (2 Acc1 (1 - Acc1))        where Acc2 lies from Acc1^2 to 2 Acc1 - Acc1^2

They are ratios of sums over questions, not means of ratios, and Acc2 = Acc1 CL + (1 - Acc1) CS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Attempts = tuple[Sequence[bool | int], Sequence[bool | int]]
"""Of one question: whether each first attempt is right, and the one that followed it."""


@dataclass(frozen=True, slots=True)
class Refinement:
    """Figures over questions; None where nothing that they are a share of was seen."""

    questions: int
    first: float
    """Acc1."""
    second: float
    """Acc2."""
    confidence: float | None
    """CL; None where no first attempt is right."""
    critique: float | None
    """CS; None where all are."""
    rss: float | None
    """None where Acc1 is 0 or 1: the released code divides by zero there."""


def refinement(questions: Sequence[Attempts]) -> Refinement | None:
    """Of first and second attempts, a pair of equally long sequences a question; None of no question.

    Raises:
        ValueError: a question without attempts, or with more first than second ones.
    """
    if not questions:
        return None
    right = kept = mended = 0.0
    for first, second in questions:
        if not first or len(first) != len(second):
            raise ValueError(f"{len(first)} first attempts and {len(second)} second ones; they come in pairs")
        pairs = list(zip(first, second, strict=True))
        right += sum(map(bool, first)) / len(first)
        kept += sum(1 for a, b in pairs if a and b) / len(pairs)
        mended += sum(1 for a, b in pairs if b and not a) / len(pairs)
    n = len(questions)
    first_share, wrong = right / n, n - right
    second_share = (kept + mended) / n
    spread = 2 * first_share * (1 - first_share)
    return Refinement(
        questions=n,
        first=first_share,
        second=second_share,
        confidence=kept / right if right else None,
        critique=mended / wrong if wrong > 1e-12 * n else None,
        rss=(second_share - first_share**2) / spread if spread > 1e-12 else None,
    )

"""MAgICoRe's gate (Chen et al. 2409.12147): which questions are worth refining, and what the pool keeps.

Chain i has an answer, an outcome score o_i and a process score p_i; its reward is r_i = o_i + p_i.

    Q      mean of z_i = (r_i - mean) / deviation over the chains that gave the majority's answer
    V(a)   sum of a score over the chains that answered a; chains without an answer count as one answer
    H      entropy of V / sum(V) in nats, of the outcome and of the process scores each
    conf   2 (1 - sigmoid(H)) = 2 / (1 + e^H): 1 for one answer, 2 / (1 + n) for n of equal weight
    c1     not Q < 0: the majority is no worse than the calibration set's average
    c2     some chain has an answer and neither conf < 0.5: neither model weighs more than e^H = 3 answers
    hard   neither c1 nor c2

What the released code leaves to accident is decided here: where no chain gives the majority's answer any
more, c1 does not hold (there: a mean of nothing compares false, so it does); scores that are all 0 weigh
equally (there: likewise, c2 would hold); where no chain has an answer at all, c2 does not hold (there: by the
same accident, it does).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sparring.errors import UserError

CONFIDENT = 0.5
"""2 / (1 + e^H) of three answers of equal weight."""
_ROUNDING = 1e-9
"""Three equal scores make a confidence of 0.5, however their logarithm was rounded."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Mean and deviation (population) of rewards o + p on questions that were scored beforehand."""

    mean: float
    deviation: float
    n: int = 0
    source: str = "given"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.deviation) and self.deviation > 0):
            raise UserError(
                f"calibration of {self.source}: mean {self.mean}, deviation {self.deviation}; the gate needs "
                "finite numbers and a deviation above 0, so rewards that differ: take more questions or "
                "`chains=all`"
            )

    @classmethod
    def of(cls, rewards: Sequence[float], source: str) -> Calibration:
        """Of rewards (n,). Raises `UserError` for fewer than two, or where all are the same."""
        if len(rewards) < 2:
            raise UserError(f"calibration of {source}: {len(rewards)} scored chains are too few")
        mean = math.fsum(rewards) / len(rewards)
        variance = math.fsum((reward - mean) ** 2 for reward in rewards) / len(rewards)
        spread = max(abs(reward) for reward in rewards)
        # Equal rewards whose sum was rounded have a deviation, but no spread.
        deviation = math.sqrt(variance)
        return cls(mean, deviation if deviation > 1e-12 * spread else 0.0, len(rewards), source)


@dataclass(frozen=True, slots=True)
class Scored:
    """One chain as the gate sees it."""

    answer: int | None
    """Class of its answer, those that are equal having one number; None: no answer."""
    outcome: float
    steps: tuple[float, ...]
    """Process scores, step by step."""

    @property
    def process(self) -> float:
        """p = product of the step scores; 0 without an answer."""
        return 0.0 if self.answer is None else math.prod(self.steps)

    @property
    def reward(self) -> float:
        return self.outcome + self.process


@dataclass(frozen=True, slots=True)
class GateDecision:
    """One question at one iteration, with all that was weighed."""

    hard: bool
    reason: str
    majority_good: bool
    """c1."""
    confident: bool
    """c2."""
    quality: float | None
    """Q; None where no chain gives the majority's answer."""
    supporters: int
    """Chains that give it."""
    entropy_outcome: float
    entropy_process: float
    confidence_outcome: float
    confidence_process: float
    answers_outcome: float
    """e^H, the effective number of answers."""
    answers_process: float
    mean: float
    deviation: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def decide(chains: Sequence[Scored], majority: int | None, calibration: Calibration) -> GateDecision:
    """The decision about a question.

    Args:
        chains: Those of one iteration.
        majority: Class of the answer that most chains of the first iteration gave; None: none gave any.
    """
    backing = [] if majority is None else [chain for chain in chains if chain.answer == majority]
    z = [(chain.reward - calibration.mean) / calibration.deviation for chain in backing]
    quality = math.fsum(z) / len(z) if z else None
    answers = [chain.answer for chain in chains]
    entropies = [
        entropy(answers, scores)
        for scores in ([chain.outcome for chain in chains], [chain.process for chain in chains])
    ]
    confidences = [confidence(held) for held in entropies]
    good = quality is not None and quality >= -_ROUNDING
    # Where nobody gives an answer the scores all weigh one thing, and that is none to be confident of.
    confident = any(one is not None for one in answers) and min(confidences) >= CONFIDENT - _ROUNDING
    return GateDecision(
        hard=not good and not confident,
        reason=_reason(good, confident),
        majority_good=good,
        confident=confident,
        quality=quality,
        supporters=len(backing),
        entropy_outcome=entropies[0],
        entropy_process=entropies[1],
        confidence_outcome=confidences[0],
        confidence_process=confidences[1],
        answers_outcome=math.exp(entropies[0]),
        answers_process=math.exp(entropies[1]),
        mean=calibration.mean,
        deviation=calibration.deviation,
    )


def _reason(good: bool, confident: bool) -> str:
    found = (("the majority is good", good), ("both are confident", confident))
    held = [name for name, holds in found if holds]
    return " and ".join(held) or "the majority is poor, and the scores are spread or nobody has an answer"


def entropy(answers: Sequence[int | None], scores: Sequence[float]) -> float:
    """H of the scores summed by answer, in nats. Scores are at least 0."""
    totals: dict[int | None, list[float]] = {}
    for answer, score in zip(answers, scores, strict=True):
        totals.setdefault(answer, []).append(score)
    sums = [math.fsum(parts) for parts in totals.values()]
    whole = math.fsum(sums)
    shares = [part / whole for part in sums] if whole > 0 else [1 / len(sums)] * len(sums)
    return max(0.0, -math.fsum(share * math.log(share) for share in shares if share > 0))


def confidence(entropy: float) -> float:
    """2 (1 - sigmoid(H))."""
    return 2 / (1 + math.exp(entropy))


def best(rewards: Sequence[float], k: int) -> list[int]:
    """Places of the k highest rewards, best first; of equal ones the earlier (MAgICoRe's `get_top_k`)."""
    return sorted(range(len(rewards)), key=lambda place: -rewards[place])[:k]

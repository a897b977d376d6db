"""The reward of software tasks: a vector for each attempt, made a number as late as possible.

    vector(episode)     resolved, partial, kept, applied, format, cost, tamper: what the journal says
    SoftwareRewards     weights with the same names; other weights are other rows, from the same journal

The outcome is shared by all of an attempt's turns, whichever of them brought it about: no step is known to be
worth more than another. A reply that is not exactly one command is the fault of that turn alone, which is
charged `format` for it. Where the world failed (no grade, or one that says nothing about the patch) all turns
are NULL, mistakes in the format too: what they would be compared with is missing.

The components are those of SWE-bench's rule (`tools.swe.resolution`). A patch that tampered with its grade
has 0 for all that pays, and gets `tampered` on top.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from sparring.errors import UserError
from sparring.tools.swe.grades import Grade, GradeStatus
from sparring.training.rewards.base import EpisodeRow, EventRow, Paid, RewardFunction, TurnRow

ROLE = "engineer"
FAULTS = ("parse_error", "truncated", "refused")
"""Statuses of the model's fault; a reply that was cut off after its command still holds it."""
Gain = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Loss = Annotated[float, Field(le=0.0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class Vector:
    """What an attempt was worth, before anybody weighs it."""

    status: str
    """Of the grade."""
    resolved: float
    """1 or 0."""
    partial: float
    """Share of the fail-to-pass tests that pass where all others are kept, 0..1; else 0."""
    kept: float
    """Share of the pass-to-pass tests that are kept, 0..1; 0 where no tests were judged: without a patch
    nothing is broken either, and that is not to pay."""
    applied: float
    """1 where there was a patch and it applied."""
    format: float
    """Share of the replies that were exactly one command, 0..1."""
    cost: float
    """Thousands of completion tokens."""
    tamper: float
    """1 where the patch interfered with its grade."""

    def __str__(self) -> str:
        values = ((name, value) for name, value in asdict(self).items() if name != "status")
        return f"{self.status}: {', '.join(f'{name} {value:.4g}' for name, value in values)}"


def vector(episode: EpisodeRow) -> Vector | None:
    """The vector of an attempt; None where nobody judged its patch.

    Raises:
        UserError: the episode holds several attempts, and its verdict is that of one of them.
    """
    verdict = verdict_of(episode)
    if verdict is None:
        return None
    if "candidates" in verdict.payload:
        raise UserError(
            f"reward function `software`: episodes of `{episode.protocol}` hold several attempts and the "
            "verdict on one of them: take `verifier` with `credit=outcome`, or a run of `software`"
        )
    grade = Grade.from_json(verdict.payload["grade"])
    tampered = grade.status is GradeStatus.TAMPERED
    f2p, p2p = grade.f2p or 0.0, grade.p2p or 0.0
    turns = replies(episode)
    right = sum(not faulty(turn) for turn in turns)
    return Vector(
        status=str(grade.status),
        resolved=float(grade.resolved is True),
        partial=f2p if p2p == 1 and not tampered else 0.0,
        kept=0.0 if tampered else p2p,
        applied=float(grade.applied is True and not tampered),
        format=right / len(turns) if turns else 1.0,
        cost=sum(turn.completion_tokens for turn in turns) / 1000,
        tamper=float(tampered),
    )


def verdict_of(episode: EpisodeRow) -> EventRow | None:
    """The last verdict that holds a grade."""
    found = [event for event in episode.events if event.kind == "verdict" and "grade" in event.payload]
    return found[-1] if found else None


def replies(episode: EpisodeRow) -> list[TurnRow]:
    """What the engineer said; an attempt at a turn that was made again is none."""
    return [turn for turn in episode.turns if turn.final and turn.role == ROLE]


def faulty(turn: TurnRow) -> bool:
    """Whether a reply is not exactly one command."""
    return turn.status in FAULTS and turn.parsed is None


class SoftwareRewards(RewardFunction):
    """Rewards of the engineer in episodes of `software`: weights of the vector's components.

    What does not resolve the issue never pays by default; cost and faults never pay at all.
    """

    name: ClassVar[str] = "software"
    version: ClassVar[str] = "1"

    resolved: Gain = 1.0
    partial: Gain = 0.0
    kept: Gain = 0.0
    applied: Gain = 0.0
    format: Loss = -0.1
    """Of a turn that is not exactly one command, on top of the outcome."""
    cost: Loss = 0.0
    """For each thousand completion tokens of the attempt."""
    tampered: Loss = 0.0

    def rewards(self, episode: EpisodeRow) -> Iterable[Paid]:
        verdict, found = verdict_of(episode), vector(episode)
        turns = replies(episode)
        for turn in turns:
            if verdict is None or found is None:
                yield Paid(turn.id, None, "the patch was not judged", turns=(turn.id,))
                continue
            fault = self.format if faulty(turn) else 0.0
            why = f"{found}; {turn.status}, not one command" if faulty(turn) else str(found)
            others = [other.id for other in turns if other is not turn] if self.cost else []
            read = (turn.id, *others)
            yield Paid(turn.id, self.outcome(found) + fault, why, turns=read, events=(verdict.id,))

    def outcome(self, found: Vector) -> float:
        """The number that all turns of an attempt share."""
        paid = ((self.resolved, found.resolved), (self.partial, found.partial), (self.kept, found.kept))
        lost = ((self.cost, found.cost), (self.tampered, found.tamper))
        return sum(weight * value for weight, value in (*paid, (self.applied, found.applied), *lost))

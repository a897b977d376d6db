"""The rewards of SPC's sneaky game (2504.19162, section 3; `protocols.sneaky`): win +1, lose -1.

The generator wins where its step is called correct, and loses where it is caught or where its attack was
void by its own fault ("reward from the solver"). The critic wins each verdict that is true, on sneaky
and on correct steps alike. The paper also punishes the generator where the solver fails from the correct
step; that is nobody's fault here and NULL, `unsound: -1` is the paper's rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from pydantic import model_validator

from sparring.training.rewards.base import EpisodeRow, EventRow, Paid, RewardFunction, TurnRow

FOOLED, CAUGHT, FAILED = "fooled the critic", "caught", "failed"
"""What a generator's reward was for; the first words of the reason."""


JUDGED = ("judge/correct/", "judge/sneaky/")
"""Begin the keys of a critic's turns in the game; no other protocol says in its keys which step is right."""


class SneakyRewards(RewardFunction):
    """Rewards of generator and critic."""

    name: ClassVar[str] = "spc"
    version: ClassVar[str] = "1"

    won: float = 1.0
    lost: float = -1.0
    failed: float = -1.0
    """The generator's, for an attack that is void by its own fault: see `protocols.sneaky`."""
    unsound: float | None = None
    """The generator's, where the solver fails from the correct step; None is NULL."""
    fault: float = -1.0
    """The critic's, for a verdict that cannot be read."""

    @model_validator(mode="after")
    def _no_dodge(self) -> SneakyRewards:
        if self.fault > self.lost or self.failed > self.lost:
            raise ValueError("`fault` and `failed` must not pay more than `lost`")
        return self

    def rewards(self, episode: EpisodeRow) -> Iterable[Paid]:
        decision = next((event for event in reversed(episode.events) if event.kind == "decision"), None)
        for turn in episode.turns:
            if turn.role == "critic" and turn.key.startswith(JUDGED):
                yield self._critic(turn)
            elif turn.role == "sneaky" and decision is not None:
                yield from self._sneaky(turn, decision)

    def _critic(self, turn: TurnRow) -> Paid:
        """`judge/correct/...` is a step that is right, `judge/sneaky/...` one that is not."""
        truth = turn.key.split("/")[1] == "correct"
        verdict = turn.parsed.get("correct") if isinstance(turn.parsed, dict) else None
        if verdict is None:
            return Paid(turn.id, self.fault, turn.status, turns=(turn.id,))
        step = "correct" if truth else "sneaky"
        if verdict == truth:
            return Paid(turn.id, self.won, f"right about the {step} step", turns=(turn.id,))
        return Paid(turn.id, self.lost, f"wrong about the {step} step", turns=(turn.id,))

    def _sneaky(self, turn: TurnRow, decision: EventRow) -> Iterator[Paid]:
        made: Any = decision.payload
        read: dict[str, Any] = {"turns": (turn.id,), "events": (decision.id,)}
        scores, fault = made.get("scores"), made.get("fault")
        why = (made.get("detail") or {}).get("void", "void")
        if scores is not None:
            fooled = scores["sneaky"] > scores["critic"]
            yield Paid(turn.id, self.won if fooled else self.lost, FOOLED if fooled else CAUGHT, **read)
        elif fault == "sneaky":
            yield Paid(turn.id, self.failed, f"{FAILED}: {why}", **read)
        elif fault == "critic":
            yield Paid(turn.id, None, f"another agent's fault: {why}", **read)
        else:
            yield Paid(turn.id, self.unsound, why, **read)

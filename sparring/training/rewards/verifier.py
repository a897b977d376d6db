"""The verifier's reward: 1 for a right answer, 0 for a wrong one.

`own` pays each turn for the answer it gave itself, `outcome` pays every turn of the chosen roles for the
answer that the episode came to. An answer is what the parser read, so `check` compares the same thing
that the episode's verdict did.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from sparring.tools.checks import check
from sparring.tools.sandbox import SandboxFailed
from sparring.training.rewards.base import EpisodeRow, Paid, RewardFunction, TurnRow

MODEL_FAULT = ("parse_error", "refused")


class Verifier(RewardFunction):
    """Outcome reward from the reference answer (RLVR)."""

    name: ClassVar[str] = "verifier"
    version: ClassVar[str] = "1"

    credit: Literal["own", "outcome"] = "own"
    roles: tuple[str, ...] = ()
    """Roles that are paid; empty: all that give answers (`own`), all (`outcome`)."""
    right: float = 1.0
    wrong: float = 0.0
    fault: float = 0.0
    """For a turn that cannot be read, was refused, or was cut off before it could be read; by default the
    same as `wrong`, and never more: a policy would learn to be unreadable where it cannot be right."""
    mask_truncated: bool = False
    """Leave cut-off turns out, as CoMAS does, instead of paying for what could be read."""
    field: str = Field(default="answer", min_length=1)
    """The field of the parsed result that holds a turn's own answer."""

    @model_validator(mode="before")
    @classmethod
    def _as_wrong(cls, values: Any) -> Any:
        return {"fault": values["wrong"], **values} if "wrong" in values else values

    @model_validator(mode="after")
    def _no_dodge(self) -> Verifier:
        if self.fault > self.wrong:
            raise ValueError(f"`fault` {self.fault:g} pays more than `wrong` {self.wrong:g}")
        return self

    def rewards(self, episode: EpisodeRow) -> Iterable[Paid]:
        pay = self._own if self.credit == "own" else self._outcome
        for turn in episode.turns:
            if self.roles and turn.role not in self.roles:
                continue
            if episode.answer is None:
                yield Paid(turn.id, None, "the task has no reference answer", turns=(turn.id,))
            elif turn.status == "truncated" and self.mask_truncated:
                yield Paid(turn.id, None, "truncated, masked", turns=(turn.id,))
            elif turn.status in MODEL_FAULT or (turn.status == "truncated" and turn.parsed is None):
                yield Paid(turn.id, self.fault, turn.status, turns=(turn.id,))
            else:
                yield from pay(episode, turn)

    def _own(self, episode: EpisodeRow, turn: TurnRow) -> Iterator[Paid]:
        answer = (turn.parsed or {}).get(self.field) if isinstance(turn.parsed, dict) else None
        if answer is None:
            yield Paid(turn.id, None, f"gives no `{self.field}`", turns=(turn.id,))
            return
        try:
            verdict = check(episode.check, str(answer), episode.answer)
        except SandboxFailed as failure:
            yield Paid(turn.id, None, str(failure), turns=(turn.id,))
            return
        yield Paid(turn.id, self._value(verdict.correct), verdict.reason, turns=(turn.id,))

    def _outcome(self, episode: EpisodeRow, turn: TurnRow) -> Iterator[Paid]:
        verdicts = [event for event in episode.events if event.kind == "verdict"]
        if not verdicts:
            yield Paid(turn.id, None, "the episode has no verdict", turns=(turn.id,))
            return
        payload: Any = verdicts[-1].payload
        if (episode.outcome or {}).get("answer") is None:  # nobody pays for another agent's fault
            yield Paid(turn.id, None, "the episode came to no answer", turns=(turn.id,))
            return
        reason = f"verdict: {payload.get('reason', '')}"
        yield Paid(
            turn.id,
            self._value(bool(payload["correct"])),
            reason,
            turns=(turn.id,),
            events=(verdicts[-1].id,),
        )

    def _value(self, correct: bool) -> float:
        return self.right if correct else self.wrong

"""A generative judge: a model reads the question and one solution, reasons, and ends in a grade."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from sparring.agents.roles import Role
from sparring.agents.scores import score, share, without_tags
from sparring.graphs.context import Context
from sparring.graphs.protocol import Protocol
from sparring.graphs.scorers.base import Chain, Judgement, Kind, Scorer

SEAT = "grader"


class Judge(Scorer):
    """`judge?high=10`: the grade's place on its scale; None where it cannot be read."""

    name: ClassVar[str] = "judge"
    kind: ClassVar[Kind] = "outcome"
    under: ClassVar[str | None] = "grade"

    high: int = Field(default=10, ge=1)
    """The best grade; the worst is 0."""

    def seats(self, protocol: Protocol) -> dict[str, Role]:
        return {SEAT: protocol.role(SEAT, {"grade": score(0, self.high)}, ["question", "solution", "high"])}

    def calls(self, chains: int, steps: int) -> int:
        return chains

    async def score(self, context: Context, chains: Sequence[Chain], majority: str | None) -> list[Judgement]:
        return list(await asyncio.gather(*(self._grade(context, chain) for chain in chains)))

    async def _grade(self, context: Context, chain: Chain) -> Judgement:
        # A tag that the solution forges must not be repeated as a grade.
        shown = {"question": chain.question, "solution": without_tags(chain.text), "high": self.high}
        turn = await context.act(SEAT, f"{chain.key}/{self.under}", "grade", shown)
        value = None if turn.parsed is None else share(turn.parsed["score"], 0, self.high)
        return Judgement((value,), {"turn": turn.id})

"""Monte-Carlo process reward (Math-Shepherd 2312.08935, section 3.3): a step is worth what follows from it.

From each prefix of a solution a solver goes on `n` times; the step's score is the share of continuations that
come to an answer. Math-Shepherd compares with the true answer, to label data; that is `against=reference`,
and what it takes part in looked at the truth. `majority` compares with what most of the first solutions said,
`own` with the solution's own answer: both can be had where no answer is known, and both reward agreement.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from sparring.agents.roles import Role
from sparring.graphs.context import Context
from sparring.graphs.protocol import Protocol
from sparring.graphs.protocols.rollout import solver_of
from sparring.graphs.scorers.base import Chain, Judgement, Kind, Scorer
from sparring.tools.equality import agroup

SEAT = "continuer"


class Rollouts(Scorer):
    """`rollouts?n=4&against=majority`."""

    name: ClassVar[str] = "rollouts"
    kind: ClassVar[Kind] = "process"
    under: ClassVar[str | None] = "from"

    n: int = Field(default=4, ge=1)
    """Continuations of a prefix."""
    against: Literal["majority", "own", "reference"] = "majority"
    answer: str | None = None
    """Answer format of the continuations; None: the protocol's own."""
    max_steps: int = Field(default=8, ge=1)
    """Prefixes that are continued; a longer solution is continued after evenly spaced steps, and those
    between have the score of the next one."""

    def seats(self, protocol: Protocol) -> dict[str, Role]:
        role = solver_of(protocol, self.answer or str(getattr(protocol, "answer", "line")))
        return {SEAT: Role(SEAT, role.prompt, role.parsers)}

    @property
    def looks(self) -> bool:
        return self.against == "reference"

    @property
    def weighs_all(self) -> bool:
        return self.against == "majority"

    def calls(self, chains: int, steps: int) -> int:
        return chains * min(steps, self.max_steps) * self.n

    async def score(self, context: Context, chains: Sequence[Chain], majority: str | None) -> list[Judgement]:
        return list(await asyncio.gather(*(self._of(context, chain, majority) for chain in chains)))

    async def _of(self, context: Context, chain: Chain, majority: str | None) -> Judgement:
        steps = chain.steps
        count = min(len(steps), self.max_steps)
        places = [round((number + 1) * len(steps) / count) for number in range(count)]
        # The whole solution needs no continuation: it has an answer, or it has none.
        shares = await asyncio.gather(
            *(self._share(context, chain, place, majority) for place in places[:-1])
        )
        values = [*shares, await self._agreeing(context, chain, [chain.answer], majority)]
        by_place = dict(zip(places, values, strict=True))
        following = [next(value for at, value in by_place.items() if at > step) for step in range(len(steps))]
        return Judgement(tuple(following), {"continued": places[:-1]})

    async def _share(self, context: Context, chain: Chain, place: int, majority: str | None) -> float:
        keys = [f"{chain.key}/{self.under}/{place}/{number}" for number in range(self.n)]
        shown = {"problem": chain.question, "partial": list(chain.steps[:place])}
        turns = await context.sample(SEAT, keys, "continue", shown)
        said = [(turn.parsed or {}).get("answer") for turn in turns]
        return await self._agreeing(context, chain, said, majority)

    async def _agreeing(
        self, context: Context, chain: Chain, said: Sequence[str | None], majority: str | None
    ) -> float:
        """Share of answers that are the one that counts."""
        if self.against == "reference":
            right = [await context.right(answer) for answer in said]
            return sum(right) / len(right)
        wanted = majority if self.against == "majority" else chain.answer
        if wanted is None:
            return 0.0
        first, *classes = await agroup([wanted, *said], context.equal)
        return sum(number == first for number in classes) / len(classes)

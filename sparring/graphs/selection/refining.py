"""MAgICoRe's refinement (Chen et al. 2409.12147) on the samples of the pool; the recipe is the protocol
`refine`, whose acts these are."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from sparring.agents.roles import Role
from sparring.graphs.context import Context
from sparring.graphs.protocol import Protocol
from sparring.graphs.protocols.refine_chains import (
    Written,
    chain_of,
    refining_seats,
    rewritten,
    unscored,
    votes_of,
    weighed,
    worth_refining,
)
from sparring.graphs.protocols.refine_gating import Gating
from sparring.graphs.scorers.base import majority_of
from sparring.graphs.selection.base import Choice, Method, Need, Pool
from sparring.memory.journal import Journal


class Refine(Gating, Method):
    """Gate, review, refine, vote; the samples are the first chains."""

    name: ClassVar[str] = "refine"
    needs: ClassVar[tuple[Need, ...]] = ("outcome", "process")

    def seats(self, protocol: Protocol, answer: str) -> dict[str, Role]:
        return refining_seats(protocol, answer) if self.iterations else {}

    def calls(self, samples: int) -> int:
        return 2 * self.iterations * (self.samples or samples)

    def scored(self, samples: int) -> int:
        return self.iterations * (self.samples or samples)

    def facts(self, journal: Journal, scored_by: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return self.average(journal, "", scored_by)

    async def choose(self, pool: Pool, context: Context, label: str) -> Choice:
        newest = [
            weighed(unscored(chain), *(pool.scores[need][chain.key] for need in self.needs))
            for chain in pool.chains
        ]
        majority = await majority_of(context, pool.chains, f"{label}/0")
        chains, number = newest, 0
        while number < self.iterations and await self._hard(context, label, number, newest, majority):
            number += 1
            written = (rewritten(context, pool.question, one, number, f"{label}/") for one in newest)
            newest = await self._weighed(pool, await asyncio.gather(*written), majority)
            chains = [*chains, *newest]
        outcome = await votes_of(context, chains, len(pool.chains), number, two=False)
        return Choice(outcome["answer"], outcome["detail"])

    async def _hard(
        self, context: Context, label: str, number: int, chains: Sequence[Written], majority: str | None
    ) -> bool:
        facts = context.facts.get(label)
        return await worth_refining(context, self, facts, f"{label}/{number}", chains, majority)

    async def _weighed(self, pool: Pool, chains: Sequence[Written], majority: str | None) -> list[Written]:
        read = [chain_of(one, pool.question) for one in chains]
        judged = await asyncio.gather(*(pool.rate(need, read, majority) for need in self.needs))
        return [weighed(*one) for one in zip(chains, *judged, strict=True)]

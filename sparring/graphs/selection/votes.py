"""Methods that ask nobody: they count, weigh or rank the samples."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from sparring.graphs.aggregate import aggregator
from sparring.graphs.context import Context
from sparring.graphs.selection.base import Choice, Method, Need, Pool, ballots, chosen


class Single(Method):
    """The first sample."""

    name: ClassVar[str] = "single"

    samples: int | None = Field(default=1, ge=1, le=1)

    async def choose(self, pool: Pool, context: Context, label: str) -> Choice:
        return Choice(pool.chains[0].answer)


class Majority(Method):
    """Self-consistency (Wang et al. 2203.11171)."""

    name: ClassVar[str] = "majority"

    async def choose(self, pool: Pool, context: Context, label: str) -> Choice:
        return chosen(await aggregator("majority")(ballots(pool), context.equal))


class Weighted(Method):
    """Each sample votes with its outcome score; where none with an answer has one, they count alike."""

    name: ClassVar[str] = "weighted"
    needs: ClassVar[tuple[Need, ...]] = ("outcome",)

    async def choose(self, pool: Pool, context: Context, label: str) -> Choice:
        scored = ballots(pool, "outcome")
        if not any(ballot.answer is not None for ballot in scored):
            return chosen(await aggregator("majority")(ballots(pool), context.equal))
        return chosen(await aggregator("weighted")(scored, context.equal))


class BestOfN(Method):
    """The sample with the highest outcome score that has an answer; of equal ones the first, as where none
    with an answer has a score."""

    name: ClassVar[str] = "best_of_n"
    needs: ClassVar[tuple[Need, ...]] = ("outcome",)

    async def choose(self, pool: Pool, context: Context, label: str) -> Choice:
        scored, alike = (
            [ballot for ballot in ballots(pool, need) if ballot.answer is not None]
            for need in ("outcome", None)
        )
        fitting = scored or alike or ballots(pool)
        best = max(fitting, key=lambda ballot: ballot.weight or 0.0)
        return Choice(best.answer, {"chosen": best.key, "score": best.weight})


class Borda(Method):
    """Self-certainty's ranked vote (Kang et al. 2502.18581)."""

    name: ClassVar[str] = "borda"
    needs: ClassVar[tuple[Need, ...]] = ("certainty",)

    power: float = Field(default=0.5, ge=0, le=64)

    async def choose(self, pool: Pool, context: Context, label: str) -> Choice:
        ranked = ballots(pool, "certainty")
        return chosen(await aggregator("borda", power=self.power)(ranked, context.equal))

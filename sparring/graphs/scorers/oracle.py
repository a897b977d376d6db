"""The truth as a scorer, for upper bounds: 1 if the answer is the task's, else 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from sparring.graphs.context import Context
from sparring.graphs.scorers.base import Chain, Judgement, Kind, Scorer


class Oracle(Scorer):
    """Reads the reference: nothing it takes part in is a result, only a bound of one."""

    name: ClassVar[str] = "oracle"
    kind: ClassVar[Kind] = "outcome"

    @property
    def looks(self) -> bool:
        return True

    async def score(self, context: Context, chains: Sequence[Chain], majority: str | None) -> list[Judgement]:
        return [Judgement((float(await context.right(chain.answer)),)) for chain in chains]

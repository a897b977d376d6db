"""Reward models that somebody trained: an engine that rates sits in the scorer's seat."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from sparring.agents.engines.base import Rated, Solved, rate
from sparring.agents.roles import Role
from sparring.errors import CapabilityError, EngineError
from sparring.graphs.context import Context
from sparring.graphs.protocol import Protocol
from sparring.graphs.scorers.base import Chain, Judgement, Kind, Scorer


class RewardModel(Scorer):
    """`orm:MODEL?dtype=...`, `prm:MODEL?tag=...`: the options are the engine's."""

    spec: str

    def seats(self, protocol: Protocol) -> dict[str, Role]:
        return {self.kind: Role.silent(self.kind)}

    def engines(self) -> dict[str, str]:
        return {self.kind: self.spec}

    def label(self, context: Context) -> tuple[str, str]:
        """By the model's name, its version the hash of its weights: other weights are another scorer."""
        version = context.agent(self.kind).version
        return version.policy, version.base[:16]

    async def score(self, context: Context, chains: Sequence[Chain], majority: str | None) -> list[Judgement]:
        solutions = [Solved(chain.question, chain.text, chain.steps) for chain in chains]
        engine = context.agent(self.kind).engine
        form = engine.capabilities().rates or self.name
        if form != self.name:
            raise CapabilityError(
                f"engine `{engine.spec}` gives {form} scores; seat `{self.kind}` is for {self.name}"
            )
        rated = await rate(engine, solutions)
        return [self._read(engine.spec, *one) for one in zip(chains, rated, strict=True)]

    def _read(self, spec: str, chain: Chain, rated: Rated) -> Judgement:
        """What was said of a chain; nothing where a value is no number.

        Raises:
            EngineError: not as many values as there is to rate, or one that is not in 0..1.
        """
        wanted = 1 if self.kind == "outcome" else len(chain.steps)
        values, why = rated.values, rated.why
        if values is not None and not all(map(math.isfinite, values)):
            values, why = None, f"`{spec}` gave {', '.join(map(str, rated.values or ()))}"
        evidence = {"tokens": rated.tokens, "scorer": self.name} | ({"why": why} if why else {})
        if values is None:
            return Judgement((None,) * wanted, evidence)
        if len(values) != wanted or not all(0 <= value <= 1 for value in values):
            raise EngineError(f"`{spec}` gave {values}: {wanted} scores in 0..1 are wanted")
        return Judgement(values, evidence)


class OutcomeModel(RewardModel):
    """A sequence classifier: one score of the whole."""

    name: ClassVar[str] = "orm"
    kind: ClassVar[Kind] = "outcome"


class ProcessModel(RewardModel):
    """A step-tag model in the form of Math-Shepherd (2312.08935): one score of each step."""

    name: ClassVar[str] = "prm"
    kind: ClassVar[Kind] = "process"

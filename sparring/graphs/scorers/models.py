"""Reward models that somebody trained: an engine that rates sits in the scorer's seat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from sparring.agents.engines.base import Solved, rate
from sparring.agents.roles import Role
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
        rated = await rate(context.agent(self.kind).engine, solutions)
        found = []
        for chain, one in zip(chains, rated, strict=True):
            nothing = (None,) * (1 if self.kind == "outcome" else len(chain.steps))
            evidence = {"tokens": one.tokens} | ({"why": one.why} if one.why else {})
            found.append(Judgement(one.values or nothing, evidence))
        return found


class OutcomeModel(RewardModel):
    """A sequence classifier: one score of the whole."""

    name: ClassVar[str] = "orm"
    kind: ClassVar[Kind] = "outcome"


class ProcessModel(RewardModel):
    """A step-tag model in the form of Math-Shepherd (2312.08935): one score of each step."""

    name: ClassVar[str] = "prm"
    kind: ClassVar[Kind] = "process"

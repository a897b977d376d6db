"""Self-certainty, Kang et al. 2502.18581: how far a model's predictions are from knowing nothing.

The mean over a solution's own tokens of KL(uniform || p), from the whole vocabulary in float32. At least 0
and without an upper bound, so it ranks solutions (Borda) and is no probability. The released script averages
the distributions one position further; here they are those that the tokens were drawn from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar

from sparring.agents.engines.base import ScoreRequest
from sparring.agents.roles import Agent
from sparring.errors import CapabilityError, UserError
from sparring.graphs.context import Context
from sparring.graphs.scorers.base import Chain, Judgement, Kind, Scorer
from sparring.memory.samples import TrainingTurn, training_turns


class SelfCertainty(Scorer):
    """`self_certainty`: of solutions by an embedded model, which still has their tokens."""

    name: ClassVar[str] = "self_certainty"
    kind: ClassVar[Kind] = "outcome"

    seat: str = "solver"
    """Who wrote the solutions: its engine and version score them."""

    async def score(self, context: Context, chains: Sequence[Chain], majority: str | None) -> list[Judgement]:
        agent, journal = context.agent(self.seat), context.episode.run.journal
        ids = [chain.turn for chain in chains]
        try:
            turns = await asyncio.to_thread(training_turns, journal, turn_ids=ids)
        except UserError as error:
            spec = agent.engine.spec
            raise CapabilityError(
                f"self-certainty needs token ids, which `{spec}` did not give: {error}"
            ) from None
        held = {turn.id: turn for turn in turns}
        return list(await asyncio.gather(*(self._of(agent, held[number]) for number in ids)))

    async def _of(self, agent: Agent, turn: TrainingTurn) -> Judgement:
        if not len(turn.completion_ids):
            return Judgement((None,), {"why": "no tokens"})
        asked = ScoreRequest(
            turn.prompt_ids, turn.completion_ids, full_vocabulary=True, version=agent.version
        )
        certainty = (await agent.engine.score(asked)).self_certainty
        assert certainty is not None, "asked for"
        return Judgement((float(certainty.mean()),), {"tokens": len(turn.prompt_ids) + len(certainty)})

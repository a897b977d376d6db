"""P(True), Kadavath et al. 2207.05221: how much likelier a model finds "True" than "False".

The model is asked whether a proposed solution is right and writes nothing: the log-probabilities of the two
words' first tokens are read, P = p(True) / (p(True) + p(False)). It needs an engine that scores.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar

from sparring.agents.odds import odds
from sparring.agents.parsing import ParseError, Parser
from sparring.agents.results import Result
from sparring.agents.roles import Agent, Role
from sparring.graphs.context import Context
from sparring.graphs.protocol import Protocol
from sparring.graphs.scorers.base import Chain, Judgement, Kind, Scorer

SEAT = "verifier"
WORDS = ("True", "False")


class Truth(Result):
    """What a verifier would say, were it asked to speak."""

    true: bool


def _read(text: str) -> Truth:
    word = text.strip().rstrip(".")
    if word not in WORDS:
        raise ParseError("not_a_truth", "neither True nor False")
    return Truth(true=word == "True")


truth: Parser[Truth] = Parser("truth", "1", "Reply with one word, True or False.", _read)


class PTrue(Scorer):
    """`p_true`."""

    name: ClassVar[str] = "p_true"
    kind: ClassVar[Kind] = "outcome"

    def seats(self, protocol: Protocol) -> dict[str, Role]:
        return {SEAT: protocol.role(SEAT, {"verify": truth}, ["question", "solution"])}

    async def score(self, context: Context, chains: Sequence[Chain], majority: str | None) -> list[Judgement]:
        return list(await asyncio.gather(*(self._of(context.agent(SEAT), chain) for chain in chains)))

    async def _of(self, agent: Agent, chain: Chain) -> Judgement:
        messages = agent.messages("verify", {"question": chain.question, "solution": chain.text})
        share, tokens = await odds(agent, messages, WORDS)
        return Judgement((share,), {"tokens": tokens})

"""How much likelier an agent finds one word than another, without having it speak."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from sparring.agents.engines.base import Message, ScoreRequest, encode
from sparring.agents.roles import Agent
from sparring.errors import UserError


async def odds(agent: Agent, messages: Sequence[Message], words: tuple[str, str]) -> tuple[float, int]:
    """p(first) / (p(first) + p(second)) of a reply that begins with either; and the tokens of the prompt.

    Their first tokens are what is read.

    Raises:
        CapabilityError: the engine does not score.
        UserError: both words begin with the same token.
    """
    asked = [await asyncio.to_thread(encode, agent.engine, messages, word) for word in words]
    prompt, begin = asked[0][0], [said[:1] for _, said in asked]
    if begin[0][0] == begin[1][0]:
        raise UserError(
            f"engine `{agent.engine.spec}`: `{words[0]}` and `{words[1]}` begin with the same token"
        )
    held = await asyncio.gather(
        *(agent.engine.score(ScoreRequest(prompt, token, version=agent.version)) for token in begin)
    )
    first, second = (float(one.logprobs[0]) for one in held)
    return 1 / (1 + math.exp(min(700.0, second - first))), len(prompt)

"""What the tests of vLLM in process and of its server share."""

from __future__ import annotations

import numpy as np

from sparring.agents.engines.base import Completion, Engine, PolicyVersion, Request, Sampling, ScoreRequest

QUESTION = "Name three colours of the rainbow, then count from one to five."


def ask(
    content: str = QUESTION, n: int = 1, version: PolicyVersion | None = None, **sampling: object
) -> Request:
    how = Sampling(**{"max_tokens": 24, "temperature": 0.7, **sampling})
    return Request(
        ({"role": "user", "content": content},), how, tuple(range(n)), version or PolicyVersion("base")
    )


async def behaviour(
    embedded: Engine, completion: Completion, version: PolicyVersion | None = None, temperature: float = 0.7
) -> np.ndarray:
    """What another engine over the same weights makes of a completion's probability."""
    ids, said = completion.prompt_ids, completion.completion_ids
    asked = ScoreRequest(ids, said, temperature, version=version or PolicyVersion("base"))
    return (await embedded.score(asked)).logprobs

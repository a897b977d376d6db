"""vLLM's log-probabilities: of a prompt's tokens, as scores of the continuation that the prompt ends with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from sparring.agents.engines.base import Ids, Scored, ScoreRequest
from sparring.errors import CapabilityError, UserError

COLDEST = 0.01
"""Below it vLLM draws at this temperature all the same, and its log-probabilities would be of another."""


class Held(NamedTuple):
    """What vLLM says of one token at one position."""

    rank: int
    logprob: float


def whole(request: ScoreRequest, spec: str) -> Ids:
    """Prompt and continuation, in one (P + T,), if vLLM can score the request.

    Raises:
        CapabilityError: another temperature than 1, or the full vocabulary: vLLM gives neither.
        UserError: an empty prompt or continuation.
    """
    if request.temperature != 1 or request.full_vocabulary:
        raise CapabilityError(
            f"{spec}: vLLM scores at temperature 1 and without the full vocabulary; "
            "use the embedded engine for more"
        )
    if not len(request.prompt_ids) or not len(request.continuation_ids):
        raise UserError("score needs prompt ids and continuation ids")
    return np.concatenate([request.prompt_ids, request.continuation_ids])


def scored(positions: Sequence[Mapping[int, Held]], request: ScoreRequest) -> Scored:
    """From what vLLM says of each position of prompt and continuation."""
    rows = positions[len(request.prompt_ids) :]
    targets = request.continuation_ids.tolist()
    logprobs = np.array([row[target].logprob for row, target in zip(rows, targets, strict=True)], np.float32)
    if not request.top_k:
        return Scored(logprobs)
    best = [sorted(row.items(), key=lambda one: one[1].rank)[: request.top_k] for row in rows]
    ids = np.array([[token for token, _ in row] for row in best], np.int32)
    return Scored(logprobs, ids, np.array([[held.logprob for _, held in row] for row in best], np.float32))

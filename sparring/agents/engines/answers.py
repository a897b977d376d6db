"""What an engine gave, looked at once before anyone believes it: a backend's garbage is the world's fault."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np

from sparring.agents.engines.base import Completion, FinishReason, Request, Scored, ScoreRequest, Usage
from sparring.errors import EngineError

REASONS = frozenset(get_args(FinishReason))
ROUNDING = 1e-3
"""By how much a log-probability may be above 0."""
COUNTS = ("prompt_tokens", "completion_tokens", "cached_tokens")


def check_completions(answers: Any, request: Request, spec: str) -> list[Completion]:
    """The completions of a request, as many as it has seeds.

    Raises:
        EngineError: they are too few or too many, no completions, or one of them does not hold together.
    """
    if not isinstance(answers, Sequence) or isinstance(answers, str | bytes):
        raise EngineError(f"{spec}: {type(answers).__name__} in place of a list of completions")
    if len(answers) != len(request.seeds):
        raise EngineError(f"{spec}: {len(answers)} answers to {len(request.seeds)} seeds")
    for answer in answers:
        if (wrong := _wrong(answer)) is not None:
            raise EngineError(f"{spec}: {wrong}")
    return list(answers)


def check_scores(scored: Any, request: ScoreRequest, spec: str) -> Scored:
    """The scores of a request.

    Raises:
        EngineError: they are none, or not one finite log-probability for each token.
    """
    if not isinstance(scored, Scored):
        raise EngineError(f"{spec}: {type(scored).__name__} in place of scores")
    if (wrong := _wrong_logprobs(scored.logprobs, len(request.continuation_ids))) is not None:
        raise EngineError(f"{spec}: {wrong}")
    return scored


def _wrong(answer: Any) -> str | None:
    """What is wrong with a completion; None where nothing is."""
    if not isinstance(answer, Completion):
        return f"{type(answer).__name__} in place of a completion"
    text: Any = answer.text
    if not isinstance(text, str):
        return f"a completion whose text is {type(text).__name__}"
    if answer.finish_reason not in REASONS:
        return f"finish reason {answer.finish_reason!r}; known: {', '.join(sorted(REASONS))}"
    usage: Any = answer.usage
    if not isinstance(usage, Usage) or any(not _count(getattr(usage, name)) for name in COUNTS):
        return f"token counts that are none: {usage!r}"
    for name in ("prompt_ids", "completion_ids"):
        ids = getattr(answer, name)
        if ids is not None and (wrong := _wrong_ids(ids)) is not None:
            return f"{name} {wrong}"
    if answer.logprobs is None:
        return None
    # Some servers give log-probabilities without the ids.
    ids = answer.logprobs if answer.completion_ids is None else answer.completion_ids
    return _wrong_logprobs(answer.logprobs, np.size(ids))


def _count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= 0


def _wrong_ids(ids: Any) -> str | None:
    if not isinstance(ids, np.ndarray) or ids.ndim != 1 or ids.dtype.kind not in "iu":
        return f"are no array of whole numbers but {type(ids).__name__}"
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < 2**31:
        return f"hold {int(ids.min())} to {int(ids.max())}, which no vocabulary has"
    return None


def _wrong_logprobs(logprobs: Any, tokens: int) -> str | None:
    if not isinstance(logprobs, np.ndarray) or logprobs.ndim != 1 or logprobs.dtype.kind != "f":
        return f"log-probabilities are no array of numbers but {type(logprobs).__name__}"
    if len(logprobs) != tokens:
        return f"{tokens} completion ids but {len(logprobs)} log-probabilities"
    lowest, highest = (float(logprobs.min()), float(logprobs.max())) if len(logprobs) else (0.0, 0.0)
    if not -np.inf < lowest <= highest <= ROUNDING:  # NaN is neither
        return "log-probabilities that are none (NaN, infinite or above 0)"
    return None

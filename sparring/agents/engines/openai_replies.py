"""Reading what an OpenAI-compatible server says: completions into ours, errors by whose fault they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import openai
from openai.types.chat import ChatCompletion
from openai.types.chat.chat_completion import Choice

from sparring.agents.engines.base import Completion, FinishReason, Floats, Ids, Sampling, Usage
from sparring.agents.engines.http_status import AGAIN, retry_after
from sparring.errors import EngineError, EngineTimeout, SparringError, UserError

_BROKEN_OFF = ("abort", "error")
"""Reasons that vLLM gives when it is shut down, or fails, in the middle of an answer."""
_FINISH: dict[str, FinishReason] = {"length": "length", "content_filter": "refusal"}


def read_completion(response: object, sampling: Sampling, where: str, *, tempered: bool) -> Completion:
    """The completion in a response. Ids are there only if the server gave them.

    Args:
        tempered: Its log-probabilities are log-softmax of logits / temperature; most servers give that of the
            raw logits, which is the same at temperature 1 only.

    Raises:
        UserError: the answer is no chat completion, so the URL is not that of a chat API.
        EngineError: a chat completion without a choice, or one that was broken off.
    """
    if not isinstance(response, ChatCompletion):
        raise UserError(f"{where} does not answer like a chat API; does the URL lack its /v1?")
    if not response.choices:
        raise EngineError(f"{where}: an answer without choices", retryable=True)
    choice = response.choices[0]
    if choice.finish_reason in _BROKEN_OFF:
        raise EngineError(f"{where}: an answer that ends with `{choice.finish_reason}`", retryable=True)
    refusal = getattr(choice.message, "refusal", None)
    prompt_ids = _ids(response, "prompt_token_ids")
    completion_ids = _ids(choice, "token_ids")
    logprobs = _logprobs(choice)
    if completion_ids is not None and logprobs is not None and len(logprobs) != len(completion_ids):
        logprobs = None
    return Completion(
        text=refusal or choice.message.content or "",
        finish_reason="refusal" if refusal else _FINISH.get(choice.finish_reason, "stop"),
        usage=_usage(response),
        prompt_ids=prompt_ids,
        completion_ids=completion_ids,
        logprobs=logprobs,
        logprob_kind="none" if logprobs is None else sampling.logprob_kind if tempered else "untempered",
    )


def _ids(holder: Any, name: str) -> Ids | None:
    # vLLM's extra fields; the client keeps fields that it does not know.
    values = getattr(holder, name, None)
    return np.array(values, np.int32) if values else None


def _logprobs(choice: Choice) -> Floats | None:
    content = choice.logprobs.content if choice.logprobs else None
    return np.array([token.logprob for token in content], np.float32) if content else None


def _usage(response: ChatCompletion) -> Usage:
    usage = response.usage
    if usage is None:
        return Usage()
    details = usage.prompt_tokens_details
    cached = details.cached_tokens if details else None
    return Usage(usage.prompt_tokens or 0, usage.completion_tokens or 0, cached or 0)


def classify(error: openai.APIError, url: str, model: str) -> SparringError:
    """Whose fault a client's exception is: the world's (perhaps worth a retry) or the user's."""
    if isinstance(error, openai.APITimeoutError):
        return EngineTimeout(f"{url}: no answer in time")
    if isinstance(error, openai.APIConnectionError):
        return EngineError(f"{url}: cannot connect: {_cause(error)}", retryable=True)
    if not isinstance(error, openai.APIStatusError):
        return EngineError(f"{url}: {error.message}")
    status, said = error.status_code, _said(error)
    if error.code == "insufficient_quota":
        return UserError(f"{url}: the account has no quota left for model `{model}`: {said}")
    if status in AGAIN:
        return EngineError(
            f"{url}: status {status}: {said}",
            retryable=True,
            retry_after=retry_after(dict(error.response.headers)),
        )
    if status >= 500:
        return EngineError(f"{url}: status {status}: {said}")
    if status in (401, 403):
        return UserError(
            f"{url} refuses access to model `{model}` (status {status}): {said}; "
            "set OPENAI_API_KEY, or name another variable with ?api_key_env=NAME"
        )
    if too_long(error):
        return EngineError(f"{url}: the prompt is longer than the context of model `{model}`: {said}")
    return UserError(f"{url} refuses the request for model `{model}` (status {status}): {said}")


def too_long(error: openai.APIStatusError) -> bool:
    """A prompt beyond the context is one episode's bad luck, not a mistake in the command."""
    return error.code == "context_length_exceeded" or "context length" in _said(error)


def filtered(error: openai.APIError) -> bool:
    """Some servers report a filtered prompt as a bad request: that is a refusal."""
    return isinstance(error, openai.BadRequestError) and error.code == "content_filter"


def _said(error: openai.APIStatusError) -> str:
    """The server's own words, one line."""
    body = error.body
    detail = body.get("message") or body.get("detail") if isinstance(body, dict) else None
    return " ".join(str(detail or error.response.text or error.message).split())[:300]


def _cause(error: BaseException) -> str:
    """The innermost reason: the client wraps `Connection refused` several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__

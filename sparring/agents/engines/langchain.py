"""Every provider that LangChain reaches, for play: no token ids, no log-probabilities, so no training."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from sparring.agents.engines.base import (
    Capabilities,
    Completion,
    FinishReason,
    Request,
    Sampling,
    Scored,
    ScoreRequest,
    Usage,
)
from sparring.agents.engines.http_status import AGAIN, retry_after
from sparring.errors import CapabilityError, EngineError, EngineTimeout, SparringError, UserError

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage, BaseMessage

_FINISH: dict[str, FinishReason] = {
    "length": "length",
    "max_tokens": "length",
    "content_filter": "refusal",
    "safety": "refusal",
    "refusal": "refusal",
}
_FIELDS: dict[str, tuple[str, ...]] = {
    "temperature": ("temperature",),
    "top_p": ("top_p",),
    "top_k": ("top_k",),
    "min_p": ("min_p",),
    "repetition_penalty": ("repetition_penalty", "repeat_penalty"),
    "max_tokens": ("max_tokens", "max_output_tokens", "num_predict", "max_new_tokens"),
    "seed": ("seed",),
}
"""Our name of a setting, and the names of the field that providers' chat models have for it."""


class LangChainEngine:
    """A LangChain chat model, given as an object or as `PROVIDER:MODEL`.

    Each call runs on a copy of the model with the request's sampling and seed in its fields, where it
    has such fields; a setting that differs from the neutral one and has no field is an error.
    """

    remote = True
    one_sample_per_call = True

    def __init__(self, model: str | BaseChatModel) -> None:
        self._model = _open(model) if isinstance(model, str) else model
        self._fields = _accepted(self._model)
        name = next(
            (found for key in ("model_name", "model") if (found := getattr(self._model, key, None))), ""
        )
        self.spec = f"langchain:{model if isinstance(model, str) else f'{type(model).__name__}:{name}'}"

    async def generate(self, request: Request) -> list[Completion]:
        if request.version.adapter is not None:
            raise CapabilityError(f"{self.spec}: a provider does not load adapter {request.version.label}")
        return list(await asyncio.gather(*(self._sample(request, seed) for seed in request.seeds)))

    async def score(self, request: ScoreRequest) -> Scored:
        raise CapabilityError(f"{self.spec}: LangChain gives no scores; use a transformers engine")

    def capabilities(self) -> Capabilities:
        return Capabilities(
            seeds="seed" in self._fields, base=f"remote:{self.spec.removeprefix('langchain:')}"
        )

    async def close(self) -> None:
        """LangChain closes its clients itself."""

    async def _sample(self, request: Request, seed: int) -> Completion:
        from langchain_core.messages import convert_to_messages

        settings = self._settings(request.sampling, seed)
        model = self._model.model_copy(update=settings) if settings else self._model
        messages: list[BaseMessage] = convert_to_messages([dict(message) for message in request.messages])
        started = time.perf_counter()
        try:
            answer = await model.ainvoke(messages, stop=list(request.sampling.stop) or None)
        except SparringError:
            raise
        except Exception as error:
            raise _classify(error, self.spec) from error
        completion = _read(answer)
        completion.latency_s = time.perf_counter() - started
        completion.seed_sent = "seed" in self._fields
        return completion

    def _settings(self, sampling: Sampling, seed: int) -> dict[str, Any]:
        neutral = Sampling()
        settings: dict[str, Any] = {}
        for name in _FIELDS:
            value = seed & 0x7FFFFFFF if name == "seed" else getattr(sampling, name)
            # Only what was asked for: some providers refuse temperature and top-p together.
            changed = name in ("temperature", "max_tokens", "seed") or value != getattr(neutral, name)
            if name in self._fields and changed:
                settings[self._fields[name]] = value
            elif changed and name not in ("temperature", "max_tokens", "seed"):
                raise CapabilityError(
                    f"{self.spec} takes no {name}; it takes: {', '.join(self._fields) or 'nothing'}"
                )
        return settings


def _open(name: str) -> BaseChatModel:
    try:
        from langchain.chat_models import init_chat_model
    except ImportError as error:
        raise UserError("langchain is not installed: pip install 'sparring[langchain]'") from error
    provider, _, model = name.partition(":")
    if not (provider and model):
        raise UserError(
            f"engine `langchain:{name}`: name provider and model, as in langchain:openai:gpt-4.1-mini"
        )
    try:
        found = init_chat_model(model, model_provider=provider)
        if "max_retries" in type(found).model_fields:  # the engine layer retries, once for all
            found = init_chat_model(model, model_provider=provider, max_retries=0)
        return found
    except Exception as error:  # each provider raises its own for a missing package, key or unknown name
        raise UserError(f"engine `langchain:{name}`: {' '.join(str(error).split())}") from error


def _accepted(model: BaseChatModel) -> dict[str, str]:
    """Our setting's name -> the model's field, for the fields that the model has."""
    fields = type(model).model_fields
    found = {name: next((one for one in names if one in fields), None) for name, names in _FIELDS.items()}
    return {name: field for name, field in found.items() if field is not None}


def _read(answer: AIMessage) -> Completion:
    meta = answer.response_metadata or {}
    reason = next((meta[key] for key in ("finish_reason", "stop_reason", "done_reason") if meta.get(key)), "")
    refusal = answer.additional_kwargs.get("refusal")
    usage = answer.usage_metadata
    cached = (usage.get("input_token_details") or {}).get("cache_read") if usage else None
    tokens = Usage(usage["input_tokens"], usage["output_tokens"], cached or 0) if usage else Usage()
    finish: FinishReason = "refusal" if refusal else _FINISH.get(str(reason).lower(), "stop")
    return Completion(text=refusal or str(answer.text), finish_reason=finish, usage=tokens)


def _classify(error: Exception, spec: str) -> SparringError:
    """Providers share no exception class; a status code or the class's name tells what they share."""
    response = getattr(error, "response", None)
    status = getattr(error, "status_code", None) or getattr(response, "status_code", None)
    said = f"{spec}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return EngineTimeout(said)
    if isinstance(status, int):
        if status in AGAIN:
            return EngineError(
                said, retryable=True, retry_after=retry_after(dict(getattr(response, "headers", {})))
            )
        return UserError(said) if 400 <= status < 500 else EngineError(said)
    lost = isinstance(error, ConnectionError) or "Connect" in type(error).__name__
    return EngineError(said, retryable=lost)

"""From a spec to an engine: one text names the backend, its model and how it is served.

    scripted:FILE                      smollm2-135m?dtype=float32&max_batch=32     vllm:MODEL
    http://host:8000/v1#MODEL?rpm=60   langchain:PROVIDER:MODEL?timeout=30&cache=on

What follows `?` are the engine's own options and those of the engine layer (`ServicePolicy`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl

from sparring.agents.engines.base import Engine
from sparring.agents.engines.budget import Purse
from sparring.agents.engines.cache import default_path
from sparring.agents.engines.layer import ManagedEngine, ServicePolicy
from sparring.agents.engines.ledger import merge
from sparring.agents.engines.scripted import ScriptedEngine
from sparring.errors import UserError

Option = Callable[[Any], Any]
"""Turns an option's value, text or not, into what the engine takes; raises ValueError."""

FORMS = """scripted:FILE (or scripted:hash, scripted:echo), http://HOST:PORT/v1#MODEL, \
langchain:PROVIDER:MODEL, \
a model of `sparring models list`, a hub id such as ORG/NAME, a local folder, vllm:MODEL with any of these \
three; of reward models orm:MODEL, prm:MODEL"""


def _switch(value: Any) -> bool:
    known = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}
    if str(value).lower() not in known:
        raise ValueError
    return known[str(value).lower()]


def _cache(value: Any) -> Path | None:
    try:
        return default_path() if _switch(value) else None
    except ValueError:
        return Path(value)


_KINDS: dict[Option, str] = {
    int: "whole number",
    float: "number",
    str: "text",
    _switch: "on|off",
    _cache: "on|off|FILE",
}
_SERVICE: dict[str, Option] = {
    "tries": int,
    "timeout": float,
    "backoff": float,
    "backoff_max": float,
    "concurrency": int,
    "rpm": float,
    "tpm": float,
    "price_in": float,
    "price_cached": float,
    "price_out": float,
    "cache": _cache,
}
_RATES = {"rpm", "tpm"}
_RATING: dict[str, Option] = {"dtype": str, "device": str, "max_batch": int}
_ENGINE: dict[str, dict[str, Option]] = {
    "scripted": {"ids": _switch, "bytes_per_token": int, "delay_s": float, "call_log": str},
    "openai": {
        "logprobs": _switch,
        "token_ids": _switch,
        "seeds": _switch,
        "base": str,
        "api_key_env": str,
        "api_key": str,
    },
    "langchain": {},
    "transformers": {
        "dtype": str,
        "max_batch": int,
        "device": str,
        "max_tokens_in_flight": int,
        "prefix_cache_gib": float,
        "packed": _switch,
    },
    "vllm": {
        "dtype": str,
        "seeds": _switch,
        "kv_cache_gib": float,
        "max_loras": int,
        "max_lora_rank": int,
        "max_model_len": int,
        "max_num_seqs": int,
        "gpu_memory_utilization": float,
        "tensor_parallel_size": int,
        "enforce_eager": _switch,
    },
    "orm": _RATING,
    "prm": {**_RATING, "tag": str, "good": str, "bad": str},
}
_REMOTE = ("openai", "langchain")
_CAPACITY = {
    "max_batch",
    "max_tokens_in_flight",
    "prefix_cache_gib",
    "packed",
    "kv_cache_gib",
    "max_loras",
    "max_lora_rank",
    "max_num_seqs",
    "gpu_memory_utilization",
}
"""How much an engine in this program may hold: specs that differ in these alone are one model in memory,
sized as the first of them says."""
_SILENT = _CAPACITY | {
    "api_key",
    "api_key_env",
    "call_log",
    "delay_s",
}
"""Options that change no answer, so they are no part of an engine's identity."""


def make_engine(spec: str | Path | Engine | object, **options: Any) -> ManagedEngine:
    """The managed engine of a spec, an engine object, a reply function or a LangChain chat model.

    Args:
        options: The same as after `?` in a spec; they win over it. `api_key` only works here.

    Raises:
        UserError: unknown form, model, option or value; the message lists those that exist.
    """
    if isinstance(spec, ManagedEngine):
        if options:
            raise UserError("a managed engine has its options already; give them where it is made")
        return spec
    plan = _plan(spec, options)
    return plan.managed(plan.engine())


class EnginePool:
    """The engines of one run: the same spec gives one shared engine, and all it made are closed together.

        async with EnginePool() as pool:
            solver, judge = pool.get("smollm2-135m"), pool.get("smollm2-135m")  # one model in memory

    Specs that differ in service options alone (`?timeout=5`) share the backend, not the policy. An engine
    object that was handed in stays open: it belongs to whoever made it.

    Args:
        parts: pools of several processes that serve one run between them: of a limit on requests or tokens a
            minute, or on calls at a time, each takes its part.
        purse: who pays for the calls; None: nobody counts.
    """

    def __init__(self, parts: int = 1, purse: Purse | None = None) -> None:
        self._parts, self.purse = parts, purse
        self._managed: dict[tuple[Any, ...], ManagedEngine] = {}
        self._engines: dict[tuple[Any, ...], Engine] = {}

    def get(self, spec: str | Path | Engine | object, **options: Any) -> ManagedEngine:
        """The engine of `spec`, made on first use; arguments as for `make_engine`."""
        if isinstance(spec, ManagedEngine):
            own = make_engine(spec, **options)
            if self.purse is not None:  # it may serve others, who pay from elsewhere
                own = self._paid(copy(own))
            return self._managed.setdefault((id(spec),), own)
        plan = _plan(spec, options).part(self._parts)
        key = (*plan.identity, *_sorted(plan.service))
        if key not in self._managed:
            self._managed[key] = self._paid(plan.managed(self._backend(plan)))
        return self._managed[key]

    def _paid(self, engine: ManagedEngine) -> ManagedEngine:
        engine.purse = self.purse
        return engine

    @property
    def priced(self) -> bool:
        """Whether calls of any of its engines cost money."""
        return any(engine.priced for engine in self._managed.values())

    @property
    def unpriced(self) -> list[str]:
        """Specs of servers without a price."""
        return [engine.spec for engine in self._managed.values() if engine.unpriced]

    def _backend(self, plan: _Plan) -> Engine:
        if plan.form == "engine":
            return plan.engine()
        if plan.identity not in self._engines:
            self._engines[plan.identity] = plan.engine()
        return self._engines[plan.identity]

    async def discard(self, spec: str) -> None:
        """Close the engine of a spec, where there is one, and free its model: a later `get` makes it anew."""
        identity = _plan(spec, {}).identity
        kept = {key: managed for key, managed in self._managed.items() if key[: len(identity)] != identity}
        for key in self._managed.keys() - kept.keys():
            self._managed[key].release()
        self._managed = kept
        engine = self._engines.pop(identity, None)
        if engine is not None:
            await engine.close()

    def ledgers(self) -> dict[str, dict[str, dict[str, float]]]:
        """Ledger snapshots by the engines' specs."""
        rows: dict[str, list[dict[str, dict[str, float]]]] = {}
        for engine in self._managed.values():
            rows.setdefault(engine.spec, []).append(engine.ledger.snapshot())
        return {spec: merge(snapshots) for spec, snapshots in rows.items()}

    async def close(self) -> None:
        """Close every engine, even if one of them fails to; the first failure is raised at the end."""
        engines = list(self._engines.values())
        for managed in self._managed.values():
            managed.release()
        self._managed, self._engines = {}, {}
        results = await asyncio.gather(*(engine.close() for engine in engines), return_exceptions=True)
        for failure in results:
            if failure is not None:
                raise failure

    async def __aenter__(self) -> EnginePool:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


@dataclass(frozen=True)
class _Plan:
    """A spec that was read and found right, before anything is made of it."""

    form: str
    source: Any
    """The spec's name part, or the object."""
    own: dict[str, Any]
    service: dict[str, Any]

    @property
    def identity(self) -> tuple[Any, ...]:
        """Equal for equal backends; an object is itself."""
        own = {name: value for name, value in self.own.items() if name not in _CAPACITY}
        return (self.source if isinstance(self.source, str) else id(self.source), *_sorted(own))

    def part(self, parts: int) -> _Plan:
        """The same with its part of what the backend may be asked for."""
        service = {name: value / parts if name in _RATES else value for name, value in self.service.items()}
        if "concurrency" in service:
            service["concurrency"] = max(1, service["concurrency"] // parts)
        return replace(self, service=service)

    def engine(self) -> Engine:
        if self.form == "engine":
            engine: Engine = self.source
            return engine
        return _make(self.form, self.source, self.own)

    def managed(self, engine: Engine) -> ManagedEngine:
        policy = ServicePolicy.of(engine)
        shown = _canonical(self.source, self.own) if isinstance(self.source, str) else engine.spec
        return ManagedEngine(engine, replace(policy, **self.service), spec=shown)


def _plan(spec: object, options: Mapping[str, Any]) -> _Plan:
    source, given = _split(str(spec)) if isinstance(spec, str | Path) else (spec, {})
    form = _form(source) if isinstance(source, str) else _form_of_object(source)
    values = _parse(form, {**given, **options})
    own = {name: value for name, value in values.items() if name not in _SERVICE}
    return _Plan(form, source, own, {name: value for name, value in values.items() if name in _SERVICE})


def priced(spec: str) -> bool | None:
    """Whether calls of a spec cost money, without making its engine; None for a server without a price."""
    plan = _plan(spec, {})
    given = [plan.service[name] for name in ("price_in", "price_out") if name in plan.service]
    if not given and plan.form in _REMOTE:
        return None
    return any(given) or bool(plan.service.get("price_cached"))


def lasting(spec: str) -> str:
    """A spec without the options that change no answer: a run may go on with others of these."""
    name, _, options = spec.partition("?")
    pairs = options.split("&")
    kept = [pair for pair in pairs if pair.partition("=")[0] not in _SILENT]
    if len(kept) == len(pairs):
        return spec
    return f"{name}?{'&'.join(kept)}" if kept else name


def _sorted(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return sorted((name, str(value)) for name, value in values.items())


def _split(spec: str) -> tuple[str, dict[str, str]]:
    name, _, query = spec.strip().partition("?")
    if "#" in query:
        raise UserError(f"engine `{spec}`: options stand behind the model's name: URL#MODEL?name=value")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise UserError(f"engine `{spec}`: write options as ?name=value&name=value") from error
    if "api_key" in dict(pairs):
        raise UserError(
            "an API key in a spec would end up in the journal; put it into OPENAI_API_KEY, "
            "or name another environment variable with ?api_key_env=NAME"
        )
    return name, dict(pairs)


def _form(name: str) -> str:
    prefix, colon, _ = name.partition(":")
    if prefix in ("http", "https") and colon:
        return "openai"
    if prefix in ("scripted", "langchain", "vllm", "orm", "prm") and colon:
        return prefix
    if not name or (colon and not Path(name).exists()):
        raise UserError(f"unknown engine `{name}`; known forms: {FORMS}")
    return "transformers"


def _form_of_object(value: object) -> str:
    if isinstance(value, Engine):
        return "engine"
    if hasattr(value, "ainvoke"):
        return "langchain"
    if callable(value):
        return "scripted"
    raise UserError(
        f"{type(value).__name__} is no engine; give an Engine, a LangChain chat model, "
        f"a function (request, seed) -> text, or a spec: {FORMS}"
    )


def _parse(form: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Options with the types that they take. A None from Python means: as if it were not given."""
    known = {**_ENGINE.get(form, {}), **_SERVICE}
    values = {}
    for name, value in given.items():
        if name not in known:
            listed = ", ".join(f"{option} ({_KINDS[kind]})" for option, kind in sorted(known.items()))
            raise UserError(f"unknown option `{name}` of a {form} engine; known: {listed}")
        if value is None:
            continue
        try:
            values[name] = known[name](value)
        except (ValueError, TypeError) as error:
            raise UserError(f"engine option {name}={value}: must be {_KINDS[known[name]]}") from error
    return values


def _canonical(name: str, values: Mapping[str, Any]) -> str:
    """The spec the journal and the cache see: the name and the options that can change an answer."""
    shown = {key: value for key, value in values.items() if key not in _SILENT}
    pairs = "&".join(f"{key}={_text(value)}" for key, value in sorted(shown.items()))
    return f"{name}?{pairs}" if pairs else name


def _text(value: Any) -> str:
    return ("off", "on")[value] if isinstance(value, bool) else str(value)


def _make(form: str, source: Any, values: dict[str, Any]) -> Engine:
    text = source if isinstance(source, str) else None
    if form == "scripted":
        return ScriptedEngine(source if text is None else text.removeprefix("scripted:"), **values)
    if form == "openai":
        from sparring.agents.engines.openai import OpenAIEngine

        return OpenAIEngine.from_spec(str(source), **values)
    if form == "langchain":
        from sparring.agents.engines.langchain import LangChainEngine

        return LangChainEngine(source if text is None else text.removeprefix("langchain:"))
    if form == "vllm":
        from sparring.agents.engines.vllm import VllmEngine

        return VllmEngine(str(source).removeprefix("vllm:"), **values)
    if form in ("orm", "prm"):
        from sparring.agents.engines.reward_models import OutcomeModel, ProcessModel

        kind = OutcomeModel if form == "orm" else ProcessModel
        return kind(str(source).partition(":")[2], **values)
    from sparring.agents.engines.transformers import TransformersEngine

    engine: Engine = TransformersEngine(str(source), **values)
    return engine

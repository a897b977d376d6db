"""What a span says: names and attributes by the GenAI semantic conventions, as of 0.66.

| span | name | its trace |
| --- | --- | --- |
| run | `run NAME` | its own |
| episode | `invoke_workflow PROTOCOL` | its own, with links to its run and to what it was forked from |
| turn | `chat MODEL` | the episode's |
| tool call | `execute_tool NAME` | the episode's |

What the conventions have no name for is under `sparring.`: run, task, key, status. A turn that came to no
result is an error with its status as `error.type`; so are a failed episode and a tool call without a result
(`tool_error`). Other decisions are events of the episode's span, a verdict is a `gen_ai.evaluation.result`.
Ids are hashes of the rows' own. Reasons of errors quote what a model or a server said, so they are contents
too. Import it late: it needs the extra `otel`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from .. import __version__
from .messages import content_of
from .tracing import is_call
from .types import digest, plain

PROVIDERS = {
    "azure_openai": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "google_genai": "gcp.gen_ai",
    "google_vertexai": "gcp.vertex_ai",
    "mistralai": "mistral_ai",
    "xai": "x_ai",
}
"""LangChain's name of a provider -> the conventions', where they differ."""
OWN = ("vllm", "scripted", "orm", "prm", "teacher")
"""Engines whose spec begins with their name; a bare model is `transformers`."""
SAMPLING = ("temperature", "top_p", "top_k", "max_tokens")
_TOOL_NAME = re.compile(r"[\w.-]{1,80}")
UNSET, ERROR = Status(StatusCode.UNSET), StatusCode.ERROR


class Spans:
    """Makes spans of rows.

    Args:
        contents: Also what was asked, seen and said, reasons of errors, and what events hold.
    """

    def __init__(self, contents: bool = False) -> None:
        self._contents = contents
        self._resource = Resource({SERVICE_NAME: "sparring", SERVICE_VERSION: __version__})
        self._scope = InstrumentationScope("sparring", __version__)

    def run(self, row: Any) -> ReadableSpan:
        """The span of a row of `runs` that has ended."""
        said = {
            "sparring.run": row.id,
            "sparring.run.kind": row.kind,
            "sparring.run.status": row.status,
            "sparring.run.seed": row.seed,
            "gen_ai.workflow.name": row.protocol,
        }
        links = [] if row.parent_id is None else [Link(_of_run(row.parent_id))]
        times = (row.created_at, row.finished_at)
        return self._span(f"run {row.id}", _of_run(row.id), times, said, links=links, error=_failed(row))

    def episode(self, run: Any, row: Any, events: Iterable[Any]) -> ReadableSpan:
        """The span of a row of `episodes` with its task's `name` and `question`, which has ended.

        Args:
            events: its rows of `events`; tool calls are spans of their own.
        """
        said = {
            "gen_ai.operation.name": "invoke_workflow",
            "gen_ai.workflow.name": run.protocol,
            "gen_ai.conversation.id": row.id,
            "sparring.run": run.id,
            "sparring.task": row.name,
            "sparring.episode.status": row.status,
            "sparring.episode.iteration": row.iteration,
            "sparring.episode.copy": row.copy,
        }
        if self._contents:
            said["sparring.question"] = _text(row.question)
            said["sparring.answer"] = _text((row.outcome or {}).get("answer"))
        links = [Link(_of_run(run.id))]
        if row.parent_id is not None:
            links.append(Link(_of_episode(row.parent_id)))
        name, times = f"invoke_workflow {run.protocol}", (row.started_at, row.finished_at)
        told = [self._event(event) for event in events if not is_call(event)]
        failed = _failed(row)
        why = row.error if self._contents else None
        return self._span(
            name, _of_episode(row.id), times, said, links=links, events=told, error=failed, why=why
        )

    def turn(self, run: Any, episode: Any, row: Any, messages: Mapping[int, Any]) -> ReadableSpan:
        """The span of a row of `turns`, with its agent's `role`, `sampling`, `policy` and its `version`.

        Args:
            messages: id -> row, of the episode; not needed without contents.
        """
        engine = _engine(row.engine)
        said = {
            "gen_ai.operation.name": "chat",
            **engine,
            **_request(row),
            "gen_ai.agent.id": row.agent_id,
            "gen_ai.agent.name": row.role,
            "gen_ai.conversation.id": episode.id,
            "gen_ai.usage.input_tokens": row.prompt_tokens,
            "gen_ai.usage.output_tokens": row.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": row.cached_tokens,
            "gen_ai.response.finish_reasons": [row.finish_reason] if row.finish_reason else None,
            "sparring.run": run.id,
            "sparring.task": episode.name,
            "sparring.policy": f"{row.policy}@{row.version}",
            "sparring.turn.key": row.key,
            "sparring.turn.attempt": row.attempt,
            "sparring.turn.status": row.status,
            "sparring.turn.retries": row.retries,
            "sparring.turn.from_cache": row.from_cache,
            "sparring.turn.cost": row.cost,
        }
        if self._contents:
            said |= _said(row, messages)
        return self._span(
            f"chat {engine['gen_ai.request.model']}",
            _context(episode.id, digest("turn", episode.id, row.key, str(row.attempt), size=8)),
            (row.created_at - row.latency_s, row.created_at),
            said,
            parent=_of_episode(episode.id),
            kind=SpanKind.CLIENT,
            error=row.status if row.status != "ok" and row.parsed is None else None,
            why=row.error if self._contents else None,
        )

    def tool(self, run: Any, episode: Any, row: Any) -> ReadableSpan:
        """The span of a row of `events` that is a tool call; a name that no tool can have is left out."""
        made = row.payload
        name = made["name"] if _TOOL_NAME.fullmatch(made["name"]) else "_OTHER"
        said = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": name,
            "gen_ai.tool.type": "function",
            "gen_ai.conversation.id": episode.id,
            "sparring.run": run.id,
            "sparring.task": episode.name,
            "sparring.event.key": row.key,
        }
        if self._contents:
            said["gen_ai.tool.call.arguments"] = json.dumps(made["arguments"])
            said["gen_ai.tool.call.result"] = _text(made.get("result"))
        return self._span(
            f"execute_tool {name}",
            _context(episode.id, digest("tool", episode.id, row.key, size=8)),
            (row.created_at - made["seconds"], row.created_at),
            said,
            parent=_of_episode(episode.id),
            error="tool_error" if "error" in made else None,
            why=_text(made.get("error")) if self._contents else None,
        )

    def _event(self, row: Any) -> Event:
        said: dict[str, Any] = {"sparring.event.key": row.key}
        name = f"sparring.{row.kind}"
        if row.kind == "verdict" and isinstance(row.payload, dict) and "correct" in row.payload:
            name, correct = "gen_ai.evaluation.result", bool(row.payload["correct"])
            said["gen_ai.evaluation.name"] = "verdict"
            said["gen_ai.evaluation.score.value"] = float(correct)
            said["gen_ai.evaluation.score.label"] = "correct" if correct else "incorrect"
        if self._contents:
            said["sparring.event.payload"] = json.dumps(row.payload)
        return Event(name, said, _nanoseconds(row.created_at))

    def _span(  # noqa: PLR0913 - a span has as many parts
        self,
        name: str,
        context: SpanContext,
        times: tuple[float, float],
        said: Mapping[str, Any],
        *,
        parent: SpanContext | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        links: Iterable[Link] = (),
        events: Iterable[Event] = (),
        error: str | None = None,
        why: str | None = None,
    ) -> ReadableSpan:
        marked = dict(said) if error is None else {**said, "error.type": error}
        return ReadableSpan(
            name,
            context,
            parent,
            self._resource,
            {key: value for key, value in marked.items() if value is not None},
            tuple(events),
            tuple(links),
            kind,
            status=UNSET if error is None else Status(ERROR, why),
            start_time=_nanoseconds(min(times)),
            end_time=_nanoseconds(times[1]),
            instrumentation_scope=self._scope,
        )


def _of_run(run: str) -> SpanContext:
    return _context(f"run/{run}", digest("run", run, size=8))


def _of_episode(episode: str) -> SpanContext:
    return _context(episode, digest("episode", episode, size=8))


def _context(trace: str, span: bytes) -> SpanContext:
    trace_id = int.from_bytes(digest("trace", trace))
    return SpanContext(trace_id, int.from_bytes(span), is_remote=False, trace_flags=TraceFlags(1))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1_000_000) * 1000


def _failed(row: Any) -> str | None:
    return "failed" if row.status == "failed" else None


def _text(value: Any) -> str | None:
    return plain(value) if value is None or isinstance(value, str) else json.dumps(value)


def _engine(spec: str) -> dict[str, Any]:
    """Provider, model and server of an engine's spec; its user and password, if any, stay here."""
    if "://" in spec:
        urls, _, model = spec.partition("#")
        server = urlsplit(urls.split(",")[0])
        said = {"gen_ai.provider.name": "openai", "gen_ai.request.model": model.partition("?")[0]}
        return said | {"server.address": server.hostname, "server.port": server.port}
    kind, colon, rest = spec.partition("?")[0].partition(":")
    if kind == "langchain":
        provider, _, model = rest.partition(":")
        return {"gen_ai.provider.name": PROVIDERS.get(provider, provider), "gen_ai.request.model": model}
    if kind in OWN:
        return {"gen_ai.provider.name": kind, "gen_ai.request.model": rest or kind}
    return {"gen_ai.provider.name": "transformers", "gen_ai.request.model": f"{kind}{colon}{rest}"}


def _request(row: Any) -> dict[str, Any]:
    """What a turn asked its engine for; a `top_k` of 0 means none."""
    sampling = row.sampling or {}
    said = {f"gen_ai.request.{name}": sampling.get(name) or None for name in SAMPLING}
    said["gen_ai.request.temperature"] = sampling.get("temperature")
    said["gen_ai.request.stop_sequences"] = sampling.get("stop") or None
    return said | {"gen_ai.request.seed": row.seed if row.seed_sent else None}


def _said(row: Any, messages: Mapping[int, Any]) -> dict[str, Any]:
    """The conversation of a turn and what it said, as the conventions' JSON."""
    seen, place = [], row.input_id
    while place in messages:
        seen.append(_message(messages[place].role, messages[place].content))
        place = messages[place].parent_id
    said = {"gen_ai.input.messages": json.dumps(seen[::-1])}
    if row.output_id in messages:
        spoken = _message("assistant", messages[row.output_id].content)
        said["gen_ai.output.messages"] = json.dumps(
            [{**spoken, "finish_reason": row.finish_reason or "stop"}]
        )
    return said


def _message(role: str, parts: Any) -> dict[str, Any]:
    content = content_of(parts)
    held = content if isinstance(content, list) else [{"type": "text", "text": content}]
    return {
        "role": role,
        "parts": [{"type": "text", "content": p["text"]} if p.get("type") == "text" else p for p in held],
    }

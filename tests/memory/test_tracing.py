"""Spans of a run: what they are called, how they hang together, the same twice, and nothing that was said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from journal_helpers import Model, drive, made, one, version
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import error_attributes, server_attributes
from opentelemetry.trace import SpanKind, StatusCode

from sparring.errors import JournalError, UserError
from sparring.memory import tracing
from sparring.memory.journal import Journal
from sparring.memory.records import AgentRecord, Ask, TaskRecord
from sparring.memory.spans import _engine
from sparring.memory.tracing import otlp_lines, read_spans, trace

SECRET = "Ada's \ud83c secret"
STANDARD = {
    value
    for module in (gen_ai_attributes, error_attributes, server_attributes)
    for name, value in vars(module).items()
    if name.isupper() and isinstance(value, str)
}


class Refusing(SpanExporter):
    def export(self, spans: Any) -> SpanExportResult:
        return SpanExportResult.FAILURE


@pytest.fixture
async def journal(tmp_path: Path) -> Any:
    """Two episodes: one with a good turn, an unreadable one and a verdict, one that is still open."""
    with Journal.open(tmp_path / "j.db") as journal:
        sampling = {"temperature": 0.7, "top_p": 1.0, "top_k": 0, "max_tokens": 9, "stop": ["\n"]}
        agent = AgentRecord("solver", "Answer.", "line", "1", sampling, "base")
        told = [{"role": "user", "content": SECRET}]
        server = "http://ada:word@localhost:8000/v1#smol?base=x"
        run = drive(journal)
        async with (episode := run.episode(TaskRecord("q1", SECRET, "4"), seats={})):
            asked = Ask(agent, version(journal), told)
            good = Model(lambda place: made(place, text=SECRET, engine=server, seed_sent=True, latency_s=0.5))
            bad = Model(
                lambda place: made(
                    place,
                    status="parse_error",
                    parsed=None,
                    error=f"no number in {SECRET}",
                    engine="scripted:x",
                )
            )
            await episode.turns(["s/0"], asked, good)
            await episode.turns(["s/1"], asked, bad)
            await episode.event("verdict", "0", {"correct": True, "extracted": SECRET})
            await episode.event("vote", "0", {"winner": SECRET})
        await episode.close("done", {"answer": SECRET})
        async with (left := run.episode(TaskRecord("q2", "1 + 1?", "2"), seats={})):
            await one(left, journal)
        run.finish("done")
        run.release()
        yield journal


def by_name(spans: list[ReadableSpan], name: str) -> list[ReadableSpan]:
    return [span for span in spans if span.name == name]


async def test_run_episodes_and_turns(journal: Journal) -> None:
    exporter = InMemorySpanExporter()
    assert trace(journal, "r", exporter) == 4, "the open episode and its turn are left out"
    run, episode, good, bad = exporter.get_finished_spans()
    assert [span.name for span in (run, episode, good, bad)] == [
        "run r", "invoke_workflow test", "chat smol", "chat x",
    ]  # fmt: skip
    assert episode.parent is None and episode.links[0].context == run.context
    assert good.parent == bad.parent == episode.context
    assert good.context.trace_id == episode.context.trace_id != run.context.trace_id
    assert good.kind is SpanKind.CLIENT and good.end_time - good.start_time == pytest.approx(5e8, abs=1e4)
    assert episode.start_time <= bad.start_time <= bad.end_time <= episode.end_time
    said = dict(good.attributes)
    assert said["gen_ai.provider.name"] == "openai" and said["gen_ai.request.model"] == "smol"
    assert (said["server.address"], said["server.port"]) == ("localhost", 8000)
    assert (said["gen_ai.usage.input_tokens"], said["gen_ai.usage.output_tokens"]) == (5, 3)
    assert said["gen_ai.request.temperature"] == 0.7 and "gen_ai.request.top_k" not in said
    assert list(said["gen_ai.response.finish_reasons"]) == ["stop"] and "gen_ai.request.seed" in said
    assert said["gen_ai.conversation.id"] == episode.attributes["gen_ai.conversation.id"]


async def test_errors_and_verdicts(journal: Journal) -> None:
    _, episode, good, bad = list(read_spans(journal, "r"))
    assert good.status.status_code is StatusCode.UNSET and "error.type" not in good.attributes
    assert bad.status.status_code is StatusCode.ERROR and bad.status.description is None
    assert bad.attributes["error.type"] == "parse_error"
    verdict, vote = episode.events
    assert (verdict.name, vote.name) == ("gen_ai.evaluation.result", "sparring.vote")
    assert verdict.attributes["gen_ai.evaluation.score.label"] == "correct"


async def test_tool_calls_are_spans(tmp_path: Path) -> None:
    """Their times are their own; a name that no tool can have is the model's text, as what was given is."""
    with Journal.open(tmp_path / "t.db") as journal:
        run = drive(journal)
        async with (episode := run.episode(TaskRecord("q1", "?", "4"), seats={})):
            asked = {"arguments": {"word": SECRET}, "seconds": 0.25}
            await episode.event("tool", "0", {"name": "mcp1.search", **asked, "result": SECRET})
            await episode.event("tool", "2", {"name": f"no {SECRET}", **asked, "error": f"no {SECRET}"})
            await episode.event("tool", "its own", {"spanner": 9})  # of a protocol that has tools of its own
        await episode.close("done", {"answer": "4"})
        run.finish("done")
        run.release()
        _, above, good, bad = list(read_spans(journal, "r"))
        assert good.name == "execute_tool mcp1.search" and bad.name == "execute_tool _OTHER"
        assert good.parent == bad.parent == above.context
        assert [event.name for event in above.events] == ["sparring.tool"]
        assert len({span.context.span_id for span in (above, good, bad)}) == 3
        assert good.end_time - good.start_time == pytest.approx(2.5e8, abs=1e4)
        assert good.attributes["gen_ai.operation.name"] == "execute_tool"
        assert good.status.status_code is StatusCode.UNSET
        assert bad.status.status_code is StatusCode.ERROR and bad.attributes["error.type"] == "tool_error"
        assert "secret" not in json.dumps(list(otlp_lines(journal, "r")))
        *_, good, bad = list(read_spans(journal, "r", contents=True))
        assert json.loads(good.attributes["gen_ai.tool.call.arguments"]) == {"word": SECRET}
        assert "secret" in good.attributes["gen_ai.tool.call.result"] and "secret" in bad.status.description
        for span in (good, bad):
            assert not {name for name in span.attributes if not name.startswith("sparring.")} - STANDARD


async def test_names_are_the_conventions_or_ours(journal: Journal) -> None:
    for span in read_spans(journal, "r", contents=True):
        held = [span.attributes, *(event.attributes for event in span.events)]
        strange = {name for one in held for name in one if not name.startswith("sparring.")} - STANDARD
        assert not strange, span.name


async def test_twice_is_the_same_and_what_was_said_stays_here(journal: Journal) -> None:
    first, second = (list(otlp_lines(journal, "r")) for _ in range(2))
    assert first == second and "secret" not in json.dumps(first) and "word" not in json.dumps(first)
    spans = first[0]["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert [len(span["traceId"]) for span in spans] == [32] * 4
    assert spans[2]["parentSpanId"] == spans[1]["spanId"] and len(spans[1]["spanId"]) == 16
    asked = json.dumps(list(otlp_lines(journal, "r", contents=True)))
    assert asked.count("secret") >= 6
    turn = list(read_spans(journal, "r", contents=True))[2]
    [message] = json.loads(turn.attributes["gen_ai.input.messages"])
    assert message["role"] == "user" and message["parts"][0]["type"] == "text"
    [reply] = json.loads(turn.attributes["gen_ai.output.messages"])
    assert reply["role"] == "assistant" and reply["finish_reason"] == "stop"


async def test_what_goes_wrong(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="unknown run `x`; known: r"):
        trace(journal, "x", InMemorySpanExporter())
    with pytest.raises(JournalError, match="did not take the spans of run `r`"):
        trace(journal, "r", Refusing())
    monkeypatch.setattr(tracing, "AT_ONCE", 3)
    assert [len(line["resourceSpans"][0]["scopeSpans"][0]["spans"]) for line in otlp_lines(journal, "r")] == [
        3,
        1,
    ]
    monkeypatch.setitem(__import__("sys").modules, "sparring.memory.spans", None)
    with pytest.raises(UserError, match=r"pip install 'sparring\[otel\]'"):
        list(read_spans(journal, "r"))


@pytest.mark.parametrize(
    ("spec", "provider", "model"),
    [
        ("smollm2-135m?dtype=float32", "transformers", "smollm2-135m"),
        ("vllm:org/model?x=1", "vllm", "org/model"),
        ("langchain:openai:gpt-4o", "openai", "gpt-4o"),
        ("langchain:mistralai:large", "mistral_ai", "large"),
        ("http://a:1/v1,http://b:2/v1#m", "openai", "m"),
        ("scripted:hash", "scripted", "hash"),
        ("teacher", "teacher", "teacher"),
    ],
)
def test_provider_and_model_of_an_engine(spec: str, provider: str, model: str) -> None:
    said = _engine(spec)
    assert (said["gen_ai.provider.name"], said["gen_ai.request.model"]) == (provider, model)

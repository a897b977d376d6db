"""A run as OpenTelemetry spans, read from the journal: for whatever a team watches its services with.

    trace(journal, "first", OTLPSpanExporter("http://localhost:4318/v1/traces"))

A run, each of its episodes, turns and tool calls is a span. An episode and what is below it are a trace of
their own, which links to the run's: a run has more episodes than any backend takes for one trace. What a span
says is in `spans`. Exporting again gives the same spans; what has not ended yet is left out, and so is what
was said, unless it is asked for.
"""

from __future__ import annotations

from base64 import b64decode
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sqlalchemy import select

from ..errors import JournalError, UserError
from .queries import LIGHT
from .schema import Agent, Episode, Event, Message, PolicyVersion, Task, Turn

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

    from .journal import Journal

AHEAD = 100
"""Episodes read at once."""
AT_ONCE = 512
"""Spans handed over at once, as OpenTelemetry's own batches."""
IDS = ("traceId", "spanId", "parentSpanId")


def read_spans(journal: Journal, run: str, *, contents: bool = False) -> Iterator[ReadableSpan]:
    """The spans of a run that has them: itself first, then each episode with its turns and calls.

    Args:
        contents: Also what was asked, seen and said, and what events hold: other people may read it then.

    Raises:
        UserError: there is no such run, or OpenTelemetry is not installed.
    """
    return _spans(journal, journal.run_row(run), _maker(contents), contents)


def _spans(journal: Journal, row: Any, make: Any, contents: bool) -> Iterator[ReadableSpan]:
    if row.finished_at is not None:
        yield make.run(row)
    numbers = [
        found.number
        for found in journal.read(
            select(Episode.number).where(Episode.run_id == row.id).order_by(Episode.number)
        )
    ]
    for start in range(0, len(numbers), AHEAD):
        few = numbers[start : start + AHEAD]
        turns, events = _turns(journal, few), _of_each(journal, Event, few)
        said = _of_each(journal, Message, few if contents else [])
        columns = (Task.name, Task.question, Episode.__table__)
        query = select(*columns).join(Task, Task.id == Episode.task_id).where(Episode.number.in_(few))
        for episode in journal.read(query.order_by(Episode.number)):
            if episode.finished_at is None:
                continue
            yield make.episode(row, episode, events[episode.number])
            messages = {message.id: message for message in said[episode.number]}
            yield from (make.turn(row, episode, turn, messages) for turn in turns[episode.number])
            calls = (event for event in events[episode.number] if is_call(event))
            yield from (make.tool(row, episode, call) for call in calls)


def is_call(event: Any) -> bool:
    """Whether a row of `events` is a tool call (`tools.toolbox.base.Called`), and no event of a protocol of
    somebody's own that has the same kind."""
    made = event.payload
    return event.kind == "tool" and isinstance(made, dict) and {"name", "arguments", "seconds"} <= made.keys()


def trace(journal: Journal, run: str, exporter: SpanExporter, *, contents: bool = False) -> int:
    """Hand the spans of a run to an exporter; how many they were.

    Args:
        contents: as in `read_spans`.

    Raises:
        UserError: as in `read_spans`.
        JournalError: the exporter did not take them.
    """
    count = 0
    for some in batches(read_spans(journal, run, contents=contents)):
        if exporter.export(some).name != "SUCCESS":
            raise JournalError(f"the exporter did not take the spans of run `{run}` ({count} went before)")
        count += len(some)
    return count


def otlp_lines(journal: Journal, run: str, *, contents: bool = False) -> Iterator[dict[str, Any]]:
    """The spans of a run as OTLP/JSON, a request each: what the collector's `otlpjsonfile` receiver reads."""
    spans = read_spans(journal, run, contents=contents)  # first: this says what is missing
    from google.protobuf.json_format import MessageToDict
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

    def line(some: Sequence[ReadableSpan]) -> dict[str, Any]:
        return dict(_hexadecimal(MessageToDict(encode_spans(some), use_integers_for_enums=True)))

    return (line(some) for some in batches(spans))


def otlp_exporter(url: str) -> SpanExporter:
    """An exporter to a collector by OTLP over HTTP; a URL without a path is the collector's root.

    Raises:
        UserError: OpenTelemetry is not installed.
    """
    _maker(False)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    whole = urlsplit(url)
    return OTLPSpanExporter(url if whole.path.strip("/") else whole._replace(path="/v1/traces").geturl())


def batches(spans: Iterator[ReadableSpan]) -> Iterator[Sequence[ReadableSpan]]:
    """Spans, `AT_ONCE` at a time."""
    some: list[ReadableSpan] = []
    for span in spans:
        some.append(span)
        if len(some) == AT_ONCE:
            yield some
            some = []
    if some:
        yield some


def _maker(contents: bool) -> Any:
    try:
        from .spans import Spans
    except ImportError as error:
        raise UserError(f"OpenTelemetry is not installed ({error}): pip install 'sparring[otel]'") from None
    return Spans(contents)


def _turns(journal: Journal, numbers: Sequence[int]) -> dict[int, list[Any]]:
    """Episode number -> its turns, with who spoke."""
    speaker = (Agent.role, Agent.sampling, Agent.policy, PolicyVersion.number.label("version"))
    query = (
        select(*LIGHT, *speaker)
        .join(Agent, Agent.id == Turn.agent_id)
        .join(PolicyVersion, PolicyVersion.id == Turn.policy_version_id)
        .where(Turn.episode_number.in_(numbers))
    )
    return _grouped(journal.read(query.order_by(Turn.id)))


def _of_each(journal: Journal, table: Any, numbers: Sequence[int]) -> dict[int, list[Any]]:
    return _grouped(journal.read(select(table).where(table.episode_number.in_(numbers)).order_by(table.id)))


def _grouped(rows: Sequence[Any]) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = defaultdict(list)
    for row in rows:
        found[row.episode_number].append(row)
    return found


def _hexadecimal(value: Any) -> Any:
    """Ids as OTLP writes them in JSON; protobuf's own JSON has them in base64."""
    if isinstance(value, list):
        return [_hexadecimal(held) for held in value]
    if not isinstance(value, dict):
        return value
    return {
        name: b64decode(held).hex() if name in IDS else _hexadecimal(held) for name, held in value.items()
    }

"""A run as OpenTelemetry spans, for the tools a team watches its services with.

    .venv/bin/python examples/spans.py
    .venv/bin/sparring memory trace spans --memory spans.db --out spans.jsonl
    .venv/bin/sparring memory trace spans --memory spans.db --otlp http://localhost:4318

Plays two scripted debates and exports them from the journal: the run, its episodes and their turns, named by
the GenAI conventions. Prints each episode with the turns below it; what was said stays in the journal unless
`contents=True` asks for it. The commands export any run, of any day, and again with the same ids. Needs the
extra: pip install 'sparring[otel]'.
"""

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import sparring
from sparring.memory.tracing import trace

MEMORY = "spans.db"


def main() -> None:
    sparring.play("debate", "demo", engine="scripted:hash", limit=2, memory=MEMORY, run="spans", seed=1)
    exporter = InMemorySpanExporter()  # any exporter will do; `otlp_exporter(URL)` has one to a collector
    with sparring.Journal.open(MEMORY) as journal:
        print(trace(journal, "spans", exporter), "spans")
    for span in exporter.get_finished_spans():
        said = span.attributes
        used = f"{said.get('gen_ai.usage.input_tokens')} + {said.get('gen_ai.usage.output_tokens')} tokens"
        print(
            "  " * bool(span.parent),
            span.name,
            said.get("sparring.turn.key", ""),
            used if span.parent else "",
        )


if __name__ == "__main__":
    main()

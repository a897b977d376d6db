"""Spans a second out of a journal: `sparring memory trace` without its start, by what becomes of the spans.

    python -m benchmarks.spans [--turns 1000] [--rounds 5]

A scripted debate of six turns an episode, a reply about 1 kB long, is journaled once and exported over and
over; medians of wall seconds, and of processor seconds, which a busy machine does not stretch. One round more
does not count. No budget.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import sparring
from benchmarks.machine import described
from sparring.agents.engines.base import Request
from sparring.memory.journal import Journal
from sparring.memory.tracing import otlp_lines, read_spans

EPISODE = 6
"""Turns of one debate: three agents, two rounds."""


def reply(request: Request, seed: int) -> str:
    """About 1 kB that depends on the seed."""
    return f"step {seed} follows from the one before it. " * 20 + f"\nAnswer: {seed % 5}"


def exhaust(spans: Iterable[object]) -> int:
    """How many they were."""
    return sum(1 for _ in spans)


def main() -> int:
    """Journal, export, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--turns", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(described())
    tasks = [{"id": f"q{n}", "question": f"{n} + 1?"} for n in range(-(-options.turns // EPISODE))]
    with tempfile.TemporaryDirectory() as folder, Journal.open(Path(folder) / "spans.db") as journal:
        run = sparring.play("debate", tasks, engine=reply, memory=journal, run="spans").run
        kinds: dict[str, Callable[[], Iterable[object]]] = {
            "read": lambda: read_spans(journal, run),
            "read, with contents": lambda: read_spans(journal, run, contents=True),
            "OTLP/JSON": lambda: otlp_lines(journal, run),
            "OTLP/JSON, with contents": lambda: otlp_lines(journal, run, contents=True),
        }
        spans = exhaust(read_spans(journal, run))
        for name, make in kinds.items():
            wall, cpu = [], []
            for _ in range(options.rounds + 1):
                began, busy = time.perf_counter(), time.process_time()
                exhaust(make())
                wall.append(time.perf_counter() - began)
                cpu.append(time.process_time() - busy)
            shown = [spans / statistics.median(some[1:]) for some in (wall, cpu)]
            print(f"{name:26}{spans:6} spans {shown[0]:8.0f} a second {shown[1]:8.0f} a processor second")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`sparring memory trace`: a run as OpenTelemetry spans."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from sparring.cli.options import DEFAULT_MEMORY, Memory, RunName
from sparring.errors import UserError
from sparring.graphs.console import check_out, existing, write_lines


def trace(
    run: RunName,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="OTLP/JSON lines to this file, not to standard output."),
    ] = None,
    otlp: Annotated[
        str | None, typer.Option(metavar="URL", help="Send them to a collector: http://localhost:4318.")
    ] = None,
    contents: Annotated[
        bool, typer.Option("--contents", help="Also what was asked and said; others can read it there.")
    ] = False,
    memory: Memory = DEFAULT_MEMORY,
) -> None:
    """A run, its episodes and its turns as OpenTelemetry spans, by the GenAI conventions."""
    if out is not None and otlp is not None:
        raise UserError("give either `--out FILE` or `--otlp URL`, not both")
    existing(memory)
    check_out(out, memory)
    from sparring.memory.journal import Journal
    from sparring.memory.tracing import otlp_exporter, otlp_lines
    from sparring.memory.tracing import trace as export

    with Journal.open(memory, read_only=True) as journal:
        if otlp is None:
            return write_lines(otlp_lines(journal, run, contents=contents), out)
        server = urlsplit(otlp)
        if server.scheme not in ("http", "https") or not server.hostname:
            raise UserError(f"`--otlp {otlp}`: give the collector's URL, such as http://localhost:4318")
        sent = export(journal, run, otlp_exporter(otlp), contents=contents)
    print(f"{sent} spans sent to {server.hostname}", file=sys.stderr)

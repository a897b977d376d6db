"""`sparring doctor`: what this machine has, what is missing, and how to mend it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from sparring.cli import complete
from sparring.cli.options import DEFAULT_MEMORY, Json, Memory
from sparring.graphs.console import Incomplete, write_lines


def doctor(
    memory: Memory = DEFAULT_MEMORY,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC",
            help="Ask this engine one thing too.",
            autocompletion=complete.engines,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Look at what this machine has, and say what to mend; exit status 1 where something is broken."""
    from sparring.graphs.doctor import examine

    broken = 0
    for finding in examine(memory, engine or []):
        broken += finding.state == "broken"
        if as_json:
            write_lines([asdict(finding)], None)
            continue
        mend = f" -> {finding.mend}" if finding.mend else ""
        print(f"{finding.state:6} {finding.name}: {finding.detail}{mend}", flush=True)
    if broken:
        raise Incomplete(f"{broken} of these must be mended first")

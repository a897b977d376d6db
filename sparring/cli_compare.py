"""`sparring compare`: every way to pick an answer, on the same samples."""

from __future__ import annotations

import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparring.graphs.console import check_out, conduct, lasting, write_lines

if TYPE_CHECKING:
    from sparring.graphs.display import Display
    from sparring.graphs.play import PlayResult

DEFAULT_MEMORY = "sparring.db"


def compare(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="Tasks, engine, pool and methods.")],
    memory: Annotated[
        str,
        typer.Option(envvar="SPARRING_MEMORY", metavar="URL", help="Journal: a file or a postgresql:// URL."),
    ] = DEFAULT_MEMORY,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A JSON line a method to this file.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Questions at a time.")] = 64,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Play methods on one pool of samples; accuracy against calls and tokens, and a PNG of it."""
    lasting(memory)
    check_out(out, memory, str(config))
    from sparring.graphs.compare import draw, load_comparison, plot_of, tables
    from sparring.graphs.comparison import compared_and_voted
    from sparring.graphs.display import show
    from sparring.graphs.play import aplay
    from sparring.memory.journal import Journal

    chosen = load_comparison(config)
    planned = chosen.played()

    def job(display: Display) -> Coroutine[Any, Any, PlayResult]:
        return aplay(planned, memory, run=chosen.run, concurrency=concurrency, on_progress=display)

    def deliver(result: PlayResult) -> None:
        with Journal.open(memory) as journal:
            rows, votes = compared_and_voted(journal, result.run)
        if out is not None:
            write_lines([row.to_json() for row in rows], out)
        show(*tables(rows))
        print(f"plot: {draw(rows, plot_of(chosen, memory), chosen.run, votes)}", file=sys.stderr)

    conduct(job, chosen.run, memory, quiet=quiet, deliver=deliver)

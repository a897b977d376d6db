"""`sparring compare`: every way to pick an answer, on the same samples."""

from __future__ import annotations

import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparring.cli.options import DEFAULT_MEMORY, Json, MaxRunCost, MaxRunTokens, Memory, Quiet, budget_of
from sparring.graphs.console import check_out, conduct, lasting, write_lines

if TYPE_CHECKING:
    from sparring.graphs.display import Display
    from sparring.graphs.play import PlayResult


def compare(  # noqa: PLR0913 - a parameter for each option
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="Tasks, engine, pool and methods.")],
    memory: Memory = DEFAULT_MEMORY,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A JSON line a method to this file.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Questions at a time.")] = 64,
    max_run_cost: MaxRunCost = None,
    max_run_tokens: MaxRunTokens = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Play methods on one pool of samples; accuracy against calls and tokens, and a PNG of it."""
    lasting(memory)
    check_out(out, memory, str(config))
    from sparring.graphs.compare import draw, load_comparison, plot_of, tables
    from sparring.graphs.comparison import compared_and_voted
    from sparring.graphs.display import show
    from sparring.graphs.play import aplay
    from sparring.memory.journal import Journal

    budget = budget_of(max_run_cost, max_run_tokens)
    chosen = load_comparison(config)
    planned = chosen.played()

    def job(display: Display) -> Coroutine[Any, Any, PlayResult]:
        how: dict[str, Any] = {"concurrency": concurrency, "budget": budget}
        return aplay(planned, memory, run=chosen.run, on_progress=display, **how)

    def deliver(result: PlayResult) -> None:
        with Journal.open(memory) as journal:
            rows, votes = compared_and_voted(journal, result.run)
        if out is not None:
            write_lines([row.to_json() for row in rows], out)
        if as_json:
            write_lines([row.to_json() for row in rows], None)
        else:
            show(*tables(rows))
        print(f"plot: {draw(rows, plot_of(chosen, memory), chosen.run, votes)}", file=sys.stderr)

    conduct(job, chosen.run, memory, quiet=quiet, deliver=deliver)

"""`sparring play` and `sparring resume`."""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparring.cli import complete
from sparring.cli.options import (
    DEFAULT_MEMORY,
    Durability,
    Engine,
    MaxRunCost,
    MaxRunTokens,
    Memory,
    Quiet,
    Roles,
    RunName,
    Tasks,
    budget_of,
)
from sparring.graphs.console import (
    check_out,
    conduct,
    existing,
    hand_over,
    lasting,
    options,
    pairs,
    scripts,
)

if TYPE_CHECKING:
    from sparring.graphs.display import Display
    from sparring.graphs.play import PlayResult

Out = Annotated[Path | None, typer.Option(metavar="FILE", help="Results as JSON lines to this file.")]
Table = Annotated[bool, typer.Option("--table", help="A table for people instead of JSON lines.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Episodes at a time.")]
Workers = Annotated[
    str | None, typer.Option(metavar="ray[:N]", help="Play in N processes of a Ray cluster, on PostgreSQL.")
]


def play(  # noqa: PLR0913 - a parameter for each option
    protocol: Annotated[
        str,
        typer.Argument(
            help="Such as sample, du, discuss, sneaky; unknown ones list all.",
            autocompletion=complete.protocols,
        ),
    ],
    tasks: Tasks,
    engine: Engine = None,
    role: Roles = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="OPTION=VALUE", help="Option of the protocol, or of sampling."),
    ] = None,
    memory: Memory = DEFAULT_MEMORY,
    run: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the run.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Play the first N tasks.")] = None,
    seed: int = 0,
    copies: Annotated[int, typer.Option(min=1, help="Independent episodes of each task.")] = 1,
    concurrency: Concurrency = 64,
    workers: Workers = None,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Also draw a pool of single samples to compare with.")
    ] = False,
    out: Out = None,
    durability: Durability = "full",
    max_calls: Annotated[int | None, typer.Option(min=1, help="Cap of one episode.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Cap of one episode, prompts too.")] = None,
    max_seconds: Annotated[float | None, typer.Option(min=0, help="Cap of one episode.")] = None,
    max_cost: Annotated[float | None, typer.Option(min=0, help="Cap of one episode.")] = None,
    max_run_cost: MaxRunCost = None,
    max_run_tokens: MaxRunTokens = None,
    quiet: Quiet = False,
    table: Table = False,
) -> None:
    """Play a protocol over tasks; the same command again continues the run."""
    given = options(set_ or [])
    roles = {name: str(text) for name, text in pairs(role or [], "--role", "ROLE=SPEC").items()}
    lasting(memory)
    check_out(out, memory, tasks, *scripts((engine, *roles.values())))
    budget = budget_of(max_run_cost, max_run_tokens)
    from sparring.graphs.context import Limits
    from sparring.graphs.play import aplay, plan

    if baseline:
        given["baseline"] = True
    limits = Limits(max_calls, max_tokens, max_seconds, max_cost)
    known = {"engine": engine, "roles": roles, "seed": seed, "copies": copies, "limits": limits}
    planned = plan(protocol, tasks, limit=limit, **known, **given)
    name = run or planned.default_name

    def job(display: Display) -> Coroutine[Any, Any, PlayResult]:
        how: dict[str, Any] = {"concurrency": concurrency, "durability": durability, "workers": workers}
        return aplay(planned, memory, run=name, budget=budget, on_progress=display, **how)

    conduct(job, name, memory, quiet=quiet, deliver=lambda result: hand_over(result, memory, out, table))


def resume(  # noqa: PLR0913 - a parameter for each option
    run: RunName,
    memory: Memory = DEFAULT_MEMORY,
    concurrency: Concurrency = 64,
    workers: Workers = None,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Draw a baseline too, if there is none.")
    ] = False,
    out: Out = None,
    max_run_cost: MaxRunCost = None,
    max_run_tokens: MaxRunTokens = None,
    quiet: Quiet = False,
    table: Table = False,
) -> None:
    """Continue a run from the journal alone."""
    check_out(out, memory)
    existing(memory)
    budget = budget_of(max_run_cost, max_run_tokens)
    from sparring.graphs.play import aresume

    def job(display: Display) -> Coroutine[Any, Any, PlayResult]:
        asked: dict[str, Any] | None = {} if baseline else None
        how: dict[str, Any] = {"concurrency": concurrency, "workers": workers}
        return aresume(run, memory, baseline=asked, budget=budget, on_progress=display, **how)

    conduct(job, run, memory, quiet=quiet, deliver=lambda result: hand_over(result, memory, out, table))

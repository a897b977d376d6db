"""`sparring evolve`, `tournament` and `rewards`: better weights, and how good they are."""

from __future__ import annotations

import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from sparring.cli.options import (
    DEFAULT_MEMORY,
    Json,
    MaxRunCost,
    MaxRunTokens,
    Memory,
    Quiet,
    RunName,
    budget_of,
)
from sparring.errors import BudgetSpent, UserError
from sparring.graphs.console import (
    Incomplete,
    Interrupted,
    check_out,
    existing,
    go_on,
    how_to,
    lasting,
    run_aside,
    settings,
    write_lines,
)

if TYPE_CHECKING:
    from sparring.agents.engines.budget import Budget

T = TypeVar("T")
Options = Annotated[
    list[str] | None, typer.Option("--set", metavar="OPTION=VALUE", help="An option of the reward.")
]


def evolve(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="What to play, who learns, and how.")],
    memory: Memory = DEFAULT_MEMORY,
    max_run_cost: MaxRunCost = None,
    max_run_tokens: MaxRunTokens = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Play, reward, train, gate, publish, again; the same command goes on with a run that was stopped.

    With `kind: archive` it is the words and settings of a software agent that evolve, and no weights.
    """
    lasting(memory)
    from sparring.graphs.config_file import kind_of

    budget = budget_of(max_run_cost, max_run_tokens)
    kind = kind_of(config)
    if kind == "archive":
        return _breed(config, memory, budget, quiet=quiet, as_json=as_json)
    if kind is not None:
        raise UserError(f"configuration `{config}`, `kind`: `archive`, or no such field to train weights")
    from sparring.training.config import load_config
    from sparring.training.console import Watch, readability, summary
    from sparring.training.evolve import aevolve
    from sparring.training.ranks import together

    chosen = load_config(config)
    again = ("evolve", str(config), memory)
    with together() as drives:
        if not drives:
            return
        watch = Watch(quiet, chosen.steps)
        result = _to_its_end(aevolve(chosen, memory, told=watch, budget=budget), again)
    if as_json:
        write_lines([result.to_json()], None)
    else:
        from sparring.graphs.display import show

        show(readability(result.story), summary(result.story, result.heads))
    for plot in result.plots:
        print(f"plot: {plot}", file=sys.stderr)
    if result.story.stopped:
        raise Incomplete("; ".join(f"policy `{name}`: {why}" for name, why in result.story.stopped.items()))


def _to_its_end(playing: Coroutine[Any, Any, T], again: tuple[str, str, str]) -> T:
    try:
        return run_aside(playing)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; nothing is lost, go on with {how_to(*again)}") from None
    except BudgetSpent as spent:
        raise Incomplete(f"{spent}; nothing is lost, {go_on(spent, *again)}") from None


def _breed(config: Path, memory: str, budget: Budget | None, *, quiet: bool, as_json: bool) -> None:
    """`sparring evolve` of an archive."""
    from sparring.graphs.display import show
    from sparring.training.archive.archive import aarchive
    from sparring.training.archive.config import load_archive
    from sparring.training.archive.console import Watch, tables

    chosen = load_archive(config)
    again = ("evolve", str(config), memory)
    result = _to_its_end(aarchive(chosen, memory, told=Watch(quiet), budget=budget), again)
    if as_json:
        write_lines([result.archive.to_json()], None)
    else:
        show(*tables(result.archive))
    for plot in result.plots:
        print(f"plot: {plot}", file=sys.stderr)
    if result.unfinished is not None:
        raise Incomplete(f"{result.unfinished}; try them again with {how_to(*again)}")


def tournament(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="Who competes, in what, and how.")],
    memory: Memory = DEFAULT_MEMORY,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Standings as JSON lines to this file.")
    ] = None,
    max_run_cost: MaxRunCost = None,
    max_run_tokens: MaxRunTokens = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Play versions against each other and rate them; the same command goes on with one that was stopped."""
    lasting(memory)
    check_out(out, memory, str(config))
    from sparring.graphs.display import show
    from sparring.training.league.config import load_tournament
    from sparring.training.league.console import Watch, tables
    from sparring.training.league.tournament import atournament

    budget = budget_of(max_run_cost, max_run_tokens)
    chosen = load_tournament(config)
    again = ("tournament", str(config), memory)
    result = _to_its_end(atournament(chosen, memory, told=Watch(quiet), budget=budget), again)
    if out is not None:
        write_lines(result.standings.to_json(), out)
    if as_json:
        write_lines(result.standings.to_json(), None)
    else:
        show(*tables(result.standings))
    for plot in result.plots:
        print(f"plot: {plot}", file=sys.stderr)
    if result.missing:
        raise Incomplete(f"{result.missing} games failed; try them again with {how_to(*again)}")


def rewards(
    run: RunName,
    function: Annotated[
        str, typer.Option("--function", help="Reward function, or module:Class.")
    ] = "verifier",
    options: Options = None,
    memory: Memory = DEFAULT_MEMORY,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, which it prints in any case.")] = False,
) -> None:
    """Derive the rewards of a run's turns; rows of other versions and options stay."""
    existing(memory)
    from sparring.memory.journal import Journal
    from sparring.training.rewards import make_reward
    from sparring.training.rewards.derive import derive

    made = make_reward(function, settings(options or [], "--set", "OPTION=VALUE"))
    with Journal.open(memory) as journal:
        done = derive(journal, made, run=run)
    write_lines(
        [
            {
                "function": made.name,
                "version": made.version,
                "config": made.config_hash,
                "episodes": done.episodes,
                "added": done.rewards,
                "null": done.null,
                "already": done.already,
                "changed": done.changed,
            }
        ],
        None,
    )
    if done.changed:
        raise Incomplete(
            f"{len(done.changed)} stored rewards differ from what `{made.name}` gives now: "
            "raise its version when its formula changes"
        )

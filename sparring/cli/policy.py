"""`sparring policy`: what policies a journal holds, where their weights come from, and which are used."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from sparring.cli import complete
from sparring.cli.options import DEFAULT_MEMORY, Json, Memory, PolicyName, Quiet, Tasks
from sparring.errors import UserError, unknown
from sparring.graphs.console import Interrupted, existing, run_aside, write_lines

if TYPE_CHECKING:
    from sparring.graphs.policies import Move
    from sparring.memory.journal import Journal
    from sparring.memory.policies import Head

policy = typer.Typer(no_args_is_help=True, help="Trained weights: versions, heads, lineage.")

Version = Annotated[str | None, typer.Argument(metavar="[VERSION]", help="7, live, training.")]
HeadOption = Annotated[str, typer.Option(metavar="live|training", help="Which head.")]
Because = Annotated[str, typer.Option(metavar="TEXT", help="Why, for the journal.")]


def _journal(memory: str) -> Journal:
    existing(memory)
    from sparring.memory.journal import Journal

    return Journal.open(memory)


def _head(text: str) -> Head:
    from sparring.memory.policies import HEADS

    for head in HEADS:
        if text == head:
            return head
    raise unknown("head of a policy", text, HEADS)


@policy.command("list")
def list_policies(memory: Memory = DEFAULT_MEMORY, as_json: Json = False) -> None:
    """Every policy: the versions its heads point at, how many there are, the base."""
    with _journal(memory) as journal:
        from sparring.graphs.policies import overview, overview_table

        rows = overview(journal)
    if as_json:
        return write_lines(rows, None)
    from sparring.graphs.display import show

    show(overview_table(rows))


@policy.command("show")
def show_policy(name: PolicyName, memory: Memory = DEFAULT_MEMORY, as_json: Json = False) -> None:
    """A policy's heads, versions and moves."""
    with _journal(memory) as journal:
        from sparring.graphs.policies import about, about_tables

        found = about(journal, name)
    if as_json:
        return write_lines([found], None)
    from sparring.graphs.display import show

    show(*about_tables(found))


@policy.command()
def lineage(
    name: PolicyName,
    turns: Annotated[int, typer.Option(min=0, help="Also the first N turns that trained each.")] = 0,
    memory: Memory = DEFAULT_MEMORY,
    as_json: Json = False,
) -> None:
    """From a version's weights down to the words that shaped them; by default of the live version."""
    with _journal(memory) as journal:
        from sparring.graphs.policies import descent, descent_tables

        steps = descent(journal, name, turns)
    if as_json:
        return write_lines(steps, None)
    from sparring.graphs.display import show

    show(*descent_tables(steps))


@policy.command()
def promote(
    name: PolicyName,
    version: Version = None,
    head: HeadOption = "live",
    because: Because = "promoted by hand",
    memory: Memory = DEFAULT_MEMORY,
    as_json: Json = False,
) -> None:
    """Point the live head at a version, without the gate: `promote solver 3` or `promote solver@3`."""
    said = _said(name, version)
    if said is None:
        raise UserError(f"which version of `{name}`? say `sparring policy promote {name} VERSION`")
    with _journal(memory) as journal:
        from sparring.graphs.policies import named
        from sparring.graphs.policies import promote as point

        _moved(point(journal, named(journal, said), _head(head), because), as_json)


@policy.command()
def rollback(
    name: PolicyName,
    to: Annotated[str | None, typer.Option(metavar="VERSION", help="By default the one before.")] = None,
    head: HeadOption = "live",
    because: Because = "rolled back by hand",
    memory: Memory = DEFAULT_MEMORY,
    as_json: Json = False,
) -> None:
    """Point the live head at the version it stood at before its present one."""
    said = _said(name, to)
    with _journal(memory) as journal:
        from sparring.graphs.policies import named, roll_back

        target = None if said is None else named(journal, said)
        known = target.policy if target else name
        _moved(roll_back(journal, known, _head(head), target, because), as_json)


def _moved(move: Move, as_json: bool) -> None:
    if as_json:
        return write_lines([asdict(move)], None)
    print(move)


def _said(name: str, version: str | None) -> str | None:
    """`NAME@VERSION`, from that or from NAME and VERSION; None where no version is named."""
    if version is None:
        return name if "@" in name else None
    full = version if "@" in version else f"{name}@{version}"
    if "@" in name or full.rpartition("@")[0] != name:
        raise UserError(f"`{name}` and `{version}`: name one policy and one version of it")
    return full


@policy.command()
def measure(  # noqa: PLR0913 - the options of a command
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...", help="The agents: one policy each.", autocompletion=complete.policies
        ),
    ],
    tasks: Tasks,
    before: Annotated[str, typer.Option(metavar="VERSION", help="7, live, training.")] = "0",
    after: Annotated[str, typer.Option(metavar="VERSION", help="7, live, training.")] = "training",
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="OPTION=VALUE", help="answer, votes, rounds, seed, sampling, prompts.ROLE."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first N tasks.")] = None,
    memory: Memory = DEFAULT_MEMORY,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Agents before and after, in four settings: alone, by vote, in a conversation, in a debate."""
    from sparring.graphs.console import settings

    given = settings(options or [], "--set", "OPTION=VALUE")
    existing(memory)
    from sparring.graphs.display import Display
    from sparring.graphs.settings import Asked, measured

    own = {name: given.pop(name) for name in ("answer", "votes", "rounds", "seed") if name in given}
    asked = Asked(tasks, limit=limit, options=given, **own)
    with Display(quiet) as display:
        playing = measured(memory, names, asked, before, after, on_progress=display)
        try:
            rows = run_aside(playing)
        except KeyboardInterrupt:
            raise Interrupted("interrupted; the same command goes on where it was") from None
    if as_json:
        return write_lines([row.to_json() for row in rows], None)
    from sparring.graphs.display import settings_tables, show

    show(*settings_tables(rows))

"""`sparring memory`: upgrade, look at, carry and delete what a journal holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparring.cli import complete
from sparring.cli.options import DEFAULT_MEMORY, Json, Memory, RunName
from sparring.cli.trace import trace
from sparring.errors import UserError
from sparring.graphs.console import check_out, existing, shown, write_lines

memory_app = typer.Typer(no_args_is_help=True, help="The journal: upgrade, look at, carry, delete.")
memory_app.command()(trace)
Always = Annotated[bool, typer.Option("--json", help="JSON, which it prints in any case.")]


@memory_app.command()
def upgrade(memory: Memory = DEFAULT_MEMORY, as_json: Json = False) -> None:
    """Bring a journal of an older version up to this one."""
    existing(memory)
    from sparring.memory.database import HEAD, connect
    from sparring.memory.database import upgrade as bring_up

    engine = connect(memory)
    before = bring_up(engine)
    engine.dispose()
    if as_json:
        return write_lines([{"memory": shown(memory), "before": before, "revision": HEAD}], None)
    print(
        f"{shown(memory)}: revision {before or 'none'} -> {HEAD}"
        if before != HEAD
        else f"{shown(memory)}: at {HEAD} already"
    )


@memory_app.command()
def stats(memory: Memory = DEFAULT_MEMORY, as_json: Always = False) -> None:
    """What the journal holds, as one JSON line."""
    existing(memory)
    from sparring.memory.journal import Journal
    from sparring.memory.transfer import stats as read_stats

    with Journal.open(memory) as journal:
        write_lines([read_stats(journal)], None)


@memory_app.command()
def export(
    to: Annotated[Path, typer.Argument(metavar="FILE", help="File to write.")],
    run: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="One run; by default all.", autocompletion=complete.runs),
    ] = None,
    memory: Memory = DEFAULT_MEMORY,
    as_json: Always = False,
) -> None:
    """Write runs to a file that `memory import` reads; prints the rows written, table by table."""
    existing(memory)
    check_out(to, memory)
    from sparring.memory.journal import Journal
    from sparring.memory.transfer import export as write

    with Journal.open(memory) as journal:
        write_lines([write(journal, run, to)], None)


@memory_app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="What `memory export` wrote.")],
    memory: Memory = DEFAULT_MEMORY,
    as_json: Always = False,
) -> None:
    """Merge exported runs into a journal, which keeps what it has; prints the rows added."""
    from sparring.memory.journal import Journal
    from sparring.memory.transfer import import_ as merge

    if not source.is_file():
        raise UserError(f"`{source}` cannot be imported: there is no such file")
    with Journal.open(memory) as journal:
        write_lines([merge(journal, source)], None)


@memory_app.command()
def delete(
    run: RunName,
    memory: Memory = DEFAULT_MEMORY,
    force: Annotated[bool, typer.Option("--force", help="Also rows that live weights descend from.")] = False,
    as_json: Always = False,
) -> None:
    """Delete a run from the journal; prints the rows removed and the episodes that live weights need."""
    existing(memory)
    from sparring.memory.journal import Journal
    from sparring.memory.transfer import delete as remove

    with Journal.open(memory) as journal:
        removed = remove(journal, run, force=force)
    write_lines([{"rows": removed.rows, "kept_episodes": removed.kept_episodes}], None)

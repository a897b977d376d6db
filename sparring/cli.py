"""The command line, thin: it reads options, calls what the SDK calls, and says how it went.

Results go to standard output or `--out`, everything else to standard error. Exit status: 0 success,
1 something failed that can be resumed, 2 bad usage or input, 130 interrupted. Nothing heavy is
imported before a command needs it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparring.cli_compare import compare
from sparring.cli_policy import policy
from sparring.cli_report import report
from sparring.cli_swe import swe
from sparring.cli_trace import trace
from sparring.cli_training import evolve, rewards, tournament
from sparring.cli_view import view
from sparring.errors import SparringError, UserError
from sparring.graphs.console import (
    Incomplete,
    Interrupted,
    check_out,
    conduct,
    existing,
    hand_over,
    lasting,
    options,
    pairs,
    scripts,
    write_lines,
)

if TYPE_CHECKING:
    from sparring.graphs.display import Display
    from sparring.graphs.play import PlayResult

HELP = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(no_args_is_help=True, add_completion=False, context_settings=HELP)
models = typer.Typer(no_args_is_help=True, help="The models that Sparring can fetch.")
memory_app = typer.Typer(no_args_is_help=True, help="The journal: upgrade, look at, carry, delete.")
app.add_typer(models, name="models")
app.add_typer(memory_app, name="memory")
app.add_typer(policy, name="policy")
app.command()(evolve)
app.command()(tournament)
app.command()(compare)
app.command()(swe)
app.command()(rewards)

DEFAULT_MEMORY = "sparring.db"
ONE_STOP_S = 1.0
"""Signals to terminate that come closer together than this are one."""
Memory = Annotated[
    str, typer.Option(envvar="SPARRING_MEMORY", metavar="URL", help="Journal: a file or a postgresql:// URL.")
]
Out = Annotated[Path | None, typer.Option(metavar="FILE", help="Results as JSON lines to this file.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Table = Annotated[bool, typer.Option("--table", help="A table for people instead of JSON lines.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Episodes at a time.")]
Workers = Annotated[
    str | None, typer.Option(metavar="ray[:N]", help="Play in N processes of a Ray cluster, on PostgreSQL.")
]
Durability = Annotated[str, typer.Option(metavar="full|normal", help="What a commit survives on SQLite.")]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="Name of the run.")]


@app.callback()
def about() -> None:
    """Language-model agents debate, criticise and refine; every word goes into a journal."""


@app.command()
def play(  # noqa: PLR0913 - a parameter for each option
    protocol: Annotated[
        str, typer.Argument(help="Such as sample, du, discuss, sneaky; unknown ones list all.")
    ],
    tasks: Annotated[str, typer.Option(metavar="FILE|NAME", help="A task file, or a shipped set.")],
    engine: Annotated[str | None, typer.Option(metavar="SPEC", help="Engine of every role.")] = None,
    role: Annotated[list[str] | None, typer.Option(metavar="ROLE=SPEC", help="Engine of one role.")] = None,
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
    quiet: Quiet = False,
    table: Table = False,
) -> None:
    """Play a protocol over tasks; the same command again continues the run."""
    given = options(set_ or [])
    roles = {name: str(text) for name, text in pairs(role or [], "--role", "ROLE=SPEC").items()}
    lasting(memory)
    check_out(out, memory, tasks, *scripts((engine, *roles.values())))
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
        return aplay(planned, memory, run=name, on_progress=display, **how)

    conduct(job, name, memory, quiet=quiet, deliver=lambda result: hand_over(result, memory, out, table))


@app.command()
def resume(  # noqa: PLR0913 - a parameter for each option
    run: RunName,
    memory: Memory = DEFAULT_MEMORY,
    concurrency: Concurrency = 64,
    workers: Workers = None,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Draw a baseline too, if there is none.")
    ] = False,
    out: Out = None,
    quiet: Quiet = False,
    table: Table = False,
) -> None:
    """Continue a run from the journal alone."""
    check_out(out, memory)
    existing(memory)
    from sparring.graphs.play import aresume

    def job(display: Display) -> Coroutine[Any, Any, PlayResult]:
        asked: dict[str, Any] | None = {} if baseline else None
        how: dict[str, Any] = {"concurrency": concurrency, "workers": workers}
        return aresume(run, memory, baseline=asked, on_progress=display, **how)

    conduct(job, run, memory, quiet=quiet, deliver=lambda result: hand_over(result, memory, out, table))


app.command()(report)
app.command()(view)
memory_app.command()(trace)


@models.command("list")
def list_models(as_json: Json = False) -> None:
    """The models of the catalogue, fetched or not."""
    from sparring.agents.models import installed

    rows = installed()
    if as_json:
        fields = [
            {"name": m.name, "path": m.path and str(m.path), "bytes": m.bytes, "about": m.about} for m in rows
        ]
        return write_lines(fields, None)
    from sparring.graphs.display import columns, show

    shown = [(m.name, f"{m.bytes / 1e6:.0f} MB" if m.path else "not fetched", m.about) for m in rows]
    show(columns(("model", "on disk", "about"), shown))


@models.command()
def pull(name: Annotated[str, typer.Argument(help="A name of `sparring models list`.")]) -> None:
    """Fetch a model into the cache; prints its folder."""
    from sparring.agents.models import pull as fetch

    print(fetch(name))


@memory_app.command()
def upgrade(memory: Memory = DEFAULT_MEMORY) -> None:
    """Bring a journal of an older version up to this one."""
    existing(memory)
    from sparring.memory.database import HEAD, connect
    from sparring.memory.database import upgrade as bring_up

    engine = connect(memory)
    before = bring_up(engine)
    engine.dispose()
    print(
        f"{memory}: revision {before or 'none'} -> {HEAD}"
        if before != HEAD
        else f"{memory}: at {HEAD} already"
    )


@memory_app.command()
def stats(memory: Memory = DEFAULT_MEMORY) -> None:
    """What the journal holds, as one JSON line."""
    existing(memory)
    from sparring.memory.journal import Journal
    from sparring.memory.transfer import stats as read_stats

    with Journal.open(memory) as journal:
        write_lines([read_stats(journal)], None)


@memory_app.command()
def export(
    to: Annotated[Path, typer.Argument(metavar="FILE", help="File to write.")],
    run: Annotated[str | None, typer.Option(metavar="NAME", help="One run; by default all.")] = None,
    memory: Memory = DEFAULT_MEMORY,
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
) -> None:
    """Delete a run from the journal; prints the rows removed and the episodes that live weights need."""
    existing(memory)
    from sparring.memory.journal import Journal
    from sparring.memory.transfer import delete as remove

    with Journal.open(memory) as journal:
        removed = remove(journal, run, force=force)
    write_lines([{"rows": removed.rows, "kept_episodes": removed.kept_episodes}], None)


@app.command()
def doctor(memory: Memory = DEFAULT_MEMORY) -> None:
    """Look at what this machine has, and say what to mend."""
    from sparring.graphs.doctor import examine

    broken = 0
    for finding in examine(memory):
        broken += finding.state == "broken"
        mend = f" -> {finding.mend}" if finding.mend else ""
        print(f"{finding.state:6} {finding.name}: {finding.detail}{mend}", flush=True)
    if broken:
        raise Incomplete(f"{broken} of these must be mended first")


# --- the boundary ------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status. Every error becomes one line on standard error."""
    with _terminable():
        try:
            status = app(None if arguments is None else list(arguments), standalone_mode=False)
            sys.stdout.flush()
            return status if isinstance(status, int) else 0
        except BrokenPipeError:  # whoever read has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except (KeyboardInterrupt, Interrupted) as stop:
            return _fail(str(stop) or "interrupted", 130)
        except UserError as error:
            return _fail(str(error), 2)
        except (SparringError, Incomplete) as error:
            return _fail(str(error), 1)
        except Exception as error:
            if hasattr(error, "format_message"):  # typer's own, whichever class this version of it uses
                return _fail(_usage(error), 2)
            if os.environ.get("SPARRING_DEBUG"):
                traceback.print_exc()
            hint = "set SPARRING_DEBUG=1 for the traceback"
            return _fail(f"unexpected {type(error).__name__}: {error}; {hint}", 1)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM is handled like Ctrl-C, so that a scheduler's stop loses nothing either.

    Those who stop a process and its group, as `timeout` does, signal it twice at once: that is one stop.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    last = float("-inf")

    def terminate(_: int, frame: Any) -> None:
        nonlocal last
        repeated = time.monotonic() - last < ONE_STOP_S
        last = time.monotonic()
        if not repeated:  # whoever runs an event loop has put a handler of its own there: it cancels in order
            interrupt: Any = signal.getsignal(signal.SIGINT)
            interrupt(signal.SIGINT, frame)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        with _deaf_to_ctrl_c() if signal.getsignal(signal.SIGINT) == signal.SIG_IGN else nullcontext():
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """A shell's background job ignores Ctrl-C: block it instead, with Python's handler in its place.

    An event loop takes over no other handler, and without its own a stop is raised in the midst of it, which
    now and then leaves behind a task that nobody wakes again: the process hangs.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # forgets one that came meanwhile
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _fail(message: str, status: int) -> int:
    if message:
        print(f"sparring: {' '.join(message.split())}", file=sys.stderr)
    return status


def _usage(error: Any) -> str:
    """A usage error with the names that exist, where a name was wrong."""
    message, context = str(error.format_message()).rstrip("."), getattr(error, "ctx", None)
    command: Any = getattr(context, "command", None)
    if context is None or command is None or not message:  # without any argument, help was shown already
        return message
    if message.startswith("No such command"):
        return f"{message}; known: {', '.join(command.list_commands(context))}"
    if message.startswith("No such option"):
        names = sorted(
            {name for parameter in command.params for name in parameter.opts if name.startswith("--")}
        )
        return f"{message}; known: {', '.join(names)}"
    return f"{message}; see `{context.command_path} --help`"

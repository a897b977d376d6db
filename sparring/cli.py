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

from sparring import cli_complete as complete
from sparring.cli_compare import compare
from sparring.cli_doctor import doctor
from sparring.cli_memory import memory_app
from sparring.cli_options import (
    DEFAULT_MEMORY,
    Durability,
    Engine,
    Json,
    MaxRunCost,
    MaxRunTokens,
    Memory,
    Quiet,
    Roles,
    RunName,
    Tasks,
    budget_of,
)
from sparring.cli_policy import policy
from sparring.cli_report import report
from sparring.cli_swe import swe
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
app = typer.Typer(no_args_is_help=True, context_settings=HELP)
models = typer.Typer(no_args_is_help=True, help="The models that Sparring can fetch.")
app.add_typer(models, name="models")
app.add_typer(memory_app, name="memory")
app.add_typer(policy, name="policy")
app.command()(evolve)
app.command()(tournament)
app.command()(compare)
app.command()(swe)
app.command()(rewards)

ONE_STOP_S = 1.0
"""Signals to terminate that come closer together than this are one."""
Out = Annotated[Path | None, typer.Option(metavar="FILE", help="Results as JSON lines to this file.")]
Table = Annotated[bool, typer.Option("--table", help="A table for people instead of JSON lines.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Episodes at a time.")]
Workers = Annotated[
    str | None, typer.Option(metavar="ray[:N]", help="Play in N processes of a Ray cluster, on PostgreSQL.")
]


@app.callback()
def about() -> None:
    """Language-model agents debate, criticise and refine; every word goes into a journal."""


@app.command()
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


app.command()(report)
app.command()(view)
app.command()(doctor)


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
def pull(
    name: Annotated[
        str, typer.Argument(help="A name of `sparring models list`.", autocompletion=complete.models)
    ],
) -> None:
    """Fetch a model into the cache; prints its folder."""
    from sparring.agents.models import pull as fetch

    print(fetch(name))


# --- the boundary ------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status. Every error becomes one line on standard error."""
    with _terminable():
        try:
            words = None if arguments is None else list(arguments)
            status = app(words, standalone_mode=False, prog_name="sparring")
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

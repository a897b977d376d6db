"""Where the process ends: an error becomes one line and an exit status, a signal a stop without loss."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from sparring.cli.commands import app
from sparring.errors import SparringError, UserError
from sparring.graphs.console import Incomplete, Interrupted

ONE_STOP_S = 1.0
"""Signals to terminate that come closer together than this are one."""


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

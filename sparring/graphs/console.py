"""How a command is conducted: play with progress, hand over the results, say what went wrong and what next.

Nothing heavy is imported before it is needed: the command line loads this for `--help` too.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from sparring.errors import BudgetSpent, UserError

if TYPE_CHECKING:
    from sparring.graphs.display import Display
    from sparring.graphs.play import PlayResult

T = TypeVar("T")


class Interrupted(Exception):
    """Ctrl-C or SIGTERM; the message says what is kept and how to go on."""


class Incomplete(Exception):
    """Some episodes failed; the message says how many and how to go on."""


def lasting(memory: str) -> None:
    """Refuse a journal that would be gone with the process: a run on the command line can be resumed."""
    from sparring.memory.database import in_memory, parse_url

    if in_memory(parse_url(memory)):
        raise UserError(
            f"memory `{memory}` would be lost when the command ends; name a file or a postgresql:// URL"
        )


def existing(memory: str) -> None:
    """Refuse a journal file that is not there: a command that only reads must not make an empty one."""
    from sparring.memory.database import database_file

    file = database_file(memory)
    if file is not None and not file.is_file():
        raise UserError(f"memory `{memory}` does not exist; name the journal (`--memory URL`)")


def scripts(specs: Iterable[str | None]) -> list[str]:
    """The files of scripted engines among some specs."""
    given = [spec.partition("scripted:") for spec in specs if spec is not None]
    return [file.split("?")[0] for before, mark, file in given if mark and not before]


def check_out(out: Path | None, memory: str, *others: str, option: str = "--out") -> None:
    """Find out before the work whether its results can be written, and that they replace nothing of ours."""
    if out is None:
        return
    from sparring.memory.database import database_file

    folder = out.expanduser().resolve().parent
    journal = database_file(memory)
    files = () if journal is None else tuple(f"{journal}{suffix}" for suffix in ("", "-wal", "-shm"))
    for taken in (*files, *others):
        path = Path(taken).expanduser()
        if path.exists() and out.expanduser().exists() and path.samefile(out.expanduser()):
            raise UserError(f"`{option} {out}` would overwrite `{taken}`; name another file")
    if out.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"`{option} {out}` cannot be written: it needs a file name in a folder that exists")


def write_lines(values: Iterable[Any], out: Path | None) -> None:
    """JSON lines to a file, which appears whole, or to standard output, or into a device or pipe."""
    from sparring.memory.types import dumps

    if out is None and sys.stdout is None:  # closed by the caller
        raise UserError("standard output is closed; give `--out FILE`")
    if out is None:
        plain = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
        sys.stdout.writelines((json.dumps(value) if plain else dumps(value)) + "\n" for value in values)
        sys.stdout.flush()
        return
    with whole(out) as file:
        file.writelines(dumps(value) + "\n" for value in values)


@contextmanager
def whole(out: Path) -> Iterator[TextIO]:
    """A file to write that appears when all is written, or not at all; a device or a pipe as it is.

    What UTF-8 cannot hold is written as an escape.
    """
    target = out.expanduser()
    if target.exists() and not target.is_file():  # replacing a device or a pipe would destroy it
        with target.open("w", encoding="utf-8", errors="backslashreplace") as file:
            yield file
        return
    target = target.resolve()  # a link keeps pointing where it points
    handle, part = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            yield file
        os.chmod(part, 0o666 & ~_umask())
        os.replace(part, target)
    except BaseException:
        os.unlink(part)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def how_to(command: str, run: str, memory: str, more: str = "") -> str:
    """The command line that does something with a run; a password in the URL is left out."""
    words = f"sparring {command} {shlex.quote(run)} --memory {shlex.quote(shown(memory))} {more}"
    return f"`{words.rstrip()}`"


def shown(memory: str) -> str:
    """A journal as it may be printed: without the password of its URL."""
    if "://" not in memory:
        return memory
    from sqlalchemy.engine import make_url

    return make_url(memory).render_as_string(hide_password=True)


def conduct(
    job: Callable[[Display], Coroutine[Any, Any, PlayResult]],
    run: str,
    memory: str,
    *,
    quiet: bool,
    deliver: Callable[[PlayResult], None],
    shown: Callable[[bool], Display] | None = None,
) -> None:
    """Play with progress, deliver the results, and turn failure or interruption into what to do next.

    Args:
        shown: makes the display, of whether it is to be quiet.
    """
    from sparring.graphs.display import Display

    with (shown or Display)(quiet) as display:
        notes = Notes(display)
        notes.setLevel(logging.WARNING if quiet else logging.INFO)
        logger = logging.getLogger("sparring")
        logger.setLevel(logging.INFO)
        logger.addHandler(notes)
        try:
            result = run_aside(job(display))
        except KeyboardInterrupt:
            raise Interrupted(_interrupted(display, run, memory)) from None
        except BudgetSpent as spent:
            raise Incomplete(
                f"{spent}; {_kept(display, run)}; {go_on(spent, 'resume', run, memory)}"
            ) from None
        finally:
            logger.removeHandler(notes)
    deliver(result)
    if lost := _lost(result):
        raise Incomplete(f"{lost}; try again with {how_to('resume', run, memory)}")
    if not quiet:
        print(f"run `{run}` is finished: {how_to('report', run, memory)}", file=sys.stderr)


def run_aside(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine comes to. What tools and rewards print meanwhile goes to standard error:
    standard output belongs to results. A working folder that they left is gone back to."""
    here = Path.cwd()
    with redirect_stdout(sys.stderr), _descriptor_aside():
        try:
            return asyncio.run(work)
        finally:
            os.chdir(here)


@contextmanager
def _descriptor_aside() -> Iterator[None]:
    """As above for what child processes print, where there are both streams."""
    try:
        kept = os.dup(1)
        os.dup2(2, 1)
    except OSError:  # one is closed
        yield
        return
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _lost(result: PlayResult) -> str:
    """What did not come to an end, empty where everything did."""
    unfinished = [row for row in result if row.status not in ("done", "capped")]
    missing = result.expected - len(result) + len(unfinished)
    parts = []
    if not result.complete:
        first = next((row.error for row in unfinished if row.error), "no reason was noted")
        parts.append(f"{missing} of {result.expected} episodes failed (first: {first})")
    if result.baseline_failed:
        parts.append(f"{result.baseline_failed} episodes of the baseline failed")
    return ", ".join(parts)


def _interrupted(display: Display, run: str, memory: str) -> str:
    state = display.last
    if state is None:
        return f"interrupted before run `{run}` had begun"
    return f"interrupted: {_kept(display, run)}; continue with {how_to('resume', run, memory)}"


def _kept(display: Display, run: str) -> str:
    state = display.last
    if state is None:
        return f"run `{run}` is as it was"
    return (
        f"{state.done} of {state.total} episodes of `{state.run}` are finished, and what was said in the "
        "others is kept too"
    )


def go_on(spent: BudgetSpent, command: str, run: str, memory: str) -> str:
    """How a run goes on that its budget has stopped."""
    option = "--max-run-cost" if "money" in str(spent) else "--max-run-tokens"
    return f"go on under a larger one: {how_to(command, run, memory, f'{option} MORE')}"


class Notes(logging.Handler):
    """Log lines of the package, above the progress bar."""

    def __init__(self, display: Display) -> None:
        super().__init__()
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        self._display.say(record.getMessage())


def hand_over(result: PlayResult, memory: str, out: Path | None, table: bool) -> None:
    """The results to where they belong: JSON lines to standard output or a file, or a table for people."""
    if out is not None or not table:
        write_lines((row.to_json() for row in result), out)
    if table:
        from sparring.graphs.display import report_tables, results_table, show
        from sparring.graphs.report import report as read_report
        from sparring.memory.journal import Journal

        with Journal.open(memory) as journal:
            found = read_report(journal, result.run)
        show(results_table(result), *report_tables(found))


def pairs(texts: Sequence[str], option: str, form: str) -> dict[str, str]:
    """`NAME=VALUE` texts as a dictionary; anything else, and a name given twice, is the user's error."""
    found: dict[str, str] = {}
    for text in texts:
        name, mark, value = text.partition("=")
        name = name.strip()
        if not mark or not name:
            raise UserError(f"`{option} {text}`: write it as `{option} {form}`")
        if name in found:
            raise UserError(f"`{option} {name}=...` is given twice, with `{found[name]}` and `{value}`")
        found[name] = value
    return found


RESERVED = {
    "engine": "`--engine`",
    "roles": "`--role`",
    "seed": "`--seed`",
    "copies": "`--copies`",
    "limits": "`--max-calls` and the like",
    "limit": "`--limit`",
    "baseline": "`--baseline`",
    "protocol": "the first argument",
    "tasks": "`--tasks`",
}
"""What a call of `play` takes and `--set` does not: what to use instead."""


def options(texts: Sequence[str], reserved: Mapping[str, str] = RESERVED) -> dict[str, Any]:
    """Options of the protocol or of sampling, from `--set`."""
    given = settings(texts, "--set", "OPTION=VALUE")
    for name in given:
        if name in reserved:
            raise UserError(f"`{name}` is no option for `--set`: use {reserved[name]}")
    return given


def settings(texts: Sequence[str], option: str, form: str) -> dict[str, Any]:
    """The same, with values read as JSON where they are JSON."""
    values: dict[str, Any] = {}
    for name, text in pairs(texts, option, form).items():
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    return values

"""The journal: whether it can be reached, written and read, and whether there is room for it."""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from sparring.errors import SparringError, UserError
from sparring.graphs.console import shown
from sparring.graphs.doctor import Finding
from sparring.memory.database import HEAD, connect, database_file, refuse_revision, revision

FEW, SCARCE = 100_000_000, 2_000_000_000
"""Bytes of free disk below which a run will soon end, and below which that is worth a word."""
SLOW_S = 0.02
"""A round trip to the server that holds up whoever waits for a commit."""


def database(memory: str) -> Finding:
    """The journal of a command that names `memory`."""
    try:
        file = database_file(memory)
        if file is not None and not file.exists():
            return _not_yet(memory, file)
        engine = connect(memory)
    except SparringError as error:
        return Finding("memory", "broken", *_unopened(memory, str(error)))
    try:
        found = _standing(engine, file)
    except SQLAlchemyError as error:
        said = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        mend = "wait for whoever writes it, or see that you may write the file and its folder"
        found = Finding("memory", "broken", f"{shown(memory)} cannot be written: {said}", mend)
    except SparringError as error:
        found = Finding("memory", "broken", str(error), "name another journal with `--memory URL`")
    finally:
        engine.dispose()
    return found


def _unopened(memory: str, said: str) -> tuple[str, str]:
    """What is wrong with a journal that does not open, and what to do; a full disk is no `disk I/O error`."""
    with suppress(SparringError):  # what names no file has no disk of ours
        file = database_file(memory)
        room, low = _room(file) if file is not None and file.is_file() else ("", "")
        if low == "broken":
            return f"{said}; {room}", FREE
    return said, _reaching(memory)


def _reaching(memory: str) -> str:
    if memory.startswith("postgresql"):
        return "start the server, and see that host, port, user, password (PGPASSWORD) and name are right"
    return "name another journal with `--memory URL`, in a folder that you may write"


def _not_yet(memory: str, file: Path) -> Finding:
    """A file that the first run will make: whether it could."""
    mend = "name another journal with `--memory URL`, in a folder that you may write"
    if not file.parent.is_dir():
        return Finding("memory", "broken", f"{memory}: folder `{file.parent}` does not exist", mend)
    try:
        tempfile.TemporaryFile(dir=file.parent).close()
    except OSError as error:
        return Finding("memory", "broken", f"{memory} cannot be made: {error.strerror or error}", mend)
    room, low = _room(file)
    state = "broken" if low == "broken" else "note"
    said = f"{memory} does not exist yet, the first `play` makes it; {room}"
    return Finding("memory", state, said, FREE if low else "")


FREE = "free some disk, or put the journal elsewhere with `--memory URL`"


def _room(file: Path) -> tuple[str, str]:
    """How much disk is free, and whether that is a `note` or `broken`."""
    free = shutil.disk_usage(file.parent).free
    return f"{free / 1e9:.1f} GB free", "broken" if free < FEW else "note" if free < SCARCE else ""


def _standing(engine: Engine, file: Path | None) -> Finding:
    """A database that opens: its revision, and whether it takes a write."""
    number = revision(engine)
    if number is not None and number != HEAD:
        try:
            refuse_revision(engine, number)
        except UserError as error:
            older = "memory upgrade" in str(error)
            mend = "sparring memory upgrade" if older else "upgrade Sparring, or name another journal"
            return Finding("memory", "broken", str(error), mend)
    started = time.perf_counter()
    with engine.connect().execution_options(sparring_write=True) as connection:
        if file is None:
            tripped = time.perf_counter()
            closed = connection.execute(text("SHOW transaction_read_only")).scalar_one()
            trip = time.perf_counter() - tripped
            if closed != "off":
                mend = "use the primary server, and a role that may write"
                return Finding("memory", "broken", "the server takes no writes here", mend)
            allowed = "SELECT has_schema_privilege(current_schema(), 'CREATE')"
            if number is None and not connection.execute(text(allowed)).scalar_one():
                mend = "GRANT CREATE ON SCHEMA public TO the role, or let its owner run `sparring` once"
                return Finding("memory", "broken", "empty, and the role may make no tables", mend)
        else:
            # A transaction that would write, and a write that is taken back.
            connection.exec_driver_sql("CREATE TABLE sparring_doctor (x INTEGER)")
        connection.rollback()
    if file is None:
        return _server(engine, number, trip)
    room, low = _room(file)
    waited = time.perf_counter() - started
    slow = f", its writer was waited for {waited:.1f} s" if waited > 1 else ""
    what = f"revision {number}" if number else "empty, the first `play` makes its tables"
    said = f"sqlite, {what}, takes writes{slow}, {file.stat().st_size / 1e6:.1f} MB, {room}"
    return Finding("memory", low or ("ok" if number else "note"), said, FREE if low else "")


def _server(engine: Engine, number: str | None, trip: float) -> Finding:
    with engine.connect() as connection:
        name = connection.execute(text("SHOW server_version")).scalar_one().split()[0]
        limit = connection.execute(text("SHOW statement_timeout")).scalar_one()
    what = f"revision {number}" if number else "empty, the first `play` makes its tables"
    said = f"PostgreSQL {name}, {what}, round trip {1000 * trip:.1f} ms, statements are cut after {limit}"
    if trip > SLOW_S:
        return Finding("memory", "note", said, "each commit waits so long: run nearer to the server")
    return Finding("memory", "ok" if number else "note", said)

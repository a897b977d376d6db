"""One driver a run. The lock dies with its process.

Beside a SQLite file it is an OS lock on `FILE.RUN.lock`; on PostgreSQL a session advisory lock. The
run's epoch, raised at each take-over, covers what a lock cannot: a driver that lost its connection
and does not know it yet.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Protocol

from sqlalchemy import Connection, Engine, select, text

from ..errors import RunLocked
from .schema import Run
from .types import digest


class Lock(Protocol):
    """A held run lock."""

    def release(self) -> None: ...


def driver_info() -> dict[str, Any]:
    """Who drives: host, process id, since when."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}


def acquire(engine: Engine, run: str) -> Lock:
    """Take the lock of a run.

    Raises:
        RunLocked: another process holds it; the message names host, process id and since when.
    """
    if engine.dialect.name == "sqlite":
        return FileLock(Path(str(engine.url.database)), run)
    return AdvisoryLock(engine, run)


def _refuse(run: str, holder: dict[str, Any] | None) -> RunLocked:
    who = holder or {}
    return RunLocked(
        f"run `{run}` is driven by process {who.get('pid', '?')} on {who.get('host', '?')} since "
        f"{who.get('since', '?')}; wait for it or stop it"
    )


class FileLock:
    """An exclusive `flock` on a file beside the database."""

    def __init__(self, database: Path, run: str) -> None:
        safe = re.sub(r"[^A-Za-z0-9._-]", "_", run)[:80]
        if safe != run:  # two names must not share a lock
            safe += "-" + digest(run, size=4).hex()
        self._path = database.with_name(f"{database.name}.{safe}.lock")
        self._file = self._take(run)

    def _take(self, run: str) -> IO[str]:
        while True:
            file = open(self._path, "a+", encoding="utf-8")  # noqa: SIM115 - held until release
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                holder = None
                with suppress(ValueError):
                    holder = json.loads(file.read())
                file.close()
                raise _refuse(run, holder) from None
            # The last holder may have removed the file between our open and our lock.
            with suppress(FileNotFoundError):
                if os.stat(self._path).st_ino == os.fstat(file.fileno()).st_ino:
                    break
            file.close()
        file.truncate(0)
        file.write(json.dumps(driver_info()))
        file.flush()
        return file

    def release(self) -> None:
        if self._file.closed:
            return
        with suppress(FileNotFoundError):
            self._path.unlink()
        self._file.close()


class AdvisoryLock:
    """A PostgreSQL session lock on a connection of its own."""

    def __init__(self, engine: Engine, run: str) -> None:
        key = int.from_bytes(digest("sparring", run, size=8), "little", signed=True)
        self._connection: Connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        taken = self._connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": key}).scalar()
        if not taken:
            holder = self._connection.execute(select(Run.driver).where(Run.id == run)).scalar_one_or_none()
            self._connection.close()
            raise _refuse(run, holder)

    def release(self) -> None:
        # Closing the session itself, not returning it to the pool: a pooled session would keep the lock.
        with suppress(Exception):
            self._connection.invalidate()
            self._connection.close()

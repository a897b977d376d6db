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
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Protocol
from weakref import WeakSet

from sqlalchemy import Connection, Engine, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from ..errors import JournalError, RunLocked, UserError
from .away import Patience, patiently
from .postgres import connect_postgres
from .schema import Run
from .types import digest

KEEP_S = 5.0
"""How often a lock that can be lost is looked after."""


class Lock(Protocol):
    """A held run lock."""

    def release(self) -> None: ...

    def keep(self) -> None:
        """See to it that it is still held; called now and then, in the writer's thread."""
        ...


def driver_info() -> dict[str, Any]:
    """Who drives: host, process id, since when."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}


def gone(driver: Any) -> bool:
    """Whether the process that a run's `driver` names is known to have ended, as only one of this host is.
    It takes no lock, as a reader must not."""
    match driver:
        case {"host": host, "pid": int(pid)} if host == socket.gethostname() and 0 < pid < 2**31:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return True
            except PermissionError:  # somebody else's
                return False
    return False


def acquire(engine: Engine, run: str) -> Lock:
    """Take the lock of a run.

    Raises:
        RunLocked: another process holds it; the message names host, process id and since when.
    """
    if engine.dialect.name == "sqlite":
        return FileLock(Path(str(engine.url.database)).resolve(), run)
    return AdvisoryLock(engine, run)


def _refuse(run: str, holder: dict[str, Any] | None) -> RunLocked:
    who = holder or {}
    return RunLocked(
        f"run `{run}` is driven by process {who.get('pid', '?')} on {who.get('host', '?')} since "
        f"{who.get('since', '?')}; wait for it or stop it"
    )


def _holder(file: IO[str]) -> dict[str, Any] | None:
    for _ in range(20):  # the holder may be between taking the lock and writing its name
        file.seek(0)
        with suppress(ValueError):
            return dict(json.loads(file.read()))
        time.sleep(0.01)
    return None


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
            try:
                file = open(self._path, "a+", encoding="utf-8")  # noqa: SIM115 - held until release
            except OSError as error:
                raise UserError(f"run `{run}` cannot be locked: {error}") from None
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                with file:
                    raise _refuse(run, _holder(file)) from None
            # The last holder may have removed the file between our open and our lock.
            with suppress(FileNotFoundError):
                if os.stat(self._path).st_ino == os.fstat(file.fileno()).st_ino:
                    break
            file.close()
        file.truncate(0)
        file.write(json.dumps(driver_info()))
        file.flush()
        _held.add(self)
        return file

    def abandon(self) -> None:
        """Let go of the file without the lock: a forked child must not keep its parent's lock alive."""
        self._file.close()

    def keep(self) -> None:
        """The kernel keeps it."""

    def release(self) -> None:
        _held.discard(self)
        if self._file.closed:
            return
        with suppress(FileNotFoundError):
            self._path.unlink()
        self._file.close()


_held: WeakSet[FileLock] = WeakSet()


def _after_fork() -> None:
    for lock in list(_held):
        lock.abandon()
    _held.clear()


os.register_at_fork(after_in_child=_after_fork)


SESSION = "sparring|{host}|{pid}|{since}"
"""Name of a session that holds a lock; PostgreSQL keeps 63 bytes of it."""
HOLDER = """
SELECT session.application_name FROM pg_locks held JOIN pg_stat_activity session ON session.pid = held.pid
WHERE held.locktype = 'advisory' AND held.granted AND held.objsubid = 1
AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND ((held.classid::bigint << 32) | held.objid::bigint) = :key
"""


def _named(session: str | None) -> dict[str, Any] | None:
    """The driver that the name of its session tells; None where there is none, or it is not to be seen."""
    parts = (session or "").split("|")
    return dict(zip(("host", "pid", "since"), parts[1:], strict=True)) if len(parts) == 4 else None


class AdvisoryLock:
    """A PostgreSQL session lock on a connection of its own, outside the pool.

    It ends with its session, as in a restart of the server; `keep` takes it again. Where another driver was
    quicker, that one raises the run's epoch before it reads, and our writes are refused from then on.
    """

    def __init__(self, engine: Engine, run: str) -> None:
        self._key = int.from_bytes(digest("sparring", run, size=8), "little", signed=True)
        self._own = connect_postgres(engine.url, {}, NullPool)
        who = driver_info()
        self._name = SESSION.format(host=str(who["host"])[:20], pid=who["pid"], since=who["since"])
        self._guard = threading.Lock()
        self._released = False
        self._seen = time.monotonic()
        self._connection: Connection | None = None
        try:
            self._acquire(run)
        except BaseException:
            self.release()
            raise

    def _acquire(self, run: str) -> None:
        def unlockable(said: str) -> JournalError:
            return JournalError(f"run `{run}` cannot be locked: {said}")

        patience = Patience()
        holder = patiently(lambda: self._ask(run), unlockable, patience)
        # A session of ours that was cut may have the lock until it has ended.
        while not self._held and patience.begun and holder == _named(self._name) and patience.wait():
            holder = patiently(lambda: self._ask(run), unlockable, patience)
        if not self._held:
            raise _refuse(run, holder)

    def _ask(self, run: str) -> dict[str, Any] | None:
        """Try to take the lock on a new session; who has it, if not we."""
        self._close()
        connection = self._take()
        if self._held:
            return None
        holder = connection.execute(text(HOLDER), {"key": self._key}).scalar()
        stored = select(Run.driver).where(Run.id == run)
        return _named(holder) or connection.execute(stored).scalar_one_or_none()

    def _take(self) -> Connection:
        self._connection = self._own.connect().execution_options(isolation_level="AUTOCOMMIT")
        # The session has the driver's name before the lock: the run's row has it only some moments later.
        named = text("SELECT set_config('application_name', :name, false)")
        self._connection.execute(named, {"name": self._name})
        attempt = text("SELECT pg_try_advisory_lock(:key)")
        self._held = bool(self._connection.execute(attempt, {"key": self._key}).scalar())
        return self._connection

    def keep(self) -> None:
        with self._guard, suppress(SQLAlchemyError):  # a server that is away is asked after a later commit
            if self._released or time.monotonic() - self._seen < KEEP_S:
                return
            self._seen = time.monotonic()
            try:
                if self._connection is not None and self._held:
                    self._connection.exec_driver_sql("SELECT 1")
                    return
            except SQLAlchemyError:
                pass
            self._close()
            self._take()

    def release(self) -> None:
        with self._guard:
            self._released = True
            self._close()

    def _close(self) -> None:
        if self._connection is not None:
            with suppress(SQLAlchemyError):  # without a pool this ends the session, and the lock with it
                self._connection.close()
        self._connection = None

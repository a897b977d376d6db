"""The one writer: many turns, one commit.

Callers hand over rows and wait; a thread takes whatever has gathered, writes it in one transaction
and wakes them. Every write carries the epoch of the run it belongs to and is refused once another
driver has taken the run over. Inserts are idempotent: a row that exists is left alone.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from ..errors import JournalError, StaleEpoch
from .away import Patience, cause, is_away
from .rows import Row, Values, codecs
from .types import dumps

Claim = tuple[str, int]
"""A run and the epoch a writer believes it is at."""
MAX_BATCH = 2048
LINGER_S = 0.002
CLOSED = ("status", "outcome", "error", "finished_at", "number")


@dataclass(slots=True)
class Write:
    """Rows that become visible together. `rows` are inserts, `closes` set columns of open episodes."""

    run: str | None = None
    epoch: int = 0
    rows: list[tuple[str, Row]] = field(default_factory=list)
    closes: list[Row] = field(default_factory=list)
    """Rows with the columns `CLOSED` of an episode."""
    done: Callable[[Exception | None], None] | None = None
    """Called in the waiter's loop once the write is durable or refused, even if the caller was cancelled."""
    encoded: list[tuple[str, Values]] = field(default_factory=list)
    loop: asyncio.AbstractEventLoop | None = None
    waiter: asyncio.Future[None] | Future[None] | None = None


class Writer:
    """A thread that owns the only writing connection of a journal in this process."""

    def __init__(self, engine: Engine, between: Callable[[], object] = lambda: None) -> None:
        """`between` is called in the writer's thread after each commit, those who waited having been told."""
        self._engine, self._between = engine, between
        self._queue: SimpleQueue[Write | None] = SimpleQueue()
        self._codecs = codecs(engine.dialect.name)
        mark = "%s" if engine.dialect.name == "postgresql" else "?"
        share = " FOR SHARE" if engine.dialect.name == "postgresql" else ""
        self._epoch = f"SELECT epoch FROM runs WHERE id = {mark}{share}"
        sets = ", ".join(f"{name} = {mark}" for name in CLOSED[:-1])
        self._close = f"UPDATE episodes SET {sets} WHERE number = {mark}"
        self._thread: threading.Thread | None = None
        self._guard = threading.Lock()
        self.closed = False
        self.commits = 0
        self.gone = False
        """Whether the last batch waited in vain for the database: then the next ones do not wait again."""
        self._dropped: str | None = None
        """Why rows were given up: later ones that point to them are refused for the same reason."""

    def submit(self, write: Write) -> None:
        """Queue a write without waiting; it is committed before or with every later one.

        Raises:
            JournalError: a row cannot be stored, or the journal is closed; nothing was queued.
        """
        write.encoded = [(table, self._codecs[table].encode(row)) for table, row in write.rows]
        write.rows = []
        for row in write.closes:
            row["outcome"] = None if row["outcome"] is None else dumps(row["outcome"])
        with self._guard:  # nothing may be queued behind the writer's end
            if self.closed:
                raise JournalError("the journal is closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="sparring-journal", daemon=True)
                self._thread.start()
            self._queue.put(write)

    async def commit(self, write: Write) -> None:
        """Queue a write and return once it is durable. A cancelled caller does not take it back.

        Raises:
            StaleEpoch: another driver has taken the run over.
            JournalError: the database refused the rows; nothing of this write is stored.
        """
        write.waiter = asyncio.get_running_loop().create_future()
        self.post(write)
        await write.waiter

    def post(self, write: Write) -> None:
        """Queue a write without waiting; `done` is called in this event loop, at once where it is refused."""
        write.loop = asyncio.get_running_loop()
        try:
            self.submit(write)
        except JournalError as error:
            _resolve([write], error)

    def commit_now(self, write: Write) -> None:
        """`commit` for callers outside an event loop."""
        future: Future[None] = Future()
        write.waiter = future
        self.submit(write)
        future.result()

    def flush(self) -> None:
        """Return once everything queued so far is durable or refused."""
        if self._thread is not None:
            self.commit_now(Write())

    def close(self) -> None:
        """Write what is queued and end the thread; later writes are refused."""
        with self._guard:
            self.closed = True
            thread, self._thread = self._thread, None
            if thread is not None:
                self._queue.put(None)
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        connection: Connection | None = None
        busy = stop = False
        while not stop:
            first = self._queue.get()
            if busy and first is not None:
                time.sleep(LINGER_S)  # under load a commit shared by many is worth two milliseconds
            batch, stop = self._gather(first)
            busy = len(batch) > 1
            if batch:
                connection = self._settle(batch, connection)
                self._between()
        if connection is not None:
            connection.close()

    def _gather(self, first: Write | None) -> tuple[list[Write], bool]:
        batch: list[Write] = []
        item = first
        while item is not None:
            batch.append(item)
            if len(batch) >= MAX_BATCH:
                return batch, False
            try:
                item = self._queue.get_nowait()
            except Empty:
                return batch, False
        return batch, True

    def _settle(self, batch: list[Write], connection: Connection | None) -> Connection | None:
        """Commit a batch; if a row of it is refused, halves of it, so that only the guilty write fails."""
        try:
            connection, stale = self._commit(batch, connection)
        except Exception as error:
            if len(batch) == 1 or is_away(error):
                if is_away(error):
                    self._dropped = self._dropped or cause(error)
                why = self._dropped if isinstance(error, IntegrityError) else None
                _wake(batch, JournalError(f"the journal refused a write: {why or cause(error)}"))
                return None
            middle = len(batch) // 2
            return self._settle(batch[middle:], self._settle(batch[:middle], None))
        self.commits += 1
        if not stale:
            _wake(batch, None)
            return connection
        _wake([w for w in batch if (w.run, w.epoch) not in stale], None)
        for run, epoch in stale:
            lost = StaleEpoch(f"run `{run}` was taken over by another driver; this one's writes are refused")
            _wake([w for w in batch if (w.run, w.epoch) == (run, epoch)], lost)
        return connection

    def _commit(self, batch: list[Write], connection: Connection | None) -> tuple[Connection, set[Claim]]:
        patience = Patience(self.gone)
        while True:
            try:
                if connection is None:
                    connection = self._connect()
                with connection.begin():
                    stale = self._stale(connection, batch)
                    self._write(connection, [w for w in batch if (w.run, w.epoch) not in stale])
                self.gone = False
                return connection, stale
            except BaseException as error:
                if connection is not None:
                    with suppress(SQLAlchemyError):
                        connection.invalidate()
                    with suppress(SQLAlchemyError):
                        connection.close()
                    connection = None
                # Busy, connection cut, server restarting: the same rows once more.
                if not patience.again(error):
                    self.gone = is_away(error)
                    raise

    def _connect(self) -> Connection:
        connection = self._engine.connect().execution_options(sparring_write=True)
        if connection.dialect.name == "sqlite":
            connection.connection.execute("PRAGMA cache_size=-65536")
        return connection

    def _stale(self, connection: Connection, batch: Sequence[Write]) -> set[Claim]:
        claimed = {(write.run, write.epoch) for write in batch if write.run is not None}
        stale: set[Claim] = set()
        for run, epoch in sorted(
            claimed
        ):  # in one order everywhere, so that two writers cannot block each other
            if connection.exec_driver_sql(self._epoch, (run,)).scalar_one_or_none() != epoch:
                stale.add((run, epoch))
        return stale

    def _write(self, connection: Connection, batch: Iterable[Write]) -> None:
        tables: dict[str, list[Values]] = defaultdict(list)
        closes: list[Values] = []
        for write in batch:
            for table, values in write.encoded:
                tables[table].append(values)
            closes += [tuple(row[name] for name in CLOSED) for row in write.closes]
        for table, codec in self._codecs.items():  # in the order of foreign keys
            for sql, values in codec.statements(codec.in_order(tables.get(table, []))):
                connection.exec_driver_sql(sql, values)
        if closes:
            connection.exec_driver_sql(self._close, closes)


def _wake(batch: list[Write], error: Exception | None) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[Write]] = defaultdict(list)
    for write in batch:
        if isinstance(write.waiter, Future):
            write.waiter.set_exception(error) if error else write.waiter.set_result(None)
        elif write.loop is not None:
            by_loop[write.loop].append(write)
    for loop, writes in by_loop.items():
        with suppress(RuntimeError):  # the loop is gone with those who waited
            loop.call_soon_threadsafe(_resolve, writes, error)


def _resolve(writes: list[Write], error: Exception | None) -> None:
    for write in writes:
        if write.done is not None:
            write.done(error)
        waiter: Any = write.waiter
        if waiter is None or waiter.done():
            continue
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)

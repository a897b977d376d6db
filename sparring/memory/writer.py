"""The one writer: many turns, one commit.

Callers hand over rows and wait; a thread takes whatever has gathered, writes it in one transaction
and wakes them. Every write carries the epoch of the run it belongs to and is refused once another
driver has taken the run over. Inserts are idempotent: a row whose unique key exists is left alone.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from sqlalchemy import Connection, Engine, Executable, Table, bindparam, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from ..errors import JournalError, StaleEpoch
from .schema import Base, Episode, Run

Row = dict[str, Any]
Claim = tuple[str, int]
"""A run and the epoch a writer believes it is at."""
MAX_BATCH = 2048
LINGER_S = 0.002
TRIES = 6


@dataclass(slots=True)
class Write:
    """Rows that become visible together. `rows` are inserts, `closes` set columns of open episodes."""

    run: str | None = None
    epoch: int = 0
    rows: list[tuple[str, Row]] = field(default_factory=list)
    closes: list[Row] = field(default_factory=list)
    """Rows with `b_id` and the columns of `Episode` to set."""
    loop: asyncio.AbstractEventLoop | None = None
    waiter: asyncio.Future[None] | Future[None] | None = None


class Writer:
    """A thread that owns the only writing connection of a journal in this process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queue: SimpleQueue[Write | None] = SimpleQueue()
        self._inserts = {table.name: self._insert(table) for table in Base.metadata.sorted_tables}
        self._close = update(Episode).where(Episode.id == bindparam("b_id"))
        self._thread: threading.Thread | None = None
        self._guard = threading.Lock()
        self.commits = 0

    def _insert(self, table: Table) -> Executable:
        if self._engine.dialect.name == "postgresql":
            return postgresql.insert(table).on_conflict_do_nothing()
        return sqlite.insert(table).on_conflict_do_nothing()

    def submit(self, write: Write) -> None:
        """Queue a write without waiting; it is committed before or with every later one."""
        if self._thread is None:
            with self._guard:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._work, name="sparring-journal", daemon=True)
                    self._thread.start()
        self._queue.put(write)

    async def commit(self, write: Write) -> None:
        """Queue a write and return once it is durable.

        Raises:
            StaleEpoch: another driver has taken the run over.
            JournalError: the database refused the rows; nothing of this write is stored.
        """
        write.loop = asyncio.get_running_loop()
        write.waiter = write.loop.create_future()
        self.submit(write)
        # A cancelled caller must not hide that the row is on its way.
        await asyncio.shield(write.waiter)

    def commit_now(self, write: Write) -> None:
        """`commit` for callers outside an event loop."""
        future: Future[None] = Future()
        write.waiter = future
        self.submit(write)
        future.result()

    def close(self) -> None:
        """Write what is queued and end the thread."""
        with self._guard:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join()

    def _work(self) -> None:
        connection: Connection | None = None
        busy = stop = False
        while not stop:
            first = self._queue.get()
            if busy:
                time.sleep(LINGER_S)  # under load a commit shared by many is worth two milliseconds
            batch, stop = self._gather(first)
            busy = len(batch) > 1
            if batch:
                connection = self._settle(batch, connection)
        if connection is not None:
            connection.close()

    def _gather(self, first: Write | None) -> tuple[list[Write], bool]:
        batch: list[Write] = []
        item = first
        while item is not None:
            batch.append(item)
            if len(batch) >= MAX_BATCH or self._queue.empty():
                return batch, False
            item = self._queue.get()
        return batch, True

    def _settle(self, batch: list[Write], connection: Connection | None) -> Connection | None:
        """Commit a batch; if it is refused, each write on its own, so that only the guilty one fails."""
        try:
            connection, stale = self._commit(batch, connection)
        except SQLAlchemyError as error:
            if len(batch) == 1:
                cause = str(getattr(error, "orig", error)).strip().splitlines()[0]
                _wake(batch, JournalError(f"the journal refused a write: {cause}"))
                return None
            for write in batch:
                connection = self._settle([write], None)
            return connection
        self.commits += 1
        _wake([w for w in batch if (w.run, w.epoch) not in stale], None)
        for run, epoch in stale:
            lost = StaleEpoch(f"run `{run}` was taken over by another driver; this one's writes are refused")
            _wake([w for w in batch if (w.run, w.epoch) == (run, epoch)], lost)
        return connection

    def _commit(self, batch: list[Write], connection: Connection | None) -> tuple[Connection, set[Claim]]:
        for attempt in range(TRIES):
            try:
                if connection is None:
                    connection = self._engine.connect().execution_options(sparring_write=True)
                with connection.begin():
                    stale = self._stale(connection, batch)
                    self._write(connection, [w for w in batch if (w.run, w.epoch) not in stale])
                return connection, stale
            except OperationalError:  # busy, connection cut, server restarting: the same rows once more
                if attempt + 1 == TRIES:
                    raise
                if connection is not None:
                    with suppress(DBAPIError):
                        connection.invalidate()
                    connection.close()
                    connection = None
                time.sleep(0.05 * 2**attempt)
        raise AssertionError("unreachable")

    @staticmethod
    def _stale(connection: Connection, batch: Sequence[Write]) -> set[Claim]:
        claimed = {(write.run, write.epoch) for write in batch if write.run is not None}
        if not claimed:
            return set()
        query = select(Run.id, Run.epoch).where(Run.id.in_({run for run, _ in claimed}))
        if connection.dialect.name == "postgresql":
            query = query.with_for_update(read=True)
        current = {(run, epoch) for run, epoch in connection.execute(query)}
        return {claim for claim in claimed if claim not in current}

    def _write(self, connection: Connection, batch: Iterable[Write]) -> None:
        tables: dict[str, list[Row]] = defaultdict(list)
        closes: dict[tuple[str, ...], list[Row]] = defaultdict(list)
        for write in batch:
            for table, row in write.rows:
                tables[table].append(row)
            for row in write.closes:
                closes[tuple(sorted(row))].append(row)
        for table, statement in self._inserts.items():  # in the order of foreign keys
            if table in tables:
                connection.execute(statement, tables[table])
        for rows in closes.values():
            connection.execute(self._close, rows)


def _wake(batch: list[Write], error: Exception | None) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = defaultdict(list)
    for write in batch:
        if isinstance(write.waiter, Future):
            write.waiter.set_exception(error) if error else write.waiter.set_result(None)
        elif write.waiter is not None and write.loop is not None:
            by_loop[write.loop].append(write.waiter)
    for loop, waiters in by_loop.items():
        with suppress(RuntimeError):  # the loop is gone with those who waited
            loop.call_soon_threadsafe(_resolve, waiters, error)


def _resolve(waiters: list[asyncio.Future[None]], error: Exception | None) -> None:
    for waiter in waiters:
        if waiter.done():
            continue
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)

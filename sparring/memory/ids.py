"""Integer ids in blocks: cheap for the writer, distinct across processes, growing with time.

A block is reserved in a transaction, which would hold up an event loop behind whoever is committing. So
a run begins with a block for each table, and the writer's thread fetches the next one ahead of need.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import suppress

from sqlalchemy import Connection, Engine, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from ..errors import JournalError
from .database import transact
from .schema import Counter

BLOCK = 4096


class Ids:
    """Hands out ids per table. A block lost in a crash leaves a gap, never a clash."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._guard = threading.Lock()
        self._next: dict[str, int] = {}
        self._end: dict[str, int] = {}
        self._ahead: dict[str, int] = {}
        """First ids of the blocks that follow those in use."""

    def take(self, table: str) -> int:
        """The next id of `table`; reaches the database only where no block was fetched in time."""
        with self._guard:
            value = self._next.get(table, 0)
            if value >= self._end.get(table, 0):
                ahead = self._ahead.pop(table, None)
                value = self._reserve(table) if ahead is None else ahead
                self._end[table] = value + BLOCK
            self._next[table] = value + 1
            return value

    def refill(self, tables: Iterable[str] = ()) -> None:
        """Fetch a block ahead for `tables` and for each table whose block is half used.

        A database that refuses is no error here: `take` will ask again and say so.
        """
        for table in sorted({*tables, *list(self._end)} - self._ahead.keys()):
            if self._end.get(table, 0) - self._next.get(table, 0) < BLOCK // 2:
                with suppress(JournalError, SQLAlchemyError):
                    first = self._reserve(table)
                    with self._guard:
                        if first >= self._end.get(table, 0):  # unless `take` could not wait for it
                            self._ahead[table] = first

    def skip(self, table: str, highest: int) -> None:
        """Give only ids above `highest`: within an episode ids grow with time, whoever drives it."""
        with self._guard:
            if self._next.get(table, 0) <= highest:
                self._end[table] = 0
            if self._ahead.get(table, highest + 1) <= highest:
                del self._ahead[table]

    def block(self, table: str, count: int) -> int:
        """The first of `count` ids in a row."""
        return self._reserve(table, count)

    def _reserve(self, table: str, count: int = BLOCK) -> int:
        insert = postgresql.insert if self._engine.dialect.name == "postgresql" else sqlite.insert
        name = Counter.name == table

        def grow(connection: Connection) -> int:
            connection.execute(insert(Counter).values(name=table, next=1).on_conflict_do_nothing())
            # Takes the row's lock, so the value read next is ours.
            connection.execute(update(Counter).where(name).values(next=Counter.next + count))
            return int(connection.execute(select(Counter.next).where(name)).scalar_one()) - count

        return transact(self._engine, grow)

"""Integer ids in blocks: cheap for the writer, distinct across processes, growing with time."""

from __future__ import annotations

import threading

from sqlalchemy import Connection, Engine, select, update
from sqlalchemy.dialects import postgresql, sqlite

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

    def take(self, table: str) -> int:
        """The next id of `table`; reaches the database once in `BLOCK` calls."""
        with self._guard:
            value = self._next.get(table, 0)
            if value >= self._end.get(table, 0):
                value = self._reserve(table)
                self._end[table] = value + BLOCK
            self._next[table] = value + 1
            return value

    def skip(self, table: str, highest: int) -> None:
        """Give only ids above `highest`: within an episode ids grow with time, whoever drives it."""
        with self._guard:
            if self._next.get(table, 0) <= highest:
                self._end[table] = 0

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

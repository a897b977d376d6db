"""Integer ids in blocks: cheap for the writer, distinct across processes, growing with time."""

from __future__ import annotations

import threading

from sqlalchemy import Engine, select, update
from sqlalchemy.dialects import postgresql, sqlite

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

    def _reserve(self, table: str) -> int:
        insert = postgresql.insert if self._engine.dialect.name == "postgresql" else sqlite.insert
        with self._engine.connect().execution_options(sparring_write=True) as connection, connection.begin():
            connection.execute(insert(Counter).values(name=table, next=1).on_conflict_do_nothing())
            grow = update(Counter).where(Counter.name == table).values(next=Counter.next + BLOCK)
            connection.execute(grow)  # takes the row's lock, so the value read next is ours
            value = connection.execute(select(Counter.next).where(Counter.name == table)).scalar_one()
        return int(value) - BLOCK

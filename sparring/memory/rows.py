"""Rows as a database driver takes them: one tuple a row, in the order of the table's columns.

SQLAlchemy's per-row processing would cost more than the insert itself, so each table gets a codec:
it encodes a row once, in the thread that hands it over (a bad value fails there and nowhere else),
and spells inserts of many rows as one statement, so that the writer lets go of the interpreter once
a statement and not once a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

from sqlalchemy import Table

from ..errors import JournalError
from .schema import Base
from .types import Json, Packed, dumps

Row = dict[str, Any]
Values = tuple[Any, ...]
MOST_ROWS = 64
"""Rows of one statement, a power of two; 64 x 31 columns stays below every database's limit on variables."""
SHARED = ("agents", "blobs", "tasks")
"""Tables whose rows are named by their content, so that several processes may write the same one at once."""
BY_ID = ("episodes", "turns", "messages")
"""Tables other rows point into: a clash that is not the very same row must be an error, never ignored."""


class Codec:
    """Encodes the rows of one table for one kind of database."""

    def __init__(self, table: Table, dialect: str) -> None:
        self.name = table.name
        self._columns = [column.name for column in table.columns]
        self._known = frozenset(self._columns)
        self._pick = itemgetter(*self._columns)
        self._convert = [
            (index, converter, bool(column.nullable))
            for index, column in enumerate(table.columns)
            if (converter := _converter(column.type)) is not None
        ]
        mark = "%s" if dialect == "postgresql" else "?"
        self._marks = f"({','.join([mark] * len(self._columns))})"
        names = ",".join(f'"{name}"' for name in self._columns)
        self._head = f'INSERT INTO "{self.name}" ({names}) VALUES '
        target = '("id") ' if self.name in BY_ID else ""
        self._tail = f" ON CONFLICT {target}DO NOTHING"

    def encode(self, row: Row) -> Values:
        """The row's values; columns it does not name are NULL.

        Raises:
            JournalError: it names an unknown column, or a value that cannot be stored.
        """
        if len(row) != len(self._columns) or row.keys() != self._known:
            if unknown := row.keys() - self._known:
                raise JournalError(f"a row of `{self.name}` names unknown columns: {sorted(unknown)}")
            row = dict.fromkeys(self._columns) | row
        values = list(self._pick(row))
        for index, convert, nullable in self._convert:
            value = values[index]
            if value is not None or not nullable:
                try:
                    values[index] = convert(value)
                except (TypeError, ValueError, AttributeError, RecursionError) as error:
                    column = self._columns[index]
                    raise JournalError(
                        f"column `{column}` of `{self.name}` cannot be stored: {error}"
                    ) from None
        return tuple(values)

    def in_order(self, rows: list[Values]) -> list[Values]:
        """Rows that others may be writing too, in one order everywhere: two transactions that wait for each
        other's rows would block each other. A row that names a parent stays behind it."""
        if self.name not in SHARED:
            return rows
        key = 0  # the first column of each
        parent = self._columns.index("parent_id") if "parent_id" in self._known else None

        def place(row: Values) -> tuple[bool, str]:
            child = parent is not None and row[parent] is not None
            return child, "" if child else row[key]

        return sorted(rows, key=place)

    def statements(self, rows: Sequence[Values]) -> Iterator[tuple[str, Values]]:
        """Inserts of all rows, in few sizes, so that the driver prepares each once."""
        start = 0
        while start < len(rows):
            size = min(MOST_ROWS, 1 << (len(rows) - start).bit_length() - 1)
            part = rows[start : start + size]
            sql = f"{self._head}{','.join([self._marks] * size)}{self._tail}"
            yield sql, tuple(chain.from_iterable(part))
            start += size


def _converter(column: Any) -> Callable[[Any], Any] | None:
    if isinstance(column, Json):
        return dumps
    if isinstance(column, Packed):
        return column.pack
    return None


def codecs(dialect: str) -> dict[str, Codec]:
    """A codec for each table, those that are referred to first, and tasks before agents as in an export: an
    import and a driver that write the same ones take them in one order."""
    tables = sorted(Base.metadata.sorted_tables, key=lambda table: table.name != "tasks")
    return {table.name: Codec(table, dialect) for table in tables}

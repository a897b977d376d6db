"""Every row of a database as it stands in it, whatever revision its tables are of.

    python tests/memory/raw_rows.py     # before a new revision: keep a journal of the present one

The files in `tests/data/journals` are what the revision they are named after could hold: each table has rows.
They are written once and never again.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import tempfile
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, MetaData, select

JOURNALS = Path(__file__).parents[1] / "data" / "journals"
OURS = "alembic_version"
Tables = dict[str, list[dict[str, Any]]]


def _tables(engine: Engine) -> MetaData:
    tables = MetaData()
    tables.reflect(engine)
    return tables


def _plain(value: Any) -> Any:
    return {"bytes": b64encode(value).decode()} if isinstance(value, bytes | memoryview) else value


def _stored(value: Any) -> Any:
    return b64decode(value["bytes"]) if isinstance(value, dict) else value


def dump(engine: Engine) -> Tables:
    """Table -> its rows in the order of their keys; bytes as {"bytes": base 64}."""
    found: Tables = {}
    with engine.connect() as connection:
        for table in _tables(engine).sorted_tables:
            rows = connection.execute(select(table).order_by(*table.primary_key.columns))
            found[table.name] = [{n: _plain(v) for n, v in row._mapping.items()} for row in rows]
    found.pop(OURS)
    return found


def load(engine: Engine, rows: Tables) -> None:
    """Fill the tables of an empty journal of the revision that the rows are of."""
    with engine.connect().execution_options(sparring_write=True) as connection, connection.begin():
        for table in _tables(engine).sorted_tables:
            # One statement a table: rows that point to others of it are checked at its end.
            values = [{n: _stored(v) for n, v in row.items()} for row in rows.get(table.name, [])]
            if values:
                connection.execute(table.insert().values(values))


def read(revision: str) -> Tables:
    """The journal that was kept of a revision."""
    with gzip.open(JOURNALS / f"{revision}.json.gz", "rt", encoding="utf-8") as file:
        found: Tables = json.load(file)
    return found


def main() -> None:
    from full_journal import fill

    from sparring.memory.database import HEAD
    from sparring.memory.journal import Journal

    path = JOURNALS / f"{HEAD}.json.gz"
    if path.exists():
        raise SystemExit(f"{path} is there already; what a revision could hold does not change")
    with tempfile.TemporaryDirectory() as folder, Journal.open(Path(folder) / "j.db") as journal:
        asyncio.run(fill(journal))
        rows = dump(journal.engine)
    for run in rows["runs"]:
        run["driver"] = json.dumps({"host": "here", "pid": 1, "since": "2026-01-01 00:00:00"})
    JOURNALS.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(json.dumps(rows, ensure_ascii=True).encode(), mtime=0))
    print(path, {name: len(found) for name, found in rows.items()})


if __name__ == "__main__":
    main()

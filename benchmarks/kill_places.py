"""A folder and a journal for each run: an SQLite file in the folder, or a database of a PostgreSQL server."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool


@contextmanager
def place(server: str | None, folder: Path, name: str) -> Iterator[tuple[Path, str]]:
    """An empty folder below `folder`, and the URL of a journal that does not exist yet; gone at the end
    where it is a database of `server`."""
    own = folder / name
    own.mkdir()
    if server is None:
        yield own, str(own / "journal.db")
        return
    database = f"sparring_kill_{uuid.uuid4().hex[:12]}"
    _administer(server, f"CREATE DATABASE {database}")
    try:
        yield own, make_url(server).set(database=database).render_as_string(hide_password=False)
    finally:
        _administer(server, f"DROP DATABASE {database} WITH (FORCE)")


def _administer(server: str, statement: str) -> None:
    engine = create_engine(make_url(server).set(drivername="postgresql+psycopg"), poolclass=NullPool)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(statement))

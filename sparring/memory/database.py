"""Open a journal's database: SQLite by default, PostgreSQL by URL; create or check its schema.

`PATH`, `sqlite:///PATH` and `sqlite://` (in memory) are SQLite; `postgresql://USER@HOST/NAME` is
PostgreSQL through psycopg (extra `postgres`), with the time-outs of `postgres.py`.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import StaticPool

from ..errors import JournalError, UserError
from .away import Patience, cause, patiently
from .postgres import connect_postgres, unhurried

T = TypeVar("T")
Durability = Literal["full", "normal"]
MIGRATIONS = Path(__file__).parent / "migrations"
HEAD = "0001"
"""Newest revision in `migrations/versions`; a test holds the two together."""


def parse_url(memory: str | Path) -> URL:
    """A database URL from what a user types."""
    given: object = memory
    if not isinstance(given, str | Path):  # any other object's text would be the name of a new file
        raise UserError(f"memory: a file or a postgresql:// URL is needed, not {type(given).__name__}")
    raw = str(memory)
    if raw == ":memory:":
        return URL.create("sqlite")
    if "://" not in raw:
        return URL.create("sqlite", database=_absolute(raw))
    shown = re.sub(r"//[^/]*@", "//", raw)  # without the password
    try:
        url = make_url(raw)
    except (ArgumentError, ValueError):
        raise UserError(
            f"memory `{shown}` is no database URL; use a file path or postgresql://USER@HOST:PORT/NAME"
        ) from None
    backend = url.get_backend_name()
    if backend == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if backend == "sqlite":
        return url if in_memory(url) else url.set(database=_absolute(str(url.database)))
    raise UserError(f"memory `{shown}`: `{backend}` is not supported; use a file path or a postgresql:// URL")


def in_memory(url: URL) -> bool:
    """Whether it is SQLite's and names no file."""
    return url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:")


def database_file(memory: str | Path) -> Path | None:
    """The file of a journal; None where it has none of its own (PostgreSQL, in memory)."""
    url = parse_url(memory)
    return None if url.get_backend_name() != "sqlite" or in_memory(url) else Path(str(url.database))


def _absolute(path: str) -> str:
    # Connections are opened as they are needed, and the process may change its folder.
    return os.path.abspath(os.path.expanduser(path))


def connect(memory: str | Path, durability: Durability = "full", read_only: bool = False) -> Engine:
    """A SQLAlchemy engine whose transactions begin as the journal needs them, or one that cannot write.

    Raises:
        UserError: the database cannot be opened; the message names it without its password.
    """
    url = parse_url(memory)
    if durability not in ("full", "normal"):
        raise UserError(f"durability `{durability}`: use `full` or `normal`")
    try:
        kind = _sqlite if url.get_backend_name() == "sqlite" else _postgres
        engine = kind(url, durability, read_only)
        _reach(engine)
    except (DBAPIError, sqlite3.Error, OSError) as error:
        raise UserError(f"memory `{_shown(url)}` cannot be opened: {cause(error)}") from None
    except ModuleNotFoundError:
        raise UserError("PostgreSQL needs psycopg: pip install 'sparring[postgres]'") from None
    return engine


def _reach(engine: Engine) -> None:
    try:
        engine.connect().close()
    except DBAPIError:
        if engine.dialect.name == "sqlite":
            raise
        engine.connect().close()  # one may be cut while it is made; of a server that is gone we want to hear


def _shown(url: URL) -> str:
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    return url.render_as_string(hide_password=True).replace("+psycopg", "")


def _postgres(url: URL, durability: Durability, read_only: bool) -> Engine:
    settings = {"synchronous_commit": "on" if durability == "full" else "off"}
    return connect_postgres(url, settings | ({"default_transaction_read_only": "on"} if read_only else {}))


def _sqlite(url: URL, durability: Durability, read_only: bool) -> Engine:
    options: dict[str, Any] = {"poolclass": StaticPool} if in_memory(url) else {}
    if not in_memory(url):
        _probe(Path(str(url.database)))
    engine = create_engine(url, connect_args={"check_same_thread": False, "timeout": 60}, **options)

    @event.listens_for(engine, "connect")
    def prepare(dbapi: sqlite3.Connection, _: Any) -> None:
        dbapi.isolation_level = None  # transactions are begun by `begin` below
        tables = {name for (name,) in dbapi.execute("SELECT name FROM sqlite_master")}
        ours = not tables or "turns" in tables  # nothing is changed in a file of something else
        # Rows are of 1 to 4 kB, which would waste half of a 4 kB page.
        kept = ("page_size=16384", "journal_mode=WAL") if ours and not read_only else ()
        for pragma in (
            *kept,
            f"synchronous={durability}",
            "foreign_keys=ON",
            "cache_size=-16384",
            f"query_only={int(read_only)}",
        ):
            dbapi.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A deferred transaction that reads first cannot be upgraded under another writer.
        write = connection.get_execution_options().get("sparring_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _probe(path: Path) -> None:
    """Refuse what is no journal before any setting is written into it."""
    if not path.parent.is_dir():
        raise UserError(f"memory `{path}` cannot be opened: folder `{path.parent}` does not exist")
    if path.is_dir():
        raise UserError(f"memory `{path}` is a folder; name a file in it")
    if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise UserError(f"memory `{path}` cannot be opened: it, or its folder, is read-only")
    if path.exists() and path.stat().st_size:
        with path.open("rb") as file:
            if file.read(16) != b"SQLite format 3\x00":
                raise UserError(f"memory `{path}` is no SQLite file")


def transact(engine: Engine, work: Callable[[Connection], T], *, write: bool = True) -> T:
    """Do `work` in one transaction, again if the database was away for a moment.

    Raises:
        JournalError: the database refused it.
    """

    def once() -> T:
        with engine.connect().execution_options(sparring_write=write) as connection, connection.begin():
            return work(connection)

    what = "write" if write else "read"
    return patiently(once, lambda said: JournalError(f"the journal refused a {what}: {said}"), Patience())


def revision(engine: Engine) -> str | None:
    """The schema revision a database is at; None for an empty one.

    Raises:
        UserError: the database holds tables that are not a journal's.
    """
    tables = set(inspect(engine).get_table_names())
    if {"alembic_version", "runs", "episodes", "turns", "counters"} <= tables:
        with engine.connect() as connection:
            return str(
                connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
            )
    if tables:
        names = ", ".join(sorted(tables)[:5])
        raise UserError(f"memory `{_shown(engine.url)}` is a database of something else (tables: {names})")
    return None


def upgrade(engine: Engine) -> str | None:
    """Bring a database to `HEAD`; returns the revision it was at (None if it was empty)."""
    from alembic import command
    from alembic.config import Config

    before = revision(engine)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.connect().execution_options(sparring_write=True) as connection, connection.begin():
        if engine.dialect.name == "postgresql":  # two processes may create one journal
            unhurried(connection)
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('sparring schema'))"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return before


def open_database(memory: str | Path, durability: Durability = "full", read_only: bool = False) -> Engine:
    """Connect, and create the schema where the database is empty.

    Raises:
        UserError: the journal is older or newer than this version of Sparring.
    """
    engine = connect(memory, durability, read_only)

    def prepared() -> str:
        found = revision(engine)
        if found is not None:
            return found
        if read_only:
            raise UserError(f"memory `{_shown(engine.url)}` holds no journal: the database is empty")
        upgrade(engine)
        return HEAD

    def unusable(said: str) -> UserError:
        return UserError(f"memory `{_shown(engine.url)}` is no usable journal: {said}")

    # SQLite has waited by itself for whoever holds the file.
    found = patiently(prepared, unusable, Patience(spent=engine.dialect.name == "sqlite"))
    if found != HEAD:
        refuse_revision(engine, found)
    return engine


def refuse_revision(engine: Engine, found: str) -> None:
    """Raise `UserError` for a journal of another revision: what to upgrade."""
    known = {path.name.split("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py")}
    shown = _shown(engine.url)
    if found in known:
        raise UserError(
            f"memory `{shown}` is at revision {found}, this version needs {HEAD}: "
            "run `sparring memory upgrade`"
        )
    raise UserError(
        f"memory `{shown}` was written by a newer version of Sparring (revision {found}, this one knows "
        f"up to {HEAD}): upgrade Sparring"
    )

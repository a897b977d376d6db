"""Open a journal's database: SQLite by default, PostgreSQL by URL; create or check its schema.

`PATH`, `sqlite:///PATH` and `sqlite://` (in memory) are SQLite; `postgresql://USER@HOST/NAME` is
PostgreSQL through psycopg (extra `postgres`).
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from ..errors import UserError

Durability = Literal["full", "normal"]
MIGRATIONS = Path(__file__).parent / "migrations"
HEAD = "0001"
"""Newest revision in `migrations/versions`; a test holds the two together."""


def parse_url(memory: str | Path) -> URL:
    """A database URL from what a user types."""
    raw = str(memory)
    if "://" not in raw:
        return URL.create("sqlite", database=str(Path(raw).expanduser()))
    try:
        url = make_url(raw)
    except (ArgumentError, ValueError) as error:
        raise UserError(f"memory `{raw}` is no database URL: {error}") from None
    backend = url.get_backend_name()
    if backend == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if backend == "sqlite":
        return url
    raise UserError(f"memory `{raw}`: `{backend}` is not supported; use a file path or a postgresql:// URL")


def connect(memory: str | Path, durability: Durability = "full") -> Engine:
    """A SQLAlchemy engine whose transactions begin as the journal needs them.

    Raises:
        UserError: the database cannot be opened; the message names it without its password.
    """
    url = parse_url(memory)
    if durability not in ("full", "normal"):
        raise UserError(f"durability `{durability}`: use `full` or `normal`")
    try:
        engine = (
            _sqlite(url, durability) if url.get_backend_name() == "sqlite" else _postgres(url, durability)
        )
        with engine.connect():
            pass
    except (DBAPIError, sqlite3.Error, OSError) as error:
        cause = str(getattr(error, "orig", error)).strip().splitlines()[0]
        raise UserError(f"memory `{_shown(url)}` cannot be opened: {cause}") from None
    except ModuleNotFoundError:
        raise UserError("PostgreSQL needs psycopg: pip install 'sparring[postgres]'") from None
    return engine


def _shown(url: URL) -> str:
    return url.render_as_string(hide_password=True).replace("+psycopg", "")


def _postgres(url: URL, durability: Durability) -> Engine:
    engine = create_engine(url, pool_pre_ping=True, pool_size=4, connect_args={"connect_timeout": 10})
    if durability == "normal":

        @event.listens_for(engine, "connect")
        def relax(dbapi: Any, _: Any) -> None:
            dbapi.execute("SET synchronous_commit = off")
            dbapi.commit()

    return engine


def _sqlite(url: URL, durability: Durability) -> Engine:
    in_memory = url.database in (None, "", ":memory:")
    options: dict[str, Any] = {"poolclass": StaticPool} if in_memory else {}
    if not in_memory:
        parent = Path(str(url.database)).expanduser().parent
        if not parent.is_dir():
            raise UserError(f"memory `{url.database}` cannot be opened: folder `{parent}` does not exist")
    engine = create_engine(url, connect_args={"check_same_thread": False, "timeout": 60}, **options)

    @event.listens_for(engine, "connect")
    def prepare(dbapi: sqlite3.Connection, _: Any) -> None:
        dbapi.isolation_level = None  # transactions are begun by `begin` below
        for pragma in (
            "page_size=16384",  # rows of 1 to 4 kB would waste half of a 4 kB page
            "journal_mode=WAL",
            f"synchronous={durability}",
            "foreign_keys=ON",
            "cache_size=-65536",
        ):
            dbapi.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A deferred transaction that reads first cannot be upgraded under another writer.
        write = connection.get_execution_options().get("sparring_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def revision(engine: Engine) -> str | None:
    """The schema revision a database is at; None for an empty one.

    Raises:
        UserError: the database holds tables that are not a journal's.
    """
    tables = set(inspect(engine).get_table_names())
    if "alembic_version" in tables:
        with engine.connect() as connection:
            return str(
                connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
            )
    if tables:
        raise UserError(
            f"memory `{_shown(engine.url)}` is a database of something else (tables {sorted(tables)[:5]})"
        )
    return None


def upgrade(engine: Engine) -> str | None:
    """Bring a database to `HEAD`; returns the revision it was at (None if it was empty)."""
    from alembic import command
    from alembic.config import Config

    before = revision(engine)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.connect().execution_options(sparring_write=True) as connection, connection.begin():
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return before


def open_database(memory: str | Path, durability: Durability = "full") -> Engine:
    """Connect, and create the schema where the database is empty.

    Raises:
        UserError: the journal is older or newer than this version of Sparring.
    """
    engine = connect(memory, durability)
    try:
        found = revision(engine)
        if found is None:
            upgrade(engine)
        elif found != HEAD:
            _refuse(engine, found)
    except SQLAlchemyError as error:
        cause = str(getattr(error, "orig", error)).strip().splitlines()[0]
        raise UserError(f"memory `{_shown(engine.url)}` is no usable journal: {cause}") from None
    return engine


def _refuse(engine: Engine, found: str) -> None:
    known = {path.name.split("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py")}
    shown = _shown(engine.url)
    if found in known:
        raise UserError(
            f"memory `{shown}` is at revision {found}, this version needs {HEAD}: run `sparring memory upgrade`"
        )
    raise UserError(
        f"memory `{shown}` was written by a newer version of Sparring (revision {found}, this one knows up to "
        f"{HEAD}): upgrade Sparring"
    )

"""A fresh journal for each test: SQLite files, or databases of SPARRING_TEST_DATABASE's server."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from sparring.memory.journal import Journal

SERVER = os.environ.get("SPARRING_TEST_DATABASE")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Makes memory URLs of databases that do not hold anything yet."""
    made: list[str] = []

    def fresh() -> str:
        name = f"sparring_{uuid.uuid4().hex[:12]}"
        if SERVER is None:
            return str(tmp_path / f"{name}.db")
        _administer(f"CREATE DATABASE {name}")
        made.append(name)
        return make_url(SERVER).set(database=name).render_as_string(hide_password=False)

    yield fresh
    for name in made:
        _administer(f"DROP DATABASE {name} WITH (FORCE)")


def _administer(statement: str) -> None:
    engine = create_engine(make_url(SERVER or "").set(drivername="postgresql+psycopg"), poolclass=NullPool)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(statement))


@pytest.fixture
def memory(database: Callable[[], str]) -> str:
    """A memory URL of an empty database."""
    return database()


@pytest.fixture
def journal(memory: str) -> Iterator[Journal]:
    """An open journal."""
    with Journal.open(memory) as opened:
        yield opened


@pytest.fixture
def sqlite_only() -> None:
    """Skips where the tests run against a server."""
    if SERVER is not None:
        pytest.skip("about SQLite files")


@pytest.fixture
def postgres_only() -> None:
    """Skips where there is no server."""
    if SERVER is None:
        pytest.skip("about PostgreSQL: run with scripts/with_postgres.sh")

"""A fresh journal for each test: SQLite files, or databases of SPARRING_TEST_DATABASE's server."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from sparring.memory.journal import Journal

SERVER = os.environ.get("SPARRING_TEST_DATABASE")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A journal without rows, to be copied: creating one takes most of a small test's time."""
    name = f"sparring_{uuid.uuid4().hex[:12]}"
    if SERVER is None:
        path = str(tmp_path_factory.mktemp("template") / f"{name}.db")
        Journal.open(path).close()
        yield path
        return
    _administer(f"CREATE DATABASE {name}")
    Journal.open(_url(name)).close()
    yield name
    _administer(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def databases(tmp_path: Path) -> Iterator[Callable[[str | None], str]]:
    """Makes memory URLs of new databases: copies of a template, or empty ones."""
    made: list[str] = []

    def fresh(template: str | None) -> str:
        name = f"sparring_{uuid.uuid4().hex[:12]}"
        if SERVER is None:
            path = tmp_path / f"{name}.db"
            return str(shutil.copy(template, path) if template else path)
        _administer(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
        made.append(name)
        return _url(name)

    yield fresh
    for name in made:
        _administer(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database(databases: Callable[[str | None], str], template: str) -> Callable[[], str]:
    """Makes memory URLs of journals without rows."""
    return lambda: databases(template)


@pytest.fixture
def empty(databases: Callable[[str | None], str]) -> str:
    """A memory URL of a database without tables."""
    return databases(None)


def _url(name: str) -> str:
    return make_url(SERVER or "").set(database=name).render_as_string(hide_password=False)


def _administer(statement: str) -> None:
    engine = create_engine(make_url(SERVER or "").set(drivername="postgresql+psycopg"), poolclass=NullPool)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(statement))


@pytest.fixture
def memory(database: Callable[[], str]) -> str:
    """A memory URL of a journal without rows."""
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

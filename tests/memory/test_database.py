"""Opening a journal: schema and migrations, settings, and one clear line where it cannot be opened."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from journal_helpers import drive, python

from sparring.errors import UserError
from sparring.memory.database import HEAD, MIGRATIONS, connect, open_database, parse_url, revision, upgrade
from sparring.memory.journal import Journal
from sparring.memory.schema import Base


@pytest.fixture
def memory(empty: str) -> str:
    """Here journals are made from nothing."""
    return empty


def refused(memory: str | Path) -> str:
    with pytest.raises(UserError) as caught:
        Journal.open(memory)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    return message


def test_models_and_migrations_agree(journal: Journal) -> None:
    with journal.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
        assert context.get_current_revision() == HEAD


def test_head_is_the_newest_revision() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_upgrade_is_idempotent(memory: str) -> None:
    engine = connect(memory)
    assert revision(engine) is None and upgrade(engine) is None
    assert upgrade(engine) == HEAD == revision(engine)
    engine.dispose()
    Journal.open(memory).close()


@pytest.mark.parametrize(("found", "words"), [("9999", "newer version"), ("", "newer version")])
def test_another_revision_is_refused(memory: str, found: str, words: str) -> None:
    with Journal.open(memory) as journal:
        from sqlalchemy import text

        journal.execute(text(f"UPDATE alembic_version SET version_num = '{found}'"))
    assert words in refused(memory)


def test_a_database_of_something_else_is_left_alone(memory: str) -> None:
    engine = connect(memory)
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE shop (id integer)")
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num text)")
        connection.commit()
    engine.dispose()
    assert "something else (tables: alembic_version, shop)" in refused(memory)


def test_a_foreign_sqlite_file_keeps_its_settings(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE shop (id integer)")
    connection.close()
    before = path.read_bytes()
    assert "something else" in refused(path)
    assert path.read_bytes() == before


def test_files_that_are_no_journal(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database, but long enough to be taken for one")
    assert "no SQLite file" in refused(text) and text.read_text().startswith("not a")
    assert "is a folder" in refused(tmp_path)
    missing = refused(tmp_path / "no" / "x.db")
    assert "does not exist" in missing and not (tmp_path / "no").exists()
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"SQLite format 3\x00" + b"\xff" * 5000)
    assert "damaged.db" in refused(damaged)
    empty = tmp_path / "empty.db"
    empty.touch()
    Journal.open(empty).close()


@pytest.mark.parametrize("target", ["file", "folder"])
def test_read_only(tmp_path: Path, target: str) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    path = folder / "j.db"
    Journal.open(path).close()
    (path if target == "file" else folder).chmod(0o444 if target == "file" else 0o555)
    source = (
        "import os\nfrom sparring.errors import UserError\nfrom sparring.memory.journal import Journal\n"
        "if os.getuid() == 0:\n"  # root may write anywhere; these folders are root's and open to read
        "    [os.chmod(p, 0o755) for p in sys.argv[2:]]\n    os.setuid(65534)\n"
        "try:\n    Journal.open(sys.argv[1])\nexcept UserError as error:\n    print(error)\n"
    )
    parents = [str(p) for p in path.parents if p != folder and str(p).startswith("/tmp/pytest-of")]
    modes = {p: stat.S_IMODE(os.stat(p).st_mode) for p in parents}
    try:
        output, errors = python(source, str(path), *parents).communicate(timeout=60)
    finally:
        for parent, mode in modes.items():
            os.chmod(parent, mode)
        folder.chmod(0o755)
    assert "read-only" in output and output.count("\n") == 1, errors


@pytest.mark.parametrize(
    ("memory", "words"),
    [
        ("mysql://u:secret@h/db", "`mysql` is not supported"),
        ("postgresql://u:secret@127.0.0.1:1/db", "cannot be opened"),
        ("http://x", "not supported"),
        ("://", "is no database URL"),
        ("postgresql://u:secret@127.0.0.1:port/db", "is no database URL"),
    ],
)
def test_wrong_urls(memory: str, words: str) -> None:
    message = refused(memory)
    assert words in message and "secret" not in message


@pytest.mark.parametrize("memory", [3, None, b"a.db"])
def test_what_is_no_name_makes_no_file(
    memory: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="a file or a postgresql:// URL is needed"):
        Journal.open(memory)  # type: ignore[arg-type]  # what a script without types may give
    assert not list(tmp_path.iterdir())


def test_urls() -> None:
    assert parse_url("a.db").database == os.path.abspath("a.db")
    assert parse_url("sqlite:///b.db").database == os.path.abspath("b.db")
    assert parse_url("~/c.db").database == os.path.expanduser("~/c.db")
    assert parse_url("postgresql://u@h/d").drivername == "postgresql+psycopg"


def test_a_relative_path_survives_a_change_of_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    journal = Journal.open("here.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    journal.engine.dispose()
    drive(journal).release()
    journal.close()
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("memory", ["sqlite://", "sqlite:///:memory:", ":memory:"])
def test_temporary_journals_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: str
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Journal.open(memory) as journal:
        drive(journal)
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("durability", "level"), [("full", 2), ("normal", 1)])
def test_durability_is_set_and_recorded(memory: str, durability: str, level: int) -> None:
    with Journal.open(memory, durability) as journal:  # type: ignore[arg-type]  # one of the two literals
        run = drive(journal)
        assert journal.run_row("r").durability == durability
        with journal.engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                pragmas = {
                    p: connection.exec_driver_sql(f"PRAGMA {p}").scalar()
                    for p in ("synchronous", "journal_mode")
                }
                assert pragmas == {"synchronous": level, "journal_mode": "wal"}
                assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
            else:
                shown = connection.exec_driver_sql("SHOW synchronous_commit").scalar()
                assert shown == {"full": "on", "normal": "off"}[durability]
        run.release()
    with Journal.open(memory, "full") as journal:
        drive(journal).release()
        assert journal.run_row("r").durability == "full"
    with pytest.raises(UserError, match="use `full` or `normal`"):
        Journal.open(memory, "off")  # type: ignore[arg-type]  # what a user may type


def test_processes_that_create_one_journal_at_once(memory: str) -> None:
    source = (
        "from journal_helpers import drive\nfrom sparring.memory.journal import Journal\n"
        "sys.stdin.readline()\n"
        "with Journal.open(sys.argv[1]) as journal:\n    drive(journal, sys.argv[2]).release()\nprint('ok')\n"
    )
    makers = [python(source, memory, f"r{n}") for n in range(6)]
    for maker in makers:
        assert maker.stdin
        maker.stdin.write("\n")
        maker.stdin.flush()
    outcomes = [maker.communicate(timeout=60) for maker in makers]
    assert [out for out, _ in outcomes] == ["ok\n"] * 6, outcomes
    with Journal.open(memory) as journal:
        assert sorted(journal.runs()) == [f"r{n}" for n in range(6)]
    assert open_database(memory).dispose() is None

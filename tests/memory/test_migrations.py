"""Up from every earlier revision with rows in all tables, and up to one that does not exist yet."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from full_journal import everything, play
from journal_helpers import drive, python
from raw_rows import dump, load, read
from sqlalchemy import Engine, inspect
from sqlalchemy.exc import DBAPIError

from sparring.errors import JournalError, UserError
from sparring.memory import database
from sparring.memory.database import HEAD, MIGRATIONS, connect, revision, upgrade
from sparring.memory.journal import Journal
from sparring.memory.transfer import export, import_


def scripts(folder: Path = MIGRATIONS) -> Config:
    config = Config()
    config.set_main_option("script_location", str(folder))
    return config


REVISIONS = sorted(script.revision for script in ScriptDirectory.from_config(scripts()).walk_revisions())


def at(memory: str, wanted: str) -> Engine:
    """A journal of an earlier revision, full."""
    engine, config = connect(memory), scripts()
    with engine.connect().execution_options(sparring_write=True) as connection, connection.begin():
        config.attributes["connection"] = connection
        command.upgrade(config, wanted)
    load(engine, read(wanted))
    return engine


def kept(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether each row is there as it was; columns and tables may have been added."""
    for name, rows in before.items():
        assert rows, f"nothing was kept of table {name}"
        for old, new in zip(rows, now[name], strict=True):
            assert {column: new[column] for column in old} == old
    return True


@pytest.mark.parametrize("found", REVISIONS)
def test_a_full_journal_comes_through_from_every_revision(
    empty: str, database: Callable[[], str], tmp_path: Path, found: str
) -> None:
    engine = at(empty, found)
    assert revision(engine) == found and upgrade(engine) == found
    assert revision(engine) == HEAD and kept(read(found), dump(engine))
    engine.dispose()
    with Journal.open(empty) as journal, Journal.open(database()) as other:
        export(journal, None, tmp_path / "all.jsonl")
        import_(other, tmp_path / "all.jsonl")
        assert everything(other) == everything(journal)
        asyncio.run(play(journal))  # every turn is there: nothing is asked, nothing is written
        again = dump(journal.engine)
        changed = {name for name, rows in again.items() if len(rows) != len(read(found)[name])}
        assert not changed - {"counters"}


NEXT = '''"""A column and a table more, and a value that is computed from the rows that are there."""
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "9000", "HEAD", None, None


def upgrade() -> None:
    op.create_table("notes", sa.Column("id", sa.Text, primary_key=True))
    with op.batch_alter_table("turns") as turns:
        turns.add_column(sa.Column("words", sa.Integer, nullable=False, server_default="0"))
    op.execute("UPDATE turns SET words = completion_tokens + 1")
    BREAKS
'''


def later(folder: Path, monkeypatch: pytest.MonkeyPatch, breaks: str = "") -> None:
    """From here on there is a newer revision."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(MIGRATIONS, folder)
    script = NEXT.replace("HEAD", HEAD).replace("BREAKS", breaks)
    (folder / "versions" / "9000_later.py").write_text(script)
    monkeypatch.setattr(database, "MIGRATIONS", folder)
    monkeypatch.setattr(database, "HEAD", "9000")


def test_to_a_revision_that_does_not_exist_yet(
    empty: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = at(empty, HEAD)
    later(tmp_path / "later", monkeypatch)
    with pytest.raises(
        UserError, match=rf"is at revision {HEAD}, this version needs 9000: run `sparring mem"
    ):
        Journal.open(empty)
    assert upgrade(engine) == HEAD and revision(engine) == "9000"
    now = dump(engine)
    assert kept(read(HEAD), now) and "notes" in now
    assert all(row["words"] == row["completion_tokens"] + 1 for row in now["turns"])
    assert upgrade(engine) == "9000"
    engine.dispose()


def test_a_migration_that_breaks_leaves_everything_as_it_was(
    empty: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = at(empty, HEAD)
    later(tmp_path / "later", monkeypatch, 'op.execute("INSERT INTO nowhere VALUES (1)")')
    with pytest.raises((DBAPIError, JournalError)):
        upgrade(engine)
    assert revision(engine) == HEAD and kept(read(HEAD), dump(engine))
    assert "notes" not in inspect(engine).get_table_names()
    later(tmp_path / "later", monkeypatch)
    assert upgrade(engine) == HEAD and kept(read(HEAD), dump(engine))
    engine.dispose()


UPGRADE = """
from pathlib import Path
from sparring.memory import database
database.MIGRATIONS, database.HEAD = Path(sys.argv[2]), "9000"
sys.stdin.readline()
print(database.upgrade(database.connect(sys.argv[1])))
"""


@pytest.mark.slow
def test_two_who_bring_it_up_at_once(empty: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = at(empty, HEAD)
    later(tmp_path / "later", monkeypatch)
    both = [python(UPGRADE, empty, str(tmp_path / "later")) for _ in range(2)]
    for one in both:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    told = [one.communicate(timeout=100) for one in both]
    assert {out for out, _ in told} <= {f"{HEAD}\n", "9000\n"}, told
    assert revision(engine) == "9000" and kept(read(HEAD), dump(engine))
    engine.dispose()


def test_a_run_that_is_driven_goes_on_beside_an_upgrade_to_the_same(memory: str) -> None:
    with Journal.open(memory) as journal:
        run = drive(journal)
        assert upgrade(journal.engine) == HEAD
        run.finish("done")
        run.release()

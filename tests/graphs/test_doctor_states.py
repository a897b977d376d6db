"""The doctor by breaking things: each broken state is found, and says what to do."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sparring import cli
from sparring.errors import UserError
from sparring.graphs import doctor, doctor_database, doctor_packages
from sparring.graphs.doctor import Finding
from sparring.graphs.doctor_database import database
from sparring.graphs.doctor_engine import engine
from sparring.memory.journal import Journal

PROJECT = """
[project]
name = "sparring"
requires-python = "{python}"
dependencies = ["numpy>=1.26,<3", "typer{typer}", "absent-library-of-ours>=2"]
[project.optional-dependencies]
ray = ["absent-ray>=2"]
view = ["rich>=1"]
dev = ["absent-tool"]
"""


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    with Journal.open(tmp_path / "j.db"):
        pass
    return tmp_path / "j.db"


def broken(found: Finding, *said: str) -> None:
    assert found.state == "broken" and found.mend, found
    for part in said:
        assert part in f"{found.detail} -> {found.mend}", found


# --- the journal -------------------------------------------------------------------------------------


def test_a_sound_journal_is_ok_and_stays_as_it_was(journal: Path) -> None:
    before = journal.read_bytes()
    found = database(str(journal))
    assert found.state == "ok" and "takes writes" in found.detail and "GB free" in found.detail
    assert journal.read_bytes() == before


def test_one_that_is_not_there_yet_is_a_note(tmp_path: Path) -> None:
    found = database(str(tmp_path / "new.db"))
    assert found.state == "note" and "does not exist yet" in found.detail
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    broken(database(str(tmp_path / "no" / "j.db")), "does not exist", "--memory URL")


def test_a_folder_that_takes_no_file() -> None:
    broken(database("/proc/j.db"), "cannot be made", "--memory URL")  # not even root's


def test_a_journal_that_takes_no_write(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = doctor_database.connect
    monkeypatch.setattr(doctor_database, "connect", lambda memory: plain(memory, read_only=True))
    broken(database(str(journal)), "cannot be written", "readonly", "may write")


@pytest.mark.parametrize(
    ("revision", "said", "mend"),
    [("9999", "written by a newer version", "upgrade Sparring"), ("0000", "newer version", "Sparring")],
)
def test_another_revision(journal: Path, revision: str, said: str, mend: str) -> None:
    with closing(sqlite3.connect(journal)) as file, file:
        file.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    broken(database(str(journal)), said, mend)


def test_what_is_no_journal(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("hello, this is no database at all")
    broken(database(str(tmp_path / "text.db")), "no SQLite file", "--memory URL")
    with closing(sqlite3.connect(tmp_path / "else.db")) as file, file:
        file.execute("CREATE TABLE flowers (name TEXT)")
    broken(database(str(tmp_path / "else.db")), "database of something else", "--memory URL")
    broken(database(str(tmp_path)), "is a folder", "--memory URL")
    broken(database("mysql://u@h/n"), "not supported", "--memory URL")


@pytest.mark.parametrize(("free", "state"), [(10**7, "broken"), (10**9, "note"), (10**11, "ok")])
def test_a_disk_that_is_full(journal: Path, monkeypatch: pytest.MonkeyPatch, free: int, state: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    found = database(str(journal))
    assert found.state == state and ("free some disk" in found.mend) == (state != "ok")


def test_a_journal_that_a_full_disk_keeps_shut(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(memory: str) -> None:
        raise UserError(f"memory `{memory}` cannot be opened: disk I/O error")

    monkeypatch.setattr("sparring.graphs.doctor_database.connect", refused)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**5))
    broken(database(str(journal)), "disk I/O error; 0.0 GB free", "free some disk")


def test_a_server_that_cannot_be_reached() -> None:
    pytest.importorskip("psycopg")
    broken(database("postgresql://me:secret@127.0.0.1:9/x"), "cannot be opened", "start the server")
    assert "secret" not in str(database("postgresql://me:secret@127.0.0.1:9/x"))


# --- engines -----------------------------------------------------------------------------------------


def test_an_engine_that_answers(tmp_path: Path) -> None:
    found = engine("scripted:hash", str(tmp_path / "j.db"))
    assert found.state == "ok" and "answered in" in found.detail and "seeds" in found.detail
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("scripted:absent.jsonl", ("absent.jsonl", "docs/engines.md")),
        ("nope:x", ("unknown engine", "docs/engines.md")),
        ("no/such-folder-here/model", ("no/such-folder-here/model", "docs/engines.md")),
        ("http://127.0.0.1:9/v1#m", ("is the server running", "start the server")),
        ("scripted:hash?nope=1", ("unknown option `nope`", "docs/engines.md")),
    ],
)
def test_an_engine_that_does_not(tmp_path: Path, spec: str, said: tuple[str, ...]) -> None:
    broken(engine(spec, str(tmp_path / "j.db")), *said)


def test_policies_that_are_not_there(journal: Path, tmp_path: Path) -> None:
    broken(engine("policy:solver", str(journal)), "policy", "solver")
    broken(engine("policy:solver", str(tmp_path / "absent.db")), "does not exist")


def test_an_engine_that_fails(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text('{"error": "timeout"}\n')
    broken(engine(f"scripted:{tmp_path / 's.jsonl'}", str(tmp_path / "j.db")), "busy")


# --- packages ----------------------------------------------------------------------------------------


def wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **ranges: str) -> None:
    text = PROJECT.format(**{"python": ">=3.11", "typer": "", **ranges})
    (tmp_path / "pyproject.toml").write_text(text)
    known = doctor_packages.wanted(tmp_path)
    monkeypatch.setattr(doctor_packages, "wanted", lambda: known)


def test_libraries_that_are_missing_or_of_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted(tmp_path, monkeypatch, typer="<0.1")
    found = doctor_packages.libraries()
    broken(found, "absent-library-of-ours is missing", "is not <0.1", "pip install 'typer<0.1'")
    assert "numpy" not in found.mend


def test_extras_that_are_missing_are_a_note_with_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted(tmp_path, monkeypatch)
    ray, view = doctor_packages.extras()
    assert (ray.state, view.state) == ("note", "ok")
    assert "absent-ray" in ray.detail and "pip install 'sparring[ray]'" in ray.mend


def test_another_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted(tmp_path, monkeypatch, python=">=99")
    broken(doctor_packages.python(), ">=99 is needed", "install a newer Python")


def test_our_own_ranges_hold_here_and_as_installed(tmp_path: Path) -> None:
    here, installed = doctor_packages.wanted(), doctor_packages.wanted(tmp_path)
    assert doctor_packages.libraries().state == "ok"
    assert {"postgres", "ray", "view", "vllm"} <= here.extras.keys()
    assert {"typer", "torch"} <= {row.name for row in installed.libraries}


# --- the command -------------------------------------------------------------------------------------


def test_json_and_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def found(memory: str, engines: Any) -> Any:
        yield Finding("sandbox", "ok", "holds")
        yield Finding("memory", state, "revision 3", "sparring memory upgrade")

    monkeypatch.setattr(doctor, "examine", found)
    for state, status in (("ok", 0), ("note", 0), ("broken", 1)):
        assert cli.main(["doctor", "--json"]) == status
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [row["state"] for row in rows] == ["ok", state]
        assert rows[1]["mend"] == "sparring memory upgrade"
        assert cli.main(["doctor"]) == status
        said = capsys.readouterr()
        assert "memory: revision 3 -> sparring memory upgrade" in said.out
        assert ("1 of these must be mended" in said.err) == (status == 1)


def test_a_check_that_falls_over_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def falls() -> Finding:
        raise RuntimeError("no such device")

    for name in ("_torch", "_math", "_models", "_sandbox"):
        monkeypatch.setattr(doctor, name, falls)
    found = [one for one in doctor.examine(":memory:") if "no such device" in one.detail]
    assert len(found) == 4 and all(one.state == "broken" and one.mend for one in found)

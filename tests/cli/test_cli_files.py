"""What `--out` may replace, what names may be, what a shell is told: found by a sceptical first user."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from sparring.cli import main

TASKS = '{"id": "a", "question": "1 + 1?", "answer": "2", "check": "math"}\n'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPARRING_MEMORY", raising=False)
    (tmp_path / "q.jsonl").write_text(TASKS)
    return tmp_path


def play(*more: str) -> int:
    return main(["play", "sample", "--tasks", "q.jsonl", "--engine", "scripted:hash", "-q", *more])


def test_a_pipe_is_written_into_and_stays_a_pipe(folder: Path) -> None:
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()), daemon=True)
    reader.start()
    assert play("--out", "pipe") == 0
    reader.join(10)
    assert pipe.is_fifo() and json.loads(got[0])["task_id"] == "a"


def test_a_link_keeps_pointing_where_it_points(folder: Path) -> None:
    (folder / "real.jsonl").write_text("old")
    (folder / "link.jsonl").symlink_to("real.jsonl")
    assert play("--out", "link.jsonl") == 0
    assert (folder / "link.jsonl").is_symlink()
    assert json.loads((folder / "real.jsonl").read_text())["task_id"] == "a"


@pytest.mark.parametrize("out", ["q.jsonl", "j.db", "./j.db", "j.db-wal"])
def test_out_never_replaces_the_tasks_or_the_journal(
    folder: Path, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert play("--memory", "j.db") == 0
    (folder / "j.db-wal").touch()
    before = (folder / "j.db").read_bytes()
    assert play("--memory", "j.db", "--run", "again", "--out", out) == 2
    assert "would overwrite" in capsys.readouterr().err
    assert (folder / "j.db").read_bytes() == before and (folder / "q.jsonl").read_text() == TASKS


def test_an_export_never_replaces_the_journal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert play("--memory", "j.db") == 0
    assert main(["memory", "export", "j.db", "--memory", "j.db"]) == 2
    assert "would overwrite" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["x.baseline", "  ", "bad\udcff", "n" * 3000])
def test_run_names_that_would_confuse_are_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert play("--run", name) == 2
    said = capsys.readouterr().err
    assert "run name" in said and len(said) < 500


def test_the_way_to_resume_survives_a_shell(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bad.jsonl").write_text('{"match": ".", "error": "engine_error"}\n')
    command = ["play", "sample", "--tasks", "q.jsonl", "--engine", "scripted:bad.jsonl", "-q"]
    assert main([*command, "--run", "two words", "--memory", "a b.db"]) == 1
    assert "sparring resume 'two words' --memory 'a b.db'" in capsys.readouterr().err


def test_the_same_option_twice_is_an_error_however_it_is_spaced(capsys: pytest.CaptureFixture[str]) -> None:
    assert play("--set", "n=2", "--set", " n=3") == 2
    assert "given twice" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_a_temperature_is_a_finite_number(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert play("--set", f"temperature={value}") == 2
    assert "temperature" in capsys.readouterr().err


def test_a_protocol_of_ones_own_plays_and_resumes_by_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "mine.py").write_text(
        "from typing import ClassVar\nfrom sparring import Sample\n\n\n"
        "class Twice(Sample):\n    name: ClassVar[str] = 'twice'\n    n: int = 2\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    command = ["play", "mine:Twice", "--tasks", "q.jsonl", "--engine", "scripted:hash", "-q", "--run", "t"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["calls"] == 2
    assert main(["resume", "t", "-q"]) == 0
    for wrong in ("mine:Nothing", "nowhere:Twice", "json:dumps"):
        assert main(["play", wrong, "--tasks", "q.jsonl", "--engine", "scripted:hash"]) == 2


@pytest.mark.parametrize("memory", [":memory:", "sqlite://"])
def test_a_journal_that_would_be_lost_is_refused(memory: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert play("--memory", memory) == 2
    assert "would be lost" in capsys.readouterr().err


def test_the_end_of_a_run_says_where_its_report_is(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["play", "sample", "--tasks", "q.jsonl", "--engine", "scripted:hash", "--run", "r"]
    assert main([*command, "--memory", "j.db"]) == 0
    assert "`sparring report r --memory j.db`" in capsys.readouterr().err

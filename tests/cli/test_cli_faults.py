"""A disk that is full, and one that may only be read: one clear line, and the run goes on when it can."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from sparring import cli
from sparring.memory import away
from sparring.memory.journal import Journal
from sparring.memory.schema import Turn

TASKS = 30


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small disk, mounted, and the working folder beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(away, "RETRY_S", 0.3)
    rows = [{"id": str(i), "question": f"{i}?", "answer": str(i)} for i in range(TASKS)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a disk of its own needs the right to mount one")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def play(memory: Path, name: str) -> list[str]:
    files = ["--memory", str(memory), "--out", f"{name}.jsonl", "--run", "r", "--quiet"]
    engine = ["--engine", f"scripted:hash?call_log={name}.calls", "--concurrency", "4"]
    return ["play", "debate", "--tasks", "tasks.jsonl", *files, *engine]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error."""
    captured = capsys.readouterr()
    [line] = captured.err.splitlines()
    assert captured.out == ""
    return line


def results(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(f"{name}.jsonl").read_text().splitlines()]


def calls(name: str) -> Counter[int]:
    return Counter(json.loads(line)["seed"] for line in Path(f"{name}.calls").read_text().splitlines())


def committed(memory: Path) -> set[int]:
    with Journal.open(memory) as journal:
        return {row.seed for row in journal.read(select(Turn.seed))}


def fill(file: Path, leave: int) -> None:
    """Take all the room on the disk but `leave` bytes."""
    with file.open("wb", buffering=0) as out:
        try:
            while out.write(b"x" * 65_536):
                pass
        except OSError:
            out.truncate(out.tell() - leave)


def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(
    disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(play(Path("whole.db"), "whole")) == 0
    memory, junk = disk / "j.db", disk / "junk"
    Journal.open(memory).close()
    fill(junk, 400_000)
    assert cli.main(play(memory, "full")) == 1
    assert said(capsys) == "sparring: the journal refused a write: database or disk is full"
    assert not Path("full.jsonl").exists() and not list(disk.glob("*.lock"))
    junk.unlink()
    kept = committed(memory)
    assert 0 < len(kept) < len(calls("whole"))
    before = calls("full")
    assert cli.main(play(memory, "full")) == 0
    assert results("full") == results("whole")
    again = calls("full") - before
    assert not kept & again.keys(), "what was committed is not asked for again"
    assert calls("full").total() <= calls("whole").total() + 4 * 3


def test_no_room_to_begin_with(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(disk / "junk", 20_000)
    assert cli.main(play(disk / "j.db", "none")) == 2
    assert f"memory `{disk / 'j.db'}`" in (line := said(capsys)) and "full" in line
    (disk / "junk").unlink()
    assert cli.main(play(disk / "j.db", "none")) == 0


@pytest.mark.parametrize("there", [True, False])
def test_a_disk_that_may_only_be_read(disk: Path, capsys: pytest.CaptureFixture[str], there: bool) -> None:
    if there:
        assert cli.main(play(disk / "j.db", "before")) == 0
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    capsys.readouterr()
    words = [play(disk / "j.db", "after")]
    words += [[w, "r", "--memory", str(disk / "j.db")] for w in ("resume", "report")] if there else []
    for command in words:
        assert cli.main(command) == 2
        line = said(capsys)
        assert f"memory `{disk / 'j.db'}` cannot be opened: it, or its folder, is read-only" in line

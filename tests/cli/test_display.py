"""Progress as it is shown: a bar on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from sparring.graphs.display import Display, clock
from sparring.graphs.player import Progress


def test_clock() -> None:
    assert [clock(s) for s in (0.4, 7, 760, 11100)] == ["0:00", "0:07", "12:40", "3:05:00"]


def test_a_line_has_counts_rate_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([0.0, 10.0, 20.0])
    monkeypatch.setattr("sparring.graphs.display.time.monotonic", lambda: next(now))
    with Display() as display:
        display(Progress("r", 0, 8, 0, 0, 0, 0.0))
        display(Progress("r", 2, 8, 1, 500, 12, 0.25))
        display(Progress("r", 8, 8, 1, 1500, 48, 1.0))
    first, last = capsys.readouterr().err.splitlines()
    assert first == "r: 2/8 episodes, 0:30 left, 1 failed, 12 calls, 50 tokens/s"
    assert last == "r: 8/8 episodes, 0:20 in all, 1 failed, 48 calls, 75 tokens/s"


def test_quiet_shows_no_progress_but_says_what_must_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(quiet=True) as display:
        display(Progress("r", 8, 8, 0, 1500, 48, 1.0))
        display.say("a [word] in brackets")
    assert capsys.readouterr().err == "a [word] in brackets\n"


def test_a_terminal_gets_a_bar(tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text('{"id": "a", "question": "1 + 1?", "answer": "2"}\n')
    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "sparring", "play", "debate", "--tasks", "tasks.jsonl", "--out", "o"]
    engine = ["--engine", "scripted:hash?delay_s=0.4", "--run", "r"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    done = subprocess.run([*words, *engine], cwd=tmp_path, stderr=theirs, timeout=60, env=environment)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    text = shown.decode()
    assert done.returncode == 0
    assert (
        "1/1 episodes" in text and "tokens/s" in text and "0/1 episodes, 3 calls" in text and "\u2501" in text
    )

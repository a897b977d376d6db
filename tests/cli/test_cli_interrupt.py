"""Ctrl-C, SIGTERM and two drivers, with real signals to real processes.

The engine's own call log is the witness: a turn that was committed is never asked for again.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from sparring import cli
from sparring.cli import boundary

TASKS, CONCURRENCY, CALLS = 40, 4, 6
ENGINE = "scripted:hash?delay_s=0.03&call_log=calls.jsonl"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPARRING_MEMORY", raising=False)
    rows = [{"id": str(i), "question": f"{i}?", "answer": str(i)} for i in range(TASKS)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def command(engine: str = ENGINE) -> list[str]:
    play = ["play", "debate", "--tasks", "tasks.jsonl", "--run", "r", "--concurrency", str(CONCURRENCY)]
    return [*play, "--engine", engine]


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sparring", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def committed() -> set[int]:
    """Seeds of the turns a reader sees."""
    if not Path("sparring.db").exists():
        return set()
    with closing(sqlite3.connect("sparring.db")) as database:
        try:
            return {seed for (seed,) in database.execute("SELECT seed FROM turns WHERE final")}
        except sqlite3.OperationalError:  # not created yet
            return set()


def called() -> list[tuple[int, int]]:
    """(process, seed) of every call, in order."""
    log = Path("calls.jsonl")
    rows = map(json.loads, log.read_text().splitlines()) if log.exists() else []
    return [(row["pid"], row["seed"]) for row in rows]


def wait_until(done: int) -> None:
    deadline = time.monotonic() + 60
    while len(committed()) < done:
        assert time.monotonic() < deadline, "the run did not get going"
        time.sleep(0.02)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_in_mid_run_and_resumed(how: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    driver = start(*command())
    wait_until(40)
    seen = committed()
    driver.send_signal(how)
    out, said = driver.communicate(timeout=60)
    assert driver.returncode == 130
    assert out == ""
    last = said.splitlines()[-1]
    assert last.startswith("sparring: interrupted: ") and f" of {TASKS} episodes of `r` are finished" in last
    assert "`sparring resume r --memory sparring.db`" in last
    assert "Traceback" not in said

    kept = committed()
    assert seen <= kept and len(kept) < TASKS * CALLS
    with closing(sqlite3.connect("sparring.db")) as database:
        assert database.execute("SELECT status FROM runs").fetchall() == [("interrupted",)]

    assert cli.main(["resume", "r", "--quiet", "--concurrency", str(CONCURRENCY)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["status"] for row in rows] == ["done"] * TASKS
    assert sum(row["calls"] for row in rows) == TASKS * CALLS
    again = {seed for pid, seed in called() if pid != driver.pid}
    assert not again & kept, "a committed turn was called again"
    assert kept | again == committed()
    assert max(Counter(called()).values()) == 1
    assert len(called()) <= TASKS * CALLS + CONCURRENCY * 3, "only what was in flight is paid for twice"


def test_a_signal_that_comes_twice_at_once_is_one_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """`timeout` signals the process, and then the group that it is in; a second stop in earnest counts."""
    stops: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: stops.append(number))
    with boundary._terminable():
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
        assert stops == [signal.SIGINT]
        monkeypatch.setattr(boundary, "ONE_STOP_S", 0.0)
        signal.raise_signal(signal.SIGTERM)
        assert len(stops) == 2


def test_a_background_job_that_ignores_ctrl_c_ends_by_sigterm() -> None:
    """As a shell starts it with `&`: SIGINT is ignored, and SIGTERM must not be lost with it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = start(*command())
    finally:
        signal.signal(signal.SIGINT, before)
    wait_until(3)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "sparring resume" in said


def test_a_stop_cancels_in_order_where_ctrl_c_is_ignored(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Raised in the midst of the event loop instead, it left one run of eighty hanging."""
    cancelled: list[bool] = []

    async def loading(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)  # what it ignores
        signal.raise_signal(signal.SIGTERM)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    monkeypatch.setattr("sparring.graphs.cast.Cast.agents", loading)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert cli.main(command()) == 130
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.signal(signal.SIGINT, before)
    assert cancelled == [True]
    assert capsys.readouterr().err == "sparring: interrupted before run `r` had begun\n"


def test_a_second_driver_is_told_who_has_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    engine = "scripted:hash?delay_s=0.5"
    driver = start(*command(engine))
    try:
        wait_until(1)
        for words in (command(engine), ["resume", "r"]):
            assert cli.main(words) == 2
            [line] = capsys.readouterr().err.splitlines()
            assert f"run `r` is driven by process {driver.pid} on " in line and "since" in line
    finally:
        driver.send_signal(signal.SIGINT)
        driver.communicate(timeout=60)
    assert driver.returncode == 130


def test_interrupted_while_the_engines_load(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def loading(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(60)

    monkeypatch.setattr("sparring.graphs.cast.Cast.agents", loading)
    assert cli.main(command()) == 130
    assert capsys.readouterr().err == "sparring: interrupted before run `r` had begun\n"
    with closing(sqlite3.connect("sparring.db")) as database:
        assert database.execute("SELECT count(*) FROM runs").fetchall() == [(0,)]

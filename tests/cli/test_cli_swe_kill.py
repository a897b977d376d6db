"""`sparring swe` killed with signal 9, again and again, ends with what it ends with undisturbed."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))
from swe_life import FILES, run_command
from swe_life import prepare as place

from sparring import cli

START = multiprocessing.get_context("forkserver")


def live(folder: Path) -> None:
    """One process that runs the command, whatever is left to do of it."""
    os.chdir(folder)
    run_command()


def begin(folder: Path) -> BaseProcess:
    child = START.Process(target=live, args=(folder,))
    child.start()
    return child


def grading(folder: Path) -> set[str]:
    """Folders of grades that run now."""
    return {str(path) for path in folder.glob("j.db.swe/environments/running/*/grade-*")}


def kill_when(folder: Path, due: Callable[[], bool]) -> bool:
    """Begin a process and kill it when it is due; False where it came to its end before."""
    child = begin(folder)
    while child.is_alive() and not due():
        time.sleep(0.01)
    if child.pid is not None and child.is_alive():
        os.kill(child.pid, signal.SIGKILL)
    child.join(60)
    assert child.exitcode in (0, -signal.SIGKILL), (folder / "said.txt").read_text()
    return child.exitcode != 0


def figures(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert cli.main(["report", "r", "--memory", str(folder / "j.db"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    return {name: found[name] for name in ("software", "accuracy", "episodes", "statuses")}


def told(folder: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """All that a run hands over."""
    return figures(folder, capsys), [(folder / name).read_bytes() for name in FILES]


def campaign(folder: Path, kills: int, seed: int, capsys: pytest.CaptureFixture[str]) -> int:
    """Kill a run `kills` times, half of them in the midst of a grade; the grades that were hit."""
    START.set_forkserver_preload(
        ["sparring.cli", "sparring.graphs.play", "sparring.graphs.protocols.software"]
    )
    whole = place(folder / "whole")
    child = begin(whole)
    child.join(120)
    assert child.exitcode == 0, (whole / "said.txt").read_text()

    rng, broken, hit, done, lives = random.Random(seed), place(folder / "broken"), 0, 0, 0
    while done < kills:
        before, lives = grading(broken), lives + 1
        if lives % 2:
            killed = kill_when(broken, lambda before=before: bool(grading(broken) - before))
            hit += killed
        else:
            end = time.monotonic() + rng.uniform(0.1, 2.0)
            killed = kill_when(broken, lambda end=end: time.monotonic() >= end)
        done += killed
        if not killed:  # there was nothing left to do: the next life begins anew
            assert told(broken, capsys) == told(whole, capsys)
            shutil.rmtree(broken)
            place(broken)
    child = begin(broken)
    child.join(120)
    assert child.exitcode == 0, (broken / "said.txt").read_text()
    assert told(broken, capsys) == told(whole, capsys)
    found = figures(broken, capsys)["software"]
    assert found["statuses"] == {"resolved": 2, "unresolved": 2, "empty": 2}
    assert not grading(broken) and not list((broken / "j.db.swe" / "work").glob("*"))
    return hit


def test_three_kills(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert campaign(tmp_path, 3, 1, capsys) >= 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_forty_kills(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert campaign(tmp_path, 40, 2, capsys) >= 10

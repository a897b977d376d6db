"""Killed with signal 9 at chosen instants, an archive goes on from its journal and comes to the same end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))

from archive_support import config
from engineer import rows
from grader_stand import StandGrader

import sparring
from sparring.memory.episode import EpisodeHandle
from sparring.memory.run import RunHandle
from sparring.tools.swe.workshop import Workshop

START = multiprocessing.get_context("forkserver")
Instant = tuple[str, int, bool]
"""Kind of an event, how many of it there were before, and whether it is journaled when death comes."""
INSTANTS: list[Instant] = [
    ("child", 0, False),
    ("step", 2, True),
    ("evaluation", 0, True),
    ("entry", 0, False),
    ("parents", 0, True),
    ("agent", 1, True),
    ("child", 1, True),
    ("exit", 9, False),
    ("evaluation", 3, False),
    ("parents", 1, False),
    ("entry", 2, True),
]
QUICK = (("step", 2, True), ("evaluation", 3, False))
"""Those that are tried by default."""


def bred(folder: Path) -> dict[str, Any]:
    given = {**config(folder), "concurrency": 2, "children": 2}
    told = sparring.archive(given, memory=folder / "j.db").archive.to_json()
    return told


def live(folder: Path, instant: Instant) -> None:
    """The process that is killed."""
    kind, after, journaled = instant
    seen = 0

    def fatal(decide: Any) -> Any:
        async def event(self: Any, what: str, key: str, payload: Any) -> Any:
            nonlocal seen
            mine = what == kind
            if mine and seen == after and not journaled:
                os.kill(os.getpid(), signal.SIGKILL)
            kept = await decide(self, what, key, payload)
            if mine and seen == after:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += mine
            return kept

        return event

    for owner in (RunHandle, EpisodeHandle):
        owner.event = fatal(owner.event)  # type: ignore[attr-defined]  # this process is to die in it
    Workshop.grader = StandGrader()  # type: ignore[assignment, method-assign]  # the real one has tests of its own
    bred(folder)


@pytest.fixture(autouse=True)
def grader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Workshop, "grader", StandGrader())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, int]:
    START.set_forkserver_preload(["sparring.training.archive.archive"])
    folder = tmp_path_factory.mktemp("undisturbed")
    before = Workshop.__dict__["grader"]
    Workshop.grader = StandGrader()  # type: ignore[assignment, method-assign]  # the real one has tests of its own
    try:
        return bred(folder), len(rows(folder / "j.db", "SELECT id FROM turns"))
    finally:
        Workshop.grader = before  # type: ignore[method-assign]  # as it was


@pytest.mark.parametrize(
    "instant",
    [each if each in QUICK else pytest.param(each, marks=pytest.mark.slow) for each in INSTANTS],
    ids=str,
)
def test_killed_at_any_instant_it_comes_to_the_same_end(
    instant: Instant, tmp_path: Path, undisturbed: Any
) -> None:
    whole, turns = undisturbed
    child = START.Process(target=live, args=(tmp_path, instant))
    child.start()
    child.join(100)
    assert child.exitcode == -signal.SIGKILL
    kept = dict(rows(tmp_path / "j.db", "SELECT id, created_at FROM turns"))
    assert bred(tmp_path) == whole
    again = dict(rows(tmp_path / "j.db", "SELECT id, created_at FROM turns"))
    assert kept.items() <= again.items() and len(again) == turns, "no journaled call is made again"
    for kind in ("parents", "child", "evaluation", "entry"):
        keys = rows(tmp_path / "j.db", f"SELECT key FROM events WHERE kind='{kind}' AND run_id='bred'")
        assert len(keys) == len(set(keys)) > 0

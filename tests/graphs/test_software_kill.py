"""Killed with signal 9 at chosen instants, in a process of its own, a run goes on as if nothing had been."""

from __future__ import annotations

import multiprocessing
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dying import die, die_at_event, die_in_command
from engineer import commands, engineer, events, make_instance, number_of, repository, rows, work
from grader_stand import StandGrader

from sparring.agents.engines.base import Request
from sparring.agents.engines.scripted import ScriptedEngine
from sparring.graphs.play import PlayResult
from sparring.tools.swe.workshop import Bench, Workshop

START = multiprocessing.get_context("forkserver")
LINES = (
    "echo a >> log; mkdir -p empty/inner",
    "echo b >> log; printf '\\0\\377' > bin; ln -s nowhere link; chmod +x calc.py; rm notes.txt",
    "touch begun; sleep 0.4; rm begun; echo c >> log",
    "sed -i 's/ + 1//' calc.py; ls -a; cat log",
)
SAME = ("action", "observation", "returncode", "killed_by", "tree", "delta", "submitted", "error")


@dataclass(frozen=True)
class Instant:
    """When to die: before or after an event is journaled, in a call, in a command, in a grade."""

    what: str
    where: str | int
    after: bool = False

    def __str__(self) -> str:
        return f"{'after' if self.after else 'in'} {self.what} {self.where}"


INSTANTS = [
    Instant("event", "base/0"),
    Instant("event", "base/0", after=True),
    Instant("call", 0),
    Instant("call", 2),
    Instant("event", "step/1"),
    Instant("event", "step/1", after=True),
    Instant("command", 2),
    Instant("event", "exit/0"),
    Instant("event", "exit/0", after=True),
    Instant("grade", 0),
    Instant("event", "grade/key"),
    Instant("event", "grade/key", after=True),
]


QUICK = (1, 3, 4, 6, 7, 9)
"""Places in `INSTANTS` of those that are tried by default."""


def live(memory: Path, source: Path, instant: Instant) -> None:
    """The process that is killed."""

    def asked(request: Request) -> None:
        if (instant.what, instant.where) == ("call", number_of(request)):
            die()

    def mine(kind: str, key: str) -> bool:
        return instant.what == "event" and instant.where in (f"{kind}/{key}", f"{kind}/key")

    die_at_event(mine, after=instant.after)
    if instant.what == "command":
        die_in_command(memory)
    grader = StandGrader(die if instant.what == "grade" else None)
    played(memory, source, engineer(*commands(*LINES), log=asked), grader)


def played(memory: Path, source: Path, engine: ScriptedEngine, grader: StandGrader) -> PlayResult:
    Workshop.grader = grader  # type: ignore[assignment, method-assign]  # the real one has tests of its own
    return work(memory, make_instance(source), [], engine=engine, grade=True, durability="normal")


@pytest.fixture(scope="module", autouse=True)
def server() -> None:
    """What every child needs is imported once."""
    START.set_forkserver_preload(["sparring.graphs.play", "sparring.graphs.protocols.software"])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[list[Any]]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    before = Workshop.__dict__["grader"]
    try:
        [line] = played(
            folder / "j.db", repository(folder / "source"), engineer(*commands(*LINES)), StandGrader()
        )
    finally:
        Workshop.grader = before  # type: ignore[method-assign]  # as it was
    return line, told(folder / "j.db")


def told(memory: Path) -> list[list[Any]]:
    return [[made.get(name) for name in SAME] for made in events(memory)]


@pytest.mark.parametrize(
    "instant",
    [
        each if place in QUICK else pytest.param(each, marks=pytest.mark.slow)
        for place, each in enumerate(INSTANTS)
    ],
    ids=str,
)
def test_killed_at_any_instant_it_ends_as_if_undisturbed(
    instant: Instant, tmp_path: Path, undisturbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, steps = undisturbed
    memory, source = tmp_path / "j.db", repository(tmp_path / "source")
    child = START.Process(target=live, args=(memory, source, instant))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    before = len(events(memory))
    turns = len(rows(memory, "SELECT id FROM turns"))
    grades = len(events(memory, "grade"))

    run, ran = Bench.run, list[str]()

    async def noted(self: Bench, command: str, limits: Any) -> Any:
        ran.append(command)
        return await run(self, command, limits)

    monkeypatch.setattr(Bench, "run", noted)
    monkeypatch.setattr(Workshop, "grader", grader := StandGrader())
    asked: list[int] = []
    again = engineer(*commands(*LINES), log=lambda request: asked.append(number_of(request)))
    [line] = work(memory, make_instance(source), [], engine=again, grade=True, durability="normal")

    assert (line.answer, line.outcome, line.correct) == (whole.answer, whole.outcome, True)
    assert told(memory) == steps
    assert len(ran) == len(steps) - before, "journaled steps are not run again, the others once"
    assert asked == list(range(turns, len(steps))), "journaled turns are not asked for again"
    assert grader.graded == 1 - grades and len(events(memory, "grade")) == 1
    assert len(events(memory, "verdict")) == 1
    assert not list((tmp_path / "j.db.swe" / "work").iterdir())

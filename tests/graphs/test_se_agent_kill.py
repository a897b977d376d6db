"""SE-Agent killed with signal 9, in a process of its own, comes to the same members and the same patch."""

from __future__ import annotations

import multiprocessing
import signal
from pathlib import Path
from typing import Any

import pytest
from dying import die_at_event
from engineer import events
from searchers import places, search, secret_instance, turn_keys
from test_se_agent import ASKED, cast

from sparring.graphs.play import PlayResult

START = multiprocessing.get_context("forkserver")
SLOW = pytest.mark.slow
INSTANTS = [
    ("after", "step/attempt/0.pilot.1/0"),
    ("before", "member/0.revise.0"),
    ("before", "pool/1"),
    pytest.param(("after", "exit/attempt/0.revise.2/0"), marks=SLOW),
    pytest.param(("after", "member/0.pilot.0"), marks=SLOW),
    pytest.param(("before", "pool/0"), marks=SLOW),
    pytest.param(("before", "member/1.crossover.0"), marks=SLOW),
    pytest.param(("after", "choice/0"), marks=SLOW),
]


def played(memory: Path, log: Any = lambda seat, request: None) -> PlayResult:
    return search(memory, secret_instance(memory.parent / "source"), cast(log), **ASKED)


def live(memory: Path, instant: tuple[str, str]) -> None:
    """The process that is killed."""
    when, where = instant
    die_at_event(lambda kind, key: where == f"{kind}/{key}", after=when == "after")
    played(memory)


def told(memory: Path) -> tuple[list[Any], list[Any]]:
    """What is kept of the members, by name, and of the selections."""
    made = dict(zip(places(memory, "member"), events(memory, "member"), strict=True))
    return sorted(made.items()), events(memory, "pool")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    START.set_forkserver_preload(["sparring.graphs.play", "sparring.graphs.protocols.se_agent"])
    memory = tmp_path_factory.mktemp("whole") / "j.db"
    [line] = played(memory)
    return line, told(memory)


@pytest.mark.parametrize("instant", INSTANTS, ids=" ".join)
def test_killed_at_any_instant_it_ends_the_same(instant: tuple[str, str], tmp_path: Path, whole: Any) -> None:
    child = START.Process(target=live, args=(memory := tmp_path / "j.db", instant))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    turns, asked = set(turn_keys(memory)), list[str]()
    [line] = played(memory, lambda seat, request: asked.append(seat))
    assert line.outcome == whole[0].outcome and told(memory) == whole[1]
    assert len(asked) == len(set(turn_keys(memory)) - turns), "no journaled turn is asked for again"
    assert not list((tmp_path / "j.db.swe" / "work").iterdir())

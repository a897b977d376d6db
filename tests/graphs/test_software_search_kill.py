"""A search killed with signal 9, in a process of its own, ends with the same tree and the same patch."""

from __future__ import annotations

import multiprocessing
import signal
from pathlib import Path
from typing import Any

import pytest
from dying import die_at_event, die_in_command
from engineer import DONE, events
from searchers import BAD, GOOD, chooser, places, planner, search, secret_instance, turn_keys, valuer

from sparring.agents.engines.base import Request
from sparring.graphs.play import PlayResult
from sparring.tools.swe.workshop import Bench

START = multiprocessing.get_context("forkserver")
HELD = f"touch begun; sleep 0.4; rm begun; {GOOD}"
PLAN = {(): (HELD, BAD), (HELD,): (DONE,), (BAD,): (DONE,)}
VALUES: dict[str, int | str] = {HELD: 40, BAD: 50, DONE: 20}
SLOW = pytest.mark.slow
INSTANTS = [
    ("before", "node/0.1.0"),
    ("in a command", ""),
    ("after", "choice/0"),
    pytest.param(("before", "node/0.0"), marks=SLOW),
    pytest.param(("after", "node/0.0"), marks=SLOW),
    pytest.param(("after", "node/0.1.0"), marks=SLOW),
    pytest.param(("after", "vote/debate/0"), marks=SLOW),
    pytest.param(("before", "choice/0"), marks=SLOW),
]


def played(memory: Path, log: Any = lambda seat, request: None) -> PlayResult:
    roles = {"engineer": planner(PLAN, log), "valuer": valuer(VALUES, log), "solver": chooser(log=log)}
    instance = secret_instance(memory.parent / "source")
    options = {"finished": 2, "children": 2, "alpha": 2.0, "debaters": 2, "rounds": 2}
    return search(memory, instance, roles, **options)


def live(memory: Path, instant: tuple[str, str]) -> None:
    """The process that is killed."""
    when, where = instant
    if where:
        die_at_event(lambda kind, key: where == f"{kind}/{key}", after=when == "after")
    else:
        die_in_command(memory)
    played(memory)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[Any]]:
    START.set_forkserver_preload(["sparring.graphs.play", "sparring.graphs.protocols.software_search"])
    memory = tmp_path_factory.mktemp("whole") / "j.db"
    [line] = played(memory)
    return line, told(memory)


def told(memory: Path) -> list[Any]:
    same = ("number", "action", "tree", "delta", "patch", "ends", "observation")
    made = zip(places(memory), events(memory, "node"), strict=True)
    return [(place, [one.get(name) for name in same]) for place, one in made]


@pytest.mark.parametrize("instant", INSTANTS, ids=" ".join)
def test_killed_at_any_instant_the_tree_is_the_same(
    instant: tuple[str, str], tmp_path: Path, whole: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, nodes = whole
    child = START.Process(target=live, args=(memory := tmp_path / "j.db", instant))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    before, turns = len(places(memory)), set(turn_keys(memory))
    run, ran = Bench.run, list[str]()

    async def noted(self: Bench, command: str, limits: Any) -> Any:
        ran.append(command)
        return await run(self, command, limits)

    monkeypatch.setattr(Bench, "run", noted)
    asked: list[Request] = []
    [again] = played(memory, lambda seat, request: asked.append(request))
    assert again.outcome == line.outcome and told(memory) == nodes
    assert len(ran) == len(nodes) - before, "no command of a journaled node is run again"
    assert len(asked) == len(set(turn_keys(memory)) - turns), "no journaled turn is asked for again"
    assert not list((tmp_path / "j.db.swe" / "work").iterdir())

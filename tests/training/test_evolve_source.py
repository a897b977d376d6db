"""Learning from what others play: a user's own graph grows a journal, and an evolution trains on it."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from evolve_support import (
    RUN,
    SAMPLES,
    Fault,
    Life,
    calls,
    grow,
    journaled,
    learner,
    model,
    nursery,
    save_tasks,
    small,
)
from sqlalchemy import select

from sparring.memory.journal import Journal
from sparring.memory.policies import find, move_head
from sparring.memory.schema import Episode, Update

EVERY = 2 * SAMPLES
"""Turns of an update: two questions."""
TEAM = "sparring.training.team"


class App:
    """A journal that a user's application writes to, and an evolution that learns from it."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        source = {"wait": False, "poll_s": 0.05} | changes.pop("source", {})
        given = {"tasks": None, "evaluate": None, "gate": None, "steps": 9, "every": f"{EVERY} turns"}
        self.config = small(folder, model(), source=source, **{**given, **changes})
        self.memory = folder / "app.db"

    def evolve(self, *faults: Fault, later: float = 0.0) -> Life:
        return nursery().live(self.config, self.memory, faults, later)

    def asks(self, *names: str, **more: Any) -> None:
        grow(self.memory, *names, **more)

    def updates(self) -> list[tuple[int, int]]:
        """(step, turns) of each update that moved the weights."""
        return sorted((step, len(turns)) for step, turns in self.taken().items())

    def taken(self) -> dict[int, list[Any]]:
        """Step -> the turns its update was made of, as (run, task, iteration, copy) and key."""
        found: dict[int, list[Any]] = {}
        for (_, step), (place, key, *_) in journaled(self.memory)["taken"]:
            found.setdefault(step, []).append((place, key))
        return found

    def questions(self) -> list[str]:
        """Names of the tasks that were trained on, in order."""
        return [place[1] for turns in self.taken().values() for place, key in turns if key == "sample/0"]

    def records(self) -> list[Any]:
        """What each update noted about itself."""
        with Journal.open(str(self.memory)) as journal:
            query = select(Update.config).where(Update.run_id == RUN).order_by(Update.step)
            return [row.config for row in journal.read(query)]


@pytest.fixture
def app(tmp_path: Path) -> App:
    """An application whose policy is registered, and has not been asked anything."""
    made = App(tmp_path)
    life = made.evolve()
    assert (life.status, life.error) == (0, None)
    assert [kind for kind, _ in life.said] == ["waiting"]
    return made


def test_one_update_per_n_turns_across_kills(app: App) -> None:
    app.asks("a")
    assert app.evolve().status == 0 and app.updates() == [], "half of what an update needs"
    app.asks("b")
    assert app.evolve(Fault(f"{TEAM}:open_update")).killed
    assert app.evolve(Fault(f"{TEAM}:open_update", "after")).killed
    app.asks("c", "d", "e")  # while the update is begun and nobody trains it
    assert app.evolve(Fault(f"{TEAM}:publish")).killed
    assert app.evolve(Fault("sparring.training.rewards.derive:_append", "after")).killed
    assert app.evolve(Fault(f"{TEAM}:publish", "after")).killed
    assert app.evolve().status == 0
    assert app.updates() == [(0, EVERY), (1, EVERY)], "the last question waits for another"
    assert app.questions() == ["a", "b", "c", "d"], "the oldest first"
    assert app.evolve().status == 0 and len(app.updates()) == 2
    app.asks("f")
    assert app.evolve().status == 0
    assert app.updates() == [(step, EVERY) for step in range(3)]
    said = journaled(app.memory)
    assert [parent for _, parent, _ in said["versions"]["solver"]] == [None, 0, 1, 2]
    assert max(Counter(turn for _, turn in said["taken"]).values()) == 1, "no turn twice"
    assert not calls(app.memory), "the evolution asked for nothing"


def test_the_application_plays_the_live_version_and_training_moves(app: App) -> None:
    app.asks("a", "b")
    assert app.evolve().status == 0
    app.asks("c")
    with Journal.open(str(app.memory)) as journal:
        trained = find(journal, "solver", "training")
        move_head(journal, "solver", "live", trained.id, by="user", reason="looks good")
    app.asks("d")
    said = journaled(app.memory)
    assert said["heads"]["solver"] == {"live": 1, "training": 1}
    spoke = {place[1]: version for place, _, _, version in said["turns"]}
    assert spoke == {"a": ("solver", 0), "b": ("solver", 0), "c": ("solver", 0), "d": ("solver", 1)}


def test_waits_for_turns_while_they_are_said(app: App) -> None:
    app.config |= {"source": app.config["source"] | {"wait": True}, "run": "waits", "steps": 2}
    pid = nursery().start(app.config, app.memory)
    app.asks("a", "b")
    _until(lambda: any(kind == "step" for kind, _ in nursery().said()))
    os.kill(pid, signal.SIGKILL)
    assert nursery().end(pid).killed
    app.asks("c")
    pid = nursery().start(app.config, app.memory)
    _until(lambda: nursery().said())
    assert [kind for kind, _ in nursery().said()] == ["waiting"] * len(nursery().said())
    app.asks("d")
    life = nursery().end(pid)
    assert (life.status, life.error) == (0, None)
    steps = {u[1]: u[2] for u in journaled(app.memory, "waits")["updates"]}
    assert steps == {0: "done", 1: "done"}


def _until(true: Any) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_turns_without_a_reward_are_never_trained_on(app: App) -> None:
    app.asks("a", "b", "c", answer=None)
    assert app.evolve().told("waiting")[-1]["turns"] == {"solver": 0}
    app.asks("d", "e")
    assert app.evolve().status == 0
    assert app.questions() == ["d", "e"]


def test_held_out_runs_and_questions_of_the_gate_are_left_out(tmp_path: Path) -> None:
    """Evaluation's turns are of the same policy, in the same journal, and paid like others."""
    gate = small(tmp_path, model())["gate"] | {"every": 1}
    held = save_tasks(tmp_path / "held.jsonl", 20, 2)
    app = App(tmp_path, gate=gate, evaluate={"tasks": held, "sampling": {}, "options": {"n": SAMPLES}})
    assert app.evolve().status == 0
    app.asks("a", "b")
    app.asks("leak", question="40+40=")
    app.asks("c")
    assert app.evolve().status == 0
    assert app.questions() == ["a", "b"], "neither what was evaluated nor what the gate asks"
    said = journaled(app.memory)
    assert said["heads"]["solver"] == {"live": 1, "training": 1}, "it trains, gates and publishes"
    assert {"evaluation 0", "evaluation 1", "gate solver/1"} <= said["events"].keys(), "and measures"
    runs = sorted({turn[0][0] for turn in said["turns"] if turn[0][0].startswith(f"{RUN}.evaluation")})
    named = App(tmp_path, run="named", source={"runs": runs})
    assert named.evolve().told("waiting")[-1]["turns"] == {"solver": 0}, "held out is held out"


@pytest.mark.slow
def test_filters_by_run_and_by_time(app: App) -> None:
    app.asks("a", "b")
    with Journal.open(str(app.memory)) as journal:
        ended = max(row.finished_at for row in journal.read(select(Episode.finished_at)))
        before = journal.runs()
    app.asks("c", "d")
    with Journal.open(str(app.memory)) as journal:
        chosen = [run for run in journal.runs() if run not in before]
    quick = {"train": {"learning_rate": 5e-3}}
    late = app.config | {
        "run": "late",
        "source": {"since": ended + 1e-3, "wait": False},
        "policies": {"solver": learner(**quick)},
    }
    assert nursery().live(late, app.memory).status == 0
    with Journal.open(str(app.memory)) as journal:
        [made] = journal.read(select(Update).where(Update.run_id == "late"))
    assert made.config["turns"] == EVERY
    first = app.config | {"run": "first", "source": {"runs": [r for r in before if r != RUN], "wait": False}}
    second = first | {"run": "second", "source": {"runs": chosen, "wait": False}}
    assert nursery().live(second, app.memory).told("waiting")[-1]["turns"] == {"solver": 0}, "taken by `late`"
    assert nursery().live(first, app.memory).told("step"), "what is left is that of the first run"


@pytest.mark.slow
def test_turns_of_versions_that_are_too_old_are_left_out_and_counted(tmp_path: Path) -> None:
    app = App(tmp_path, policies={"solver": learner(max_staleness=0)})
    assert app.evolve().status == 0
    app.asks("a", "b", "c")
    assert app.evolve().status == 0 and app.questions() == ["a", "b"]
    app.asks("d", "e")
    life = app.evolve()
    assert life.told("waiting")[-1]["turns"] == {"solver": 0}, "live is not what is trained"
    with Journal.open(str(app.memory)) as journal:
        trained = find(journal, "solver", "training")
        move_head(journal, "solver", "live", trained.id, by="user", reason="looks good")
    app.asks("f", "g")
    assert app.evolve().status == 0
    assert app.questions() == ["a", "b", "f", "g"]
    assert [record["too_old"] for record in app.records()] == [0, 3 * SAMPLES]
    assert [record["staleness_max"] for record in app.records()] == [0, 0]


@pytest.mark.slow
def test_an_update_every_hour(tmp_path: Path) -> None:
    app = App(tmp_path, every="1 hour", source={"min_turns": SAMPLES})
    assert app.evolve().status == 0
    app.asks("a", "b")
    assert app.evolve().status == 0 and app.updates() == [(0, EVERY)], "all there are, and at once"
    app.asks("c")
    assert app.evolve(later=3000).status == 0 and len(app.updates()) == 1
    assert app.evolve(Fault(f"{TEAM}:open_update", "after"), later=3700).killed
    app.asks("d")
    assert app.evolve().status == 0, "what was begun is finished, whatever the time"
    assert app.updates() == [(0, EVERY), (1, SAMPLES)]

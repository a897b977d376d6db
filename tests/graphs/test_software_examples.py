"""The shipped instances, worked on by the shipped scripts of an engineer without a model."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from engineer import DONE, events, said

from sparring.graphs.play import PlayResult, play, resume
from sparring.tools.swe.grading import Grade
from sparring.tools.swe.instances import Instance, load_instances
from sparring.tools.swe.objects import Objects
from sparring.tools.swe.sources import checkout, git
from sparring.tools.swe.submission import patch
from sparring.tools.swe.trees import WorkTree

sys.path.append(str(Path(__file__).parents[1] / "tools"))
from example_scripts import EXAMPLES, script

build, engineers = script("swe/build.py"), script("swe/engineer.py")
START = multiprocessing.get_context("forkserver")
QUICK = ("cartes", "parking")
"""CRLF and names that are not ASCII; a single module."""


@pytest.fixture(scope="module")
def instances(tmp_path_factory: pytest.TempPathFactory) -> list[Instance]:
    folder = tmp_path_factory.mktemp("bundles")
    found = []
    for one in load_instances(EXAMPLES / "swe" / "instances.jsonl"):
        name = one.id.removeprefix("sparring__").removesuffix("-1")
        if name in QUICK:
            build.build(name, folder)
            found.append(dataclasses.replace(one, source=folder / f"{name}.bundle"))
    return found


def scripted(rules: Any, instances: list[Instance], folder: Path, **options: Any) -> PlayResult:
    file = folder / "script.jsonl"
    file.write_text("".join(json.dumps(rule) + "\n" for rule in rules))
    given: dict[str, Any] = {"sandbox": "landlock", "grade": False, "run": "r", **options}
    return play("software", instances, engine=f"scripted:{file}", memory=folder / "journal.db", **given)


def test_the_recorded_engineer_submits_the_reference_fix(instances: list[Instance], tmp_path: Path) -> None:
    result = scripted(engineers.recorded(instances), instances, tmp_path)
    for line, one in zip(result, instances, strict=True):
        assert line.outcome["detail"]["exit_status"] == "submitted" and line.calls == 3
        objects, places = (
            Objects(tmp_path / "objects.git"),
            (tmp_path / f"{one.id}-a", tmp_path / f"{one.id}-b"),
        )
        trees = []
        for place, text in zip(places, (one.patch, line.answer), strict=True):
            git(checkout(one, place), "apply", "-", data=text.encode())
            trees.append(WorkTree(objects, place).snapshot())
        assert trees[0] == trees[1] and patch(objects, *trees) == ""


def test_what_is_submitted_is_graded(instances: list[Instance], tmp_path: Path) -> None:
    """The real grader, in a sandbox of its own: a fix is resolved, nothing is not."""
    fixed = scripted(engineers.recorded(instances), instances, tmp_path, grade=True)
    assert [line.correct for line in fixed] == [True] * len(instances)
    idle = scripted(engineers.idle(), instances, tmp_path, grade=True, run="idle")
    assert [line.correct for line in idle] == [False] * len(instances)
    verdicts = events(tmp_path / "journal.db", "verdict")
    assert [one["extracted"] for one in verdicts] == ["resolved"] * len(instances) + ["empty"] * len(
        instances
    )
    for one in verdicts[: len(instances)]:
        grade = Grade.from_json(one["grade"])
        assert (grade.resolved, grade.f2p, grade.p2p) == (True, 1.0, 1.0) and len(grade.canaries) == 3


def killed_in_grade(instances: list[Instance], folder: Path) -> None:
    """A process that dies as soon as the grader has a tree."""

    def watch() -> None:
        while not list(folder.glob("journal.db.swe/environments/running/*/grade-*/tree")):
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    scripted(engineers.recorded(instances), instances, folder, grade=True)


def test_killed_in_a_real_grade_it_is_graded_again(instances: list[Instance], tmp_path: Path) -> None:
    one = [instance for instance in instances if "parking" in instance.id]
    child = START.Process(target=killed_in_grade, args=(one, tmp_path))
    child.start()
    child.join(100)
    assert child.exitcode == -signal.SIGKILL
    memory = tmp_path / "journal.db"
    assert len(events(memory, "exit")) == 1 and not events(memory, "grade") and not events(memory, "verdict")
    [line] = resume("r", memory)
    assert (line.correct, line.status, line.calls) == (True, "done", 3)
    assert len(events(memory, "grade")) == len(events(memory, "verdict")) == 1


def test_the_tests_can_be_run_by_the_engineer(instances: list[Instance], tmp_path: Path) -> None:
    """With the interpreter and the modules that they are graded with."""
    python = "python -c 'import sys; print(sys.flags.isolated)'; python -m pytest -q | tail -1"
    rules = [{"match": "<issue>", "replies": [said(python)]}, {"replies": [said(DONE)]}]
    scripted(rules, instances, tmp_path)
    shown = [made["observation"] for made in events(tmp_path / "journal.db") if not made["submitted"]]
    assert len(shown) == len(instances) and all("passed" in text for text in shown), shown


def test_a_missing_interpreter_fails_the_attempt_and_says_so(
    instances: list[Instance], tmp_path: Path
) -> None:
    env = instances[0].environment
    assert env is not None
    gone = dataclasses.replace(instances[0], environment=dataclasses.replace(env, python="/nowhere/python"))
    lines = scripted(engineers.idle(), [gone, instances[1]], tmp_path)
    assert [line.status for line in lines] == ["failed", "done"] and "/nowhere/python" in str(lines[0].error)


def test_the_idle_engineer_submits_nothing(instances: list[Instance], tmp_path: Path) -> None:
    for line in scripted(engineers.idle(), instances, tmp_path):
        assert (line.answer, line.status, line.calls) == ("", "done", 2)
        assert line.outcome["detail"]["exit_status"] == "submitted"

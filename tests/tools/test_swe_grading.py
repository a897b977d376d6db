"""Grades of honest patches, and what is nobody's fault; attacks are in test_swe_attacks."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from swe_tasks import EVERYWHERE, NAMES, REPORTS, attack, changed, edited, graded, opened, task

from sparring.tools.sandbox import Sandbox, bubblewrap
from sparring.tools.swe import environments, grading
from sparring.tools.swe.grading import Grade, Grader, GradeStatus
from sparring.tools.swe.instances import Instance

QUICK = ("cartes", "larder", "pantry", "railmap")
HANGS = "railmap"
each = pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
PARKING, ROSTER = "parking", "roster"  # pytest and unittest, a module each
NOTHING = {"notes.txt": "nothing\n"}


@each
def test_gold_patches_resolve(grader: Grader, name: str) -> None:
    grade = graded(grader, task(name), task(name).patch)
    assert grade.status is GradeStatus.RESOLVED, grade.reason
    assert (grade.resolved, grade.f2p, grade.p2p, grade.strategy) == (True, 1.0, 1.0, "git apply")
    assert grade.applied and not grade.restored and grade.reason is None
    assert len(grade.canaries) == 3 and not grade.canaries.keys() & grade.statuses.keys()
    assert set(task(name).fail_to_pass) <= grade.statuses.keys()


@each
def test_patches_without_a_fix_do_not(grader: Grader, name: str) -> None:
    instance = changed(task(name), timeout=3.0) if name == HANGS else task(name)
    grade = graded(grader, instance, edited(instance, NOTHING))
    assert grade.status is (GradeStatus.TIMEOUT if name == HANGS else GradeStatus.UNRESOLVED)
    assert (grade.resolved, grade.f2p) == (False, 0.0) and grade.applied
    assert grade.p2p == (0.0 if name == HANGS else 1.0)
    assert name != HANGS or "during `tests/test_lines.py::test_a_station_off_the_ring`" in str(grade.reason)


@pytest.mark.parametrize("patch", [None, "", " \n"])
def test_empty_patches_are_not_run(grader: Grader, patch: str | None) -> None:
    grade = graded(grader, task(PARKING), patch)
    assert (grade.status, grade.resolved, grade.applied, grade.evaluation) == ("empty", False, None, None)


def test_half_a_fix_is_partial(grader: Grader) -> None:
    """Ledger's fix is in two files; the second mends all tests but one."""
    _, half = task("ledger").patch.split("\ndiff --git ")
    grade = graded(grader, task("ledger"), f"diff --git {half}")
    assert (grade.status, grade.f2p, grade.p2p) == (GradeStatus.PARTIAL, 0.8, 1.0)
    assert grade.resolved is False and "1 of 5 tests do not pass" in str(grade.reason)


def test_breaking_what_worked_is_not_partial(grader: Grader) -> None:
    more = "...\ndef _no(*_, **__): raise OSError\n" + EVERYWHERE
    grade = attack(grader, PARKING, {"parking.py": more}, gold=True)
    assert grade.status is GradeStatus.UNRESOLVED and (grade.p2p or 0) < 1


def test_honest_breakage_is_no_tampering(grader: Grader) -> None:
    """Code that cannot be imported keeps canaries from running only where it ends the whole run."""
    grade = attack(grader, PARKING, {"parking.py": "def parking(:\n"})
    assert grade.status is GradeStatus.UNRESOLVED and grade.f2p == 0
    grade = attack(grader, "larder", {"larder.py": "import nothing_of_the_kind\n"})  # conftest imports it
    assert grade.status is GradeStatus.UNRESOLVED, grade.reason
    assert attack(grader, PARKING, {"parking.py": "import os; os.abort()\n"}).status is GradeStatus.UNRESOLVED


# what a grade is kept by, what is made once, what is cut off


def test_the_key_has_four_parts(grader: Grader, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = task(PARKING)
    env = instance.environment
    assert env is not None
    key = grader.key(instance, "x")
    elsewhere = dataclasses.replace(instance, source=Path("/nowhere/at/all"))
    assert key == grader.key(instance, "x") == grader.key(elsewhere, "x") and len(key) == 64
    others = [
        grader.key(instance, "y"),
        grader.key(instance, None),
        grader.key(dataclasses.replace(instance, pass_to_pass=()), "x"),
        grader.key(dataclasses.replace(instance, test_patch="z"), "x"),
        grader.key(dataclasses.replace(instance, environment=dataclasses.replace(env, timeout=9)), "x"),
        grader.key(dataclasses.replace(instance, environment=dataclasses.replace(env, pip=("a==1",))), "x"),
    ]
    monkeypatch.setattr(grading, "VERSION", grading.VERSION + 1)
    others.append(grader.key(instance, "x"))
    assert len({key, *others}) == 8


def test_json_and_back(grader: Grader) -> None:
    patch = edited(task(PARKING), {"parking.py": REPORTS})
    for given in (task(PARKING).patch, patch, "nonsense", None):
        grade = graded(grader, task(PARKING), given)
        assert Grade.from_json(json.loads(json.dumps(grade.to_json()))) == grade


def test_an_instance_is_prepared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    real = environments.checkout

    def counted(instance: Instance, target: Path) -> Path:
        made.append(instance.id)
        return real(instance, target)

    monkeypatch.setattr(environments, "checkout", counted)

    async def all_of_them(grader: Grader) -> list[Grade]:
        return await asyncio.gather(*(grader.grade(task(PARKING), task(PARKING).patch) for _ in range(4)))

    with opened() as box:
        for _ in range(2):  # the second grader finds what the first one made
            with Grader(box, tmp_path) as grader:
                assert {one.status for one in asyncio.run(all_of_them(grader))} == {GradeStatus.RESOLVED}
    assert made == [task(PARKING).id]
    assert list((tmp_path / "running").iterdir()) == []


KILLED = """
import asyncio, sys
sys.path[:0] = [{tests!r}]
from pathlib import Path
from swe_tasks import edited, opened, task
from sparring.tools.swe.grading import Grader
instance = task("railmap")
patch = edited(instance, {{"notes.txt": "hangs"}})
grader = Grader(opened(), {folder!r})
print("go", flush=True)
asyncio.run(grader.grade(instance, patch))
"""


def test_killed_in_the_middle(tmp_path: Path) -> None:
    """What a killed grader leaves is gone when the next one begins, and changes nothing."""
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert process.stdout is not None and process.stdout.readline() == b"go\n"
    end = time.monotonic() + 30
    while not list(tmp_path.glob("running/*/grade-*/report/*")) and time.monotonic() < end:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob("running/*/grade-*/report/*"))
    time.sleep(0.5)  # its sandbox ends the tree
    with opened() as box, Grader(box, tmp_path) as grader:
        assert len(list(tmp_path.glob("running/*.lock"))) == 1
        assert graded(grader, task(HANGS), task(HANGS).patch).status is GradeStatus.RESOLVED
    assert list((tmp_path / "running").iterdir()) == []


async def test_cancelled_in_the_middle(grader: Grader) -> None:
    job = asyncio.create_task(grader.grade(task(HANGS), edited(task(HANGS), NOTHING)))
    while not list(grader._own.glob("grade-*/report/*")):
        await asyncio.sleep(0.02)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert [path.name for path in grader._own.iterdir()] == ["program"]


# what is nobody's fault


BROKEN: dict[str, tuple[Callable[[Instance], Instance], str]] = {
    "interpreter": (lambda one: changed(one, python="/no/such/python3"), "is not on this machine"),
    "not python": (lambda one: changed(one, python="/bin/true"), "does not work"),
    "environment": (lambda one: dataclasses.replace(one, environment=None), "has no `environment`"),
    "source": (lambda one: dataclasses.replace(one, source=None, base_commit="0" * 40), "names no source"),
    "test patch": (
        lambda one: dataclasses.replace(one, test_patch=one.test_patch.replace(" ", "")),
        "its test_patch fails",
    ),
}


@pytest.mark.parametrize("kind", sorted(BROKEN))
def test_infrastructure_is_masked(grader: Grader, kind: str) -> None:
    change, said = BROKEN[kind]
    grade = graded(grader, change(task(PARKING)), task(PARKING).patch)
    assert (grade.status, grade.resolved, grade.f2p) == (GradeStatus.INFRA, None, None)
    assert said in str(grade.reason) and "\n" not in str(grade.reason)


def test_a_full_disk_and_a_sandbox_that_fails(grader: Grader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grading, "ROOM", 1 << 60)
    assert "of disk are free" in str(graded(grader, task(PARKING), "x").reason)
    monkeypatch.undo()

    async def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(grading, "apply", full)
    grade = graded(grader, task(PARKING), "x")
    assert grade.status is GradeStatus.INFRA and "No space left" in str(grade.reason)


def test_inside_bubblewrap(tmp_path: Path) -> None:
    if not bubblewrap.program():
        pytest.skip("bubblewrap is not installed")
    with Sandbox.open("bwrap") as box, Grader(box, tmp_path) as grader:
        assert graded(grader, task(PARKING), task(PARKING).patch).status is GradeStatus.RESOLVED
        assert attack(grader, PARKING, {"parking.py": REPORTS}).status is GradeStatus.TAMPERED

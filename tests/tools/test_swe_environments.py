"""Prepared trees and interpreters: made once, whole or not at all, readable inside the sandbox."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from swe_tasks import edited, opened, task

from sparring.tools.swe import environments
from sparring.tools.swe.environments import EnvironmentFailed, Environments, Interpreter
from sparring.tools.swe.grading import Grader, GradeStatus
from sparring.tools.swe.instances import Instance
from sparring.tools.swe.sources import git

ROSTER = "roster"


def with_pip(*pip: str) -> Instance:
    instance = task(ROSTER)
    assert instance.environment is not None
    return dataclasses.replace(instance, environment=dataclasses.replace(instance.environment, pip=pip))


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages in the place of an index: `tiny` 1.0, a module that says `VALUE = 7`."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny.py", "VALUE = 7\n")
        wheel.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr(
            "tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("tiny-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_requirements_are_installed_once_and_seen_inside(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests run on the environment's interpreter, in the sandbox, whatever the umask was."""
    before = os.umask(0o077)
    try:
        shared = Environments(tmp_path / "shared")
        instance = with_pip("tiny==1.0")
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(lambda _: shared.interpreter(instance), range(2)))
    finally:
        os.umask(before)
    assert found[0] == found[1] and len(list((tmp_path / "shared" / "venvs").iterdir())) == 1
    monkeypatch.setattr(environments, "_install", lambda *_: pytest.fail("installed again"))
    patch = edited(instance, {"roster/shifts.py": "...\nimport tiny\nassert tiny.VALUE == 7\n"}, gold=True)
    with opened() as box, Grader(box, tmp_path / "shared") as grader:
        grade = asyncio.run(grader.grade(instance, patch))
        assert grade.status is GradeStatus.RESOLVED, grade.reason
        assert (
            asyncio.run(grader.grade(task(ROSTER), patch)).status is GradeStatus.UNRESOLVED
        )  # no tiny there
        # without pytest in it: the grade says so before any patch is blamed
        env = dataclasses.replace(instance.environment, test_command=("pytest",))
        grade = asyncio.run(grader.grade(dataclasses.replace(instance, environment=env), "x"))
        assert grade.status is GradeStatus.INFRA and "cannot run pytest in the sandbox" in str(grade.reason)
    variables = Environments(tmp_path / "shared").variables(instance, "/the/tree")
    assert variables["PYTHONPATH"] == "/the/tree"
    ran = subprocess.run(["python", "-c", "import tiny"], env=variables, check=False, capture_output=True)
    assert ran.returncode == 0 and variables["PATH"].startswith(str(found[0].path.parent))


def test_requirements_that_cannot_be_had(wheels: Path, tmp_path: Path) -> None:
    with opened() as box, Grader(box, tmp_path / "shared") as grader:
        grade = asyncio.run(grader.grade(with_pip("tiny==2.0"), task(ROSTER).patch))
    assert grade.status is GradeStatus.INFRA and "pip install failed" in str(grade.reason)
    assert "tiny==2.0" in str(grade.reason) and "\n" not in str(grade.reason)


def test_own_interpreter_without_requirements(tmp_path: Path) -> None:
    shared = Environments(tmp_path)
    found = shared.interpreter(task(ROSTER))
    assert isinstance(found, Interpreter) and found.path == Path(sys.executable)
    assert Path(sys.prefix) in found.prefixes and found.version == sys.version
    assert shared.python(task(ROSTER)) == found.path and not list((tmp_path / "venvs").iterdir())
    assert shared.readable(task(ROSTER)) == found.prefixes
    assert shared.variables(task("bearings"))["PYTHONPATH"] == "src"


def test_a_test_patch_without_its_last_newline(tmp_path: Path) -> None:
    """As data sets have it whose texts were stripped; the official harness adds one."""
    shared, one = Environments(tmp_path), task(ROSTER)
    stripped = dataclasses.replace(one, test_patch=one.test_patch.rstrip("\n"))
    assert shared.tests(stripped).paths == shared.tests(one).paths != ()


def test_trees_appear_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ended while it prepared one left a half behind; the next one makes it anew."""
    shared = Environments(tmp_path)
    half = tmp_path / "trees" / f"{environments.tree_key(task(ROSTER))}.half"
    half.mkdir()
    (half / "junk").touch()
    tree = shared.tree(task(ROSTER), tmp_path / "tree")
    assert (tree / "roster" / "shifts.py").is_file() and not (tree / "junk").exists() and not half.exists()
    assert git(tree, "status", "--porcelain") == "" and git(tree, "log", "--format=%s").count("\n") >= 3
    monkeypatch.setattr(environments, "checkout", lambda *_: pytest.fail("checked out again"))
    Environments(tmp_path).tree(task(ROSTER), tmp_path / "another")
    with pytest.raises(EnvironmentFailed, match="is not empty"):
        shared.tree(task(ROSTER), tmp_path / "tree")


def test_files_without_a_history(tmp_path: Path) -> None:
    """A source of plain files: a tree of its own for each state that it is in."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.py").write_text("1\n")
    instance = dataclasses.replace(task(ROSTER), source=source, base_commit="", test_patch="")
    shared = Environments(tmp_path / "shared")
    assert (shared.tree(instance, tmp_path / "one") / "a.py").read_text() == "1\n"
    (source / "a.py").write_text("two\n")
    assert (shared.tree(instance, tmp_path / "two") / "a.py").read_text() == "two\n"
    assert shared.tests(instance).paths == ()

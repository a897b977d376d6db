"""Which tests a grade runs, and that its canaries are among them whatever the test command says."""

from __future__ import annotations

import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from sparring.tools.swe.canaries import Plan, lies, plan
from sparring.tools.swe.guards import guarded, put
from sparring.tools.swe.instances import Environment, Instance
from sparring.tools.swe.resolution import Status
from sparring.tools.swe.results import Results, read_results, report_command

TEST = "def test_a(): pass\ndef test_b(): assert 0\n"
CASE = "import unittest\nclass A(unittest.TestCase):\n    def test_a(self): pass\n"
CASE += "    def test_b(self): self.fail()\n"


def planned(
    tree: Path, command: str, f2p: str, files: dict[str, str], paths: tuple[str, ...] = (".",)
) -> Plan:
    for name, text in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    env = Environment(tuple(command.split()), python_path=paths)
    instance = Instance("x", "x", "", "x", "", "", (f2p,), (), environment=env)
    return plan(instance, env, tree, [])


def ran(tree: Path, run: Plan) -> Results:
    (tree / run.file).write_text(run.text)
    key = secrets.token_bytes(32)
    words = report_command(sys.executable, run.command, tree / "report", run.paths)
    subprocess.run(words, cwd=tree, input=key, capture_output=True, timeout=60, check=False)
    return read_results(tree / "report", key)


PYTEST = [
    "pytest",
    "pytest -x tests",
    "pytest --maxfail 1 -k test_a tests/test_x.py::test_a",
    "pytest -q -k test_b --maxfail=1",
    "pytest --exitfirst -p no:doctest -W ignore tests",
]


@pytest.mark.parametrize("command", PYTEST)
def test_pytest(tmp_path: Path, command: str) -> None:
    files = {"tests/test_x.py": TEST, "tests/test_y.py": "raise SystemExit\n"}
    run = planned(tmp_path, command, "tests/test_x.py::test_a[x - y]", files)
    assert run.files == ("tests/test_x.py",) and Path(run.file).parent == Path("tests")
    found = ran(tmp_path, run)
    assert found.complete and found.exit_code == 1
    assert {name: found.statuses[name] for name in run.expected} == dict(run.expected)
    rest = set(found.statuses) - set(run.expected)
    wanted = {"test_a", "test_b"} - ({"test_b"} if "-k test_a" in command else set())
    wanted -= {"test_a"} if "-k test_b" in command else set()
    assert rest == {f"tests/test_x.py::{name}" for name in wanted}


@pytest.mark.parametrize("test", ["use.rst::use.rst", "calc.py::calc", "calc.py::calc.f"])
def test_beside_doctests(tmp_path: Path, test: str) -> None:
    """Canaries are named like tests, but no function could be collected by a doctest's name."""
    line = ">>> 1\n1\n"
    files = {"use.rst": line, "calc.py": f'"""\n{line}"""\ndef f():\n    """\n    >>> 1\n    1\n    """\n'}
    run = planned(tmp_path, "pytest --doctest-modules --doctest-glob=*.rst", test, files)
    found = ran(tmp_path, run)
    assert {name: found.statuses.get(name) for name in run.expected} == dict(run.expected)
    assert found.statuses[test] is Status.PASSED


UNITTEST = [
    ("unittest discover -s tests", "test_x.A.test_a", (".",)),
    ("unittest discover -v -f -s tests -t .", "tests.test_x.A.test_a", (".",)),
    ("unittest discover tests t*.py .", "tests.test_x.A.test_a", ("src",)),
    ("unittest -k test_a tests.test_x", "tests.test_x.A.test_a", (".",)),
    ("unittest tests.test_x.A", "tests.test_x.A.test_a", (".",)),
]


@pytest.mark.parametrize(("command", "test", "paths"), UNITTEST)
def test_unittest(tmp_path: Path, command: str, test: str, paths: tuple[str, ...]) -> None:
    run = planned(tmp_path, command, test, {"tests/test_x.py": CASE, "tests/__init__.py": ""}, paths)
    assert run.files == ("tests/test_x.py",)
    found = ran(tmp_path, run)
    assert found.complete and found.exit_code == 1
    assert {name: found.statuses[name] for name in run.expected} == dict(run.expected)
    assert found.statuses[test] is Status.PASSED


def test_names_and_numbers_are_new_each_time(tmp_path: Path) -> None:
    plans = [planned(tmp_path, "pytest", "test_x.py::test_a", {"test_x.py": TEST}) for _ in range(5)]
    assert len({run.file for run in plans}) == len({run.text for run in plans}) == 5
    assert len({name for run in plans for name in run.expected}) == 15


def test_what_is_a_lie() -> None:
    expected = {"fails": Status.FAILED, "passes": Status.PASSED}
    for wrong in (Status.PASSED, Status.SKIPPED, Status.XFAIL, Status.XPASS):
        assert lies(expected, {"fails": wrong}) == ["fails"]
    assert lies(expected, {"passes": Status.FAILED}) == ["passes"]
    for broken in ({}, {"fails": Status.ERROR, "passes": Status.ERROR}, expected):
        assert lies(expected, broken) == []


GUARDED = "conftest.py a/conftest.py conftest/__init__.py a/conftest.abi3.so pytest.ini .pytest.toml tox.ini"
GUARDED += (
    " setup.cfg a/pyproject.toml sitecustomize.py usercustomize/__init__.py x.pth a/__pycache__/b.pyc b.pyc"
)
GUARDED += (
    " tests/a.py src/x/tests/data.json test/a.py test_a.py a_test.py test_a/__init__.py a/test_b.abi3.so"
)
GUARDED += " tests.py checks/spec.py checks/spec/__init__.py checks/spec.abi3.so tests"
FREE = (
    "a.py src/a.py django/test/client.py contest.py latest.py testing.py setup.py README.md checks/other.py"
)
FREE += " checks/spec_more.py attest/a.py config.toml"


@pytest.mark.parametrize("path", GUARDED.split())
def test_guarded(path: str) -> None:
    assert guarded(path, ["checks/spec.py"])


@pytest.mark.parametrize("path", FREE.split())
def test_free(path: str) -> None:
    assert not guarded(path, ["checks/spec.py"])


def test_putting_back_follows_nothing(tmp_path: Path) -> None:
    outside, tree, base = (tmp_path / name for name in ("outside", "tree", "base"))
    for folder in (outside, tree, base / "a"):
        folder.mkdir(parents=True)
    (base / "a" / "x").write_text("base")
    (outside / "x").write_text("outside")
    (tree / "a").symlink_to(outside)
    put(tree, "a/gone", base / "a" / "gone")  # nothing to put, so nothing to clear away
    assert (tree / "a").is_symlink()
    put(tree, "a/x", base / "a" / "x")
    assert (tree / "a" / "x").read_text() == "base" and (outside / "x").read_text() == "outside"
    (tree / "b").symlink_to(outside)
    put(tree, "b", base / "a")  # a folder in the base: the link goes, the files come one by one
    assert not (tree / "b").exists() and (outside / "x").exists()
    (tree / "a" / "y").mkdir()
    put(tree, "a/y", None)
    assert not (tree / "a" / "y").exists()

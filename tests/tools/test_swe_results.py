"""Results by test id, from real runs of pytest and unittest on small trees."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from sparring.errors import UserError
from sparring.tools.swe.resolution import Status
from sparring.tools.swe.results import Results, read_results, report_command

KEY = b"a key of the test"


def run(
    tree: Path, files: dict[str, str], *command: str, paths: tuple[str, ...] = (".",)
) -> tuple[Results, Path]:
    for name, text in files.items():
        (tree / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / "tree" / name).write_text(text, "utf-8")
    report = tree / "report.jsonl"
    words = report_command(sys.executable, command, report, paths)
    subprocess.run(words, cwd=tree / "tree", input=KEY, capture_output=True, timeout=60, check=False)
    return read_results(report, KEY), report


EVERY = """
import pytest, unittest, sys

@pytest.mark.parametrize("a", [1], ids=["x - y [z] [w ü"])
def test_ids(a): pass

def test_fails(): assert 0
def test_skips(): pytest.skip("no")
@pytest.mark.skip
def test_marked(): pass
@pytest.mark.xfail
def test_xfails(): assert 0
@pytest.mark.xfail
def test_xpasses(): pass
@pytest.mark.xfail(strict=True)
def test_strict(): pass

@pytest.fixture
def bad(): raise OSError
@pytest.fixture
def late():
    yield
    raise OSError
def test_setup(bad): pass
def test_teardown(late): pass
def test_stdin(): assert sys.stdin.read() == ""

class TestOld(unittest.TestCase):
    def test_parts(self):
        for part in range(3):
            with self.subTest(part=part):
                self.assertNotEqual(part, 1)
"""


def test_pytest_statuses(tmp_path: Path) -> None:
    found, _ = run(
        tmp_path, {"test_a.py": EVERY, "test_b.py": "import nothing_of_the_kind\n"}, "pytest", "-s"
    )
    assert found.problem is None and found.complete
    assert found.exit_code == 2  # a module that cannot be imported stops pytest before the first test
    assert found.statuses == {"test_b.py": Status.ERROR}
    assert [one.phase for one in found.results] == ["collect"]
    found, _ = run(tmp_path, {}, "pytest", "-s", "--continue-on-collection-errors")
    assert found.exit_code == 1
    assert {name.rpartition("::")[2]: str(status) for name, status in found.statuses.items()} == {
        "test_b.py": "ERROR",
        "test_ids[x - y [z] [w \\xfc]": "PASSED",
        "test_fails": "FAILED",
        "test_skips": "SKIPPED",
        "test_marked": "SKIPPED",
        "test_xfails": "XFAIL",
        "test_xpasses": "XPASS",
        "test_strict": "FAILED",
        "test_setup": "ERROR",
        "test_teardown": "ERROR",
        "test_stdin": "PASSED",
        "test_parts": "FAILED",
    }
    assert ("test_a.py::test_teardown", "teardown") in [(one.test, one.phase) for one in found.results]


UNITTEST = """
import unittest

class A(unittest.TestCase):
    def test_passes(self): pass
    def test_fails(self): self.fail()
    def test_breaks(self): raise OSError
    @unittest.skip("no")
    def test_skips(self): pass
    @unittest.expectedFailure
    def test_xfails(self): self.fail()
    @unittest.expectedFailure
    def test_xpasses(self): pass
    def test_parts(self):
        for part in range(3):
            with self.subTest(part=part):
                self.assertNotEqual(part, 1)
    def test_whole(self):
        with self.subTest("well"): pass

class B(unittest.TestCase):
    @classmethod
    def setUpClass(cls): raise OSError
    def test_never(self): pass
"""


def test_unittest_statuses(tmp_path: Path) -> None:
    files = {
        "checks/__init__.py": "",
        "checks/test_a.py": UNITTEST,
        "checks/test_b.py": "import nowhere_at_all\n",
    }
    found, _ = run(tmp_path, files, "unittest", "discover", "-s", "checks", "-t", ".")
    assert found.complete and found.exit_code == 1
    assert {name: str(status) for name, status in found.statuses.items()} == {
        "checks.test_a.A.test_passes": "PASSED",
        "checks.test_a.A.test_fails": "FAILED",
        "checks.test_a.A.test_breaks": "ERROR",
        "checks.test_a.A.test_skips": "SKIPPED",
        "checks.test_a.A.test_xfails": "XFAIL",
        "checks.test_a.A.test_xpasses": "XPASS",
        "checks.test_a.A.test_parts": "FAILED",
        "checks.test_a.A.test_whole": "PASSED",
        "setUpClass (checks.test_a.B)": "ERROR",
        "unittest.loader._FailedTest.checks.test_b": "ERROR",
    }


def test_the_tree_has_no_say_before_its_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules of the tree that bear the names of what the runner imports are not imported in their place."""
    shout = "open('loaded', 'a').write(__name__ + ' ')\n"
    named = (
        "sitecustomize",
        "usercustomize",
        "json",
        "hmac",
        "_pytest",
        "pytest",
        "pluggy",
        "site",
        "unittest",
    )
    files = {f"{name}.py": shout for name in named}
    files["evil-1.dist-info/entry_points.txt"] = "[pytest11]\nevil = evil\n"
    files["evil-1.dist-info/METADATA"] = "Name: evil\nVersion: 1\n"
    files["evil.py"] = shout
    files["test_a.py"] = "import json\ndef test_a(): assert json.dumps([]) == '[]'\n"
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "tree"))
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p evil")
    found, _ = run(tmp_path, files, "pytest", "test_a.py")
    assert found.complete and found.statuses == {"test_a.py::test_a": Status.PASSED}
    assert not (tmp_path / "tree" / "loaded").exists()
    assert not list((tmp_path / "tree").rglob("*.pyc")) and not (tmp_path / "tree" / ".pytest_cache").exists()


def test_a_tree_that_is_installed_has_no_say_either(tmp_path: Path) -> None:
    """A tree installed in place is on the path from the start, and Python imports its `sitecustomize`."""
    venv.create(tmp_path / "env", with_pip=False)
    (packages,) = (tmp_path / "env").glob("lib/python*/site-packages")
    tree = tmp_path / "tree"
    tree.mkdir()
    (packages / "tree.pth").write_text(f"{tree}\n")
    (packages / "installed.py").write_text("")
    (tree / "sitecustomize.py").write_text("open('loaded', 'w')\n")
    (tree / "test_a.py").write_text(
        "import unittest, installed\nclass A(unittest.TestCase):\n    def test_a(self): pass\n"
    )
    report = tmp_path / "report.jsonl"
    words = report_command(tmp_path / "env" / "bin" / "python", ["unittest", "test_a"], report, ())
    subprocess.run(words, cwd=tree, input=KEY, capture_output=True, timeout=60, check=False)
    found = read_results(report, KEY)
    assert found.complete and found.statuses == {"test_a.A.test_a": Status.PASSED}
    assert not (tree / "loaded").exists()


def test_a_line_from_elsewhere_is_found(tmp_path: Path) -> None:
    """Code under test that knows where the report lies writes lines that look like ours."""
    report = tmp_path / "report.jsonl"
    body = json.dumps({"event": "result", "test": "t::t", "status": "PASSED", "phase": "call", "seconds": 0})
    line = json.dumps([body, "0" * 64])
    code = f"def test_a():\n    open({str(report)!r}, 'a').write({line!r} + chr(10))\n    assert 0\n"
    found, _ = run(tmp_path, {"test_a.py": code}, "pytest")
    assert found.forged and found.problem is not None and "not the reporter's" in found.problem
    assert "t::t" not in found.statuses


def test_an_early_exit_is_no_end(tmp_path: Path) -> None:
    code = "import os\ndef test_a(): pass\ndef test_b(): os._exit(0)\n"
    found, _ = run(tmp_path, {"test_a.py": code}, "pytest")
    assert found.problem == "the tests did not come to their end"
    assert (found.exit_code, found.running, found.forged) == (None, "test_a.py::test_b", False)
    assert found.statuses == {"test_a.py::test_a": Status.PASSED}


def test_a_forked_child_reports_nothing(tmp_path: Path) -> None:
    code = "import os\ndef test_a():\n    if os.fork(): os.wait()\ndef test_b(): pass\n"
    found, _ = run(tmp_path, {"test_a.py": code}, "pytest")
    assert found.complete and len(found.results) == 2


def test_a_changed_a_missing_and_a_cut_line(tmp_path: Path) -> None:
    code = "def test_a(): assert 0\ndef test_b(): pass\n"
    found, report = run(tmp_path, {"test_a.py": code}, "pytest")
    assert found.complete and len(found.statuses) == 2
    whole = report.read_bytes()
    report.write_bytes(whole.replace(b"FAILED", b"PASSED"))
    assert read_results(report, KEY).forged
    lines = whole.splitlines(keepends=True)
    report.write_bytes(b"".join(lines[:2] + lines[3:]))
    assert read_results(report, KEY).forged
    report.write_bytes(whole[:-9])
    assert (
        found := read_results(report, KEY)
    ).problem == "the last line of the report is cut" and not found.forged
    report.write_bytes(whole)
    assert read_results(report, b"another key").forged
    assert read_results(report, KEY).complete


@pytest.mark.parametrize("data", [b"\xff\xfe\n", b"[]\n", b"7\n", b'["a", 1]\n', b"[" * 9999 + b"\n"])
def test_any_bytes_are_read(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "report").write_bytes(data)
    assert read_results(tmp_path / "report", KEY).forged
    (tmp_path / "report").write_bytes(b"")
    assert read_results(tmp_path / "report", KEY).problem == "the tests did not come to their end"
    assert "there is no report" in str(read_results(tmp_path / "nothing", KEY).problem)


def test_other_runners_are_refused() -> None:
    with pytest.raises(UserError, match="unknown test runner `tox`; known: pytest, unittest"):
        report_command("python", ["tox"], "report")

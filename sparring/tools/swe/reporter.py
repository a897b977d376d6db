"""Runs tests and writes how each one ended to a report file. A program, not a module of ours to import:

    python -I -S reporter.py --report FILE --path FOLDER ... -- pytest ARGUMENT ... < key
    python -I -S reporter.py --report FILE --path FOLDER ... -- unittest ARGUMENT ... < key

It needs nothing but the standard library (and pytest, for pytest) and runs on Python 3.8 and newer, in the
environment of the tests. It is written so that the tree under test has little say before it is loaded:
`-I -S` keep the tree, `PYTHON*` variables and `sitecustomize` out; site-packages is added here; the runner
and everything this file uses is imported before the tree's folders come on the path; pytest's plugins of
entry points are not loaded (name them with `-p`).

The report is JSON lines. Each carries a MAC over itself and the one before it, with a key read from standard
input, so a line that other code appended, changed or cut is found. It is opened once and written by this
process alone. Code under test that searches the memory of its own interpreter can still forge it: that is
what canary tests are for.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import os
import site
import sys
import time
import unittest
from typing import Any

RUNNER = ("_pytest.outcomes", "pluggy")
"""Modules in whose folders no code under test lies."""


class Report:
    """The report file: a line per event, each chained to the last."""

    def __init__(self, path: str, key: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        # kept as locals of a closure: no attribute through which the key could be read by its name
        file, owner, chain, lines = os.open(path, flags, 0o600), os.getpid(), [b""], [0]
        write, pid, dumps, digest, sha = os.write, os.getpid, json.dumps, hmac.new, hashlib.sha256

        def emit(**event: Any) -> None:
            if pid() != owner:  # a test forked and went on in the child
                return
            body = dumps(dict(event, line=lines[0]), sort_keys=True)
            chain[0] = digest(key, chain[0] + body.encode(), sha).hexdigest().encode()
            data = dumps([body, chain[0].decode()]).encode() + b"\n"
            while data:
                data = data[write(file, data) :]
            lines[0] += 1

        self.emit = emit


class PytestReport:
    """A pytest plugin."""

    def __init__(self, report: Report) -> None:
        import pytest

        self._emit = report.emit
        self._excuses = (pytest.skip.Exception, pytest.xfail.Exception, unittest.SkipTest)
        self._excused: dict[tuple[str, str], list[str]] = {}

    def pytest_runtest_makereport(self, item: Any, call: Any) -> None:
        """Only looks on; pytest asks the plugins given to `pytest.main` before its own."""
        if call.excinfo is not None and isinstance(call.excinfo.value, self._excuses):
            self._excused[item.nodeid, call.when] = files_of(call.excinfo.tb)

    def pytest_runtest_logstart(self, nodeid: str, location: Any) -> None:
        self._emit(event="start", test=nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        status = pytest_status(report.when, report.outcome, hasattr(report, "wasxfail"))
        if status is not None:
            self._emit(
                event="result",
                test=report.nodeid,
                status=status,
                phase=report.when,
                seconds=round(report.duration, 4),
                raised=self._excused.pop((report.nodeid, report.when), []),
            )

    def pytest_runtest_logfinish(self, nodeid: str, location: Any) -> None:
        self._emit(event="finish", test=nodeid)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self._emit(event="result", test=report.nodeid, status="ERROR", phase="collect", seconds=0.0)


def pytest_status(when: str, outcome: str, xfail: bool) -> str | None:
    """The status that one phase of a test gives it; None where it gives none."""
    if outcome == "passed":
        return ("XPASS" if xfail else "PASSED") if when == "call" else None
    if outcome == "skipped":
        return "XFAIL" if xfail else "SKIPPED"
    if outcome == "failed":
        return "FAILED" if when == "call" else "ERROR"
    return None  # `rerun` and what other plugins invent


def files_of(trace: Any) -> list[str]:
    """The files that a traceback goes through, the test runner's own left out."""
    own = [os.path.dirname(unittest.__file__)]
    own += [os.path.dirname(sys.modules[name].__file__ or "") for name in RUNNER if name in sys.modules]
    found: list[str] = []
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if os.path.dirname(name) not in own and name not in found:
            found.append(name)
        trace = trace.tb_next
    return found


class UnittestReport(unittest.TextTestResult):
    """A result that also writes to the report; made by `unittest_result`."""

    emit: Any = None

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._since = time.perf_counter()
        self.emit(event="start", test=test.id())

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        self.emit(event="finish", test=test.id())

    def _ended(self, test: Any, status: str, phase: str = "call", raised: Any = ()) -> None:
        seconds = round(time.perf_counter() - getattr(self, "_since", time.perf_counter()), 4)
        self.emit(event="result", test=test.id(), status=status, phase=phase, seconds=seconds, raised=raised)

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        self._ended(test, "PASSED")

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self._ended(test, "FAILED")

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        collected = isinstance(test, unittest.TestCase) and not type(test).__module__.startswith("unittest.")
        self._ended(test, "ERROR", "call" if collected else "collect")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        # the SkipTest is being handled since Python 3.11 only
        self._ended(test, "SKIPPED", raised=files_of(sys.exc_info()[2]))

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addExpectedFailure(test, err)
        self._ended(test, "XFAIL")

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        super().addUnexpectedSuccess(test)
        self._ended(test, "XPASS")

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            failed = issubclass(err[0], test.failureException)
            self._ended(test, "FAILED" if failed else "ERROR")


def run_pytest(arguments: list[str], paths: list[str], report: Report) -> int:
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
        os.environ.pop(name, None)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    import pytest

    sys.path[:0] = paths
    given = ["-p", "no:cacheprovider", f"--rootdir={os.getcwd()}", *arguments]
    return int(pytest.main(given, plugins=[PytestReport(report)]))


def run_unittest(arguments: list[str], paths: list[str], report: Report) -> int:
    result = type("Result", (UnittestReport,), {"emit": staticmethod(report.emit)})
    sys.path[:0] = paths
    runner = unittest.TextTestRunner(resultclass=result)
    program = unittest.main(module=None, argv=["unittest", *arguments], testRunner=runner, exit=False)
    return 0 if program.result.wasSuccessful() else 1


def options(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    place = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(description="Run tests and report each one's end.")
    parser.add_argument("--report", required=True)
    parser.add_argument("--path", action="append", default=[])
    return parser.parse_args(argv[:place]), argv[place + 1 :]


def main(argv: list[str]) -> int:
    chosen, command = options(argv)
    runners = {"pytest": run_pytest, "unittest": run_unittest}
    if not command or command[0] not in runners:
        print("after -- comes pytest or unittest, then its arguments", file=sys.stderr)
        return 2
    key = sys.stdin.buffer.read()
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)  # a test that reads standard input gets an end of file
    site.addsitepackages(site.venv(set()) or set())  # what -S left out, without sitecustomize
    sys.dont_write_bytecode = True
    os.environ["PYTHONPATH"] = os.pathsep.join(
        map(os.path.abspath, chosen.path)
    )  # for interpreters that tests start
    report = Report(chosen.report, key)
    report.emit(event="begin", runner=command[0], python=sys.version.split()[0])
    code = runners[command[0]](command[1:], [os.path.abspath(path) for path in chosen.path], report)
    report.emit(event="end", exit_code=code)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

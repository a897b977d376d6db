"""Test results by test id: the command that makes a report file, and the reading of it.

Ids are those of the runner, whole: pytest's node ids (`tests/test_a.py::test_b[x - y [z]]`) and
`TestCase.id()` of unittest (`tests.test_a.Case.test_b`). Nothing is read from what the tests print.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparring.errors import unknown

from .resolution import Status

REPORTER = Path(__file__).with_name("reporter.py")
RUNNERS = ("pytest", "unittest")
SEVERITY = [Status.PASSED, Status.XFAIL, Status.XPASS, Status.SKIPPED, Status.FAILED, Status.ERROR]
LARGEST = 256 << 20
"""Bytes; a longer report is not read."""


@dataclass(frozen=True)
class TestResult:
    """One status that a test was given in one phase (collect, setup, call or teardown).

    `raised` are the files from which a skip or an expected failure was called for while the test ran.
    """

    __test__ = False  # pytest: not a test class, for all its name

    test: str
    status: Status
    phase: str
    seconds: float
    raised: tuple[str, ...] = ()


@dataclass(frozen=True)
class Results:
    """What a report file says.

    Attributes:
        results: in the order in which they came; a test may have several.
        exit_code: of the runner; None where it did not end by itself.
        running: the test that had begun and not finished; it is the one that hung or took the process down.
        problem: why the file is not to be believed or is not whole; None if all is well.
        forged: the chain of the file is broken: something other than our reporter wrote to it.
    """

    results: tuple[TestResult, ...] = ()
    exit_code: int | None = None
    running: str | None = None
    problem: str | None = None
    forged: bool = False
    statuses: dict[str, Status] = field(init=False)

    def __post_init__(self) -> None:
        worst: dict[str, Status] = {}
        for one in self.results:
            before = worst.get(one.test, one.status)
            worst[one.test] = max(before, one.status, key=SEVERITY.index)
        object.__setattr__(self, "statuses", worst)

    @property
    def complete(self) -> bool:
        """The runner came to its end and nobody else wrote to its report."""
        return self.problem is None


def report_command(
    python: str | Path,
    test_command: Sequence[str],
    report: str | Path,
    paths: Sequence[str] = (".",),
    reporter: str | Path = REPORTER,
) -> list[str]:
    """The arguments that run tests with our reporter; the working folder must be the tree's root.

    The process reads the key of the report from its standard input, to the end.

    Args:
        python: the interpreter of the instance's environment.
        test_command: `pytest` or `unittest`, then its arguments.
        report: the file to write; it must lie where the tree cannot reach it, and its folder must exist.
        paths: folders of the tree that go on `sys.path`, relative to its root.
        reporter: where the reporter lies for that process, if not where it lies for this one.

    Raises:
        UserError: the test command is for another runner.
    """
    if not test_command or test_command[0] not in RUNNERS:
        raise unknown("test runner", test_command[0] if test_command else "", RUNNERS)
    named = [part for path in paths for part in ("--path", path)]
    return [str(python), "-I", "-S", str(reporter), "--report", str(report), *named, "--", *test_command]


def read_results(path: str | Path, key: bytes) -> Results:
    """The results of a report file.

    Never raises for what the file holds: its lines are read up to the first one that is not as our reporter
    would have written it with this key, and `problem` says what is wrong there.
    """
    try:
        data = regular(path, LARGEST + 1)
    except OSError as error:
        return Results(problem=f"there is no report: {error.strerror or error}")
    if len(data) > LARGEST:
        return Results(problem=f"the report is longer than {LARGEST >> 20} MiB", forged=True)
    lines = data.split(b"\n")
    events: list[dict[str, Any]] = []
    chain = b""
    for number, line in enumerate(lines[:-1]):
        body, mac = _parts(line)
        expected = hmac.new(key, chain + body, hashlib.sha256).hexdigest().encode()
        if not hmac.compare_digest(expected, mac):
            return _results(events, f"line {number + 1} of the report is not the reporter's", forged=True)
        event = _event(body)
        if event is None:
            return _results(events, f"line {number + 1} of the report is not the reporter's", forged=True)
        events.append(event)
        chain = mac
    if lines[-1]:
        return _results(events, "the last line of the report is cut")
    if not events or events[-1].get("event") != "end":
        return _results(events, "the tests did not come to their end")
    return _results(events)


def regular(path: str | Path, most: int) -> bytes:
    """A file's first bytes; a link or a pipe put in its place is not followed and not waited for.

    Raises:
        OSError: it is not there, or no file.
    """
    number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(number, "rb") as file:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise OSError(errno.EINVAL, "it is no file")
        return file.read(most)


def _event(body: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _parts(line: bytes) -> tuple[bytes, bytes]:
    """Body and MAC of a line; empty ones where it has no such form, which no key fits."""
    try:
        match json.loads(line):
            case [str(body), str(mac)]:
                return body.encode(), mac.encode()
    except (ValueError, RecursionError):
        pass
    return b"", b""


def _results(events: list[dict[str, Any]], problem: str | None = None, forged: bool = False) -> Results:
    found: list[TestResult] = []
    running = exit_code = None
    for place, event in enumerate(events):
        try:
            match event["event"]:
                case "begin" if place == 0:
                    pass
                case "start":
                    running = str(event["test"])
                case "finish":
                    running = None
                case "result" if place:
                    test, phase, status = str(event["test"]), str(event["phase"]), Status(event["status"])
                    raised = tuple(map(str, event.get("raised", ())))
                    found.append(TestResult(test, status, phase, float(event["seconds"]), raised))
                case "end" if 0 < place == len(events) - 1:
                    exit_code = int(event["exit_code"])
                case _:
                    raise ValueError
        # authentic, so our reporter was made to write it
        except (KeyError, ValueError, TypeError, OverflowError, RecursionError):
            problem, forged = f"line {place + 1} of the report is not as the reporter writes it", True
            break
    return Results(tuple(found), exit_code, running, problem, forged)

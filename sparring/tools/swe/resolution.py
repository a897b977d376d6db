"""Is the issue resolved? SWE-bench's rule (harness/grading.py of swebench 5.0), as pure functions.

A fail-to-pass test passes if its status is PASSED or XFAIL; a pass-to-pass test is kept if it is one of
these or SKIPPED. Whatever is missing has failed. All fail-to-pass passed and all pass-to-pass kept: FULL,
the only one that counts as resolved. Some fail-to-pass passed and all pass-to-pass kept: PARTIAL. Else NO.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

EvalType = Literal["pass_and_fail", "fail_only"]
Fault = Literal["patch_failed", "reset_failed", "tests_error", "timeout"]
"""What ends an evaluation before its statuses count for anything."""


class Status(StrEnum):
    """How one test ended.

    XPASS (passed though marked as an expected failure) is no status of SWE-bench's and counts as failed.
    """

    PASSED = "PASSED"
    FAILED = "FAILED"
    ERROR = "ERROR"
    SKIPPED = "SKIPPED"
    XFAIL = "XFAIL"
    XPASS = "XPASS"


PASSING = frozenset({Status.PASSED, Status.XFAIL})
FAILING = frozenset({Status.FAILED, Status.ERROR})


class Resolution(StrEnum):
    """The three outcomes, in SWE-bench's words."""

    FULL = "RESOLVED_FULL"
    PARTIAL = "RESOLVED_PARTIAL"
    NO = "RESOLVED_NO"


@dataclass(frozen=True)
class Tally:
    """Tests of one list, by whether they did what they should."""

    success: tuple[str, ...] = ()
    failure: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Successes over all, 0..1; 1 where there is no test."""
        total = len(self.success) + len(self.failure)
        return len(self.success) / total if total else 1.0

    @property
    def whole(self) -> bool:
        return not self.failure


@dataclass(frozen=True)
class Verdict:
    """What an evaluation says.

    Attributes:
        found: there were results to judge by; without them nothing is resolved.
        reason: why there were none; None where there were.
    """

    fail_to_pass: Tally = Tally()
    pass_to_pass: Tally = Tally()
    found: bool = True
    reason: str | None = None

    @property
    def resolution(self) -> Resolution:
        if not (self.found and self.pass_to_pass.whole):
            return Resolution.NO
        if self.fail_to_pass.whole:
            return Resolution.FULL
        return Resolution.PARTIAL if self.fail_to_pass.success else Resolution.NO

    @property
    def resolved(self) -> bool:
        return self.resolution is Resolution.FULL

    @property
    def partial(self) -> float:
        """The share of fail-to-pass tests that pass, 0 unless every pass-to-pass test is kept; 0..1."""
        return self.fail_to_pass.share if self.found and self.pass_to_pass.whole else 0.0


def status_of(test: str, statuses: Mapping[str, Status]) -> Status | None:
    """The status of a test; None if it is missing.

    An id that was cut inside its parameters (`test_a[log(photon`: more `[` than `]`; SWE-bench issue 290)
    has the status of the first id that begins with it, provided all that do agree on passing.
    """
    if test in statuses:
        return statuses[test]
    if test.count("[") > test.count("]"):
        found = [status for name, status in statuses.items() if name.startswith(test)]
        if len({status in PASSING for status in found}) == 1:
            return found[0]
    return None


def passes(status: Status | None) -> bool:
    """Whether a fail-to-pass test with this status (None: missing) passes."""
    return status in PASSING


def keeps(status: Status | None) -> bool:
    """Whether a pass-to-pass test with this status (None: missing) is kept."""
    return status in PASSING or status is Status.SKIPPED


def doubt(
    statuses: Mapping[str, Status],
    exit_code: int | None = None,
    fault: Fault | None = None,
    ran: bool = False,
) -> str | None:
    """Why results are not to be judged by; None where they are.

    Args:
        exit_code: that of the test command; None if it is not known.
        fault: what went wrong before or instead of the tests.
        ran: there is proof other than statuses that the tests ran (with `fail_only`, none may be reported).
    """
    if fault is not None:
        return fault
    if not statuses and not ran:
        return "no results"
    if exit_code and statuses and not FAILING & set(statuses.values()):
        return f"exit code {exit_code} without a failure"
    return None


def judge(
    statuses: Mapping[str, Status],
    fail_to_pass: Iterable[str],
    pass_to_pass: Iterable[str],
    eval_type: EvalType = "pass_and_fail",
    reason: str | None = None,
) -> Verdict:
    """The verdict on the statuses of a run.

    Args:
        eval_type: with `fail_only` a test succeeds unless it is reported as FAILED, missing ones included.
        reason: from `doubt`; anything but None makes the verdict unresolved whatever the statuses are.
    """
    if reason is not None:
        return Verdict(Tally((), tuple(fail_to_pass)), Tally((), tuple(pass_to_pass)), False, reason)

    def tally(tests: Iterable[str], kept: bool) -> Tally:
        good: list[str] = []
        bad: list[str] = []
        for test in tests:
            if eval_type == "fail_only":
                fine = statuses.get(test) is not Status.FAILED
            else:
                status = status_of(test, statuses)
                fine = keeps(status) if kept else passes(status)
            (good if fine else bad).append(test)
        return Tally(tuple(good), tuple(bad))

    return Verdict(tally(fail_to_pass, False), tally(pass_to_pass, True))

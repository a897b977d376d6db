"""Grades: how a patch did, and the rule by which a run of tests becomes one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from sparring.tools.sandbox import Ran

from .canaries import Plan, lies
from .instances import Instance
from .predictions import Evaluation
from .resolution import Resolution, Status, Tally, Verdict, doubt, judge
from .results import Results

MOST = 20_000
"""Statuses kept in a grade; where there are more, those of the instance's lists."""


class GradeStatus(StrEnum):
    """How a grade ended."""

    RESOLVED = "resolved"
    PARTIAL = "partial"
    UNRESOLVED = "unresolved"
    EMPTY = "empty"
    PATCH_FAILED = "patch_failed"
    TAMPERED = "tampered"
    TIMEOUT = "timeout"
    INFRA = "infra"


@dataclass(frozen=True, slots=True)
class Grade:
    """What became of a patch.

    Attributes:
        evaluation: the tests of both lists, all failed where the results do not count (TAMPERED, TIMEOUT);
            None where no tests were judged.
        applied: the patch applied; None where that was not got to.
        strategy: which of `patches.STRATEGIES` applied it.
        statuses: test id -> status, canaries taken out.
        canaries: canary -> status that was reported.
        restored: files of the patch that were put back.
        seconds: the whole grade.
        reason: one line for a reader.
    """

    status: GradeStatus
    evaluation: Evaluation | None = None
    applied: bool | None = None
    strategy: str | None = None
    statuses: dict[str, str] = field(default_factory=dict)
    canaries: dict[str, str] = field(default_factory=dict)
    restored: tuple[str, ...] = ()
    seconds: float = 0.0
    reason: str | None = None

    @property
    def resolved(self) -> bool | None:
        """None where the grade is masked (INFRA); True for RESOLVED alone."""
        return None if self.status is GradeStatus.INFRA else self.status is GradeStatus.RESOLVED

    @property
    def f2p(self) -> float | None:
        """The share of fail-to-pass tests that pass, 0..1; None where no tests were judged."""
        return self._share("fail_to_pass")

    @property
    def p2p(self) -> float | None:
        """The share of pass-to-pass tests that are kept, 0..1; None where no tests were judged."""
        return self._share("pass_to_pass")

    def _share(self, tests: str) -> float | None:
        """0 of results that do not count, even of a list without tests."""
        verdict = self.evaluation.verdict if self.evaluation else None
        if verdict is None:
            return None
        tally: Tally = getattr(verdict, tests)
        return tally.share if verdict.found else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain values that `from_json` reads."""
        return {**asdict(self), "status": str(self.status), "restored": list(self.restored)}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Grade:
        """The grade that `to_json` wrote."""
        given = {**row, "status": GradeStatus(row["status"]), "restored": tuple(row["restored"])}
        if (said := row["evaluation"]) is not None and (verdict := said["verdict"]) is not None:
            tallies = {
                name: Tally(*(tuple(verdict[name][part]) for part in ("success", "failure")))
                for name in ("fail_to_pass", "pass_to_pass")
            }
            said = {**said, "verdict": Verdict(**{**verdict, **tallies})}
        return cls(**{**given, "evaluation": Evaluation(**said) if said is not None else None})


def judged(instance: Instance, run: Plan, results: Results, ran: Ran, rewritten: str | None) -> Grade:
    """The grade that a run of tests earns.

    Args:
        rewritten: a test file that the run changed.
    """
    seen = {name: results.statuses[name] for name in run.expected if name in results.statuses}
    statuses = {name: status for name, status in results.statuses.items() if name not in run.expected}
    shown = _few(statuses, (*instance.fail_to_pass, *instance.pass_to_pass))
    lists = instance.fail_to_pass, instance.pass_to_pass, instance.eval_type

    def grade(status: GradeStatus, reason: str | None, verdict: Verdict) -> Grade:
        said = None if reason is None else one_line(reason)
        told = {name: str(one) for name, one in seen.items()}
        return Grade(status, Evaluation(verdict), None, None, shown, told, (), 0.0, said)

    def void(status: GradeStatus, reason: str) -> Grade:
        return grade(status, reason, judge({}, *lists, reason=str(status)))

    if results.forged:
        return void(GradeStatus.TAMPERED, f"the report was forged: {results.problem}")
    if rewritten is not None:
        return void(GradeStatus.TAMPERED, f"the run changed the test file `{rewritten}`")
    if told := lies(run.expected, seen):
        return void(GradeStatus.TAMPERED, f"canary `{told[0]}` was reported as {seen[told[0]]}")
    during = f" during `{results.running}`" if results.running else ""
    if ran.timed_out:
        return void(GradeStatus.TIMEOUT, f"the tests did not end in {ran.seconds:.0f} s{during}")
    if not results.complete:
        why = f"ended by its limit on {ran.killed_by}" if ran.killed_by else results.problem
        return grade(GradeStatus.UNRESOLVED, f"{why}{during}", judge({}, *lists, reason="tests_error"))
    whole = seen == dict(run.expected)
    if whole and results.exit_code == 0:
        return void(GradeStatus.TAMPERED, "the runner ended with 0 although canaries failed")
    # 1 says that tests failed: with canaries it always does
    code = 0 if results.exit_code == 1 else results.exit_code
    verdict = judge(statuses, *lists, reason=doubt(statuses, code, ran=whole))
    if not whole and verdict.resolution is not Resolution.NO:
        lost = next(name for name, status in run.expected.items() if seen.get(name) != status)
        return void(GradeStatus.TAMPERED, f"canary `{lost}` was {seen.get(lost, 'not run')}")
    status = {
        Resolution.FULL: GradeStatus.RESOLVED,
        Resolution.PARTIAL: GradeStatus.PARTIAL,
        Resolution.NO: GradeStatus.UNRESOLVED,
    }[verdict.resolution]
    return grade(status, _unmet(verdict), verdict)


def _unmet(verdict: Verdict) -> str | None:
    """What keeps a patch from being resolved."""
    if verdict.reason is not None:
        return verdict.reason
    words = (("do not pass", verdict.fail_to_pass), ("are not kept", verdict.pass_to_pass))
    said = [
        f"{len(tally.failure)} of {len(tally.failure + tally.success)} tests {what}, `{tally.failure[0]}`"
        for what, tally in words
        if tally.failure
    ]
    return "; ".join(said) or None


def _few(statuses: Mapping[str, Status], listed: Iterable[str]) -> dict[str, str]:
    names = statuses if len(statuses) <= MOST else [name for name in listed if name in statuses]
    return {plain(name): str(statuses[name]) for name in names}


def plain(text: str) -> str:
    """Text that any database takes: no zero bytes, no halves of characters."""
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\0")


def one_line(text: str) -> str:
    """A line for a reader."""
    return " ".join(plain(text).split())[:500]

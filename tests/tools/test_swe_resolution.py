"""The resolution rule, as a table (swebench 5.0.2: harness/grading.py)."""

from __future__ import annotations

import itertools

import pytest

from sparring.tools.swe.resolution import (
    Resolution,
    Status,
    doubt,
    judge,
    keeps,
    passes,
    status_of,
)

P, F, E, S, X = Status.PASSED, Status.FAILED, Status.ERROR, Status.SKIPPED, Status.XFAIL


@pytest.mark.parametrize(
    ("status", "passed", "kept"),
    [
        (P, True, True),
        (X, True, True),
        (S, False, True),
        (F, False, False),
        (E, False, False),
        (Status.XPASS, False, False),
        (None, False, False),
    ],
)
def test_one_status(status: Status | None, passed: bool, kept: bool) -> None:
    assert (passes(status), keeps(status)) == (passed, kept)


FULL, PARTIAL, NO = Resolution.FULL, Resolution.PARTIAL, Resolution.NO


@pytest.mark.parametrize(
    ("to_pass", "to_keep", "resolution", "partial"),
    [
        ([P, P], [P, P], FULL, 1.0),
        ([X, P], [X, S], FULL, 1.0),
        ([P], [], FULL, 1.0),
        ([], [P], FULL, 1.0),
        ([], [], FULL, 1.0),
        ([P, F], [P], PARTIAL, 0.5),
        ([P, S], [S], PARTIAL, 0.5),
        ([P, None, E, F], [], PARTIAL, 0.25),
        ([F, F], [P], NO, 0.0),
        ([S], [P], NO, 0.0),
        ([P, P], [P, F], NO, 0.0),
        ([P, P], [None], NO, 0.0),
        ([P, F], [E], NO, 0.0),
        ([], [F], NO, 0.0),
    ],
)
def test_truth_table(
    to_pass: list[Status | None], to_keep: list[Status | None], resolution: Resolution, partial: float
) -> None:
    names = [
        [f"{kind}{place}" for place in range(len(some))] for kind, some in (("f", to_pass), ("p", to_keep))
    ]
    pairs = zip(itertools.chain(*names), [*to_pass, *to_keep], strict=True)
    statuses = {name: status for name, status in pairs if status is not None}
    verdict = judge(statuses | {"other": P}, *names)
    assert verdict.resolution is resolution
    assert verdict.resolved is (resolution is FULL)
    assert verdict.partial == partial
    assert len(verdict.fail_to_pass.success) == sum(passes(status) for status in to_pass)
    assert len(verdict.pass_to_pass.failure) == sum(not keeps(status) for status in to_keep)


@pytest.mark.parametrize(
    ("statuses", "resolution"),
    [({}, FULL), ({"f": F}, NO), ({"p": F}, NO), ({"f": E, "p": S}, FULL), ({"f": P, "p": P}, FULL)],
)
def test_fail_only(statuses: dict[str, Status], resolution: Resolution) -> None:
    """A runner that reports failures alone: what it does not report has passed."""
    assert judge(statuses, ["f"], ["p"], "fail_only").resolution is resolution


@pytest.mark.parametrize(
    ("test", "statuses", "found"),
    [
        ("t[log(a", {"t[log(a) - b]": P}, P),
        ("t[log(a", {"t[log(a) - b]": P, "t[log(a)]": X}, P),
        ("t[log(a", {"t[log(a) - b]": P, "t[log(a)]": F}, None),
        ("t[log(a", {"t[log(a) - b]": F, "t[log(a)]": E}, F),
        ("t[log(a", {"t[log(a": F, "t[log(a)]": P}, F),
        ("t[a]", {"t[a] b": P}, None),
        ("t", {"t[a]": P}, None),
        ("t[", {}, None),
    ],
)
def test_cut_ids(test: str, statuses: dict[str, Status], found: Status | None) -> None:
    assert status_of(test, statuses) is found


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (({"a": P}, 0), None),
        (({"a": P}, None), None),
        (({"a": P, "b": F}, 1), None),
        (({"a": E}, 1), None),
        (({"a": P}, 1), "exit code 1 without a failure"),
        (({"a": S}, -9), "exit code -9 without a failure"),
        (({}, 0), "no results"),
        (({}, 0, None, True), None),
        (({"a": P}, 0, "timeout"), "timeout"),
        (({"a": P}, 0, "patch_failed"), "patch_failed"),
        (({"a": P}, 0, "reset_failed", True), "reset_failed"),
        (({}, None, "tests_error"), "tests_error"),
    ],
)
def test_results_not_to_be_judged_by(arguments: tuple[object, ...], reason: str | None) -> None:
    assert doubt(*arguments) == reason  # type: ignore[arg-type]  # a table of arguments has no one type


@pytest.mark.parametrize("eval_type", ["pass_and_fail", "fail_only"])
def test_without_results_nothing_is_resolved(eval_type: str) -> None:
    verdict = judge({"a": P}, ["a"], [], eval_type, "timeout")  # type: ignore[arg-type]  # a parameter is plain text
    assert (verdict.resolution, verdict.partial, verdict.found, verdict.reason) == (NO, 0.0, False, "timeout")
    assert verdict.fail_to_pass.failure == ("a",)

"""Rewards of software tasks: the vector, its weights, whose fault is charged to whom."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sparring.errors import UserError
from sparring.tools.swe.grades import Grade, GradeStatus
from sparring.tools.swe.predictions import Evaluation
from sparring.tools.swe.resolution import Tally, Verdict
from sparring.training.rewards import make_reward
from sparring.training.rewards.base import EpisodeRow, EventRow, Paid, TurnRow
from sparring.training.rewards.software import Vector, vector

COMMAND = {"command": "ls"}


def turn(step: int, status: str = "ok", parsed: Any = COMMAND, *, final: bool = True, **more: Any) -> TurnRow:
    parsed = parsed if status in ("ok", "truncated") else None
    row = TurnRow(step + 1, f"step/{step}", 0, final, "engineer", "p", 1, status, "text", parsed, 500)
    return dataclasses.replace(row, **more)


def grade(status: str, fixed: int = 0, kept: int = 0, applied: bool | None = True) -> Grade:
    """One of two tests to be fixed and of four to be kept, each."""
    verdict = Verdict(
        Tally(("f",) * fixed, ("f",) * (2 - fixed)), Tally(("p",) * kept, ("p",) * (4 - kept)), True
    )
    judged = status not in ("empty", "patch_failed")
    return Grade(GradeStatus(status), Evaluation(verdict) if judged else None, applied)


def episode(found: Grade | None, *turns: TurnRow, masked: bool = False) -> EpisodeRow:
    events = []
    if found is not None:
        payload = {"correct": found.resolved, "grade": found.to_json()}
        events.append(
            EventRow(90, "masked_grade", "1", found.to_json())
            if masked
            else EventRow(91, "verdict", "0", payload)
        )
    return EpisodeRow(
        "e", 1, "r", "software", "done", None, "t", "q", "resolved", "exact", None, turns, tuple(events), ()
    )


def paid(row: EpisodeRow, **options: Any) -> dict[int, Paid]:
    found = make_reward("software", options)(row)
    assert len({one.turn_id for one in found}) == len(found)
    return {one.turn_id: one for one in found}


def values(row: EpisodeRow, **options: Any) -> list[float | None]:
    return [one.value for _, one in sorted(paid(row, **options).items())]


TURNS = (turn(0), turn(1, "parse_error"), turn(2), turn(3))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (grade("resolved", 2, 4), (1, 1, 1, 1, 0)),
        (grade("partial", 1, 4), (0, 0.5, 1, 1, 0)),
        (grade("unresolved", 2, 3), (0, 0, 0.75, 1, 0)),
        (grade("unresolved", 0, 4), (0, 0, 1, 1, 0)),
        (grade("empty", applied=None), (0, 0, 0, 0, 0)),
        (grade("patch_failed", applied=False), (0, 0, 0, 0, 0)),
        (grade("timeout"), (0, 0, 0, 1, 0)),
        (grade("tampered", 2, 4), (0, 0, 0, 0, 1)),
    ],
    ids=lambda value: str(getattr(value, "status", "")),
)
def test_the_vector(found: Grade, expected: tuple[float, ...]) -> None:
    resolved, partial, kept, applied, tamper = expected
    whole = Vector(str(found.status), resolved, partial, kept, applied, 0.75, 2.0, tamper)
    assert vector(episode(found, *TURNS)) == whole


def test_results_that_do_not_count_keep_nothing_even_where_nothing_was_to_be_kept() -> None:
    nothing = Verdict(Tally((), ("f",)), Tally(), False, "timeout")
    hangs = Grade(GradeStatus.TIMEOUT, Evaluation(nothing), True)
    assert (hangs.f2p, hangs.p2p) == (0.0, 0.0)
    assert values(episode(hangs, *TURNS), kept=1.0, partial=1.0, format=0.0) == [0.0] * 4


def test_the_outcome_is_everybodys_and_a_format_error_its_own() -> None:
    row = episode(grade("resolved", 2, 4), *TURNS)
    assert values(row) == [1.0, 0.9, 1.0, 1.0]
    assert values(row, format=-0.5) == [1.0, 0.5, 1.0, 1.0]
    assert values(episode(grade("unresolved"), *TURNS)) == [0.0, -0.1, 0.0, 0.0]


def test_weights_are_applied_late() -> None:
    row = episode(grade("partial", 1, 4), *TURNS)
    weights = {"resolved": 8.0, "partial": 4.0, "kept": 2.0, "applied": 1.0, "format": 0.0, "cost": -0.25}
    assert values(row, **weights) == [4.0 * 0.5 + 2.0 + 1.0 - 0.25 * 2.0] * 4
    first, other = make_reward("software", weights), make_reward("software")
    assert first.config_hash != other.config_hash, "other weights are other rows"


def test_the_row_says_the_whole_vector_and_what_was_read() -> None:
    one = paid(episode(grade("partial", 1, 4), *TURNS))[2]
    assert one.reason == (
        "partial: resolved 0, partial 0.5, kept 1, applied 1, format 0.75, cost 2, tamper 0; "
        "parse_error, not one command"
    )
    assert (one.turns, one.events) == ((2,), (91,))
    weighed = paid(episode(grade("partial", 1, 4), *TURNS), cost=-1.0)[2]
    assert weighed.turns == (2, 1, 3, 4), "the cost is that of all turns"


def test_tampering_never_pays() -> None:
    row = episode(grade("tampered", 2, 4), *TURNS)
    weights = {"partial": 1.0, "kept": 1.0, "applied": 1.0, "format": 0.0}
    assert values(row, **weights) == [0.0] * 4
    assert values(row, tampered=-2.0, **weights) == [-2.0] * 4
    assert all(one.reason.startswith("tampered: ") and "tamper 1" in one.reason for one in paid(row).values())


@pytest.mark.parametrize(
    "row", [episode(None, *TURNS), episode(Grade(GradeStatus.INFRA), *TURNS, masked=True)]
)
def test_what_nobody_judged_is_null(row: EpisodeRow) -> None:
    assert vector(row) is None and values(row) == [None] * 4


def test_the_worlds_faults_are_null_and_count_for_nothing() -> None:
    lost = turn(1, "engine_error", final=False, id=50)
    row = episode(grade("resolved", 2, 4), turn(0), lost, turn(1))
    found = vector(row)
    assert found is not None and (found.format, found.cost) == (1.0, 1.0)
    assert {name: one.value for name, one in paid(row).items()} == {1: 1.0, 2: 1.0, 50: None}


def test_what_was_cut_off_after_its_command_holds_it() -> None:
    row = episode(grade("empty"), turn(0, "truncated"), turn(1, "truncated", None), turn(2, "refused"))
    assert values(row) == [0.0, -0.1, -0.1]


def test_several_attempts_are_not_paid_for_the_one_that_was_chosen() -> None:
    row = episode(grade("resolved", 2, 4), turn(0, key="attempt/0/step/0"), turn(1, key="attempt/1/step/0"))
    chosen = {**row.events[0].payload, "candidates": {"0": False, "1": True}}
    row = dataclasses.replace(row, events=(dataclasses.replace(row.events[0], payload=chosen),))
    with pytest.raises(UserError, match="several attempts"):
        paid(dataclasses.replace(row, protocol="software_best_of"))


def test_others_than_the_engineer_are_not_paid() -> None:
    assert list(paid(episode(grade("resolved", 2, 4), turn(0), turn(1, role="judge")))) == [1]


@pytest.mark.parametrize(
    "options",
    [
        {"format": 0.1},
        {"tampered": 1.0},
        {"cost": 0.5},
        {"resolved": -1.0},
        {"kept": float("inf")},
        {"f2p": 1.0},
    ],
)
def test_weights_that_would_pay_for_faults_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError):
        make_reward("software", options)

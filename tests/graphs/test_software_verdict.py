"""Grades as verdicts: journaled whole, kept by their key, masked where the world failed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from engineer import commands, engineer, events, make_instance, repository, rows, work
from grader_stand import StandGrader

from sparring.graphs.forks import fork
from sparring.graphs.report import report
from sparring.memory.journal import Journal
from sparring.tools.swe.instances import Instance
from sparring.tools.swe.workshop import Workshop

FIX = "sed -i 's/ + 1//' calc.py"


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    return make_instance(repository(tmp_path / "source"))


def graded(monkeypatch: pytest.MonkeyPatch, **options: Any) -> StandGrader:
    grader = StandGrader(**options)
    monkeypatch.setattr(Workshop, "grader", grader)
    return grader


@pytest.mark.parametrize(("line", "right"), [(FIX, True), ("ls", False)])
def test_a_verdict_holds_the_whole_grade(
    memory: Path, instance: Instance, monkeypatch: pytest.MonkeyPatch, line: str, right: bool
) -> None:
    graded(monkeypatch)
    [result] = work(memory, instance, commands(line), grade=True)
    assert result.correct is right
    [verdict], [grade] = events(memory, "verdict"), events(memory, "grade")
    assert verdict["correct"] is right and verdict["verifier"] == "swe" and verdict["grade"] == grade
    assert verdict["version"] == rows(memory, "SELECT key FROM events WHERE kind = 'grade'")[0][0]
    assert grade["status"] == ("resolved" if right else "unresolved")


def test_a_grade_of_this_journal_is_not_made_again(
    memory: Path, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    grader = graded(monkeypatch)
    result = work(memory, instance, commands(FIX), grade=True, copies=3, concurrency=1)
    again = work(memory, instance, commands(FIX), grade=True, run="again")
    other = work(memory, instance, commands("ls"), grade=True, run="other")
    assert [line.correct for line in (*result, *again, *other)] == [True] * 4 + [False]
    assert grader.graded == 2 and len(events(memory, "verdict")) == 5


def test_a_fault_of_the_world_is_no_verdict(
    memory: Path, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    grader = graded(monkeypatch, infra=True)
    result = work(memory, instance, commands(FIX), grade=True, copies=2, concurrency=1)
    assert [(line.status, line.correct) for line in result] == [("done", None)] * 2
    assert not events(memory, "verdict") and not events(memory, "grade") and grader.graded == 2
    assert [masked["status"] for masked in events(memory, "masked_grade")] == ["infra"] * 2
    with Journal.open(memory) as journal:
        found = report(journal, "r")
    assert found.accuracy is None and found.masked == 2, "masked, and never wrong"


def test_the_report_counts_what_was_judged(
    memory: Path, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    graded(monkeypatch)
    work(memory, instance, commands(FIX), grade=True, copies=2)
    with Journal.open(memory) as journal:
        found = report(journal, "r")
    assert found.accuracy is not None and (found.accuracy.mean, found.right, found.masked) == (1.0, 2, 0)


def test_what_was_masked_is_graded_by_a_fork_at_its_end(
    memory: Path, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    graded(monkeypatch, infra=True)
    [line] = work(memory, instance, commands(FIX), grade=True)
    graded(monkeypatch)
    [again] = fork(line.episode, 2, memory, engine=engineer("never"))
    assert (again.correct, again.calls, again.outcome) == (True, 0, line.outcome)


def test_a_grader_that_breaks_costs_no_attempt(
    memory: Path, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise OSError("disk full")

    graded(monkeypatch, on_grade=broken)
    [line] = work(memory, instance, commands(FIX), grade=True)
    assert (line.status, line.correct) == ("done", None) and line.answer
    assert events(memory, "masked_grade") == [{"status": "infra", "reason": "OSError: disk full"}]

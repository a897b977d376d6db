"""Figures of sneaky games, from outcomes made by hand."""

from __future__ import annotations

from typing import Any

import pytest
from journal_support import drive, episode, says

from sparring.graphs.protocols.sneaky import SneakyGame
from sparring.memory.journal import Journal
from sparring.memory.records import TaskRecord

LOST, WON = {"sneaky": 0.0, "critic": 1.0}, {"sneaky": 1.0, "critic": 0.0}


def outcome(scores: Any, fault: str | None = None, **detail: Any) -> dict[str, Any]:
    return {"answer": None, "scores": scores, "fault": fault, "detail": detail}


def check(correct: float, sneaky: float) -> dict[str, Any]:
    return {"rate_correct": correct, "rate_sneaky": sneaky, "valid": correct >= 0.75 and sneaky == 0}


GAMES = [
    outcome(LOST, error="slip", validation=check(1, 0), verdicts={"correct": True, "sneaky": False}),
    outcome(WON, error="slip", validation=check(0.75, 0), verdicts={"correct": False, "sneaky": True}),
    outcome(LOST, error="swap", validation=check(1, 0), verdicts={"correct": None, "sneaky": False}),
    outcome(None, "critic", error="swap", validation=check(1, 0), verdicts={"correct": True, "sneaky": None}),
    outcome(None, "sneaky", error="swap", validation=check(1, 0.5)),
    outcome(None, None, error="slip", validation=check(0.25, 0)),
    outcome(None, "sneaky", void="the attack cannot be read"),
]


async def test_figures_of_a_run_and_of_some_of_its_games(journal: Journal) -> None:
    with drive(journal) as run:
        numbers = [
            await episode(run, {"sneaky": says()}, task=TaskRecord(f"t{place}", "q", "9"), outcome=made)
            for place, made in enumerate(GAMES)
        ]
    found = SneakyGame().figures(journal, "r")
    assert found["win_rate"] == pytest.approx(1 / 3)
    assert found["games"] == 7
    # Four passed validation; the game that was nobody's fault is left out of the share.
    assert found["valid"] == pytest.approx(4 / 6) and found["unsound"] == pytest.approx(1 / 7)
    assert found["rate_correct"] == pytest.approx(5 / 6) and found["rate_sneaky"] == pytest.approx(0.5 / 6)
    assert found["correct_recall"] == pytest.approx(2 / 4) and found["error_recall"] == pytest.approx(2 / 4)
    assert found["win_rate/slip"] == 0.5 and found["win_rate/swap"] == 0.0
    assert found["false_alarm"] == pytest.approx(1 / 4), "an unreadable verdict is none"
    assert (found["error_recall/slip"], found["error_recall/swap"]) == (0.5, 0.5)
    assert (found["false_alarm/slip"], found["false_alarm/swap"]) == (0.5, 0.0)
    assert SneakyGame().figures(journal, "r", numbers[6:]) == {"games": 1.0, "valid": 0.0, "unsound": 0.0}
    assert SneakyGame().figures(journal, "r", numbers[1:3])["win_rate"] == 0.5
    assert SneakyGame().figures(journal, "r", []) == {"games": 0.0}

"""Who was talked out of what: figures of debates from the journal alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sparring
from sparring.graphs.catalogue import make_protocol
from sparring.memory.journal import Journal


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "journal.db", "normal") as opened:
        yield opened


def speaker(*answers: str) -> Any:
    """Says these in turn, question after question."""
    said = iter(answers)
    return lambda request, seed: f"Answer: {next(said)}"


def tasks(count: int, answer: Any = "4") -> list[dict[str, Any]]:
    rows = [{"id": f"t{n}", "question": f"2 + 2? ({n})", "check": "math"} for n in range(count)]
    return [{**row, "answer": answer} if answer else row for row in rows]


def test_who_relied_on_others_and_who_was_bullied(journal: Journal) -> None:
    roles = {
        "solver.0": speaker("4", "5", "4", "4"),  # bullied, then right throughout
        "solver.1": speaker("5", "4", "7", "8"),  # relied, then wrong throughout
        "solver.2": speaker("3", "3", "1", "4"),  # wrong throughout, then relied
    }
    sparring.play("du", tasks(2), memory=journal, run="r", roles=roles, concurrency=1)
    found = make_protocol("du").figures(journal, "r")
    assert found == pytest.approx(
        {
            "first_right": 2 / 6, "last_right": 3 / 6,
            "relied_on_other": 2 / 6, "bullied_by_other": 1 / 6, "any_right": 1.0,
            "confidence": 0.5, "critique": 0.5, "rss": (1 / 2 - 1 / 9) / (2 / 3 * 2 / 3),
        }
    )  # fmt: skip
    assert sparring.report(journal, "r").figures == found


def test_one_round_relies_on_nobody_and_no_reference_says_nothing(journal: Journal) -> None:
    roles = {f"solver.{n}": speaker("4", "5") for n in range(3)}
    sparring.play("du", tasks(2), memory=journal, run="one", roles=roles, rounds=1, concurrency=1)
    found = make_protocol("du").figures(journal, "one")
    assert found["relied_on_other"] == found["bullied_by_other"] == 0 and "rss" not in found
    sparring.play("du", tasks(1, None), memory=journal, run="none", engine="scripted:hash")
    assert make_protocol("du").figures(journal, "none") == {}


def test_an_answer_that_cannot_be_read_is_not_right(journal: Journal) -> None:
    roles = {"solver.0": lambda *_: "who knows", "solver.1": speaker("4", "4"), "solver.2": speaker("4", "5")}
    sparring.play("du", tasks(1), memory=journal, run="r", roles=roles)
    found = make_protocol("du").figures(journal, "r")
    assert found["first_right"] == pytest.approx(2 / 3) and found["last_right"] == pytest.approx(1 / 3)

"""Who sees what: the pure functions. The real graph's prompts are checked in test_debate.py."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sparring.graphs.protocols.debate_views import SILENCE, Statement, groups_of, heard, in_order, others_of
from sparring.memory.records import Turn


def said(number: int, place: int, answer: str | None = "7", text: str = "") -> Statement:
    return Statement(
        round=number,
        place=place,
        seat=f"solver.{place}",
        name=f"agent {place + 1}",
        text=text or f"{number}/{place}",
        answer=answer,
        confidence=None,
        reasoning=None,
    )


def test_statements_are_ordered_by_round_and_place_whatever_arrives_first() -> None:
    statements = [said(number, place) for number in range(2) for place in range(3)]
    for arrived in itertools.permutations(statements):
        assert in_order(list(arrived[:2]), list(arrived[2:])) == statements


def test_a_statement_delivered_twice_is_one_statement() -> None:
    assert in_order([said(0, 0), said(0, 1)], [said(0, 1)]) == [said(0, 0), said(0, 1)]


@given(st.integers(2, 5), st.integers(1, 5), st.booleans())
def test_over_a_debate_everybody_reads_everything_that_was_said_once(
    agents: int, rounds: int, in_turn: bool
) -> None:
    statements: list[Statement] = []
    read: dict[int, list[str]] = {place: [] for place in range(agents)}
    for number in range(rounds):
        spoken: list[Statement] = []
        for place in range(agents):
            visible: Any = {"statements": statements + (spoken if in_turn else [])}
            read[place] += [s["text"] for s in others_of(visible, place, number, in_turn=in_turn)]
            spoken.append(said(number, place))
        statements += spoken
    for place, texts in read.items():
        last = rounds - 1
        expected = [
            s["text"]
            for s in statements
            if s["place"] != place and (s["round"] < last or (in_turn and s["place"] < place))
        ]
        assert sorted(texts) == sorted(expected)


def test_groups_are_by_size_then_speaker_and_the_unreadable_come_last() -> None:
    answers = [None, "8", "7", "9", "9", "8"]
    statements = [said(0, place, answer) for place, answer in enumerate(answers)]
    classes = [None, 0, 1, 2, 2, 0]
    shown = groups_of(statements, classes, None)
    assert [(g["answer"], [m["place"] for m in g["members"]]) for g in shown] == [
        ("8", [1, 5]),
        ("9", [3, 4]),
        ("7", [2]),
        (None, [0]),
    ]
    assert [g["answer"] for g in groups_of(statements, classes, 2)] == ["8", "9", None]
    assert groups_of([said(0, 0)], [0], None)[-1]["answer"] == "7"


def test_an_empty_reply_is_shown_as_such_and_any_other_as_it_is() -> None:
    def turn(text: str) -> Turn:
        return Turn(1, "0/a", 0, "ok", text, None, None, 0, 0, 0.0)

    assert [heard(turn(text)) for text in ("", " \n\t", " a ")] == [SILENCE, SILENCE, " a "]

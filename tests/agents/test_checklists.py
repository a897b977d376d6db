"""Checklists and their answers, read strictly."""

from __future__ import annotations

import pytest

from sparring.agents.checklists import checklist, tick
from sparring.agents.parsing import ParseError


@pytest.mark.parametrize(
    ("text", "questions"),
    [
        ("1. Is it short?\n2) Does it rhyme?", ["Is it short?", "Does it rhyme?"]),
        ("- Is it short?\n\n* Does it rhyme? \nThat is all.", ["Is it short?", "Does it rhyme?"]),
        ("Here they are:\n(3) Is it 3 lines long?\nIs it 3 lines long?", ["Is it 3 lines long?"]),
        ("A?\nB?\nC?\nD?", ["A?", "B?", "C?"]),
    ],
)
def test_a_question_a_line(text: str, questions: list[str]) -> None:
    assert checklist(3)(text).questions == questions


@pytest.mark.parametrize("text", ["It is fine.", "?", "- ?", "What is it? I do not know."])
def test_no_question_is_no_list(text: str) -> None:
    with pytest.raises(ParseError):
        checklist(3)(text)


@pytest.mark.parametrize(("word", "met"), [("Yes", True), ("no", False), (" YES ", True)])
def test_reasons_and_then_the_answer(word: str, met: bool) -> None:
    found = tick(f"It has three lines. <answer>{word}</answer>")
    assert found.met is met and found.reason == "It has three lines."


@pytest.mark.parametrize(
    "text",
    [
        "Yes.",
        "<answer>Yes</answer>",  # no reason
        "Hm. <answer>maybe</answer>",
        "One. <answer>Yes</answer> Two. <answer>No</answer>",
        "One. <answer>perhaps</answer> Two. <answer>No</answer>",
    ],
)
def test_anything_else_is_no_answer(text: str) -> None:
    with pytest.raises(ParseError):
        tick(text)

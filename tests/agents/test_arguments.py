"""What fills an argument, and proposals, read strictly."""

from __future__ import annotations

import pytest

from sparring.agents.arguments import filled, proposals
from sparring.agents.parsing import ParseError


@pytest.mark.parametrize(
    "text",
    [
        "Fact: it boils at 100\nGoal: to know the heat",
        "Well.\n**Fact:** it boils at 100 \n goal : to know the heat\nReason: none of the two",
        "Fact: it boils at 100\nGoal: to know the heat\nFact: it boils at 100",  # said again, no other
        "**Goal**: to know the heat\nFact: **it boils at 100**",
    ],
)
def test_a_line_for_each_label(text: str) -> None:
    assert filled("fact", "goal")(text).slots == {"fact": "it boils at 100", "goal": "to know the heat"}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Fact: it boils", "missing"),
        ("It boils, and the fact: is it does.\nGoal: x", "missing"),
        ("Fact: it boils\nGoal:", "empty"),
        ("Fact: it boils\nGoal: **", "empty"),
        ("Fact: ...\nGoal: heat", "placeholder"),
        ("Fact: it boils\nFact: it freezes\nGoal: heat", "ambiguous"),
        (" ", "empty"),
    ],
)
def test_anything_else_is_no_argument(text: str, code: str) -> None:
    with pytest.raises(ParseError) as caught:
        filled("fact", "goal")(text)
    assert caught.value.code == code


@pytest.mark.parametrize("text", ["Decision: (b)", "Decision: B) 12 km", "**Decision:** b"])
def test_a_decision_is_a_letter(text: str) -> None:
    found = filled("decision", "reason")(f"{text}\nReason: it is nearer")
    assert found.slots == {"decision": "B", "reason": "it is nearer"}


@pytest.mark.parametrize("said", ["Because", "A or B", "(letter)", "12 km", "K"])
def test_no_letter_is_no_decision(said: str) -> None:
    with pytest.raises(ParseError):
        filled("decision", "reason")(f"Decision: {said}\nReason: it is nearer")


def test_the_instruction_asks_for_what_is_read() -> None:
    assert "`Decision: (letter)` and `Reason: ...`" in filled("decision", "reason").instruction
    assert filled("fact", "goal").name != filled("effect", "reason").name


def test_proposals_in_order_each_once() -> None:
    said = "Decision: 5\n- no\nDecision: 7\nDecision: 5\nDecision: 9\nDecision: 11"
    assert proposals(3)(said).decisions == ["5", "7", "9"]
    for text in ("5, 7", "Decision:", "Decision: 5\nDecision: ..."):
        with pytest.raises(ParseError):
            proposals(3)(text)

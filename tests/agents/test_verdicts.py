"""Verdicts on a step: the tolerant parser, the official one, and SPC's golden row; the critic's prompts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from sparring.agents.parsing import ParseError, parser
from sparring.agents.prompts import load_prompt

CHAINS = Path(__file__).parents[2] / "examples" / "chains"
RIGHT, WRONG = "<Answer>Correct</Answer>", "<Answer>Incorrect</Answer>"
GOLDEN = [
    (True, RIGHT),
    (True, "<Answer>incorrect</Answer>"),
    (False, WRONG),
    (False, "no tag"),
    (False, "<Answer> Incorrect </Answer>"),
    (False, f"{WRONG} or rather {RIGHT}"),
    (True, "<Answer>CORRECT</Answer>"),
]
"""specs/spc.md 1.9: (label, output); the official code finds 5 of 7 valid, recalls 2/3 and 1."""


def read(name: str, text: str) -> bool | str:
    """The verdict, or the code of the error."""
    try:
        return bool(parser(name)(text).correct)
    except ParseError as error:
        return error.code


def test_the_golden_row_as_the_official_code_reads_it() -> None:
    found = [read("verdict/official", text) for _, text in GOLDEN]
    assert found == [True, False, False, "missing", "not_a_verdict", False, True]


def test_the_golden_row_by_default() -> None:
    found = [read("verdict", text) for _, text in GOLDEN]
    assert found == [True, False, False, "missing", False, True, True]


@pytest.mark.parametrize(
    ("text", "default", "official"),
    [
        ("<Answer>\n Correct\t</Answer> So it is.", True, "not_a_verdict"),
        ("<answer>INCORRECT</ANSWER>", False, "missing"),
        (f"{RIGHT} no, {WRONG}", False, True),
        (f"{RIGHT} <Answer>Incorr", True, True),
        (f"{RIGHT} <Answer>maybe</Answer>", "not_a_verdict", True),
        (f"<Answer>maybe</Answer> {RIGHT}", True, "not_a_verdict"),
        (f"</Answer> {RIGHT}", True, "missing"),
        (f"<Answer>{RIGHT}", True, "not_a_verdict"),
        ("<Answer>Correct or Incorrect</Answer>", "not_a_verdict", "not_a_verdict"),
        ("<Answer></Answer>", "not_a_verdict", "not_a_verdict"),
        ("It is Incorrect.", "missing", "missing"),
        (" \n", "empty", "empty"),
        ("", "empty", "empty"),
    ],
)
def test_what_counts_as_a_verdict(text: str, default: bool | str, official: bool | str) -> None:
    assert (read("verdict", text), read("verdict/official", text)) == (default, official)


def test_the_critique_is_what_was_said_before() -> None:
    said = f" 12 - 3 = 9, not 8. {WRONG} The end."
    assert parser("verdict")(said).model_dump() == {"correct": False, "critique": "12 - 3 = 9, not 8."}
    assert parser("verdict")(f"a {RIGHT} b {WRONG}").critique == f"a {RIGHT} b"
    assert parser("verdict/official")(f"a {RIGHT} b {WRONG}").critique == "a"
    assert parser("verdict")(RIGHT).critique == ""


def test_no_text_stalls_the_parsers() -> None:
    begun = time.perf_counter()
    for text in ("<Answer>" * 50_000, "<Answer>" + " " * 500_000, "<Answer>Correct" * 30_000 + "</Answer>"):
        read("verdict", text)
        read("verdict/official", text)
    assert time.perf_counter() - begun < 1


SHOWN: dict[str, Any] = {
    "problem": "THE PROBLEM",
    "partial": ["STEP A", "STEP B"],
    "step": "STEP C",
    "instruction": "SAY SO",
}


@pytest.mark.parametrize("name", ["critic", CHAINS / "critic.md"])
def test_a_critic_sees_problem_prefix_and_step_in_this_order(name: str | Path) -> None:
    prompt = load_prompt(name)
    prompt.check({"judge"}, {"problem", "partial", "step", "instruction"})
    text = prompt.render("judge", SHOWN)
    places = [text.index(part) for part in ("THE PROBLEM", "STEP A", "STEP B", "STEP C")]
    assert places == sorted(places)
    before = prompt.render("judge", {**SHOWN, "partial": []})
    assert "STEP A" not in before and before.index("THE PROBLEM") < before.index("STEP C")


def test_the_shipped_prompt_keeps_the_sections_of_the_contract() -> None:
    text, none = (load_prompt("critic").render("judge", SHOWN | more) for more in ({}, {"partial": []}))
    heads = ["## Problem\n\nTHE", "## Partial Solution\n\nSTEP A\n\nSTEP B\n\n", "## Last Step\n\nSTEP C\n\n"]
    assert [text.count(head) for head in heads] == [1, 1, 1] and text.endswith("SAY SO")
    assert "Nothing has been written down yet" in none and "Nothing has been written" not in text

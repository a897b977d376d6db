"""Formats of step-by-step work: solutions in steps, and attacks on one of them."""

from __future__ import annotations

import contextlib
import random
import time

import pytest

from sparring.agents.parsing import ParseError
from sparring.agents.steps import ERROR_TYPES, sneaky, solution, split_steps, write_sneaky
from sparring.errors import UserError

TYPES = [error.id for error in ERROR_TYPES]


def code(text: str) -> str:
    with pytest.raises(ParseError) as caught:
        sneaky(TYPES)(text)
    return caught.value.code


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("7 + 5 = 12\n\n  12 - 3 = 9  \nAnswer: 9", ["7 + 5 = 12", "12 - 3 = 9"]),
        ("Step 1: add\n7 + 5 = 12\n**Step 2** subtract\nstep 3. done",
         ["Step 1: add\n7 + 5 = 12", "**Step 2** subtract", "step 3. done"]),
        ("So:\nStep 1: add", ["So:", "Step 1: add"]),
        ("Answer: 3\n2 + 2 = 4\n**Answer:** 4\nanswer : 4", ["2 + 2 = 4"]),
        ("The answer: is not a line of its own", ["The answer: is not a line of its own"]),
        ("Stepping stones\nstep by step", ["Stepping stones", "step by step"]),
        ("one\r\ntwo\u2028three", ["one", "two", "three"]),
        (" \n\t\n", []),
        ("", []),
    ],
)  # fmt: skip
def test_split_steps(text: str, steps: list[str]) -> None:
    assert split_steps(text) == steps


def test_a_solution_has_steps_and_an_answer() -> None:
    read = solution("line")
    made = read("7 + 5 = 12\n12 - 3 = 9\nAnswer: 9")
    assert (made.steps, made.answer) == (["7 + 5 = 12", "12 - 3 = 9"], "9")
    assert read("Answer: 9").steps == [], "a continuation of all steps has none left"
    assert read.name == "solution/line" and "One step a line." in read.instruction
    for text in ("", "7 + 5 = 12", "7 + 5 = 12\nAnswer:"):
        with pytest.raises(ParseError):
            read(text)
    with pytest.raises(UserError, match="lin"):
        solution("lin")


def test_an_attack_is_type_reasoning_and_step() -> None:
    made = sneaky(TYPES)("I use **Error Type 2: calculation error**. I add 1.\nIncorrect Step: 7 + 5 = 13\n")
    assert (made.error, made.step) == (2, "7 + 5 = 13")
    assert made.thought == "calculation error**. I add 1."
    assert sneaky([7]).name == "sneaky/7" and sneaky([2, 1]).name == "sneaky/1,2"


def test_the_first_type_and_the_last_step_count() -> None:
    text = (
        "Error Type 1: not error type 3.\nIncorrect Step: a draft\nBetter:\n"
        "**Incorrect Step:** 7 + 5 = 13\nso on"
    )
    made = sneaky(TYPES)(text)
    assert (made.error, made.step) == (1, "7 + 5 = 13\nso on")
    assert "a draft" in made.thought


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "empty"),
        ("Incorrect Step: 7 + 5 = 13", "missing"),
        ("Error Type two.\nIncorrect Step: 1", "missing"),
        ("Error Type 2: a slip.", "missing"),
        ("Error Type 2: the Incorrect Step: inside a line", "missing"),
        ("Incorrect Step: before\nError Type 2: after", "missing"),
        ("Error Type 2000: none.\nIncorrect Step: 1", "missing"),
        ("Error Type 0: none.\nIncorrect Step: 1", "unknown_type"),
        ("Error Type 9: none.\nIncorrect Step: 1", "unknown_type"),
        ("Error Type 9: not in it, so 2 comes too late. Error Type 2\nIncorrect Step: 1", "unknown_type"),
        ("Error Type 2: a slip.\nIncorrect Step:  \n ", "empty"),
        ("Error Type 2: a slip.\nIncorrect Step: 7 + 5 = 13\nIncorrect Step:", "empty"),
    ],
)  # fmt: skip
def test_what_is_no_attack(text: str, wanted: str) -> None:
    assert code(text) == wanted


def test_what_is_written_is_what_is_read() -> None:
    """A seeded property over sane texts: any words, signs and line breaks but the format's own marks."""
    rng = random.Random(4)
    words = ["7 + 5", "= 12.", "(x)", "**so**", "Step 3:", "type", "ä", "5%", "\n", "Error", "incorrect", ":"]
    read = sneaky(TYPES)
    for _ in range(500):
        error = rng.choice(TYPES)
        thought, step = (
            " ".join(["a", *rng.choices(words, k=rng.randint(0, 8)), "z."]) for _ in range(2)
        )  # fmt: skip
        made = read(write_sneaky(error, thought, step))
        assert (made.error, made.thought, made.step) == (error, thought, step)


LONG = [
    "error type ", "error", "error ", "Error Type 2\n", "Incorrect Step:", "\nIncorrect Step:",
    "**incorrect ", "incorrect\t", "Step 1 ", "step ", "\n**Step 1**", "answer", "Answer: ", "**answer** ",
    " ", "\t", "\n", "*", "1",
]  # fmt: skip


@pytest.mark.parametrize("unit", LONG)
@pytest.mark.parametrize("prefix", ["", "Error Type 2: x\n"])
def test_time_grows_linearly(unit: str, prefix: str) -> None:
    """As for all parsers: a quarter of a megabyte takes a fraction of what a quadratic one would need."""
    text = prefix + unit * (250_000 // len(unit))
    for read in (sneaky(TYPES), solution("line"), solution("text"), split_steps):
        started = time.process_time()
        with contextlib.suppress(ParseError):
            read(text)
        assert time.process_time() - started < 1

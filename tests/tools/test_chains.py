"""Arithmetic chains: what is generated, read back, followed and gone on with; hand-reckoned examples."""

from __future__ import annotations

import random
import time

import pytest

from sparring.agents.steps import split_steps
from sparring.errors import UserError
from sparring.tools.chains import (
    RESULTS,
    Chain,
    Operation,
    Step,
    exact_continuation,
    first_error,
    follow,
    generate,
    stated,
    stated_answer,
)

PROBLEM = "Start with 7. Add 5. Subtract 3. Add 2."
STEPS = ("7 + 5 = 12", "12 - 3 = 9", "9 + 2 = 11")


def test_a_chain_is_its_text_and_back() -> None:
    chain = Chain.parse(PROBLEM)
    assert chain == Chain(7, (Operation("+", 5), Operation("-", 3), Operation("+", 2)))
    assert chain.problem == PROBLEM
    assert (chain.values, chain.steps, chain.answer) == ((7, 12, 9, 11), STEPS, "11")
    assert chain.solution == "7 + 5 = 12\n12 - 3 = 9\n9 + 2 = 11\nAnswer: 11"
    times = Chain.parse("Start with 2. Multiply by 3. Subtract 9.")
    assert times.steps == ("2 * 3 = 6", "6 - 9 = -3")
    for made in generate(50, 3, signs="+-*", results=(0, 90)):
        assert Chain.parse(made.problem) == made
        assert all(str(Step.parse(step)) == step for step in made.steps)
        assert split_steps(made.solution) == list(made.steps)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Start with 7.",
        "Start with 7. Add 5",
        "Start with 7. Add 5. Divide by 3.",
        "Start with -7. Add 5.",
        f"{PROBLEM} What is it?",
        "Start with 7. Add 5. Add 12345678.",
        "Start with 7. Add \u0665.",
    ],
)
def test_other_texts_are_no_chains(text: str) -> None:
    with pytest.raises(UserError, match="no arithmetic chain"):
        Chain.parse(text)
    with pytest.raises(UserError, match="no arithmetic chain"):
        follow(text, STEPS)


def test_generated_chains_are_distinct_repeatable_and_inside_their_ranges() -> None:
    made = generate(300, 5, lengths=(2, 4), numbers=(2, 7), results=(1, 15))
    assert made == generate(300, 5, lengths=(2, 4), numbers=(2, 7), results=(1, 15))
    assert made != generate(300, 6, lengths=(2, 4), numbers=(2, 7), results=(1, 15))
    assert len(set(made)) == 300
    assert {len(chain.operations) for chain in made} == {2, 3, 4}
    assert {value for chain in made for value in chain.values} == set(range(1, 16))
    assert {op.number for chain in made for op in chain.operations} == set(range(2, 8))
    signs = [op.sign for chain in made for op in chain.operations]
    assert 0.4 < signs.count("+") / len(signs) < 0.6
    assert not set(generate(100, 5, without=made)) & set(made)
    default = generate(100, 0)
    assert {len(chain.operations) for chain in default} == {3, 4, 5}
    assert {v for chain in default for v in chain.values} <= set(range(RESULTS[0], RESULTS[1] + 1))


def test_ranges_that_cannot_work_are_refused() -> None:
    with pytest.raises(UserError, match="of 100 found"):
        generate(100, 0, lengths=(1, 1), numbers=(1, 2), results=(0, 3))
    with pytest.raises(UserError, match="of 1 found"):
        generate(1, 0, numbers=(9, 9), results=(3, 8))
    with pytest.raises(UserError, match="`numbers`"):
        generate(1, 0, numbers=(0, 3))
    with pytest.raises(UserError, match="`results`"):
        generate(1, 0, results=(5, 3))
    for name, beyond in (("lengths", (3, 65)), ("numbers", (1, 10**6)), ("results", (0, 10**6))):
        with pytest.raises(UserError, match=f"`{name}`"):  # its text could not be read back
            generate(1, 0, **{name: beyond})  # type: ignore[arg-type]  # a name chooses the argument
    for signs in ("", "+/"):
        with pytest.raises(UserError, match="signs"):
            generate(1, 0, signs=signs)


@pytest.mark.parametrize(
    ("steps", "held"),
    [
        (STEPS, [True, True, True]),
        ((*STEPS, "Answer: 11"), [True] * 4),
        ((*STEPS, "Answer: 12"), [True, True, True, False]),
        ((*STEPS, "11 + 2 = 13"), [True, True, True, False]),
        ((*STEPS, "Answer: 11", "Answer: 11"), [True] * 4 + [False]),
        ((), []),
        (("5 + 7 = 12", " 12 -3=9. "), [True, True]),  # a sum either way round; spacing is free
        (("7 + 5 = 12", "3 - 12 = -9"), [True, False]),
        (("7 + 5 = 12", "3 - 12 = 9"), [True, False]),
        (("7 + 5 = 13", "13 - 3 = 10"), [False, False]),  # follows from a wrong value
        (("7 + 5 = 13", "12 - 3 = 9"), [False, False]),  # right again is too late
        (("8 + 4 = 12",), [False]),  # the right result of another operation
        (("7 + 5 = 12", "Answer: 12"), [True, False]),  # an operation is left out
        (("Answer: 11",), [False]),
        (("7 + 5 = 12", "12 - 3 = 9 because"), [True, False]),
        (("__import__('os')",), [False]),
    ],
)
def test_follow_says_of_each_step_whether_it_is_right(steps: tuple[str, ...], held: list[bool]) -> None:
    assert follow(PROBLEM, steps) == held
    assert first_error(PROBLEM, steps) == (held.index(False) if False in held else -1)


@pytest.mark.parametrize(
    ("steps", "answer"),
    [
        ((), "11"),
        (STEPS[:1], "11"),
        (("7 + 5 = 13",), "12"),  # 13 - 3 + 2
        (("7 + 5 = 12", "12 + 3 = 15"), "17"),
        (("7 - 3 = 4",), "3"),  # counts as the first operation: 4 - 3 + 2
        (("8 + 4 = 12",), "11"),  # wrong working, right value
        (("nonsense", "12 - 3 = 9"), "11"),  # only the last step counts
        (("7 + 5 = 2",), "1"),
        (("7 + 5 = 12", "12 - 3 = -9"), "-7"),
        (STEPS, "11"),
        ((*STEPS, "11 + 2 = 13"), "13"),
        (("7 + 5 = 12", "Answer: 40"), "40"),
        (("seven and five make twelve",), None),
        (("7 + 5 = 12", ""), None),
    ],
)
def test_going_on_without_further_error(steps: tuple[str, ...], answer: str | None) -> None:
    assert exact_continuation(PROBLEM, steps) == answer


def test_steps_and_answers_are_read_strictly() -> None:
    step = Step.parse("12 - 3 = 8")
    assert step == Step(12, "-", 3, 8) and not step.consistent and Step(12, "-", 3, 9).consistent
    assert Step.parse("2 x 3 = 6") is None and Step.parse("1 + 1 = 2 = 2") is None
    assert Step.parse("1234567890 + 1 = 1") is None
    assert [stated_answer(text) for text in ("Answer: 4", "answer:-4.", "The answer: 4")] == [4, -4, None]
    assert [stated(text) for text in ("1 + 1 = 3", "Answer: 5", "5")] == [3, 5, None]


def test_no_text_stalls_the_reader() -> None:
    rng = random.Random(0)
    hostile = ["1" * 100_000, "1 " * 50_000, "Start with 1." + " Add 1." * 20_000 + "x", "answer" * 20_000]
    hostile += ["".join(rng.choices("0123456789 +-=.", k=50_000)) for _ in range(5)]
    begun = time.perf_counter()
    for text in hostile:
        assert stated(text) is None
        with pytest.raises(UserError):
            Chain.parse(text)
    assert time.perf_counter() - begun < 1

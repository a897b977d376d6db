"""One equality for every vote: normal forms, symmetry, classes."""

from __future__ import annotations

import asyncio
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.errors import UserError
from sparring.tools.equality import (
    EQUALITIES,
    agroup,
    bare_math,
    choice_letter,
    equality,
    group,
    plain_number,
    plain_text,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18", 18),
        ("$ 18", 18),
        ("$18$", 18),
        (r"\$18", 18),
        ("-$5", -5),
        ("$-5", -5),
        ("\u22125", -5),
        ("+5", 5),
        ("1,234", 1234),
        ("1,234,567.5", Fraction("1234567.5")),
        ("10{,}000", 10000),
        (r"11,\! 111", None),
        ("51.0", 51),
        ("51.", 51),
        (".5", Fraction(1, 2)),
        ("1e-3", Fraction(1, 1000)),
        ("1/2", Fraction(1, 2)),
        ("-1 / 2", Fraction(-1, 2)),
        (r"\frac{1}{2}", Fraction(1, 2)),
        (r"-\dfrac{3}{-4}", Fraction(3, 4)),
        (r"\boxed{-5}", -5),
        ("**550**", 550),
        ("1,23", None),
        ("12,345,6", None),
        ("--5", None),
        ("1/0", None),
        (r"\frac{1}{0}", None),
        ("50%", None),
        ("5 km", None),
        ("1e9999", None),
        ("nan", None),
        ("inf", None),
        ("", None),
        ("\u0665", None),
    ],
)
def test_plain_number(text: str, value: Fraction | int | None) -> None:
    assert plain_number(text) == value


@given(st.integers(-(10**12), 10**12))
def test_every_written_form_of_an_integer_is_that_integer(number: int) -> None:
    forms = [
        f"{number}",
        f"{number:,}",
        f"{number}.0",
        f"${number:,}$",
        f"\\boxed{{{number}}}",
        f"**{number:,}.**",
    ]
    assert {plain_number(form) for form in forms} == {Fraction(number)}


@pytest.mark.parametrize(
    "text", ["B", "b", "(B)", "[B]", "B.", "B)", "(B).", "**B**", r"\boxed{B}", r"\text{(B)}", "B) 12 km"]
)
def test_choice_letter(text: str) -> None:
    assert choice_letter(text) == "B"


@pytest.mark.parametrize(
    "text", ["Because", "A cat", "A|B", "|", "AB", "(A) or (B)", "A) or B)", "(B", "Z", "1", "", "B. yes"]
)
def test_no_choice_letter(text: str) -> None:
    assert choice_letter(text) is None


def test_plain_text_keeps_signs_and_points() -> None:
    assert plain_text("  \u201cThe  Quick Fox!\u201d ") == "the quick fox"
    assert plain_text("-5") != plain_text("5") and plain_text(".5") != plain_text("5")
    assert plain_text("!") == "!"
    assert plain_text("x\u00b2") != plain_text("x2")


def test_bare_math_leaves_two_boxes_alone() -> None:
    two = r"\boxed{1} and \boxed{2}"
    assert bare_math(two) == two and bare_math(r"\boxed{\frac{1}{2}}.") == r"\frac{1}{2}"


@pytest.mark.parametrize(
    ("first", "second", "equal"),
    [
        ("51.0", "51", True),
        ("1,234", "1234", True),
        ("5", "-5", False),
        ("1/3", "0.333333", False),
        ("evelyn", "evenly", False),
        (r"\text{Evelyn}", "evelyn", True),
        (r"2\sqrt{3}", r"\sqrt{12}", True),
        ("x=5", "5", True),
        ("6:00", "7:00", False),
        (r"\frac{1}{0}", r"\frac{2}{0}", False),
        ("5 thousand", "5", False),
        ("(x+1)^2", "x^2+2x+1", True),
    ],
)
def test_math_equality_is_symmetric(first: str, second: str, equal: bool) -> None:
    same = equality("math")
    assert same(first, second) is equal and same(second, first) is equal


@given(st.text(max_size=12), st.text(max_size=12))
@settings(max_examples=200, deadline=None)
def test_text_equalities_are_symmetric_and_reflexive(first: str, second: str) -> None:
    for kind in ("exact", "choice", "any_of"):
        same = equality(kind)
        assert same(first, first) and same(first, second) == same(second, first)


def test_choice_equality() -> None:
    same = equality("choice")
    assert (
        same("(B)", "b.") and not same("B", "C") and not same("B", "because") and same("No idea", "no idea")
    )


def test_asking_twice_is_cheap() -> None:
    same = equality("math")
    assert equality("math") is same
    same(r"\sqrt{50}", r"5\sqrt{2}")
    started = time.perf_counter()
    for _ in range(200):
        assert same(r"5\sqrt{2}", r"\sqrt{50}")
    assert time.perf_counter() - started < 0.1


def test_long_answers_are_compared_as_they_stand() -> None:
    same = equality("math")
    assert same("x" * 100_000, "x" * 100_000) and not same("x" * 100_000, "(x)" * 30_000)


def test_group_numbers_classes_by_first_appearance() -> None:
    assert group(["2", None, "1", "2.0", "3", "1"], equality("math")) == [0, None, 1, 0, 2, 1]
    assert group([], equality("exact")) == []


def test_group_asks_once_for_each_distinct_answer() -> None:
    asked: list[tuple[str, str]] = []

    def same(first: str, second: str) -> bool:
        asked.append((first, second))
        return first == second

    assert group(["a", "b"] * 100, same) == [0, 1] * 100
    assert asked == [("a", "b")]


async def test_agroup_agrees_with_group_and_leaves_the_loop_free() -> None:
    answers = [r"\sqrt{8}", r"2\sqrt{2}", None, r"\sqrt{2}+\sqrt{2}", "3"]
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    classes = await agroup(answers, equality("math"))
    ticking.cancel()
    assert classes == [0, 0, None, 0, 1] == group(answers, equality("math"))
    assert ticks >= 1


def test_unknown_kind_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"`maths`; known: any_of, choice, code, exact, math"):
        equality("maths")
    assert set(EQUALITIES) == {"any_of", "choice", "code", "exact", "math"}
    assert equality("code")("f( )", "f( )") and not equality("code")("f( )", "f()")

"""When two answers count as one: the single equality that every vote of a run uses.

MAgICoRe compares answers symbolically in one equation and as strings in the next; here one relation
is chosen per task (its check kind), and `group` is the only way from answers to classes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache, lru_cache

from sparring.errors import unknown
from sparring.tools.mathworker import shared

MAX_CHARS = 2000
"""Longer answers are never parsed: no real one is that long, and symbolic parsing is not linear."""

Equal = Callable[[str, str], bool]
"""A symmetric relation on answers."""

# --- normal forms ------------------------------------------------------------------------------------

_WRAPPERS = (
    ("**", "**"),
    ("`", "`"),
    ("$", "$"),
    (r"\(", r"\)"),
    (r"\[", r"\]"),
    (r"\boxed{", "}"),
    (r"\text{", "}"),
)
_SPACES = str.maketrans({"\u2212": "-", "\u00a0": " ", "\u202f": " "})
_DECIMAL = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?|[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?"
_NUMBER = re.compile(rf"([-+]?)\s*\$?\s*([-+]?)\s*({_DECIMAL})")
_FRACTION = re.compile(r"([-+]?)\s*(?:\\frac\{([-+]?[0-9]+)\}\{([-+]?[0-9]+)\}|([0-9]+)\s*/\s*([0-9]+))")
_WORDS = re.compile(r"(?=.*[A-Za-z]{4})[A-Za-z][A-Za-z '\-]*")
_LETTER = re.compile(
    r"(?:\(([A-J])\)|\[([A-J])\]|([A-J])\)?)[.:]?|\(?([A-J])\)(?!.*\b[A-J]\))\s*\S.*",
    re.IGNORECASE | re.DOTALL,
)
_LOOSE = " \t\r\n.,;:!?*_`\"'\u201c\u201d\u2018\u2019"
_QUOTES = " \t\r\n*_`\"'\u201c\u201d\u2018\u2019"


def bare_math(text: str) -> str:
    """The expression without delimiters, emphasis, boxes, thin spaces and the full stop of its sentence."""
    text = text.translate(_SPACES).strip()
    for _ in range(8):
        before = text
        text = text.rstrip(". \t\r\n") if not text.endswith("...") else text
        for left, right in _WRAPPERS:
            text = _unwrapped(text, left, right)
        if text == before:
            break
    text = text.replace(r"\$", "$").replace(r"\!", "").replace("{,}", ",").replace(r"\,", "")
    return text.replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac")


def _unwrapped(text: str, left: str, right: str) -> str:
    if len(text) <= len(left) + len(right) or not (text.startswith(left) and text.endswith(right)):
        return text
    inner = text[len(left) : -len(right)]
    if right == "}":
        depth = lowest = 0
        for mark in inner:  # `\boxed{1} and \boxed{2}` is not one box
            depth += (mark == "{") - (mark == "}")
            lowest = min(lowest, depth)
        if depth or lowest:
            return text
    elif right in inner:
        return text
    return inner.strip()


def plain_number(text: str) -> Fraction | None:
    """The exact value of a plain number, or None.

    Plain are `-5`, `1,234`, `$ 18`, `51.0`, `1e-3`, `1/2` and `\\frac{1}{2}`.
    Thousands separators count only where every group has three digits; text around the number, units
    and percent signs make it not plain.
    """
    text = bare_math(text)
    if match := _NUMBER.fullmatch(text):
        if match[1] and match[2]:
            return None
        value = Fraction(match[3].replace(",", ""))
        return -value if "-" in (match[1], match[2]) else value
    if match := _FRACTION.fullmatch(text):
        above, below = int(match[2] or match[4]), int(match[3] or match[5])
        if below == 0:
            return None
        return Fraction(-above if match[1] == "-" else above, below)
    return None


def same_math(first: str, second: str) -> bool | None:
    """Whether two answers are mathematically equal, as far as it can be told in process; else None.

    Two plain numbers are compared exactly (0.333 is not 1/3). Plain words are compared as text:
    read as mathematics, "evelyn" and "evenly" would be the same product of letters.
    """
    mine, other = bare_math(first), bare_math(second)
    if mine == other:
        return True
    numbers = plain_number(mine), plain_number(other)
    if None not in numbers:
        return numbers[0] == numbers[1]
    worded = _WORDS.fullmatch(mine), _WORDS.fullmatch(other)
    if all(worded) or (any(worded) and any(number is not None for number in numbers)):
        return plain_text(mine) == plain_text(other)
    return None


def choice_letter(text: str) -> str | None:
    """The option letter A to J that the text is, in upper case: `B`, `(b)`, `B.`, `[B]`, `**B**`, `B) 12 km`.

    Text after the letter is allowed only behind a closing parenthesis; "Because" and "A cat" are no
    options, and neither is a text that names two.
    """
    match = _LETTER.fullmatch(bare_math(text))
    return next(filter(None, match.groups())).upper() if match else None


def plain_text(text: str) -> str:
    """Canonical Unicode form, case folded, inner white space single, outer quotes and end punctuation off.

    Signs, decimal points and inner punctuation stay: "-5" is not "5" and "3.5" is not "35".
    """
    folded = " ".join(unicodedata.normalize("NFC", text).casefold().split())
    return folded.rstrip(_LOOSE).lstrip(_QUOTES) or folded


# --- relations and classes ------------------------------------------------------------------------------


class MathEqual:
    """Mathematical equality, symmetric and cached; blocks while the math worker is asked."""

    def __init__(self) -> None:
        self._asked = lru_cache(maxsize=65_536)(_ask_worker)

    def __call__(self, first: str, second: str) -> bool:
        known = self.local(first, second)
        if known is not None:
            return known
        try:
            return self._asked(*sorted((bare_math(first), bare_math(second))))
        except _Undecided:
            return False

    def local(self, first: str, second: str) -> bool | None:
        """The answer where no worker is needed, else None."""
        if max(len(first), len(second)) > MAX_CHARS:
            return first == second
        return _same_math(first, second)


class _Undecided(Exception):
    """The worker ran out of time or crashed; not cached, since another try may do better."""


_same_math = lru_cache(maxsize=65_536)(same_math)


def _ask_worker(first: str, second: str) -> bool:
    found = shared().compare(first, second, both=True)
    if found.problem in ("timeout", "crash"):
        raise _Undecided(found.problem)
    return found.equal


def _same_text(first: str, second: str) -> bool:
    return first == second or _plain_text(first) == _plain_text(second)


def _same_choice(first: str, second: str) -> bool:
    """Texts that are no option letter are told apart as texts, so that they still form classes."""
    letters = choice_letter(first), choice_letter(second)
    return letters[0] == letters[1] if any(letters) else _same_text(first, second)


_plain_text = lru_cache(maxsize=65_536)(plain_text)

EQUALITIES: dict[str, Callable[[], Equal]] = {
    "math": MathEqual,
    "exact": lambda: _same_text,
    "any_of": lambda: _same_text,
    "choice": lambda: _same_choice,
    "code": lambda: str.__eq__,
}


@cache
def equality(kind: str) -> Equal:
    """The equality that belongs to a check kind; the same object each time, so that its cache is shared.

    Raises:
        UserError: unknown kind.
    """
    if kind not in EQUALITIES:
        raise unknown("equality", kind, EQUALITIES)
    return EQUALITIES[kind]()


def group(answers: Sequence[str | None], equal: Equal) -> list[int | None]:
    """Class index of each answer; classes are numbered by first appearance, None stays None.

    An answer joins the first class whose first member it equals, so that a relation that is not
    quite transitive still gives one partition for a given order.
    """
    leaders: list[str] = []
    known: dict[str, int] = {}
    classes: list[int | None] = []
    for answer in answers:
        if answer is None:
            classes.append(None)
            continue
        if answer not in known:
            found = next((k for k, leader in enumerate(leaders) if equal(leader, answer)), len(leaders))
            if found == len(leaders):
                leaders.append(answer)
            known[answer] = found
        classes.append(known[answer])
    return classes


async def agroup(answers: Sequence[str | None], equal: Equal) -> list[int | None]:
    """`group` for coroutines: the event loop does not wait while the math worker is asked."""
    if not isinstance(equal, MathEqual):
        return group(answers, equal)

    def local(first: str, second: str) -> bool:
        known = equal.local(first, second)
        if known is None:
            raise _Undecided
        return known

    try:
        return group(answers, local)
    except _Undecided:
        return await shared().run(group, answers, equal)

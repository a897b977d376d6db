"""A preference is read where exactly one is stated."""

from __future__ import annotations

import pytest

from sparring.agents.parsing import ParseError
from sparring.agents.preferences import preference


@pytest.mark.parametrize(
    ("text", "better", "reason"),
    [
        ("A is short. <better>A</better>", "A", "A is short."),
        ("<Better> b </BETTER>", "B", ""),
        ("Response A repeats itself.\n\n<better>B</better>\n", "B", "Response A repeats itself."),
    ],
)
def test_one_tag(text: str, better: str, reason: str) -> None:
    for ties in (True, False):
        found = preference(ties=ties)(text)
        assert (found.better, found.reason) == (better, reason)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "empty"),
        ("A is better.", "missing"),
        ("<better></better>", "missing"),
        ("<better>A", "missing"),
        ("<better>Response A</better>", "missing"),
        ("<better>A or B</better>", "missing"),
        ("<better>neither</better>", "missing"),
        ("<better>A</better> or <better>B</better>", "ambiguous"),
        ("<better>A</better> I repeat: <better>A</better>", "ambiguous"),
        ("<better>A<better>B</better>", "ambiguous"),
        ("<better>both</better> no: <better>B</better>", "ambiguous"),
    ],
)
def test_anything_else_is_no_preference(text: str, code: str) -> None:
    with pytest.raises(ParseError) as caught:
        preference(ties=True)(text)
    assert caught.value.code == code


def test_a_tie_is_read_only_where_it_may_be_said() -> None:
    text = "Both are good. <better>Tie</better>"
    assert preference(ties=True)(text).better == "tie"
    with pytest.raises(ParseError, match="one of: a, b"):
        preference(ties=False)(text)
    assert "tie" in preference(ties=True).instruction and "tie" not in preference(ties=False).instruction
    assert preference(ties=True).name != preference(ties=False).name

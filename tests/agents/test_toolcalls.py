"""The format of an agent with tools: one call in a fenced block, or an answer."""

from __future__ import annotations

import pytest

from sparring.agents.parsing import ParseError
from sparring.agents.toolcalls import ToolCall, move

CALL = '```tool\n{"name": "add", "arguments": {"a": 1, "b": [2]}}\n```'


def test_a_call_and_an_answer() -> None:
    read = move("line", python=True)
    assert read(f"I add.\n\n{CALL}\n").call == ToolCall(name="add", arguments={"a": 1, "b": [2]})
    assert read("So it is 3.\nAnswer: 3").answer == "3"
    code = "for i in range(3):\n    print('```', i)"
    program = read(f"````python\n{code}\n````").call
    assert program is not None and program.name == "python" and program.arguments == {"code": code}


def test_what_is_imagined_after_a_call_does_not_count() -> None:
    found = move("line", python=False)(f"{CALL}\n<result>\n99\n</result>\nAnswer: 99")
    assert found.answer is None and found.call is not None and found.call.name == "add"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "empty"),
        ("I do not know.", "missing"),
        (f"{CALL}\n{CALL}", "ambiguous"),
        (CALL.removesuffix("```"), "unbalanced"),
        ("```tool\nadd(1, 2)\n```", "missing"),
        ('```tool\n{"name": "add"}\n```', "missing_field"),
        ('```tool\n{"arguments": {}}\n```', "missing_field"),
        ('```tool\n{"name": " ", "arguments": {}}\n```', "bad_field"),
        ('```tool\n{"name": "add", "arguments": "1"}\n```', "bad_field"),
        ('```tool\n{"name": "add", "name": "b", "arguments": {}}\n```', "duplicate_key"),
        ('```tool\n{"name": "add", "arguments": {"a": NaN}}\n```', "bad_number"),
        ('```tool\n{"name": "add", "arguments": {"a": 1e999}}\n```', "bad_number"),
        ('```tool\n{"name": "add", "arguments": {"a": 1}\n```', "missing"),
        ("```python\n\n```", "empty"),
    ],
)
def test_what_is_neither_is_named(text: str, code: str) -> None:
    with pytest.raises(ParseError) as raised:
        move("line", python=True)(text)
    assert raised.value.code == code


def test_a_program_is_no_call_where_there_is_no_interpreter() -> None:
    without = move("line", python=False)
    assert "```python" not in without.instruction and "```python" in move("line", python=True).instruction
    assert without("```python\nprint(1)\n```\nAnswer: 1").answer == "1"

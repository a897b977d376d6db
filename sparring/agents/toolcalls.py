"""The format of an agent with tools: a reply calls one tool, in a fenced block, or gives the answer.

In words and not through a server's own tool calls, so that every engine can play it, scripted and embedded
ones too, and every token of it can be trained on.
"""

from __future__ import annotations

from typing import Any

from sparring.agents.fences import blocks
from sparring.agents.parsing import ParseError, Parser, answer_format, build, find_object
from sparring.agents.results import Result, Stated

TOOL, PYTHON = "tool", "python"
"""Labels of a block that is a call: a JSON object, and a program for the interpreter."""
_JSON = 'reply with one block like this and stop:\n```tool\n{"name": "...", "arguments": {...}}\n```\n'
_PROGRAM = "To run Python, reply with the program in one block that begins with ```python, and stop. "


class ToolCall(Result):
    """A tool by name, and what it is given."""

    name: str = Stated
    arguments: dict[str, Any]


class Move(Result):
    """A call or an answer."""

    call: ToolCall | None = None
    answer: str | None = None


def move(answer: str, *, python: bool) -> Parser[Move]:
    """A reply that holds a block labelled `tool` is that call, whatever else it says: what a model writes
    after a call is what it imagines the tool to say. One without must end in an answer of format `answer`.

    Args:
        python: A block labelled `python` is a call too, of the interpreter: code inside JSON is more than
            small models manage.
    """
    inner = answer_format(answer)
    labels = (TOOL, PYTHON) if python else (TOOL,)
    instruction = f"To call a tool, {_JSON}{_PROGRAM if python else ''}Otherwise: {inner.instruction}"

    def read(text: str) -> Move:
        found = blocks(text, labels, "tool")
        if len(found) > 1:
            raise ParseError("ambiguous", f"{len(found)} calls; one is made at a time")
        if not found:
            return Move(answer=inner.read(text).answer)
        [(label, content)] = found
        if label == PYTHON:
            return Move(call=_program(content))
        return Move(call=build(ToolCall, find_object(content)))

    return Parser(f"move/{answer}{'+python' if python else ''}", inner.version, instruction, read)


def _program(code: str) -> ToolCall:
    if not code.strip():
        raise ParseError("empty", "the python block is empty")
    return ToolCall(name=PYTHON, arguments={"code": code})

"""Formats of step-by-step work: a solution in steps, and a sneaky generator's attack on one of them."""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import suppress

from pydantic import Field

from sparring.agents.parsing import ParseError, Parser, answer_format
from sparring.agents.results import Result, Stated


class Solution(Result):
    """Steps that lead to an answer; of a continuation, the steps that were missing."""

    steps: list[str]
    answer: str = Stated


class SneakyStep(Result):
    """SPC's sneaky generator (2504.19162): the error type it chose, its reasoning, and the wrong step."""

    error: int
    thought: str
    step: str = Stated


_HEADING = re.compile(r"[ \t]*\*{0,2}step[ \t]+[0-9]{1,4}\b", re.IGNORECASE)
_ANSWER = re.compile(r"[ \t]*\*{0,2}answer\*{0,2}[ \t]*:", re.IGNORECASE)


def is_answer(line: str) -> bool:
    """Whether a line only states the answer: `Answer: ...`."""
    return _ANSWER.match(line) is not None


def split_steps(text: str) -> list[str]:
    """The steps of a text: what begins with `Step N`, or else its lines; an `Answer:` line is none."""
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not _ANSWER.match(line)]
    if not any(_HEADING.match(line) for line in lines):
        return lines
    steps: list[list[str]] = []
    for line in lines:
        if _HEADING.match(line) or not steps:
            steps.append([])
        steps[-1].append(line)
    return ["\n".join(step) for step in steps]


class NextStep(Result):
    """One step of a solution, or the answer that ends it."""

    step: str = Stated
    answer: str | None = None


def next_step(format: str) -> Parser[NextStep]:
    """The first step of a text; where its first line is an answer of this format, that answer."""
    inner = answer_format(format)

    def read(text: str) -> NextStep:
        first = text.strip().splitlines()[0].strip()
        if _ANSWER.match(first):
            return NextStep(step=first, answer=inner.read(first).answer)
        steps = split_steps(text)
        if not steps:
            raise ParseError("missing", "no step in the reply")
        answer = None
        with suppress(ParseError):  # a step that also states the answer ends the solution
            answer = inner.read(steps[0]).answer if format == "boxed" else None
        return NextStep(step=steps[0], answer=answer)

    asks = "Write the next step alone; where none is missing, end instead. "
    return Parser(f"step/{format}", inner.version, asks + inner.instruction, read)


def solution(format: str) -> Parser[Solution]:
    """Steps, and at the end an answer of this format; without an answer it is a `ParseError`."""
    inner = answer_format(format)

    def read(text: str) -> Solution:
        return Solution(steps=split_steps(text), answer=inner.read(text).answer)

    return Parser(f"solution/{format}", inner.version, f"One step a line. {inner.instruction}", read)


_TYPE = re.compile(r"error[ \t]+type[ \t]*([0-9]{1,3})(?![0-9])", re.IGNORECASE)
_WRONG = re.compile(r"^[ \t]*\*{0,2}incorrect[ \t]+step\*{0,2}[ \t]*:\*{0,2}", re.IGNORECASE | re.MULTILINE)


def sneaky(types: Collection[int]) -> Parser[SneakyStep]:
    """An attack: `Error Type N`, N one of `types`, reasoning, and what follows the last `Incorrect Step:`."""

    def read(text: str) -> SneakyStep:
        named = _TYPE.search(text)
        if named is None:
            raise ParseError("missing", "no `Error Type N`")
        if int(named[1]) not in types:
            raise ParseError("unknown_type", f"error type {int(named[1])} is not in the table")
        marks = list(_WRONG.finditer(text, named.end()))
        if not marks:
            raise ParseError("missing", "no `Incorrect Step:` after the error type")
        step = text[marks[-1].end() :].strip()
        if not step:
            raise ParseError("empty", "nothing after `Incorrect Step:`")
        thought = text[named.end() : marks[-1].start()].lstrip(" \t\r\n:.,*").rstrip()
        return SneakyStep(error=int(named[1]), thought=thought, step=step)

    listed = ",".join(str(number) for number in sorted(types))
    instruction = (
        "Begin with `Error Type N:` and your reasoning, then a last line of the form `Incorrect Step: ...`."
    )
    return Parser(f"sneaky/{listed}", "1", instruction, read)


def gives_itself_away(step: str) -> bool:
    """Whether a step speaks of an `Error Type N`, as attacks do and solutions do not."""
    return _TYPE.search(step) is not None


def write_sneaky(error: int, thought: str, step: str) -> str:
    """An attack in the words that `sneaky` reads, for demonstrations."""
    return f"Error Type {error}: {thought}\nIncorrect Step: {step}"


class ErrorType(Result):
    """A row of an error taxonomy."""

    id: int = Field(ge=1, le=999)
    name: str = Stated
    description: str = Stated


ERROR_TYPES = (
    ErrorType(id=1, name="logical error", description="a conclusion that does not follow"),
    ErrorType(id=2, name="calculation error", description="a wrong result of a right operation"),
    ErrorType(
        id=3, name="misread condition", description="a number or condition of the problem taken wrongly"
    ),
    ErrorType(id=4, name="wrong rule", description="a formula, rule or property that does not hold here"),
    ErrorType(id=5, name="wrong approach", description="an operation that does not help with this problem"),
)
"""SPC's five types. That type 2 is the calculation error is in its figure, the others are from memory."""

"""Formats of TICK (Cook et al. 2410.03608): a checklist of yes/no questions, and the answer to one."""

from __future__ import annotations

import re

from sparring.agents.parsing import ParseError, Parser
from sparring.agents.results import Result, Stated
from sparring.agents.tags import one_tag

_MARK = re.compile(r"[ \t]*(?:[-*•]|\(?[0-9]{1,3}[.):])?[ \t]*")


class Checklist(Result):
    """Questions that a good response would have answered with yes."""

    questions: list[str]


class Tick(Result):
    """Whether a response meets one of them."""

    met: bool
    reason: str = Stated


def checklist(most: int) -> Parser[Checklist]:
    """One question a line, at most the first `most`; a line that is no question is none of the list."""

    def read(text: str) -> Checklist:
        lines = [_MARK.sub("", line, count=1).strip() for line in text.splitlines()]
        questions = list(dict.fromkeys(line for line in lines if line.endswith("?") and len(line) > 1))
        if not questions:
            raise ParseError("missing", "no line that is a question")
        return Checklist(questions=questions[:most])

    return Parser(f"checklist/{most}", "1", f"One question a line, at most {most}, nothing else.", read)


def _read_tick(text: str) -> Tick:
    """Reasoning, and then exactly one tag."""
    met, reason = one_tag(text, "answer", {"yes": True, "no": False})
    if not reason:
        raise ParseError("missing", "no word of reasoning before the answer")
    return Tick(met=met, reason=reason)


tick: Parser[Tick] = Parser(
    "tick",
    "1",
    "Give your reasons first, then end with `<answer>Yes</answer>` or `<answer>No</answer>`.",
    _read_tick,
)

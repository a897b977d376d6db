"""Formats of argumentation (ArgMed, Hong et al. 2403.06294): what fills an argument's scheme, and decisions
that are proposed."""

from __future__ import annotations

import re

from pydantic import Field

from sparring.agents.parsing import ParseError, Parser
from sparring.agents.results import Result
from sparring.tools.equality import choice_letter

_LABELLED = re.compile(r"[ \t]*\*{0,2}([A-Za-z]{1,20})\*{0,2}[ \t]*:\*{0,2}(.*)")
_FORMS = ("...", "`...`", "\u2026", "(letter)", "`(letter)`")


class Filled(Result):
    """What stands behind each label, in the scheme's words."""

    slots: dict[str, str]


class Proposals(Result):
    """Decisions at hand, the favoured one first."""

    decisions: list[str] = Field(min_length=1)


def filled(*labels: str) -> Parser[Filled]:
    """One line `Label: ...` for each label. Lines that differ under one label, or say nothing, are an error,
    and so is a `Decision` that is no option letter."""

    def read(text: str) -> Filled:
        slots: dict[str, str] = {}
        for label in labels:
            values = _behind(label, text)
            if len(values) > 1:
                raise ParseError("ambiguous", f"{len(values)} different lines `{label.capitalize()}: ...`")
            slots[label] = _letter(values[0]) if label == "decision" else values[0]
        return Filled(slots=slots)

    forms = ((label.capitalize(), "(letter)" if label == "decision" else "...") for label in labels)
    lines = " and ".join(f"`{label}: {form}`" for label, form in forms)
    ask = f"Reply with one line each of the form {lines}, and nothing else."
    return Parser(f"filled/{'/'.join(labels)}", "1", ask, read)


def proposals(most: int) -> Parser[Proposals]:
    """Lines `Decision: ...`, of which the first `most` that differ count."""

    def read(text: str) -> Proposals:
        return Proposals(decisions=_behind("decision", text)[:most])

    ask = f"Reply with one line of the form `Decision: ...` for each, at most {most}, and nothing else."
    return Parser(f"proposals/{most}", "1", ask, read)


def _behind(label: str, text: str) -> list[str]:
    """What the lines with this label say, each once."""
    found: dict[str, None] = {}
    for line in text.splitlines():
        match = _LABELLED.fullmatch(line)
        if match is None or match[1].lower() != label:
            continue
        value = match[2].strip().removesuffix("**").removeprefix("**").strip()
        if not value:
            raise ParseError("empty", f"a line `{label.capitalize()}:` is empty")
        if value in _FORMS:
            raise ParseError("placeholder", f"`{label.capitalize()}:` repeats the prompt's form")
        found[value] = None
    if not found:
        raise ParseError("missing", f"no line of the form `{label.capitalize()}: ...`")
    return list(found)


def _letter(value: str) -> str:
    letter = choice_letter(value[:200])
    if letter is None:
        raise ParseError("not_a_choice", f"`Decision:` names no option letter: {value[:60]!r}")
    return letter

"""What an improver says of a software agent: which words and which settings of it are to be others."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field, ValidationError

from sparring.agents.objects import ParseError, find_object
from sparring.agents.parsing import Parser
from sparring.agents.results import Result, Stated

BLOCKS = ("system", "task")
"""Blocks of an engineer's prompt that may be rewritten: who it is, and what it is told first."""
_ASK = (
    'Reply with one JSON object and nothing else: {"why": "what should get better by it, in a sentence", '
    '"system": "the whole new text" or null to keep it, "task": "the whole new text" or null to keep it, '
    '"options": {"NAME": NUMBER} or {}, "sampling": {"NAME": NUMBER} or {}}.'
)


class Improvement(Result):
    """A change of a configuration. A field that is not known is an error: it was meant to do something."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    why: str = Stated
    system: str | None = None
    task: str | None = None
    options: dict[str, float] = Field(default_factory=dict)
    """Of protocol `software`."""
    sampling: dict[str, float] = Field(default_factory=dict)

    @property
    def texts(self) -> dict[str, str]:
        """Block -> its new text."""
        return {name: text for name in BLOCKS if (text := getattr(self, name)) is not None}


def _improvement(text: str) -> Improvement:
    fields: dict[str, Any] = find_object(text)
    try:
        return Improvement.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        codes = {"missing": "missing_field", "extra_forbidden": "unknown_field"}
        raise ParseError(codes.get(first["type"], "bad_field"), f"`{where}`: {first['msg']}") from None


improvement: Parser[Improvement] = Parser("improvement", "1", _ASK, _improvement)

"""Script files: rules that say what the scripted engine answers to what.

A file is JSON lines, one rule a line, or one JSON list of rules. The first rule that fits a request
answers it; a rule without `match` and `role` fits everything, so it belongs last.

    {"role": "judge", "match": "which side", "replies": ["A", "B"]}
    {"match": "3 \\\\+ 4", "within": "conversation", "replies": ["Answer: 7"]}
    {"error": "timeout", "times": 1}
    {"replies": ["Answer: 12", "Answer: 13"]}
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from sparring.agents.engines.base import FinishReason, Message
from sparring.errors import UserError

EXAMPLE = '{"replies": ["Answer: 7"]}'


class Rule(BaseModel):
    """One rule of a script."""

    model_config = ConfigDict(extra="forbid")

    match: str | None = None
    """A regular expression searched in the conversation's last message, or in all of it."""
    within: Literal["last", "conversation"] = "last"
    role: str | None = None
    """A regular expression searched, ignoring case, in the first message: prompts say there who speaks."""
    replies: list[str] = Field(default_factory=list)
    order: Literal["hash", "sequence"] = "hash"
    """By hash of the whole request and the seed, or one after the other, round and round."""
    finish_reason: FinishReason = "stop"
    error: Literal["timeout", "engine_error"] | None = None
    delay_s: float = Field(default=0.0, ge=0.0)
    times: int | None = Field(default=None, ge=1)
    """The rule answers so many calls and then fits nothing; None is no limit."""

    _used: int = PrivateAttr(default=0)

    @field_validator("match", "role")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return pattern

    @model_validator(mode="after")
    def _says_something(self) -> Rule:
        if bool(self.replies) == bool(self.error):
            raise ValueError("a rule needs either `replies` or `error`")
        return self

    def fits(self, messages: tuple[Message, ...]) -> bool:
        if self.times is not None and self._used >= self.times:
            return False
        if self.role is not None and not re.search(self.role, text_of(messages[0]), re.IGNORECASE):
            return False
        if self.match is None:
            return True
        seen = text_of(messages[-1]) if self.within == "last" else render(messages)
        return re.search(self.match, seen) is not None

    def take(self, digest: int) -> str:
        """The reply to one call; `digest` is the hash of the request and the seed."""
        pick = self._used if self.order == "sequence" else digest
        self._used += 1
        return self.replies[pick % len(self.replies)] if self.replies else ""


def text_of(message: Message) -> str:
    """The text of a message; parts that are not text are left out."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part.get("type") == "text")


def render(messages: tuple[Message, ...]) -> str:
    """The whole conversation as `role: text` paragraphs, which is what `within: conversation` searches."""
    return "\n\n".join(f"{message['role']}: {text_of(message)}" for message in messages)


def read_rules(path: Path) -> list[Rule]:
    """Read a script. Raises `UserError` naming the file and the line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read script {path}: {error}") from error
    rules = [_rule(path, line, value) for line, value in _values(path, text)]
    if not rules:
        raise UserError(f"script {path} holds no rule; write one a line, such as {EXAMPLE}")
    return rules


def _rule(path: Path, line: int, value: Any) -> Rule:
    try:
        return Rule.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        known = (
            f"; known fields: {', '.join(Rule.model_fields)}" if first["type"] == "extra_forbidden" else ""
        )
        reason = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{path}, line {line}: {where + ': ' if where else ''}{reason}{known}") from error


def _values(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """Each rule's first line (from 1) and its JSON value."""
    try:
        if text.lstrip().startswith("["):
            json.loads(text)  # finds every syntax error, so that the walk below need not
            yield from _elements(text)
            return
        for line, row in enumerate(text.splitlines(), start=1):
            if row.strip():
                yield line, json.loads(row)
    except json.JSONDecodeError as error:
        number = error.lineno if text.lstrip().startswith("[") else line
        raise UserError(f"{path}, line {number}: not JSON: {error.msg}") from error


def _elements(text: str) -> Iterator[tuple[int, Any]]:
    decoder, gap = json.JSONDecoder(), re.compile(r"[\s,]*")
    position = gap.match(text, text.index("[") + 1).end()  # type: ignore[union-attr]  # `*` always matches
    while text[position] != "]":
        line = text.count("\n", 0, position) + 1
        value, position = decoder.raw_decode(text, position)
        yield line, value
        position = gap.match(text, position).end()  # type: ignore[union-attr]  # as above

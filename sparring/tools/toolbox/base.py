"""A tool, and the box of tools that an agent is given.

Whatever a model asks a box for comes back as text that the model can read: an unknown name lists those that
exist, bad arguments say what is wrong with them, an exception is named, a call that takes too long is given
up, a long result keeps its head and its tail. Only what is not the model's doing is an exception.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

from pydantic_core import to_json

from sparring.errors import SandboxUnavailable, ToolFailed, UserError
from sparring.tools.texts import clipped

SECONDS = 30.0
SHOWN = 4000
LONGEST_NAME = 64


class Refused(Exception):
    """A tool does not do what it was asked for; the model reads the message."""


@dataclass(frozen=True)
class Tool:
    """What a model knows of a tool, and what it does."""

    name: str
    description: str
    parameters: dict[str, Any]
    """JSON schema of an object: the arguments."""
    call: Callable[[dict[str, Any]], Awaitable[Any]]
    """Raises `Refused` for arguments that do not fit."""
    limited: bool = False
    """It ends its calls itself in time; the box does not look at the clock."""

    def shown(self) -> dict[str, Any]:
        """As a model sees it."""
        return {"name": self.name, "description": self.description, "parameters": self.parameters}

    @property
    def mark(self) -> str:
        """A hash of what a model sees of it."""
        return hashlib.sha256(json.dumps(self.shown(), sort_keys=True).encode()).hexdigest()[:16]


class Called(TypedDict):
    """A call and what came of it, as plain JSON: either `result` or `error`."""

    name: str
    arguments: dict[str, Any]
    result: NotRequired[str]
    error: NotRequired[str]
    seconds: float


class Toolbox:
    """Several tools with names of their own.

    Args:
        seconds: of one call, after which it is given up.
        shown: characters of a result that are kept, half of them from its end.

    Raises:
        UserError: two tools of one name.
    """

    def __init__(self, tools: Iterable[Tool], *, seconds: float = SECONDS, shown: int = SHOWN) -> None:
        self.seconds, self.most = seconds, shown
        self._tools: dict[str, Tool] = {}
        for tool in tools:
            if tool.name in self._tools:
                raise UserError(f"two tools are called `{tool.name}`; rename one of them")
            self._tools[tool.name] = tool

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._tools.values())

    def text(self) -> str:
        """The tools for a prompt: a JSON object a line, so that no description looks like another tool."""
        return "\n".join(json.dumps(tool.shown(), ensure_ascii=False) for tool in self)

    async def call(self, name: str, arguments: dict[str, Any]) -> Called:
        """Call a tool as a model asked for it.

        Raises:
            ToolFailed, SandboxUnavailable: the tool is not there at all; nobody should be told a result.
        """
        started = time.perf_counter()
        given, error = None, None
        limit = asyncio.timeout(None)
        try:
            tool = self._tools.get(name)
            if tool is None:
                raise Refused(f"there is no tool `{name[:80]}`; there are: {', '.join(self._tools)}")
            async with limit:
                limit.reschedule(None if tool.limited else asyncio.get_running_loop().time() + self.seconds)
                given = as_text(await tool.call(deepcopy(arguments)))  # the journal has what was asked
        except (ToolFailed, SandboxUnavailable):
            raise
        except Refused as refused:
            error = str(refused)
        except BaseException as failure:
            if _from_outside(failure):
                raise
            ended = isinstance(failure, TimeoutError) and limit.expired()
            error = f"no result within {self.seconds:g} seconds" if ended else named(failure)
        made = Called(name=name, arguments=arguments, seconds=round(time.perf_counter() - started, 6))
        if given is None:
            return {**made, "error": clipped(error or "", self.most)}
        return {**made, "result": clipped(given, self.most)}


def as_text(value: Any) -> str:
    """A result as a model reads it: text as it is, everything else as JSON."""
    if isinstance(value, str):
        return value
    return to_json(value, bytes_mode="base64", inf_nan_mode="constants", serialize_unknown=True).decode()


def untitled(schema: Any) -> Any:
    """A JSON schema without its titles, which say again what the names do: every word is in every prompt."""
    if isinstance(schema, list):
        return [untitled(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _NAMED and isinstance(value, dict):
            found[key] = {name: untitled(one) for name, one in value.items()}
        elif key in _VALUES:
            found[key] = value
        elif key != "title":
            found[key] = untitled(value)
    return found


_NAMED = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
"""Keywords whose keys are names of the user's."""
_VALUES = {"default", "const", "enum", "examples", "required"}


def _from_outside(error: BaseException) -> bool:
    """Whether it is meant for who waits for a tool, and not what the tool came to."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return isinstance(error, KeyboardInterrupt | GeneratorExit)


def named(error: BaseException) -> str:
    """An exception as one line; its text may come from anywhere and fail itself."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__

"""Functions that tests hand to agents as tools."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from sparring.tools.toolbox.base import Tool

NOT_A_TOOL = 7
FAILURES: dict[str, type[BaseException]] = {
    "stop": StopIteration,
    "exit": SystemExit,
    "time": TimeoutError,
    "keyboard": KeyboardInterrupt,
    "cancelled": asyncio.CancelledError,
}
SLEPT: list[float] = []


class Point(BaseModel):
    """A point."""

    x: int
    y: int = 0


def add(a: int, b: Annotated[int, Field(ge=0)] = 2) -> int:
    """Add two numbers."""
    return a + b


async def shapes(points: list[Point], unit: Literal["cm", "m"], title: str | None = None) -> dict[str, Any]:
    """Say how many points there are."""
    return {"points": len(points), "first": points[0].x, "unit": unit, "title": title}


def fail(why: str) -> str:
    """Raise an error."""
    raise FAILURES.get(why, ValueError)(why)


async def afail(why: str) -> str:
    """Raise an error in the event loop."""
    raise FAILURES[why](why)


def later(word: str) -> Awaitable[str]:
    """A plain function that gives a coroutine, as what a decorator makes of a coroutine function."""

    async def said() -> str:
        return word

    return said()


def keep(anything: Any) -> str:
    """Change what it is given."""
    anything.append("changed")
    return str(anything)


async def stream() -> AsyncIterator[int]:
    """An async generator."""
    yield 1


def sleep(seconds: float) -> str:
    """Sleep."""
    time.sleep(seconds)
    SLEPT.append(seconds)
    return "awake"


async def wait() -> None:
    """Wait for long."""
    await asyncio.sleep(60)


def long(size: int) -> str:
    """A long text."""
    return "a" * size + "z" * size


def odd(kind: str) -> Any:
    """What JSON cannot hold."""
    loop: list[Any] = []
    loop.append(loop)
    return {"loop": loop, "half": "\ud800", "nul": "a\x00b", "object": object(), "bytes": b"\xff"}[kind]


def untyped(a) -> None:  # type: ignore[no-untyped-def]  # that is what it is for
    """No types."""


def undocumented(a: int) -> None:
    pass


def many(*a: int) -> None:
    """Positional only."""


def opaque(a: asyncio.Queue[int]) -> None:
    """A type that no JSON is."""


async def _say(arguments: dict[str, Any]) -> str:
    return f"said {sorted(arguments)}"


made = Tool("say", "Say something.", {"type": "object"}, _say)

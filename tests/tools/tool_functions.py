"""Functions that tests hand to agents as tools."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from sparring.tools.toolbox.base import Tool

NOT_A_TOOL = 7
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
    raise {"stop": StopIteration, "exit": SystemExit, "time": TimeoutError}.get(why, ValueError)(why)


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

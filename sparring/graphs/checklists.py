"""Asking with checklists (TICK, Cook et al. 2410.03608): one list a task, one call a question."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sparring.graphs.context import Context


async def listed(context: Context, seat: str, key: str, question: str) -> list[str]:
    """The questions that an agent writes from the task alone; none where no list can be read."""
    turn = await context.act(seat, key, "list", {"question": question})
    items: list[str] = (turn.parsed or {}).get("questions", [])
    return items


async def ticked(
    context: Context, seat: str, key: str, question: str, text: str, items: Sequence[str], note: str = ""
) -> list[bool | None]:
    """Of each question whether a response meets it; None where the answer cannot be read.

    Args:
        key: what the keys of the turns begin with; the place of a question follows.
        note: what the agent is told beside the response.
    """
    shown = {"question": question, "solution": text, "note": note}
    turns = await asyncio.gather(
        *(
            context.act(seat, f"{key}/{place}", "tick", {**shown, "item": item})
            for place, item in enumerate(items)
        )
    )
    return [turn.parsed["met"] if turn.parsed else None for turn in turns]

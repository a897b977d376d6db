"""Tools in a graph: a run's toolbox, and calls that the journal answers the second time.

What any protocol does to have tools: enter `toolbox` in its `equipment`, and `call` where an agent asks for
one. The call is an event `tool` before anybody sees its result, so that a resumed run does not make it again.
Only a call that was under way when the process died is made once more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sparring.errors import UserError
from sparring.graphs.context import Context
from sparring.graphs.sandboxed import note_sandbox
from sparring.memory.run import RunHandle
from sparring.tools.programs import describe
from sparring.tools.toolbox.base import Toolbox
from sparring.tools.toolbox.interpreter import PYTHON
from sparring.tools.toolbox.specs import open_tools

TOOL, TOOLBOX = "tool", "toolbox"
"""Kinds of events: a call, of an episode; a run's tools, each name with a hash of what a model sees."""


@asynccontextmanager
async def toolbox(
    run: RunHandle, specs: Sequence[str], *, seconds: float, shown: int
) -> AsyncIterator[Toolbox]:
    """A run's tools, until the context is left.

    Raises:
        UserError: a tool cannot be had, or the run was begun with others.
    """
    if PYTHON in specs:
        await note_sandbox(run, await asyncio.to_thread(describe))
    async with open_tools(specs, seconds=seconds, shown=shown) as box:
        marks = {tool.name: tool.mark for tool in box}
        if run.decided(TOOLBOX, "0") is None:
            await run.event(TOOLBOX, "0", marks)
        _expect(run.id, run.decided(TOOLBOX, "0"), marks)
        yield box


async def call(context: Context, box: Toolbox, key: str, name: str, arguments: dict[str, Any]) -> Any:
    """What a call came to, as its event keeps it (`toolbox.base.Called`); made where the journal has none."""
    held = context.episode.event_payload(TOOL, key)
    if held is None:
        held = await context.episode.event(TOOL, key, dict(await box.call(name, arguments)))
    return held


def _expect(run: str, then: Mapping[str, str], now: Mapping[str, str]) -> None:
    if then == now:
        return
    changes = {
        "gone": sorted(then.keys() - now.keys()),
        "new": sorted(now.keys() - then.keys()),
        "changed in description or parameters": sorted(
            name for name in then.keys() & now.keys() if then[name] != now[name]
        ),
    }
    said = "; ".join(f"{', '.join(names)} {what}" for what, names in changes.items() if names)
    raise UserError(
        f"run `{run}` was begun with other tools ({said}); resume it with those, "
        "or start a new run (`--run NAME`)"
    )

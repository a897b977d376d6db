"""What a tool call costs an agent beside the tool itself: the box, and the event that is committed.

    python -m benchmarks.tool_calls [--calls 300] [--durability full] [--out FILE]

Each tool is called by itself and through its toolbox (validation, time limit, text), and what the box gave is
journaled as a protocol does it: an event of an episode, committed to SQLite before anybody sees the result.
The three are interleaved call by call; medians in ms. `together`: 64 calls, through the box and journaled, at
once, per call. The tools: a function (a thread), a coroutine, an MCP server over standard input and output,
the interpreter in its sandbox (a tenth of the calls).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from sparring.graphs.context import Context
from sparring.graphs.tool_calls import TOOL, call
from sparring.memory.journal import Journal
from sparring.memory.records import TaskRecord
from sparring.tools.equality import equality
from sparring.tools.toolbox.base import Toolbox
from sparring.tools.toolbox.specs import open_tools

ROOT = Path(__file__).parents[1]
SERVER = ROOT / "examples" / "tools" / "server.py"
SPECS = [
    "benchmarks.tool_calls:add",
    "benchmarks.tool_calls:later",
    "python",
    f"mcp:{sys.executable} {SERVER}",
]
ASKED: dict[str, dict[str, Any]] = {
    "add": {"a": 40, "b": 2},
    "later": {"a": 40, "b": 2},
    "convert": {"value": 1.0, "unit": "mile", "to": "km"},
    "python": {"code": "print(40 + 2)"},
}
AT_ONCE = 64


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def later(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def timed(work: Callable[[], Awaitable[Any]]) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    await work()
    return 1000 * (time.perf_counter() - started)


async def measure(box: Toolbox, context: Context, name: str, calls: int) -> dict[str, float]:
    """Medians of one tool."""
    [tool] = [one for one in box if one.name == name]
    asked, made = ASKED[name], dict(await box.call(name, ASKED[name]))
    found: dict[str, list[float]] = {"tool": [], "box": [], "event": []}
    for number in range(calls):
        event = partial(context.episode.event, TOOL, f"{name}/{number}", made)
        found["tool"].append(await timed(partial(tool.call, asked)))
        found["box"].append(await timed(partial(box.call, name, asked)))
        found["event"].append(await timed(event))
    row = {what: statistics.median(times) for what, times in found.items()}
    row["box"] -= row["tool"]
    keys = [f"{name}/together/{number}" for number in range(AT_ONCE)]
    several = [call(context, box, key, name, asked) for key in keys]
    row["together"] = await timed(partial(asyncio.gather, *several)) / AT_ONCE
    return {"calls": calls, **{what: round(value, 3) for what, value in row.items()}}


async def main(calls: int, durability: str, out: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder, Journal.open(Path(folder) / "j.db", durability) as journal:
        run = journal.drive("tools", kind="test", protocol="tool_use", config={}, seed=0)
        context = Context(run.episode(TaskRecord("q", "?"), seats={}), {}, equality("exact"))
        async with open_tools(SPECS) as box:
            rows = {
                name: await measure(box, context, name, max(10, calls // 10) if name == "python" else calls)
                for name in ASKED
            }
        run.release()
    print(f"{'':10}" + "".join(f"{name:>10}" for name in COLUMNS))
    for name, row in rows.items():
        print(f"{name:10}" + "".join(f"{row[what]:>10g}" for what in COLUMNS))
    if out is not None:
        out.write_text(json.dumps(rows, indent=1))


COLUMNS = ("calls", "tool", "box", "event", "together")

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--durability", choices=("full", "normal"), default="full")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    asyncio.run(main(given.calls, given.durability, given.out))

"""Tools on Ray workers: a function by its name, the interpreter, an MCP server by its command, one a worker.

`make test-ray` runs these.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import select

pytest.importorskip("mcp")

from sparring.errors import UserError
from sparring.graphs.play import PlayResult, aplay, plan
from sparring.graphs.workers import NoWorkers
from sparring.memory.journal import Journal
from sparring.memory.schema import Episode, Event, Run, Task

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.usefixtures("postgres_only")]

COUNT = 16
TASKS = [{"id": f"q{n}", "question": f"What is {n}?", "answer": "7"} for n in range(COUNT)]
SERVER = Path(__file__).parents[1] / "tools" / "mcp_tools.py"


def called(tool: str, **arguments: Any) -> str:
    return f"```tool\n{json.dumps({'name': tool, 'arguments': arguments})}\n```"


class Stand:
    """A run of `tool_use`: each episode notes its number, has a server add and a program print, answers."""

    def __init__(self, folder: Path) -> None:
        self.notes, self.mark = folder / "notes", f"mark-{time.time_ns()}"
        rules = [
            {"match": f"What is {n}\\?", "replies": [called("note", file=str(self.notes), word=f"q{n}")]}
            for n in range(COUNT)
        ]
        rules += [
            {"match": "Tool `note` returned", "replies": [called("add", a=40, b=2)]},
            {"match": "Tool `add` returned", "replies": ["```python\nprint(6 * 7)\n```"]},
            {"replies": ["Answer: 7"]},
        ]
        self.script = folder / "script.jsonl"
        self.script.write_text("".join(json.dumps(rule) + "\n" for rule in rules))

    async def play(self, memory: str, workers: str | None, server: str | None = None) -> PlayResult:
        server = server or f"{sys.executable} {SERVER} {self.mark}"
        tools = ["ray_notes:note", "python", f"mcp:{server}"]
        planned = plan("tool_use", TASKS, engine=f"scripted:{self.script}", tools=tools, seed=5)
        return await aplay(planned, memory, run="r", concurrency=8, workers=workers)

    def noted(self) -> list[tuple[str, int]]:
        """Words and the processes they were noted in."""
        lines = self.notes.read_text().split("\n")[:-1] if self.notes.exists() else []
        return [(word, int(pid)) for word, pid in map(str.split, lines)]

    def servers(self) -> list[psutil.Process]:
        return [one for one in psutil.process_iter(["cmdline"]) if self.mark in (one.info["cmdline"] or [])]


def said(result: PlayResult) -> list[Any]:
    return [row.to_json() for row in result]


def calls(memory: str) -> dict[Any, Any]:
    """Every journaled call by its place, without how long it took."""
    query = select(Task.name, Event.key, Event.payload).where(Event.kind == "tool")
    query = query.join(Episode, Episode.number == Event.episode_number).join(Task, Task.id == Episode.task_id)
    with Journal.open(memory) as journal:
        rows = journal.read(query)
    return {(name, key): {k: v for k, v in made.items() if k != "seconds"} for name, key, made in rows}


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path)


async def alone(stand: Stand) -> tuple[list[Any], dict[Any, Any]]:
    """What one process makes of it on SQLite."""
    memory = str(stand.notes.with_name("alone.db"))
    result = await stand.play(memory, None)
    stand.notes.unlink()
    return said(result), calls(memory)


async def until(condition: Any, seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        await asyncio.sleep(0.05)


async def test_workers_call_what_one_process_calls(cluster: str, memory: str, stand: Stand) -> None:
    wanted = await alone(stand)
    assert len(wanted[1]) == COUNT * 3 and all("result" in made for made in wanted[1].values())
    playing = asyncio.create_task(stand.play(memory, "ray:2"))
    await until(lambda: len({pid for _, pid in stand.noted()}) == 2, 200)
    assert len(stand.servers()) == 2, "one a worker"
    assert (said(await playing), calls(memory)) == wanted
    assert Counter(word for word, _ in stand.noted()) == Counter(task["id"] for task in TASKS)
    assert os.getpid() not in {pid for _, pid in stand.noted()}
    await until(lambda: not stand.servers())
    assert said(await stand.play(memory, "ray:2")) == wanted[0] and len(stand.noted()) == COUNT


async def test_a_killed_worker_repeats_only_what_was_under_way(
    cluster: str, memory: str, stand: Stand
) -> None:
    wanted = await alone(stand)
    playing = asyncio.create_task(stand.play(memory, "ray:2"))
    await until(lambda: len({pid for _, pid in stand.noted()}) == 2 and len(stand.noted()) > 4, 200)
    held, victim = calls(memory), stand.noted()[-1][1]
    os.kill(victim, signal.SIGKILL)
    assert (said(await playing), calls(memory)) == wanted
    times = Counter(word for word, _ in stand.noted())
    assert set(times) == {task["id"] for task in TASKS}
    again = {word for word, count in times.items() if count > 1}
    assert len(again) <= 8 and all((word, victim) in stand.noted() for word in again)
    assert not again & {name for name, key in held if key == "0"}, "a journaled call was made again"
    await until(lambda: not stand.servers())


async def test_a_server_that_does_not_start_on_workers_is_named(
    cluster: str, memory: str, stand: Stand
) -> None:
    with pytest.raises(NoWorkers, match="MCP server `false` cannot be reached"):
        await stand.play(memory, "ray:2", server="false")
    assert stand.noted() == []


async def test_a_tool_that_workers_do_not_have_is_named(cluster: str, memory: str) -> None:
    planned = plan("tool_use", TASKS, engine="scripted:hash", tools=["elsewhere:note"])
    with pytest.raises(UserError, match=r"the worker on `.*`: tool `elsewhere:note`: No module"):
        await aplay(planned, memory, run="r", workers="ray:2")
    with Journal.open(memory) as journal:
        assert journal.read(select(Run.id)) == []

"""One of several processes that write one journal at once: a run of its own, rows that all of them share."""

from __future__ import annotations

import asyncio
import io
import os
import random
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from journal_helpers import QUESTION, Model, drive, version

from sparring.memory.journal import Journal
from sparring.memory.records import AgentRecord, Ask, TaskRecord

TASKS, AGENTS, POLICIES = 40, 6, 3


def agents() -> list[AgentRecord]:
    settings = ("line", "1", {"temperature": 1.0})
    return [AgentRecord("solver", f"Answer {n}.", *settings, f"p{n % POLICIES}") for n in range(AGENTS)]


async def _play(journal: Journal, number: int) -> int:
    source, model, who = random.Random(number), Model(), agents()
    tasks = [TaskRecord(f"q{n}", f"{n}?", "4") for n in range(TASKS)]
    source.shuffle(tasks)
    source.shuffle(who)
    run = drive(journal, f"r{number}")
    asks = [Ask(agent, version(journal, agent.policy), QUESTION) for agent in who]

    async def episode(task: TaskRecord) -> None:
        handle = run.episode(task, seats={})
        for place, ask in enumerate(asks):
            await handle.turns([f"s/{place}"], ask, model)
        await handle.close("done", {"answer": "4"}, verdict={"correct": True})

    await asyncio.gather(*map(episode, tasks))
    run.finish("done")
    run.release()
    return len(model.places)


def live(memory: str, number: int, together: Any, calls: Any) -> None:
    """The whole of a process; `calls` gets how many turns it made."""
    with Journal.open(memory) as journal:
        together.wait(60)
        calls.put(asyncio.run(_play(journal, number)))


def begin(memory: str) -> None:
    """A play that is to be killed."""
    from sparring.graphs.play import play

    tasks = [{"id": f"q{n}", "question": f"{n}?", "answer": str(n)} for n in range(8)]
    play("du", tasks, engine="scripted:hash?delay_s=0.4", memory=memory, run="r", concurrency=2, rounds=2)


def resume(memory: str, together: Any, told: Any) -> None:
    """`sparring resume`, by one of several at once; tells its status, its process and what it said."""
    import sparring.graphs.play  # noqa: F401 - all are to be ready before anyone begins
    from sparring import cli

    said = io.StringIO()
    with redirect_stderr(said), redirect_stdout(io.StringIO()):
        together.wait(100)
        status = cli.main(["resume", "r", "--memory", memory, "--quiet"])
    told.put((status, os.getpid(), said.getvalue()))

"""CPU that the journal costs a turn: episodes of trivial turns, all at once, with no graph and no engine.

    python -m benchmarks.journal_cpu [--episodes 200] [--turns 9] [--rounds 5]

A turn has a text of 1 kB, 120 prompt ids beyond the history's, 120 completion ids and
log-probabilities, and is committed before the call returns. Printed: process CPU and wall time a
turn, medians over the rounds, in microseconds, for FULL and NORMAL, beside the same loop without a journal.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from sparring.memory.journal import Journal
from sparring.memory.records import AgentRecord, Ask, Place, Produced, TaskRecord, VersionRecord
from sparring.memory.run import RunHandle

AGENT = AgentRecord("solver", "Answer.", "line", "1", {"temperature": 1.0}, "base")
TEXT = "The answer follows from what was said before, as a reader can check. " * 15
TOKENS = 120


async def episode(run: RunHandle | None, version: int, number: int, turns: int) -> None:
    """One episode: a growing history of a single agent."""
    handle = run.episode(TaskRecord(f"q{number}", "What is it?"), seats={}) if run else None
    messages = [{"role": "user", "content": f"Question {number}?"}]
    history = np.arange(TOKENS, dtype=np.int32)
    for turn in range(turns):
        made: list[Produced] = []

        async def produce(
            places: list[Place], turn: int = turn, made: list[Produced] = made, history: Any = history
        ) -> list[Produced]:
            made += [
                Produced(
                    "ok",
                    text=f"{number} {turn} {TEXT}"[:1000],
                    parsed={"answer": "4"},
                    finish_reason="stop",
                    prompt_tokens=len(history),
                    completion_tokens=TOKENS,
                    prompt_ids=history,
                    completion_ids=np.full(TOKENS, turn, np.int32),
                    logprobs=np.full(TOKENS, -0.5, np.float32),
                    logprob_kind="tempered",
                )
                for _ in places
            ]
            return made

        if handle is None:
            await produce([Place("", 0, 0)])
            await asyncio.sleep(0)
        else:
            await handle.turns([f"solver/{turn}"], Ask(AGENT, version, messages), produce)
        messages = [*messages, {"role": "assistant", "content": made[0].text}]
        messages.append({"role": "user", "content": f"And {turn}?"})
        history = np.concatenate([history, made[0].completion_ids, np.arange(TOKENS, dtype=np.int32)])
    if handle is not None:
        await handle.close("done", {"answer": "4"})


async def everything(run: RunHandle | None, version: int, episodes: int, turns: int) -> tuple[float, float]:
    """CPU and wall seconds of all episodes at once."""
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(episode(run, version, number, turns) for number in range(episodes)))
    return time.process_time() - cpu, time.perf_counter() - wall


def measure(durability: str | None, options: argparse.Namespace) -> dict[str, float]:
    """Median microseconds a turn."""
    cpus, walls, commits = [], [], 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            if durability is None:
                cpu, wall = asyncio.run(everything(None, 0, options.episodes, options.turns))
            else:
                with Journal(Path(folder) / "journal.db", durability) as journal:  # type: ignore[arg-type]  # one of two literals
                    version = journal.version(VersionRecord("base", "hash", "scripted"))
                    run = journal.drive(f"r{number}", kind="play", protocol="none", config={}, seed=0)
                    cpu, wall = asyncio.run(everything(run, version, options.episodes, options.turns))
                    commits = journal.writer.commits
                    run.release()
            cpus.append(cpu)
            walls.append(wall)
    scale = 1e6 / (options.episodes * options.turns)
    return {
        "cpu_us": round(statistics.median(cpus) * scale, 1),
        "wall_us": round(statistics.median(walls) * scale, 1),
        "commits": commits,
    }


def main() -> None:
    """Print one JSON line for each setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for durability in (None, "full", "normal"):
        print(
            json.dumps({"durability": durability or "no journal", **measure(durability, options)}), flush=True
        )


if __name__ == "__main__":
    main()

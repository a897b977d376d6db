"""What the benchmarks of episodes side by side share: a journal to write in, the clock, the ratio."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.budgets import BUDGETS, finish, judged
from sparring.agents.engines.registry import EnginePool
from sparring.graphs.play import Play
from sparring.graphs.player import taken
from sparring.graphs.results import read_results
from sparring.memory.journal import Journal

Playing = Callable[[Sequence[Any], int], Play]
"""From tasks and a seed to what is played."""


def copy_journal(before: Path, memory: Path) -> None:
    """A journal, what is still in its log included, with its weights; it is there whole or not at all."""
    shutil.copytree(f"{before}.policies", f"{memory}.policies", dirs_exist_ok=True)
    half = memory.with_suffix(".half")
    half.unlink(missing_ok=True)
    with closing(sqlite3.connect(before)) as journal, closing(sqlite3.connect(half)) as copy:
        journal.backup(copy)
    half.rename(memory)


async def timed(journal: Journal, pool: EnginePool, name: str, play: Play, concurrency: int) -> float:
    """Episodes a minute."""
    async with taken(journal, name, play, pool, concurrency) as player:
        started = time.perf_counter()
        await player()
        seconds = time.perf_counter() - started
    return 60 * len(read_results(journal, name)) / seconds


@dataclass(frozen=True)
class Compared:
    """Medians over the repeats."""

    together: float
    """Episodes a minute, all at once; the runs are called `together-0` and so on."""
    alone: float
    ratio: float


async def compared(
    journal: Journal, pool: EnginePool, tasks: Sequence[Any], playing: Playing, options: argparse.Namespace
) -> Compared:
    """Episodes that nobody played before, all at once, and then the first few of them one after the other."""
    await timed(journal, pool, "warm", playing(tasks[:2], 0), 2)
    together, alone, ratios = [], [], []
    for repeat in range(options.repeats):
        mine, seed = tasks[repeat * options.count : (repeat + 1) * options.count], options.seed + repeat
        together.append(await timed(journal, pool, f"together-{repeat}", playing(mine, seed), options.count))
        alone.append(await timed(journal, pool, f"alone-{repeat}", playing(mine[: options.alone], seed), 1))
        ratios.append(together[-1] / alone[-1])
    return Compared(*map(statistics.median, (together, alone, ratios)))


def parser(about: str | None, what: str, count: int, alone: int) -> argparse.ArgumentParser:
    """The options of such a benchmark; `--WHAT` is how many episodes there are at once."""
    made = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    made.add_argument("--memory", type=Path, required=True, help="journal of who plays")
    made.add_argument(f"--{what}", dest="count", metavar=what.upper(), type=int, default=count)
    made.add_argument("--alone", type=int, default=alone)
    made.add_argument("--repeats", type=int, default=3)
    made.add_argument("--seed", type=int, default=100)
    made.add_argument("--out", type=Path, help="the figures as JSON")
    return made


Measure = Callable[[argparse.Namespace, Journal, EnginePool], Awaitable[dict[str, Any]]]


def run(options: argparse.Namespace, measure: Measure, benchmark: str) -> int:
    """Measure in a copy of the journal and print what was found; `ratio` has the benchmark's one budget."""

    async def measured(memory: Path) -> dict[str, Any]:
        with Journal.open(memory) as journal:
            async with EnginePool() as pool:
                return await measure(options, journal, pool)

    with tempfile.TemporaryDirectory() as folder:
        memory = Path(folder) / options.memory.name
        copy_journal(options.memory, memory)
        found = asyncio.run(measured(memory))
    print(json.dumps(found))
    [budget] = BUDGETS[benchmark]
    return finish(judged(benchmark, {budget.what: found["ratio"]}), found, options.out)

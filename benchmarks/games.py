"""Sneaky games a minute: side by side against one by one, the same games, one engine, one process.

    sparring evolve examples/chains/solver.yaml --memory chains.db      # once: players that can play
    sparring evolve examples/chains/round0.yaml --memory chains.db
    python -m benchmarks.games --memory chains.db [--games 48] [--alone 8] [--repeats 3]

Each repeat plays games that nobody played before: `--games` of them at once and then the first `--alone`
of the same tasks again one after the other. A game is one attack, 2 x 4 roll-outs and 2 verdicts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from sparring.agents.engines.registry import EnginePool
from sparring.graphs.play import Play
from sparring.graphs.player import taken
from sparring.graphs.results import read_results
from sparring.graphs.sneaky_figures import game_figures
from sparring.memory.journal import Journal
from sparring.memory.tasks import load_tasks

CHAINS = Path(__file__).parents[1] / "examples" / "chains"
BUDGET = 5.0


def games(tasks: Any, seed: int) -> Play:
    roles = {seat: f"policy:{seat}@training" for seat in ("sneaky", "critic", "solver")}
    prompts = {seat: str(CHAINS / f"{seat}.md") for seat in roles}
    sampling = {"temperature": 0.9, "max_tokens": 64, "critic.max_tokens": 32}
    return Play("sneaky", tuple(tasks), {"prompts": prompts}, roles=roles, sampling=sampling, seed=seed)


async def timed(journal: Journal, pool: EnginePool, name: str, play: Play, concurrency: int) -> float:
    """Games a minute."""
    async with taken(journal, name, play, pool, concurrency) as player:
        started = time.perf_counter()
        await player()
        seconds = time.perf_counter() - started
    return 60 * len(read_results(journal, name)) / seconds


async def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    tasks = load_tasks(CHAINS / "solve_train.jsonl")
    memory = folder / options.memory.name
    shutil.copy(options.memory, memory)
    shutil.copytree(f"{options.memory}.policies", f"{memory}.policies")
    ratios, together, alone = [], [], []
    with Journal.open(memory) as journal:
        async with EnginePool() as pool:
            await timed(journal, pool, "warm", games(tasks[:2], 0), 2)
            for repeat in range(options.repeats):
                mine = tasks[repeat * options.games : (repeat + 1) * options.games]
                play = games(mine, options.seed + repeat)
                together.append(await timed(journal, pool, f"together-{repeat}", play, options.games))
                few = games(mine[: options.alone], options.seed + repeat)
                alone.append(await timed(journal, pool, f"alone-{repeat}", few, 1))
                ratios.append(together[-1] / alone[-1])
        figures = game_figures(journal, "together-0")
    return {
        "games_per_minute": round(statistics.median(together), 1),
        "alone_per_minute": round(statistics.median(alone), 1),
        "ratio": round(statistics.median(ratios), 2),
        "budget": BUDGET,
        "valid": figures.get("valid"),
        "win_rate": figures.get("win_rate"),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--memory", type=Path, required=True, help="journal of the two above")
    parser.add_argument("--games", type=int, default=48)
    parser.add_argument("--alone", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measure(options, Path(folder)))
    print(json.dumps(found))
    return 0 if found["ratio"] >= BUDGET else 1


if __name__ == "__main__":
    raise SystemExit(main())

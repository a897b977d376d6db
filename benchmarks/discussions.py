"""Discussions a minute: side by side against one by one, and how the cost grows with the number of agents.

    sparring evolve examples/comas/start.yaml --memory comas.db      # once: agents that keep the format
    python -m benchmarks.discussions --memory comas.db [--discussions 64] [--alone 6] [--repeats 3]

Each repeat plays discussions that nobody played before: `--discussions` of them at once and then the first
`--alone` of the same tasks again one after the other, in which only the agents of one discussion speak at
once. Agents are copies of one policy on one engine. Cost: calls and tokens of one discussion of 1, 2, 4 and 8
agents, and how many such calls a minute come in; a round has as many solutions as agents.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.games import timed
from sparring.agents.engines.registry import EnginePool
from sparring.graphs.play import Play
from sparring.graphs.results import read_results
from sparring.memory.journal import Journal
from sparring.memory.tasks import load_tasks

COMAS = Path(__file__).parents[1] / "examples" / "comas"
BUDGET = 6.0


def discussions(tasks: Any, seed: int, agents: int, policy: str) -> Play:
    roles = dict.fromkeys(("solver", "evaluator", "scorer"), f"policy:{policy}@training")
    options = {"agents": agents, "prompts": {role: str(COMAS / f"{role}.md") for role in roles}}
    sampling = {"temperature": 1.0, "max_tokens": 64, "evaluator.max_tokens": 40, "scorer.max_tokens": 24}
    return Play("discuss", tuple(tasks), options, roles=roles, sampling=sampling, seed=seed)


async def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    tasks = load_tasks(COMAS / "train.jsonl")
    memory = folder / options.memory.name
    shutil.copy(options.memory, memory)
    shutil.copytree(f"{options.memory}.policies", f"{memory}.policies")
    ratios, together = [], []
    with Journal.open(memory) as journal:
        async with EnginePool() as pool:
            await timed(journal, pool, "warm", discussions(tasks[:2], 0, 4, options.policy), 2)
            for repeat in range(options.repeats):
                mine = tasks[repeat * options.discussions : (repeat + 1) * options.discussions]
                play = discussions(mine, options.seed + repeat, 4, options.policy)
                together.append(await timed(journal, pool, f"together-{repeat}", play, len(mine)))
                few = discussions(mine[: options.alone], options.seed + repeat, 4, options.policy)
                ratios.append(together[-1] / await timed(journal, pool, f"alone-{repeat}", few, 1))
            growth = [await _grown(journal, pool, tasks, agents, options) for agents in (1, 2, 4, 8)]
    return {
        "discussions_per_minute": round(statistics.median(together), 1),
        "ratio": round(statistics.median(ratios), 2),
        "budget": BUDGET,
        "agents": growth,
    }


async def _grown(
    journal: Journal, pool: EnginePool, tasks: Any, agents: int, options: argparse.Namespace
) -> dict[str, Any]:
    """What a discussion of so many agents takes, as many calls at once whatever their number."""
    count = max(2, options.discussions // agents)
    name, mine = f"agents-{agents}", tasks[-count:]
    play = discussions(mine, options.seed, agents, options.policy)
    per_minute = await timed(journal, pool, name, play, count)
    rows = read_results(journal, name)
    calls = sum(row.calls for row in rows) / len(rows)
    return {
        "agents": agents,
        "calls": calls,
        "prompt_tokens": round(sum(row.prompt_tokens for row in rows) / len(rows)),
        "completion_tokens": round(sum(row.completion_tokens for row in rows) / len(rows)),
        "calls_per_minute": round(calls * per_minute),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--memory", type=Path, required=True, help="journal of the start")
    parser.add_argument("--policy", default="start")
    parser.add_argument("--discussions", type=int, default=64)
    parser.add_argument("--alone", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measure(options, Path(folder)))
    print(json.dumps(found))
    return 0 if found["ratio"] >= BUDGET else 1


if __name__ == "__main__":
    raise SystemExit(main())

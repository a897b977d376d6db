"""Discussions a minute: side by side against one by one, and how the cost grows with the number of agents.

    sparring evolve examples/comas/start.yaml --memory comas.db      # once: agents that keep the format
    python -m benchmarks.discussions --memory comas.db [--discussions 64] [--alone 6] [--repeats 3]

Each repeat plays discussions that nobody played before: `--discussions` of them at once and then the first
`--alone` of the same tasks again one after the other, in which only the agents of one discussion speak at
once. The sequential baseline plays tasks one discussion and one call at a time on the same engine. Agents are
copies of one policy on one engine. Cost: calls and tokens of one discussion of 1, 2, 4 and 8
agents, and how many such calls a minute come in; a round has as many solutions as agents.
"""

from __future__ import annotations

import argparse
import asyncio
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.side_by_side import compared, parser, run, timed
from sparring.agents.engines.registry import EnginePool
from sparring.graphs.play import Play
from sparring.graphs.results import read_results
from sparring.memory.journal import Journal
from sparring.memory.tasks import load_tasks

COMAS = Path(__file__).parents[1] / "examples" / "comas"
ENGINE = "smollm2-135m?dtype=float32"
"""The base of the policies, as the journal spells it."""


def discussions(tasks: Any, seed: int, *, agents: int, policy: str) -> Play:
    roles = dict.fromkeys(("solver", "evaluator", "scorer"), f"policy:{policy}@training")
    options = {"agents": agents, "prompts": {role: str(COMAS / f"{role}.md") for role in roles}}
    sampling = {"temperature": 1.0, "max_tokens": 64, "evaluator.max_tokens": 40, "scorer.max_tokens": 24}
    return Play("discuss", tuple(tasks), options, roles=roles, sampling=sampling, seed=seed)


async def measure(options: argparse.Namespace, journal: Journal, pool: EnginePool) -> dict[str, Any]:
    tasks = load_tasks(COMAS / "train.jsonl")
    four = partial(discussions, agents=4, policy=options.policy)
    found = await compared(journal, pool, tasks, four, options)
    growth = [await _grown(journal, pool, tasks, agents, options) for agents in (1, 2, 4, 8)]
    sequential = await _sequential(journal, pool, four(tasks[-options.alone :], options.seed + 1))
    return {
        "discussions_per_minute": round(found.together, 1),
        "against_one_by_one": round(found.ratio, 2),
        "ratio": round(found.together / sequential, 2),
        "agents": growth,
    }


async def _sequential(journal: Journal, pool: EnginePool, play: Play) -> float:
    """Discussions a minute, one call at a time: the last to use the engine, which stays so narrow."""
    engine = pool.get(ENGINE)
    engine._slots, engine._gated = asyncio.Semaphore(1), True
    return await timed(journal, pool, "sequential", play, 1)


async def _grown(
    journal: Journal, pool: EnginePool, tasks: Any, agents: int, options: argparse.Namespace
) -> dict[str, Any]:
    """What a discussion of so many agents takes, as many calls at once whatever their number."""
    count = max(2, options.count // agents)
    name, mine = f"agents-{agents}", tasks[-count:]
    play = discussions(mine, options.seed, agents=agents, policy=options.policy)
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
    options = parser(__doc__, "discussions", count=64, alone=6)
    options.add_argument("--policy", default="start")
    return run(options.parse_args(), measure, "discussions")


if __name__ == "__main__":
    raise SystemExit(main())

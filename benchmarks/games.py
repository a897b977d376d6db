"""Sneaky games a minute: side by side against one by one, the same games, one engine, one process.

    sparring evolve examples/chains/solver.yaml --memory chains.db      # once: players that can play
    sparring evolve examples/chains/round0.yaml --memory chains.db
    python -m benchmarks.games --memory chains.db [--games 48] [--alone 8] [--repeats 3]

Each repeat plays games that nobody played before: `--games` of them at once and then the first `--alone`
of the same tasks again one after the other. A game is one attack, 2 x 4 roll-outs and 2 verdicts.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.side_by_side import compared, parser, run
from sparring.agents.engines.registry import EnginePool
from sparring.graphs.play import Play
from sparring.graphs.protocols.sneaky_figures import game_figures
from sparring.memory.journal import Journal
from sparring.memory.tasks import load_tasks

CHAINS = Path(__file__).parents[1] / "examples" / "chains"


def games(tasks: Any, seed: int) -> Play:
    roles = {seat: f"policy:{seat}@training" for seat in ("sneaky", "critic", "solver")}
    prompts = {seat: str(CHAINS / f"{seat}.md") for seat in roles}
    sampling = {"temperature": 0.9, "max_tokens": 64, "critic.max_tokens": 32}
    return Play("sneaky", tuple(tasks), {"prompts": prompts}, roles=roles, sampling=sampling, seed=seed)


async def measure(options: argparse.Namespace, journal: Journal, pool: EnginePool) -> dict[str, Any]:
    tasks = load_tasks(CHAINS / "solve_train.jsonl")
    found = await compared(journal, pool, tasks, games, options)
    figures = game_figures(journal, "together-0")
    return {
        "games_per_minute": round(found.together, 1),
        "alone_per_minute": round(found.alone, 1),
        "ratio": round(found.ratio, 2),
        "valid": figures.get("valid"),
        "win_rate": figures.get("win_rate"),
    }


def main() -> int:
    return run(parser(__doc__, "games", count=48, alone=8).parse_args(), measure, "games")


if __name__ == "__main__":
    raise SystemExit(main())

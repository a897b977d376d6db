"""Does the sneaky game make a better critic? Three arms from one supervised start, with seeds.

    python -m benchmarks.spc --out spc [--seeds 3] [--minutes 60] [--arms spc latest lessons]

Per seed: round 0 (examples/chains/round0.yaml) until its development loss stops falling; then, each in a
copy of its journal and with the same minutes: games with opponent bands (spc.yaml), newest against newest
(latest.yaml), more supervision (lessons.yaml). The critics are measured greedily by `step_check` on held-out
chains with the training kinds of errors (check_known), with kinds absent from training (check_new), and on
ProcessBench's GSM8K part where it is at hand (--processbench FILE). What is there is not played again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparring.graphs.play import aplay, plan
from sparring.graphs.step_errors import figures, step_errors
from sparring.memory.journal import Journal
from sparring.memory.policies import find
from sparring.training.config import load_config
from sparring.training.console import Watch
from sparring.training.evolve import evolve

CHAINS = Path(__file__).parents[1] / "examples" / "chains"
ARMS = ("spc", "latest", "lessons")
SHOWN = ("balanced_accuracy", "correct_recall", "error_recall", "harmonic", "f1", "unreadable")


def journal_of(out: Path, seed: int, arm: str) -> Path:
    return out / f"{arm}-{seed}.db"


def start(out: Path, seed: int) -> Path:
    """Round 0 of a seed."""
    memory = journal_of(out, seed, "round0")
    config = load_config(CHAINS / "round0.yaml").model_copy(update={"seed": seed})
    evolve(config, memory, told=Watch(quiet=False))
    return memory


def arm(out: Path, seed: int, name: str, minutes: float) -> Path:
    """One arm of a seed, from a copy of its round 0."""
    memory = journal_of(out, seed, name)
    if not memory.exists():
        begun = journal_of(out, seed, "round0")
        with Journal.open(begun) as journal:  # folds the log into the file
            journal.run_row("round0")
        shutil.copytree(f"{begun}.policies", f"{memory}.policies", dirs_exist_ok=True)
        shutil.copy(begun, memory)
    config = load_config(CHAINS / f"{name}.yaml")
    evolve(config.model_copy(update={"seed": seed, "minutes": minutes}), memory, told=Watch(quiet=False))
    return memory


def measured(memory: Path, tasks: Mapping[str, str], limit: int | None) -> dict[str, Mapping[str, float]]:
    """Figures of the critic's training head on each set."""
    with Journal.open(memory) as journal:
        number = find(journal, "critic", "training").number
    found: dict[str, Mapping[str, float]] = {}
    for name, file in tasks.items():
        play = plan(
            "step_check",
            file,
            limit=limit,
            engine=f"policy:critic@{number}",
            upto="label",
            prompts={"critic": str(CHAINS / "critic.md")},
            temperature=0.0,
            max_tokens=32,
        )
        run = f"check-{name}-{number}"
        asyncio.run(aplay(play, memory, run=run))
        with Journal.open(memory) as journal:
            found[name] = figures(step_errors(journal, run))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=60.0, help="of each arm and seed")
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=ARMS)
    parser.add_argument("--limit", type=int, help="tasks of each set")
    parser.add_argument("--processbench", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    sets = {name: str(CHAINS / f"{name}.jsonl") for name in ("check_known", "check_new")}
    if options.processbench:
        sets["processbench"] = str(options.processbench)
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        memories = {"round0": start(options.out, seed)}
        memories |= {name: arm(options.out, seed, name, options.minutes) for name in options.arms}
        for name, memory in memories.items():
            for tasks, found in measured(memory, sets, options.limit).items():
                rows.append({"arm": name, "seed": seed, "tasks": tasks, **found})
                print("  ".join([f"{name:<8} {seed} {tasks:<12}", *_cells(found)]), flush=True)
    (options.out / "figures.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _cells(found: Mapping[str, float]) -> list[str]:
    return [f"{name} {found[name]:.3f}" for name in SHOWN if name in found]


if __name__ == "__main__":
    main()

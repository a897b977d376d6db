"""Does the sneaky game make a better critic? Three arms from one supervised start, with seeds.

    python -m benchmarks.spc --out spc [--seeds 0 1 2] [--minutes 60] [--arms spc latest lessons]
    python -m benchmarks.spc --out spc --report          # the table and the plots of what is there

Once: the solver (solver.yaml). Per seed: round 0 (round0.yaml), like the solver until its development loss
stops falling; then, each in a copy of that journal: games with opponent bands (spc.yaml), newest against
newest (latest.yaml), more supervision (lessons.yaml), in as many updates of as many rows. The critics are
measured greedily by `step_check` on held-out chains with the training kinds of errors (check_known), with
kinds absent from training (check_new), and on ProcessBench's GSM8K part where it is at hand
(--processbench FILE). What is there is not played again, and what was stopped goes on; once the solver is
there, several calls may work on seeds of their own at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.seeds import spread, told
from benchmarks.side_by_side import copy_journal
from sparring.graphs.play import aplay, plan
from sparring.graphs.step_errors import figures, step_errors
from sparring.memory.journal import Journal
from sparring.memory.policies import find
from sparring.training.config import load_config
from sparring.training.console import Watch
from sparring.training.evolve import evolve
from sparring.training.plots import curves_plot
from sparring.training.story import read_story

CHAINS = Path(__file__).parents[1] / "examples" / "chains"
ARMS = ("spc", "latest", "lessons")
SHOWN = ("balanced_accuracy", "correct_recall", "error_recall", "harmonic", "f1", "unreadable")
Row = dict[str, Any]
Point = tuple[float, float, float, float]


def journal_of(out: Path, seed: int, arm: str) -> Path:
    return out / f"{arm}-{seed}.db"


def train(name: str, memory: Path, seed: int, minutes: float | None = None) -> None:
    config = load_config(CHAINS / f"{name}.yaml")
    evolve(config.model_copy(update={"seed": seed, "minutes": minutes}), memory, told=Watch(quiet=False))


def follow(out: Path, seed: int, name: str, before: Path, minutes: float | None = None) -> Path:
    """A run in a journal of its own that begins as a copy of the one before it."""
    memory = journal_of(out, seed, name)
    if not memory.exists():
        copy_journal(before, memory)
    train(name, memory, seed, minutes)
    return memory


def solver(out: Path) -> Path:
    """One solver validates the attacks of all seeds."""
    memory = journal_of(out, 0, "solver")
    train("solver", memory, 0)
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


def play_seed(options: argparse.Namespace, seed: int, sets: Mapping[str, str]) -> None:
    """All that belongs to a seed; its figures in a file of their own."""
    begun = follow(options.out, seed, "round0", solver(options.out))
    arms = {name: follow(options.out, seed, name, begun, options.minutes) for name in options.arms}
    memories = {"round0": begun, **arms}
    rows: list[Row] = []
    for name, memory in memories.items():
        for tasks, found in measured(memory, sets, options.limit).items():
            rows.append({"arm": name, "seed": seed, "tasks": tasks, **found})
            print("  ".join([f"{name:<8} {seed} {tasks:<12}", *_cells(found)]), flush=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (options.out / f"figures-{seed}.jsonl").write_text(text, encoding="utf-8")


def _cells(found: Mapping[str, float]) -> list[str]:
    return [f"{name} {found[name]:.3f}" for name in SHOWN if name in found]


def report(out: Path) -> None:
    """A table of the seeds' means, least and most, and the curves of round 0 and of the arms."""
    files = sorted(out.glob("figures-*.jsonl"))
    rows: list[Row] = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    seeds = sorted({row["seed"] for row in rows})
    print(f"mean [least, most] of seeds {', '.join(map(str, seeds))}")
    print("| tasks | arm | balanced accuracy | over round 0 | recall of right steps | of wrong ones |")
    print("| --- | --- | --- | --- | --- | --- |")
    for tasks in dict.fromkeys(row["tasks"] for row in rows):
        for name in ("round0", *ARMS):
            if mine := [row for row in rows if row["tasks"] == tasks and row["arm"] == name]:
                print(f"| {tasks} | {name} | {' | '.join(_spread(rows, mine))} |")
    for name, numbers in (("solver", [0]), ("round0", seeds)):
        curves = {f"seed {seed}": _curve(out, seed, name, "loss") for seed in numbers}
        _plot(
            curves, out / f"{name}_loss.png", f"Development loss of {name}.yaml", "updates", "nats per token"
        )
    arms = {name: _over_seeds(out, seeds, name) for name in ARMS}
    if any(arms.values()):
        title = "Balanced accuracy on check_dev: mean, least and most of the seeds"
        _plot(arms, out / "arms.png", title, "rounds", "balanced accuracy")


def _over_seeds(out: Path, seeds: Sequence[int], name: str) -> list[Point]:
    """An arm's curve: of each round mean, least and most of the seeds that have come to it."""
    played = [seed for seed in seeds if journal_of(out, seed, name).exists()]
    rounds: dict[float, list[float]] = {}
    for seed in played:
        for step, value, *_ in _curve(out, seed, name, SHOWN[0]):
            rounds.setdefault(step, []).append(value)
    return [(step, *spread(values)) for step, values in sorted(rounds.items())]


def _plot(curves: Mapping[str, Sequence[Point]], out: Path, title: str, x_label: str, y_label: str) -> None:
    print("plot:", curves_plot(curves, out, title=title, x_label=x_label, y_label=y_label))


def _spread(rows: Sequence[Row], mine: Sequence[Row]) -> list[str]:
    """The cells of an arm on a set of tasks."""
    begun = {
        row["seed"]: row["balanced_accuracy"]
        for row in rows
        if row["arm"] == "round0" and row["tasks"] == mine[0]["tasks"]
    }
    gains = [row["balanced_accuracy"] - begun[row["seed"]] for row in mine]
    columns = [
        [row["balanced_accuracy"] for row in mine],
        gains,
        *([row[name] for row in mine] for name in SHOWN[1:3]),
    ]
    return [told(column) for column in columns]


def _curve(out: Path, seed: int, name: str, figure: str) -> list[Point]:
    """A figure at each evaluation of a run, without an interval."""
    with Journal.open(journal_of(out, seed, name)) as journal:
        points = read_story(journal, name).evaluations
    return [(point["step"], *(3 * [point["figures"][figure]])) for point in points]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=60.0, help="of each arm and seed")
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=ARMS)
    parser.add_argument("--limit", type=int, help="tasks of each set")
    parser.add_argument("--processbench", type=Path)
    parser.add_argument("--report", action="store_true", help="play nothing")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    sets = {name: str(CHAINS / f"{name}.jsonl") for name in ("check_known", "check_new")}
    if options.processbench:
        sets["processbench"] = str(options.processbench)
    for seed in () if options.report else options.seeds:
        play_seed(options, seed, sets)
    report(options.out)


if __name__ == "__main__":
    main()

"""What a 135M model learns on a CPU: the runs of examples/arithmetic, with seeds, a control and a table.

    python -m benchmarks.learning --out learning                    # all of it, about an hour on 2 cores
    python -m benchmarks.learning --out learning --only digits --seeds 1

Every run has a journal in `--out`; a run that is there is not played again, one that was stopped goes on.
Minutes are those of training steps (play, reward, update); measuring between them is left out.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparring.graphs.stats import Estimate
from sparring.memory.journal import Journal
from sparring.training.config import load_config
from sparring.training.console import Watch
from sparring.training.evolve import evolve
from sparring.training.plots import before_after_plot, curves_plot
from sparring.training.story import Story, by_kind, read_story

EXAMPLES = Path(__file__).parent.parent / "examples" / "arithmetic"
RUNS = {"digits": 3, "held_out": 1, "matched": 1, "control": 3, "first_number": 1, "curriculum": 1}
"""Configuration -> seeds."""
FLOOR_MINUTES, GOAL_MINUTES = 4, 8


def play(name: str, seed: int, out: Path) -> Path:
    """Run one configuration with a seed, or go on with it; its journal."""
    config = load_config(EXAMPLES / f"{name}.yaml")
    run = f"{name.replace('_', '-')}-{seed}"
    memory = out / f"{run}.db"
    evolve(config.model_copy(update={"run": run, "seed": seed}), memory, told=Watch(quiet=False))
    return memory


def story_of(memory: Path) -> tuple[Story, dict[str, Estimate], dict[str, Estimate]]:
    """The run in a journal, and accuracy by kind of its first and last measurement."""
    with Journal.open(memory) as journal:
        story = read_story(journal, memory.stem)
        before, after = story.before, story.after or story.before
        assert before is not None and after is not None, f"{memory} was never measured"
        return story, by_kind(journal, before["run"]), by_kind(journal, after["run"])


def at(story: Story, minutes: float) -> dict[str, Any]:
    """The last measurement within so many minutes of training."""
    points: list[dict[str, Any]] = [row for row in story.evaluations if row["seconds"] <= 60 * minutes]
    return points[-1]


def row(story: Story) -> str:
    cells = [story.run, str(len(story.series)), f"{story.series[-1]['seconds'] / 60:.1f}"]
    points = (story.evaluations[0], at(story, FLOOR_MINUTES), at(story, GOAL_MINUTES), story.evaluations[-1])
    cells += [f"{p['mean']:.3f} [{p['low']:.3f}, {p['high']:.3f}]" for p in points]
    return f"| {' | '.join([*cells, str(points[0]['n'])])} |"


def report(memories: Sequence[Path], out: Path) -> None:
    """The table, the medians over seeds, and the curves."""
    stories = [story_of(memory) for memory in memories]
    print("| run | updates | minutes | before | by 4 minutes | by 8 minutes | last | n |")
    print("| --- | --: | --: | --- | --- | --- | --- | --: |")
    for story, _, _ in stories:
        print(row(story))
    digits = [story for story, _, _ in stories if story.run.startswith("digits-")]
    if len(digits) > 1:
        for minutes in (FLOOR_MINUTES, GOAL_MINUTES):
            middle = statistics.median(at(story, minutes)["mean"] for story in digits)
            print(f"median of {len(digits)} seeds by {minutes} minutes: {middle:.3f}")
    for story, before, after in stories:
        kinds = ", ".join(f"{kind} {before[kind].mean:.2f} -> {after[kind].mean:.2f}" for kind in after)
        alarms = sorted({row["monitor"] for row in story.alarms})
        print(
            f"{story.run}: {kinds}; alarms: {', '.join(alarms) or 'none'}; stopped: {story.stopped or 'no'}"
        )
    curves = {
        story.run: [(p["seconds"] / 60, p["mean"], p["low"], p["high"]) for p in story.evaluations]
        for story, _, _ in stories
    }
    print(
        "plot:",
        curves_plot(curves, out / "curves.png", title="Greedy accuracy", x_label="minutes of training"),
    )
    story, before, after = stories[0]
    print("plot:", before_after_plot(before, after, out / "before_after.png", title=f"Run {story.run}"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("learning"))
    parser.add_argument("--only", nargs="*", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--seeds", type=int, help="seeds of each configuration")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    pairs = [(name, seed) for name in chosen.only for seed in range(chosen.seeds or RUNS[name])]
    report([play(name, seed, chosen.out) for name, seed in pairs], chosen.out)


if __name__ == "__main__":
    main()

"""CoMAS and its two ablations in a simulation: do the rewards drive agents where the paper says they go?

    python -m benchmarks.collapse --out OUT [--seeds 5] [--steps 40] [--discussions 8]

No language model speaks: an agent is a table of probabilities for each role, two choices a situation, that
learns by REINFORCE. Discussion, journal, rewards and figures are the real ones, so what is shown is where
the incentives lead that `rewards/comas` pays, and nothing about what a model can learn or judge.

    solver     careful (right in 0.8 of the cases) or hasty (0.4)
    evaluator  objects or not; whoever reads a solution has an impression of it, right in 0.75 of the cases
    scorer     3 or 1, by its own impression and by whether somebody objected
    voter      for or against, by its impression

All begin honest in 0.73 of the cases; a scorer heeds an objection as much as its own impression. Advantages
are normalised for each agent and role, as Sparring does by default: the scorer of CoMAS, always paid 0, stays
as it began. That a scorer without an evaluation earns 1 - r is our reading of that ablation, so there the
direction is by construction. Without scoring a vote is paid for agreeing: the direction is that of the
majority at the start. The table gives means over seeds with the least and the greatest, at the first and the
last step; `approves` is the chance that a judge speaks for what looks wrong to it.
"""

from __future__ import annotations

import argparse
import random
import re
from collections import defaultdict
from collections.abc import Callable
from math import exp
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from sqlalchemy import select

import sparring
from benchmarks.seeds import spread, told
from sparring.graphs.catalogue import make_protocol
from sparring.graphs.drawing import add_legend, draw_band, new_figure, save
from sparring.graphs.protocols.discuss_figures import discussion_figures
from sparring.memory.journal import Journal
from sparring.memory.schema import Episode, Reward, Turn
from sparring.memory.tasks import load_tasks
from sparring.training.rewards.base import RewardRef
from sparring.training.rewards.comas import InteractionRewards
from sparring.training.rewards.derive import derive

COMAS = Path(__file__).parents[1] / "examples" / "comas"
AGENTS, RATE = 4, 1.0
CAREFUL, HASTY, SEES = 0.8, 0.4, 0.75
SETTINGS: dict[str, dict[str, Any]] = {
    "CoMAS": {},
    "no evaluation": {"evaluations": 0},
    "no scoring": {"evaluations": 3, "assignment": "no_self_review", "ablation": "no_scoring"},
}
FIGURES = ("solver_reward", "right", "judge_accuracy", "approves")
JUDGES: dict[str, tuple[str, ...]] = {
    "CoMAS": ("evaluator", "wrong"),
    "no evaluation": ("scorer", "wrong", "unread"),
    "no scoring": ("voter", "wrong"),
}
"""Setting -> who is paid for judging, before a solution that looks wrong."""
Situation = tuple[str, ...]
Figures = dict[str, float]


class Agent:
    """One agent's tables: (role, what it sees) -> log-odds of its first choice."""

    def __init__(self) -> None:
        self.odds: dict[Situation, float] = {("solver",): 0.0}
        for looks in ("right", "wrong"):
            honest = 1.0 if looks == "right" else -1.0
            self.odds |= {("evaluator", looks): honest, ("voter", looks): honest}
            for said, heeded in (("objection", -1.0), ("none", 1.0), ("unread", 0.0)):
                self.odds["scorer", looks, said] = honest + heeded
        self.made: dict[int, tuple[Situation, bool]] = {}
        """Seed of a turn -> what was chosen."""

    def chance(self, situation: Situation) -> float:
        return 1 / (1 + exp(-self.odds[situation]))

    def choose(self, situation: Situation, seed: int, rng: random.Random) -> bool:
        self.made[seed] = situation, (chosen := rng.random() < self.chance(situation))
        return chosen

    def learn(self, paid: dict[int, float], rate: float) -> None:
        """REINFORCE over a step's turns (seed -> reward), normalised over each role."""
        roles: defaultdict[str, list[int]] = defaultdict(list)
        for seed in paid:
            roles[self.made[seed][0][0]].append(seed)
        for seeds in roles.values():
            mean, spread = fmean(paid[s] for s in seeds), pstdev([paid[s] for s in seeds])
            for seed in seeds if spread > 1e-6 else ():
                situation, chosen = self.made[seed]
                slope = chosen - self.chance(situation)
                self.odds[situation] += rate * slope * (paid[seed] - mean) / spread / len(seeds)


def player(agent: Agent, role: str, truth: dict[str, str]) -> Callable[[Any, int], str]:
    """An engine in an agent's place: what it says when it is asked in this role."""

    def say(request: Any, seed: int) -> str:
        rng, prompt = random.Random(seed), str(request.messages[-1]["content"])
        answer = truth[max((question for question in truth if question in prompt), key=len)]
        if role == "solver":
            skill = CAREFUL if agent.choose(("solver",), seed, rng) else HASTY
            return f"Answer: {answer if rng.random() < skill else int(answer) + 1}"
        right = re.findall(r"Answer: (\d+)", prompt)[-1] == answer
        looks = "right" if right == (rng.random() < SEES) else "wrong"
        if role == "scorer":
            said = "unread" if "Said of it" not in prompt else "objection" if "wrong" in prompt else "none"
            return f"<score>{3 if agent.choose(('scorer', looks, said), seed, rng) else 1}</score>"
        voting = "Is it correct?" in prompt
        fine = agent.choose(("voter" if voting else "evaluator", looks), seed, rng)
        if voting:
            return f"<answer>{'correct' if fine else 'incorrect'}</answer>"
        return "Every step stands." if fine else "It is wrong."

    say.__qualname__ = f"{role}-{id(agent)}"  # every seat is an engine of its own
    return say


def simulate(
    journal: Journal, name: str, seed: int, steps: int, discussions: int, rate: float = RATE
) -> list[Figures]:
    """One setting with one seed: its figures by step."""
    tasks = load_tasks(COMAS / "train.jsonl")
    truth = {str(task.question): str(task.answer) for task in tasks}
    agents = [Agent() for _ in range(AGENTS)]
    options = {"agents": AGENTS, "rounds": 1, **SETTINGS[name]}
    named = [seat.split(".") for seat in make_protocol("discuss", options).seats()]
    seats = {f"{role}.{n}": player(agents[int(n)], role, truth) for role, n in named}
    options["prompts"] = {role: str(COMAS / f"{role}.md") for role, _ in named}
    drawn, reward, found = random.Random(seed), InteractionRewards(), []
    for step in range(steps):
        run = f"{name}/{seed}/{step}"
        sparring.play(
            "discuss", drawn.sample(tasks, discussions), roles=seats, memory=journal, run=run,
            seed=1000 * seed + step, **options,
        )  # fmt: skip
        derive(journal, reward, run=run)
        paid = rewards_by_seed(journal, run, RewardRef.of(reward))
        for agent in agents:
            agent.learn({turn: value for turn, value in paid.items() if turn in agent.made}, rate)
            agent.made.clear()
        approves = fmean(agent.chance(JUDGES[name]) for agent in agents)
        found.append(discussion_figures(journal, run) | {"approves": approves})
    return found


def rewards_by_seed(journal: Journal, run: str, ref: RewardRef) -> dict[int, float]:
    query = (
        select(Turn.seed, Reward.value)
        .join(Reward, Reward.turn_id == Turn.id)
        .join(Episode, Episode.number == Turn.episode_number)
        .where(Episode.run_id == run, ref.matches, Reward.value.is_not(None))
        .order_by(Turn.seed)
    )
    return {row.seed: row.value for row in journal.read(query)}


def at_step(runs: list[list[Figures]], figure: str, step: int) -> list[float]:
    """A figure of the seeds that have it."""
    return [run[step][figure] for run in runs if figure in run[step]]


def draw(found: dict[str, list[list[Figures]]], steps: int, out: Path) -> Path:
    title = "CoMAS and its ablations, simulated: means of seeds, from the least to the greatest"
    with new_figure(12, 3.6, title) as figure:
        for place, (name, runs) in enumerate(found.items(), start=1):
            panel = figure.add_subplot(1, len(found), place)
            panel.set_title(name)
            panel.set_ylim(-0.03, 1.03)
            panel.set_xlabel("step")
            for number, what in enumerate(FIGURES):
                columns = zip(*(spread(at_step(runs, what, step)) for step in range(steps)), strict=True)
                draw_band(panel, range(1, steps + 1), list(columns), what.replace("_", " "), number)
            if place == 1:
                add_legend(panel, "inside")
        return save(figure, out / "comas_simulated.png")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    for name, default in (("seeds", 5), ("steps", 40), ("discussions", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[list[Figures]]] = {name: [] for name in SETTINGS}
    with Journal.open(":memory:") as journal:
        for name, runs in found.items():
            for seed in range(options.seeds):
                runs.append(simulate(journal, name, seed, options.steps, options.discussions))
            for step in (0, options.steps - 1):
                cells = (f"{what} {told(at_step(runs, what, step))}" for what in FIGURES)
                print(f"{name}, step {step + 1}: {', '.join(cells)}", flush=True)
    print(draw(found, options.steps, options.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Every rule that picks an answer, on recorded samples: 100 MATH questions, 8 scored solutions each.

    python -m benchmarks.recorded --data math_recorded_8samples.jsonl.gz [--out OUT]

No model runs. Answers are read out of the texts by our parser and judged by our check; where that differs
from the flags that were recorded, the sample is listed. Then, from an order of the samples that is drawn anew
400 times: self-consistency on so many samples, and stopping as soon as a solution's score passes a bar (the
outcome score alone; MAgICoRe's gate needs process scores, which these samples do not have). Last, how long
all rules take on 1,000 questions whose answers were compared before.

The bar is swept over what was recorded: the curve says what could be had, not what a bar chosen beforehand
gives.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparring.agents.parsing import ParseError, answer_format
from sparring.graphs.aggregate import Ballot, aggregator
from sparring.graphs.stats import Samples, vote_at, wilson
from sparring.memory.tasks import load_tasks
from sparring.tools.checks import check
from sparring.tools.equality import equality, group
from sparring.training.plots import curves_plot

RULES: dict[str, dict[str, Any]] = {
    "majority": {},
    "weighted": {},
    "reconcile": {},
    "borda": {"power": 0.5},
    "usc": {},
}
ORDERS = 400
LIMIT_S = 2.0


@dataclass(frozen=True)
class Question:
    """What was recorded of a question, and what we read in it; arrays have shape (8,)."""

    name: str
    ballots: list[Ballot]
    right: NDArray[np.bool_]
    recorded: NDArray[np.bool_]
    scores: NDArray[np.float64]
    classes: NDArray[np.int64]


def read(path: Path) -> list[Question]:
    boxed = answer_format("boxed")
    found = []
    for task in load_tasks(path):
        rows = (task.meta or {})["samples"]
        answers = [_answer(boxed, row["text"]) for row in rows]
        scores = np.array([row["reward_model_score"] for row in rows])
        ballots = [
            Ballot(str(place), answer, row["text"], weight=_sigmoid(score), confidence=_sigmoid(score))
            for place, (answer, row, score) in enumerate(zip(answers, rows, scores, strict=True))
        ]
        right = np.array([check("math", answer, task.answer).correct for answer in answers])
        classes = np.array([-1 if c is None else c for c in group(answers, equality("math"))])
        recorded = np.array([row["correct"] for row in rows])
        found.append(Question(task.id, ballots, right, recorded, scores, classes))
    return found


def _answer(parser: Any, text: str) -> str | None:
    try:
        answer: str = parser(text).answer
    except ParseError:
        return None
    return answer


def _sigmoid(score: float) -> float:
    return 1 / (1 + math.exp(-score))


def told(shares: Sequence[float]) -> str:
    found = wilson(sum(shares), len(shares))
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def differences(questions: Sequence[Question]) -> list[str]:
    """Samples of which our check says otherwise than was recorded."""
    return [
        f"{one.name} sample {place}: we read `{ballot.answer}` and say {bool(one.right[place])}, "
        f"recorded {bool(one.recorded[place])}"
        for one in questions
        for place, ballot in enumerate(one.ballots)
        if one.right[place] != one.recorded[place]
    ]


def plain_rules(questions: Sequence[Question], *, recorded: bool = False) -> dict[str, list[float]]:
    """Right or wrong by question, or by the recorded flags: one sample (the mean over 8), the majority, the
    best-scored one, any."""
    truth = {one.name: one.recorded if recorded else one.right for one in questions}
    return {
        "pass@1": [float(truth[one.name].mean()) for one in questions],
        "majority of 8": [float(truth[one.name][vote(one, range(8))]) for one in questions],
        "best of 8 by reward model": [float(truth[one.name][one.scores.argmax()]) for one in questions],
        "pass@8": [float(truth[one.name].any()) for one in questions],
    }


def vote(one: Question, order: Sequence[int]) -> int:
    """The first sample of those with the majority's answer; a tie goes to the answer that was drawn first."""
    drawn = [int(one.classes[place]) for place in order]
    counts = {k: drawn.count(k) for k in drawn if k >= 0}
    winner = max(counts, key=lambda k: (counts[k], -drawn.index(k)), default=drawn[0])
    return order[drawn.index(winner)]


def adaptive(questions: Sequence[Question], bar: float, seed: int = 0) -> tuple[float, float]:
    """Draw until a score passes the bar, then take the best: mean samples drawn, accuracy."""
    rng = np.random.default_rng(seed)
    spent, right = [], []
    for one in questions:
        order = rng.permuted(np.tile(np.arange(8), (ORDERS, 1)), axis=1)
        scores = one.scores[order]
        passed = scores >= bar
        drawn = np.where(passed.any(axis=1), passed.argmax(axis=1) + 1, 8)
        hidden = np.arange(8)[None, :] >= drawn[:, None]
        best = np.where(hidden, -np.inf, scores).argmax(axis=1)
        spent.append(drawn.mean())
        right.append(one.right[order[np.arange(ORDERS), best]].mean())
    return float(np.mean(spent)), float(np.mean(right))


def voting(questions: Sequence[Question], samples: float) -> float:
    """Self-consistency on so many samples, by `graphs.stats`."""
    ones = np.ones(8, np.int64)
    pools = [Samples(one.classes, one.right, ones, ones) for one in questions]
    return float(np.mean([vote_at(pool, "calls", samples, seed=n)[0] for n, pool in enumerate(pools)]))


async def timed(questions: Sequence[Question]) -> float:
    """Seconds for all rules on 1,000 questions, answers having been compared before."""
    thousand = (list(questions) * -(-1000 // len(questions)))[:1000]

    async def first(texts: list[str]) -> str:
        return "Response 0"

    equal = equality("math")
    for one in questions:
        await aggregator("majority")(one.ballots, equal)
    started = perf_counter()
    for one in thousand:
        for name, options in RULES.items():
            await aggregator(name, **options)(one.ballots, equal, first)
    return perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recorded", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    questions = read(options.data)
    flagged = plain_rules(questions, recorded=True)
    for name, shares in plain_rules(questions).items():
        print(f"{name}: {told(shares)}, by the recorded flags {sum(flagged[name]) / len(questions):.3f}")
    listed = differences(questions)
    samples = sum(len(one.ballots) for one in questions)
    print(f"agreement with the recorded flags: {1 - len(listed) / samples:.4f}")
    print("\n".join(listed) or "no sample differs")
    bars = np.quantile(np.concatenate([one.scores for one in questions]), np.linspace(0, 1, 21))
    curve = sorted({adaptive(questions, float(bar)) for bar in bars})
    counts = np.linspace(1, 8, 15)
    votes = [(float(n), voting(questions, float(n))) for n in counts]
    for spent, right in curve:
        beside = voting(questions, spent)
        print(f"outcome score alone, {spent:.2f} samples: {right:.3f}; self-consistency {beside:.3f}")
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        runs = {
            "stop at a bar, outcome score alone": [(n, right, right, right) for n, right in curve],
            "self-consistency": [(n, right, right, right) for n, right in votes],
        }
        title = "100 recorded MATH questions, without a gate"
        about = {"title": title, "x_label": "mean samples a question", "y_label": "share right"}
        print(curves_plot(runs, options.out / "recorded.png", **about))
    seconds = asyncio.run(timed(questions))
    print(
        json.dumps({"rules": list(RULES), "questions": 1000, "seconds": round(seconds, 3), "limit": LIMIT_S})
    )
    return int(seconds > LIMIT_S)


if __name__ == "__main__":
    raise SystemExit(main())

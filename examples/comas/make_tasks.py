"""Writes the task files of this folder: arithmetic chains to be discussed, lessons, and labelled solutions.

    python examples/comas/make_tasks.py

No problem is in two files:

    lessons     what solver, evaluator and scorer would say about a chain, its right solution and a wrong one,
                the solver also after reading either: a start in the format, since the bare model keeps none
    votes       what solver and voter would, for the ablation without scores
    lessons_dev, votes_dev
                the same of other chains, to know when to stop
    train       problems to discuss
    held_out    problems to be evaluated on
    probe       solutions, half of them wrong, that judges are asked about
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparring.memory.tasks import save_tasks
from sparring.tools.chains import Chain, generate
from sparring.tools.corrupt import TRAINING, StepPair, pairs, wrong_solution

HERE = Path(__file__).parent
SEED = 7
SIZES = {
    "lessons": 216,
    "lessons_dev": 24,
    "train": 400,
    "held_out": 100,
    "probe": 40,
    "votes": 96,
    "votes_dev": 24,
}
PACKED = "lessons", "votes"
"""Files that are compressed."""
LENGTHS = 2, 3
"""Fewest and most operations of a chain: what a small model gets right now and then."""
LOW, HIGH = 1, 3


def written(steps: Sequence[str], answer: str) -> str:
    """A solution as a solver writes it."""
    return "\n".join([*steps, f"Answer: {answer}"])


def ended(steps: Sequence[str]) -> str:
    """What the last step says: the answer of a solution, right or wrong."""
    return steps[-1].rpartition("=")[2].strip()


Lesson = tuple[str, str, dict[str, Any], str]
"""Role, occasion, what its prompt is given, what it is to say."""


def problem(name: str, number: int, chain: Chain) -> dict[str, Any]:
    return {"id": f"{name}-{number}", "question": chain.problem, "answer": chain.answer, "check": "math"}


def judged(solution: str, said: str, misled: str, score: int) -> list[Lesson]:
    """What is to be said of a solution. The scorer reads what is true of it, what is not, and nothing: who
    only ever repeats the evaluation is no second judge."""
    why = "Nothing is wrong." if score == HIGH else "The error is there."
    shown = {"solution": solution, "low": LOW, "high": HIGH}
    scored: list[Lesson] = [
        ("scorer", "score", {**shown, "evaluation": read}, f"{why} <score>{score}</score>")
        for read in (said, misled, "")
    ]
    return [("evaluator", "evaluate", {"solution": solution, "discussion": []}, said), *scored]


def voted(solution: str, said: str, _: str, score: int) -> list[Lesson]:
    vote = "correct" if score == HIGH else "incorrect"
    shown = {"solution": solution, "discussion": []}
    return [("evaluator", "vote", shown, f"{said} <answer>{vote}</answer>")]


def taught(name: str, number: int, chain: Chain, pair: StepPair) -> dict[str, Any]:
    """A problem with all that is to be said about it."""
    wrong = wrong_solution(pair)
    right_text, wrong_text = written(chain.steps, chain.answer), written(wrong, ended(wrong))
    praise, found = "Every step is right.", f"{pair.correct}, but the solution says {pair.wrong}."
    invented = f"{pair.wrong}, but the solution says {pair.correct}."
    tried = [
        {"solution": right_text, "evaluations": [praise]},
        {"solution": wrong_text, "evaluations": [found]},
    ]
    read = (tried, tried[::-1], tried[:1], tried[1:])[number % 4]
    review = voted if name.startswith("votes") else judged
    said: list[Lesson] = [
        ("solver", "solve", {"discussion": []}, right_text),
        ("solver", "solve", {"discussion": read}, right_text),
        *review(right_text, praise, invented, HIGH),
        *review(wrong_text, found, praise, LOW),
    ]
    lessons = [
        {"role": role, "occasion": occasion, "variables": {"question": chain.problem, **shown}, "text": text}
        for role, occasion, shown, text in said
    ]
    return {**problem(name, number, chain), "lessons": lessons}


def labelled(number: int, chain: Chain, pair: StepPair) -> dict[str, Any]:
    """Every other solution has an error."""
    steps = wrong_solution(pair) if number % 2 else chain.steps
    return {
        "id": f"probe-{number}",
        "question": chain.problem,
        "solution": written(steps, ended(steps)),
        "answer": "wrong" if number % 2 else "right",
    }


def main() -> None:
    drawn = iter(generate(sum(SIZES.values()), SEED, lengths=LENGTHS))
    chains = {name: [next(drawn) for _ in range(count)] for name, count in SIZES.items()}
    for name in ("train", "held_out"):
        save_tasks(HERE / f"{name}.jsonl", (problem(name, n, chain) for n, chain in enumerate(chains[name])))
    for name in ("lessons", "lessons_dev", "probe", "votes", "votes_dev"):
        made = {pair.problem: pair for pair in pairs(chains[name], SEED, TRAINING)}
        fitting = [(chain, made[chain.problem]) for chain in chains[name] if chain.problem in made]
        rows = [
            labelled(n, *both) if name == "probe" else taught(name, n, *both)
            for n, both in enumerate(fitting)
        ]
        save_tasks(HERE / f"{name}.jsonl{'.gz' if name in PACKED else ''}", rows)


if __name__ == "__main__":
    main()

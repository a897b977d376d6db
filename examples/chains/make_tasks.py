"""Writes the task files of this folder: arithmetic chains, pairs of steps, and solutions to be checked.

    python examples/chains/make_tasks.py

No problem is in two files, so nothing that is measured has been trained on:

    solve_train, solve_dev    problems with their solutions, for a solver
    pairs_start               a right and a wrong step on one prefix, with what a teacher says about both
                              (kinds of errors: training only): all that the two sides start from
    pairs_train, pairs_dev    the same, for a solver, for more supervision, and to know when to stop
    check_dev                 as check_known, to look at while something is tried
    check_known               solutions for a critic to check, half of them with an error, of a training kind
    check_new                 the same with errors of the kinds that no training row has
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparring.memory.tasks import save_tasks
from sparring.tools.chains import Chain, generate
from sparring.tools.corrupt import HELD_OUT, TRAINING, StepPair, pairs, wrong_solution

HERE = Path(__file__).parent
SEED = 0
SIZES = {
    "solve_train": 600,
    "solve_dev": 200,
    "pairs_train": 2400,
    "pairs_dev": 200,
    "check_known": 400,
    "check_new": 400,
    "check_dev": 200,
    "pairs_start": 32,
}
"""Chains in each file, every one of them for one row; of pairs those are kept where a kind applies."""


def chains() -> dict[str, list[Chain]]:
    """The problems of each file."""
    drawn = iter(generate(sum(SIZES.values()), SEED))
    return {name: [next(drawn) for _ in range(count)] for name, count in SIZES.items()}


def solved(name: str, rows: Sequence[Chain]) -> list[dict[str, Any]]:
    return [_problem(name, n, chain) for n, chain in enumerate(rows)]


def paired(name: str, rows: Sequence[Chain]) -> list[dict[str, Any]]:
    """Of each chain its solution, the index of a step, and a pair for that step."""
    made = []
    for n, pair in enumerate(pairs(rows, SEED)):
        told = {
            "step": len(pair.prefix),
            "correct": pair.correct,
            "wrong": pair.wrong,
            "kind": pair.kind,
            "error": pair.error_id,
            "thought": pair.thought,
            "critique_correct": pair.critique_correct,
            "critique_wrong": pair.critique_wrong,
        }
        made.append({**_problem(name, n, Chain.parse(pair.problem)), **told})
    return made


def checked(name: str, rows: Sequence[Chain], kinds: Sequence[str]) -> list[dict[str, Any]]:
    """One solution a chain, every other one with an error; `label` is where, -1 if there is none."""
    half = len(rows) // 2
    wrong = pairs(rows[:half], SEED, kinds)
    assert len(wrong) == half, f"{name}: on some chains no kind of error applies"
    made = []
    for n, (pair, chain) in enumerate(zip(wrong, rows[half:], strict=True)):
        made += [_with_error(f"{name}-{2 * n}", pair), _without(f"{name}-{2 * n + 1}", chain)]
    return made


def _problem(name: str, n: int, chain: Chain) -> dict[str, Any]:
    return {
        "id": f"{name}-{n}",
        "question": chain.problem,
        "answer": chain.answer,
        "check": "math",
        "steps": chain.steps,
    }


def _with_error(name: str, pair: StepPair) -> dict[str, Any]:
    steps = wrong_solution(pair)
    return {"id": name, "problem": pair.problem, "steps": steps, "label": len(pair.prefix), "kind": pair.kind}


def _without(name: str, chain: Chain) -> dict[str, Any]:
    return {"id": name, "problem": chain.problem, "steps": chain.steps, "label": -1}


def main() -> None:
    drawn = chains()
    for name in ("solve_train", "solve_dev"):
        save_tasks(HERE / f"{name}.jsonl", solved(name, drawn[name]))
    save_tasks(HERE / "pairs_train.jsonl.gz", paired("pairs_train", drawn["pairs_train"]))
    save_tasks(HERE / "pairs_dev.jsonl", paired("pairs_dev", drawn["pairs_dev"]))
    save_tasks(HERE / "pairs_start.jsonl", paired("pairs_start", drawn["pairs_start"]))
    save_tasks(HERE / "check_dev.jsonl", checked("check_dev", drawn["check_dev"], TRAINING))
    save_tasks(HERE / "check_known.jsonl", checked("check_known", drawn["check_known"], TRAINING))
    save_tasks(HERE / "check_new.jsonl", checked("check_new", drawn["check_new"], HELD_OUT))


if __name__ == "__main__":
    main()

"""Writes the task files of this folder: word problems to be discussed, and lessons in the format.

    python examples/comas/words/make_words.py FOLDER

FOLDER holds `gsm8k_train.jsonl.gz` (Cobbe et al. 2110.14168) and `svamp_dev.jsonl` (Patel et al.
2103.07191), both under the MIT licence: rows of `id`, `question`, `answer`, `check` and, of GSM8K,
`solution`. A few of them are written here:

    lessons, lessons_dev
                GSM8K: short solutions as people wrote them, and the same with an error in the last step
    train       SVAMP: problems to discuss
"""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path
from typing import Any

from sparring.memory.records import TaskRecord
from sparring.memory.tasks import load_tasks, save_tasks

HERE = Path(__file__).parent
SEED = 7
LESSONS, LESSONS_DEV, TRAIN = 120, 12, 48
LONGEST = 190
"""Characters of a solution that is taught, and of its question: one or two steps."""
LOW, HIGH = 1, 3
_EQUATION = re.compile(r"([\d.]+(?: ?[-+*/] ?[\d.]+)+) = \$?(\d+)(?![\d.,])")

Row = dict[str, Any]


def written(steps: str, answer: str) -> str:
    """A solution as a solver writes it."""
    return f"{steps}\nAnswer: {answer}"


def spoilt(steps: str, answer: str, rng: random.Random) -> tuple[str, str, str, str] | None:
    """The steps with another result of the last equation, that result, what is to be said of it, and what
    would be wrong to say of the right steps; None where the last step holds no equation for the answer."""
    first, _, last = steps.rpartition("\n")
    found = _EQUATION.search(last)
    if found is None or found[2] != answer or not int(answer):
        return None
    if eval(found[1]) != int(answer):  # nothing but digits and signs, and not the whole equation
        return None
    if re.search(rf"\b{answer}\b", last[: found.start(2)]):  # the wrong result would contradict it
        return None
    wrong = str(int(answer) + rng.choice([step for step in (-2, -1, 1, 2, 10) if int(answer) + step > 0]))
    changed = last[: found.start(2)] + re.sub(rf"\b{answer}\b", wrong, last[found.start(2) :])
    told = [f"{found[1]} = {a}, but the solution says {b}." for a, b in ((answer, wrong), (wrong, answer))]
    return f"{first}\n{changed}".lstrip(), wrong, *told


def problem(task: TaskRecord) -> Row:
    return {"id": task.id, "question": task.question, "answer": task.answer, "check": task.check}


def taught(task: TaskRecord, rng: random.Random) -> Row | None:
    """A problem with all that is to be said about it."""
    steps, question, answer = task.meta["solution"].rpartition("\n####")[0], task.question, task.answer
    if max(len(steps), len(question)) > LONGEST or (wrong := spoilt(steps, answer, rng)) is None:
        return None
    lessons = [_lesson("solver", "solve", question, {"discussion": []}, written(steps, answer))]
    praise, found, invented = "Every step is right.", *wrong[2:]
    for solution, said, misled, why, score in (
        (written(steps, answer), praise, invented, "Nothing is wrong.", HIGH),
        (written(*wrong[:2]), found, praise, "The error is there.", LOW),
    ):
        seen = {"solution": solution}
        lessons.append(_lesson("evaluator", "evaluate", question, {**seen, "discussion": []}, said))
        # A scorer that repeats the evaluation, or contradicts it, is no second judge.
        shown = {**seen, "evaluation": rng.choice((said, misled)), "low": LOW, "high": HIGH}
        lessons.append(_lesson("scorer", "score", question, shown, f"{why} <score>{score}</score>"))
    return {**problem(task), "lessons": lessons}


def _lesson(role: str, occasion: str, question: str, seen: Row, text: str) -> Row:
    return {"role": role, "occasion": occasion, "variables": {"question": question, **seen}, "text": text}


def main(folder: Path) -> None:
    rng = random.Random(SEED)
    fitting = [made for task in load_tasks(folder / "gsm8k_train.jsonl.gz") if (made := taught(task, rng))]
    save_tasks(HERE / "lessons.jsonl.gz", fitting[:LESSONS])
    save_tasks(HERE / "lessons_dev.jsonl", fitting[LESSONS : LESSONS + LESSONS_DEV])
    save_tasks(HERE / "train.jsonl", map(problem, load_tasks(folder / "svamp_dev.jsonl", TRAIN)))
    print(f"{len(fitting)} problems of GSM8K fit")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

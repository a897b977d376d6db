#!/usr/bin/env python3
"""Choose the demo's questions from a public set by how often the demo's model answers them alone.

    python scripts/select_questions.py aqua_dev.jsonl --out sparring/memory/tasksets/demo.jsonl

The source is multiple choice: JSON lines with `id`, `question`, `choices`, `answer`. Only short questions
are looked at. Sample A (8 answers a question) chooses: questions answered right at least twice and not
always, the ones nearest to one half first. Sample B, drawn with another seed after the choice, measures the
single-answer accuracy of the chosen ones, which must lie between 0.2 and 0.8. No debate is played.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path

from sqlalchemy import select

from sparring.graphs.play import aplay, plan
from sparring.memory.journal import Journal
from sparring.memory.records import TaskRecord
from sparring.memory.schema import Episode, Task, Turn
from sparring.memory.tasks import load_tasks
from sparring.tools.equality import equality

SETTINGS = {"temperature": 0.7, "max_tokens": 48, "answer": "letter"}
LONGEST = 260
"""Characters of a question with its choices."""


def shares(memory: str, run: str, tasks: list[TaskRecord]) -> dict[str, float]:
    """Task id -> share of its samples whose answer is right."""
    equal = equality("choice")
    wanted = {task.id: str(task.answer) for task in tasks}
    found: dict[str, list[bool]] = {}
    query = (
        select(Task.name, Turn.parsed)
        .join(Episode, Episode.number == Turn.episode_number)
        .join(Task, Task.id == Episode.task_id)
        .where(Episode.run_id == run)
    )
    with Journal.open(memory) as journal, journal.engine.connect() as connection:
        for name, parsed in connection.execute(query):
            answer = (parsed or {}).get("answer")
            found.setdefault(name, []).append(answer is not None and equal(answer, wanted[name]))
    return {name: sum(right) / len(right) for name, right in found.items()}


def sample(tasks: list[TaskRecord], memory: str, seed: int, n: int) -> dict[str, float]:
    """Draw n answers to every question and say how many were right."""
    play = plan("sample", tasks, engine="smollm2-135m", seed=seed, n=n, **SETTINGS)
    result = asyncio.run(aplay(play, memory, durability="normal"))
    return shares(memory, result.run, tasks)


def multiple_choice(task: TaskRecord) -> TaskRecord:
    """A question with its choices beneath it, a line each."""
    choices = (task.meta or {})["choices"]
    return replace(task, question="\n".join([task.question, *choices]), meta=None)


def main() -> None:
    # Every word of the two samples stays in `--memory`, a journal like any other.
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--memory", default="select.db")
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--name", default="AQuA-RAT dev (Ling et al. 2017), Apache-2.0")
    options = parser.parse_args()
    tasks = [
        task for task in map(multiple_choice, load_tasks(options.source)) if len(task.question) <= LONGEST
    ]
    alone = sample(tasks, options.memory, seed=1, n=8)
    able = [task for task in tasks if 0.25 <= alone[task.id] < 1.0]
    chosen = sorted(able, key=lambda task: (abs(alone[task.id] - 0.5), task.id))[: options.count]
    again = sample(chosen, options.memory, seed=2, n=8)
    accuracy = sum(again.values()) / len(again)
    print(
        f"{len(tasks)} questions, {len(able)} able, {len(chosen)} chosen; accuracy {accuracy:.3f}",
        file=sys.stderr,
    )
    if len(chosen) < 40 or not 0.2 <= accuracy <= 0.8:
        sys.exit("not usable: fewer than 40 questions, or accuracy of sample B outside 0.2 to 0.8")
    with options.out.open("w", encoding="utf-8") as sink:
        for task in sorted(chosen, key=lambda task: task.id):
            row = {"id": task.id, "question": task.question, "answer": task.answer, "check": task.check}
            sink.write(json.dumps({**row, "source": options.name}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

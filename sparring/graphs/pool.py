"""A run beside its pool: what single samples of the same tasks give at the method's own budget.

Task by task and episode by episode: as many samples as the episode's calls, completion tokens or all
tokens pay for. Tokens of a prompt count for every call, on both sides, whether a backend had them cached.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import func, select

from sparring.graphs.aggregate import natural
from sparring.graphs.baseline import SUFFIX
from sparring.graphs.player import FINISHED
from sparring.graphs.results import Result
from sparring.graphs.stats import Estimate, Samples, bootstrap, single_answer, vote_at
from sparring.memory.journal import Journal
from sparring.memory.schema import Episode, Task, Turn
from sparring.tools.checks import check
from sparring.tools.equality import equality, group

BUDGETS = {
    "calls": "self-consistency at equal calls",
    "completion_tokens": "self-consistency at equal completion tokens",
    "total_tokens": "self-consistency at equal total tokens",
}
SINGLE = "a single answer"


@dataclass(frozen=True)
class Column:
    """One baseline beside the method, on the tasks that have a pool."""

    name: str
    accuracy: float
    difference: Estimate
    """Method minus baseline, paired by task."""
    budget: str | None
    """What was equal: `calls`, `completion_tokens`, `total_tokens`; None for the single answer."""
    spent: float
    """Mean of the budget's unit that the baseline of one episode took."""
    given: float
    """Mean of what the episode itself had taken."""


@dataclass(frozen=True)
class Baseline:
    """The pool and its columns."""

    run: str
    samples: int
    """Of all tasks together."""
    no_answer: int
    short: int
    """Episodes whose budget in calls exceeds their pool."""
    columns: tuple[Column, ...]


def share(results: Sequence[Result]) -> float:
    return sum(bool(r.correct) for r in results) / len(results)


def compare(journal: Journal, run: str, by_task: Mapping[str, Sequence[Result]]) -> Baseline | None:
    beside = run + SUFFIX
    if not journal.has_run(beside) or journal.run_row(beside).parent_id != run:
        return None
    pools, no_answer = pools_of(journal, [beside])
    shared = [task for task in by_task if task in pools]
    if not shared:
        return None
    method = [share(by_task[task]) for task in shared]
    single = [single_answer(pools[task]) for task in shared]
    columns = [Column(SINGLE, float(np.mean(single)), _paired(method, single), None, 1.0, 1.0)]
    calls = _final_calls(journal, run)
    for unit, name in BUDGETS.items():
        rights, spent, given = [], [], []
        for place, task in enumerate(shared):
            budgets = [_budget(r, unit, calls) for r in by_task[task]]
            worth = [vote_at(pools[task], unit, budget, seed=place) for budget in budgets]
            rights.append(float(np.mean([right for right, _ in worth])))
            spent.append(float(np.mean([cost for _, cost in worth])))
            given.append(float(np.mean(budgets)))
        means = (float(np.mean(spent)), float(np.mean(given)))
        columns.append(Column(name, float(np.mean(rights)), _paired(method, rights), unit, *means))
    sizes = {task: len(pool.classes) for task, pool in pools.items()}
    short = sum(_budget(r, "calls", calls) > sizes[task] for task in shared for r in by_task[task])
    return Baseline(beside, sum(sizes.values()), no_answer, short, tuple(columns))


def _paired(method: list[float], other: list[float]) -> Estimate:
    return bootstrap(np.asarray(method) - np.asarray(other))


def _budget(result: Result, unit: str, calls: dict[str, int]) -> int:
    if unit == "calls":
        return calls.get(result.episode, 1)
    prompt = result.prompt_tokens if unit == "total_tokens" else 0
    return prompt + result.completion_tokens


def _final_calls(journal: Journal, run: str) -> dict[str, int]:
    """Episode -> calls that were answered: attempts that the backend lost are nobody's budget."""
    query = (
        select(Episode.id, func.count())
        .join(Turn, Turn.episode_number == Episode.number)
        .where(Episode.run_id == run, Turn.final)
        .group_by(Episode.id)
    )
    return {episode: count for episode, count in journal.read(query)}


def pools_of(journal: Journal, runs: Sequence[str]) -> tuple[dict[str, Samples], int]:
    """Task -> its samples of some runs, judged and grouped once; and how many of them have no answer."""
    columns = (
        Episode.run_id,
        Episode.task_id,
        Episode.copy,
        Turn.key,
        Turn.parsed,
        Turn.prompt_tokens,
        Turn.completion_tokens,
    )
    query = (
        select(*columns)
        .join(Episode, Episode.number == Turn.episode_number)
        .where(Episode.run_id.in_(runs), Episode.status.in_(FINISHED), Turn.final)
    )
    asked = select(Task).join(Episode, Episode.task_id == Task.id).where(Episode.run_id.in_(runs))
    rows: dict[str, list[Any]] = defaultdict(list)
    for row in journal.read(query):
        rows[row.task_id].append(row)
    tasks = {task.id: task for task in journal.read(asked)}
    pools, missing = {}, 0
    for key, turns in rows.items():
        task = tasks[key]
        if task.answer is None:
            continue
        turns.sort(key=lambda row: (row.copy, natural(row.key), row.run_id))
        answers = [answer_of(row.parsed) for row in turns]
        missing += answers.count(None)
        pools[task.name] = _samples(task, turns, answers)
    return pools, missing


def _samples(task: Any, turns: Sequence[Any], answers: list[str | None]) -> Samples:
    right = {answer: check(task.check, answer, task.answer).correct for answer in set(answers)}
    classes = group(answers, equality(task.check))
    completion = [row.completion_tokens for row in turns]
    return Samples(
        classes=np.array([-1 if c is None else c for c in classes], np.int64),
        correct=np.array([right[answer] for answer in answers], np.bool_),
        completion_tokens=np.array(completion, np.int64),
        total_tokens=np.array([row.prompt_tokens + row.completion_tokens for row in turns], np.int64),
    )


def answer_of(parsed: Any) -> str | None:
    """The answer in a parsed reply; a blank one is none."""
    answer = (parsed or {}).get("answer")
    return answer if isinstance(answer, str) and answer.strip() else None

"""The list of runs, and one run with its episodes: rows of `Facts`, and what a page shows beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Text, func, or_, select, type_coerce

from sparring.graphs.stats import Estimate, wilson
from sparring.memory.journal import Journal
from sparring.memory.schema import Episode, Run, Task
from sparring.memory.types import dumps
from sparring.view.facts import Facts

PAGE = 50
"""Rows of a table on one page."""
SOUGHT = 10_000
"""Tasks that a search goes on with."""
CHILDREN = 200
"""Runs of a run that its page lists."""
SUMS = """
SELECT run, count(*) AS episodes, sum(status = 'done') AS done, sum(status = 'failed') AS failed,
       sum(calls) AS calls, sum(prompt_tokens + completion_tokens) AS tokens, sum(cost) AS cost
FROM facts WHERE run IN ({}) GROUP BY run
"""
SHARES = """
SELECT run, sum(share) AS hits, count(*) AS tasks FROM (
    SELECT run, task,
           avg(CASE WHEN correct IS NOT NULL THEN correct WHEN status = 'failed' THEN 0 END) AS share
    FROM facts WHERE referenced AND status IN ('done', 'capped', 'failed') AND run IN ({})
    GROUP BY run, task)
WHERE share IS NOT NULL GROUP BY run
"""
JUDGED = "SELECT DISTINCT run FROM facts WHERE correct IS NOT NULL AND run IN ({})"
ORDERS = {
    "order": "number",
    "reward": "-abs(coalesce(reward, 0))",
    "calls": "-calls",
    "tokens": "-(prompt_tokens + completion_tokens)",
    "answers": "-answers",
}
"""What comes first is lowest; where two are alike the one played first."""
VERDICTS = {"wrong": "correct = 0", "right": "correct = 1", "none": "correct IS NULL"}
LIGHT = (Run.id, Run.parent_id, Run.kind, Run.protocol, Run.status)


@dataclass(frozen=True)
class Page:
    """Some rows of many."""

    rows: Iterable[Any]
    total: int
    number: int
    """From 1."""
    partial: bool = False
    """Whether more was found than is searched."""

    @classmethod
    def of(cls, total: int, number: int, read: Callable[[int], Iterable[Any]]) -> Page:
        """The part of this number, or the nearest that there is; `read` gives its rows from a place on."""
        made = cls((), total, 1)
        number = min(max(1, number), made.last)
        return cls(read((number - 1) * PAGE), total, number)

    @property
    def last(self) -> int:
        return max(1, -(-self.total // PAGE))


@dataclass(frozen=True)
class Sums:
    """What a run amounts to so far."""

    episodes: int = 0
    done: int = 0
    failed: int = 0
    calls: int = 0
    tokens: int = 0
    cost: float = 0.0
    accuracy: Estimate | None = None
    """As `report` has it for one episode a task; with several copies Wilson's interval over tasks."""


def run_list(journal: Journal, facts: Facts, wanted: Mapping[str, str], page: int) -> Page:
    """Rows (run, its sums), newest first, of those that fit `wanted`: `kind`, `status`, `q` (in the name).

    Runs that belong to another (an evolution's plays and evaluations, pools) are on that one's page, and
    listed here only where `kind`, `q` or `all` asks for more.
    """
    query = select(*LIGHT, Run.created_at, Run.finished_at)
    if not any(wanted.get(name) for name in ("kind", "q", "all")):
        query = query.where(Run.parent_id.is_(None))
    if wanted.get("kind"):
        query = query.where(Run.kind == wanted["kind"])
    if wanted.get("status"):
        query = query.where(Run.status == wanted["status"])
    if wanted.get("q"):
        query = query.where(or_(_holds(Run.id, wanted["q"]), _holds(Run.protocol, wanted["q"])))
    total = int(journal.read(select(func.count()).select_from(query.subquery()))[0][0])
    query = query.order_by(Run.created_at.desc(), Run.id).limit(PAGE)

    def read(start: int) -> list[Any]:
        rows = journal.read(query.offset(start))
        sums = sums_of(facts, [row.id for row in rows])
        return [(row, sums[row.id]) for row in rows]

    return Page.of(total, page, read)


def sums_of(facts: Facts, runs: Sequence[str]) -> dict[str, Sums]:
    """What these runs amount to."""
    marks = ",".join("?" * len(runs))
    shares = {row["run"]: wilson(row["hits"], row["tasks"]) for row in facts.ask(SHARES.format(marks), runs)}
    judged = {row["run"] for row in facts.ask(JUDGED.format(marks), runs)}
    found = {row["run"]: dict(row) for row in facts.ask(SUMS.format(marks), runs)}
    made = {}
    for run in runs:
        given = {name: value or 0 for name, value in found.get(run, {}).items() if name != "run"}
        made[run] = Sums(**given, accuracy=shares.get(run) if run in judged else None)
    return made


def sums_below(journal: Journal, facts: Facts, run: str) -> Sums:
    """What a run amounts to together with those that it began, accuracy aside."""
    below = [row.id for row in journal.read(select(Run.id).where(Run.parent_id == run))]
    parts = [[run], *(below[start : start + 5000] for start in range(0, len(below), 5000))]
    found = [sums for part in parts for sums in sums_of(facts, part).values()]
    names = ("episodes", "done", "failed", "calls", "tokens", "cost")
    return Sums(**{name: sum(getattr(sums, name) for sums in found) for name in names})


def episode_list(
    journal: Journal,
    facts: Facts,
    run: str,
    wanted: Mapping[str, str],
    page: int,
    heard: Sequence[int] | None = None,
) -> Page:
    """Rows (facts, outcome) of a run's episodes that `fitting` lets through, in the order `sort` names:
    as played, reward (furthest from 0 first), calls, tokens, answers.
    """
    fits, values = fitting(journal, facts, run, wanted, heard)
    total = facts.ask(f"SELECT count(*) FROM facts WHERE {fits}", values)[0][0]

    def read(start: int) -> list[Any]:
        part = f"ORDER BY {order_of(wanted)}, number LIMIT {PAGE} OFFSET {start}"
        rows = facts.ask(f"SELECT * FROM facts WHERE {fits} {part}", values)
        numbers = [row["number"] for row in rows]
        query = select(Episode.number, Episode.outcome).where(Episode.number.in_(numbers))
        outcomes = {row.number: row.outcome for row in journal.read(query)}
        return [(row, outcomes.get(row["number"]) or {}) for row in rows]

    words = wanted.get("q")
    partial = bool(words) and len(_found(journal, facts, run, words or "")) == SOUGHT
    return replace(Page.of(total, page, read), partial=partial)


def order_of(wanted: Mapping[str, str]) -> str:
    """What episodes are ordered by, the lowest first."""
    return ORDERS.get(wanted.get("sort", ""), ORDERS["order"])


def fitting(
    journal: Journal, facts: Facts, run: str, wanted: Mapping[str, str], heard: Sequence[int] | None = None
) -> tuple[str, list[Any]]:
    """A condition on rows of `facts` and its values: a run's episodes that fit `wanted`.

    `q`: in the task's name or question; `role`, `status`, `verdict` (right, wrong, none); `differ`: more than
    one answer was given.

    Args:
        heard: Numbers of those where the wanted words were said; None: no words are.
    """
    where, values = ["run = ?"], list[Any]([run])
    if heard is not None:
        where.append("number IN (SELECT value FROM json_each(?))")
        values.append(json.dumps(heard))
    if words := wanted.get("q"):
        names = _found(journal, facts, run, words)
        where.append(f"task IN ({','.join('?' * len(names))})")
        values += names
    if wanted.get("status"):
        where.append("status = ?")
        values.append(wanted["status"])
    if wanted.get("role"):
        where.append("instr(roles, ?)")
        values.append(f",{wanted['role']},")
    if wanted.get("verdict") in VERDICTS:
        where.append(VERDICTS[wanted["verdict"]])
    if wanted.get("differ"):
        where.append("answers > 1")
    if wanted.get("sort") == "reward":
        where.append("reward IS NOT NULL")
    return " AND ".join(where), values


def _found(journal: Journal, facts: Facts, run: str, words: str) -> list[str]:
    """Tasks with the words in their name or question, `SOUGHT` at most."""
    names: list[str] = facts.once(
        ("q", run, words), lambda: [row.name for row in journal.read(_asked(run, words))]
    )
    return names


def all_episodes(journal: Journal, facts: Facts, run: str) -> Iterator[Any]:
    """Rows (facts, outcome) of all of a run's episodes as they were played, read in parts."""
    number = last = 1
    while number <= last:
        part = episode_list(journal, facts, run, {}, number)
        yield from part.rows
        number, last = number + 1, part.last


def _asked(run: str, words: str) -> Any:
    """Names of a run's tasks that hold these words in name or question, which is JSON there."""
    held = or_(_holds(Task.name, words), _holds(type_coerce(Task.question, Text), dumps(words)[1:-1]))
    played = select(Episode.task_id).where(Episode.run_id == run)
    return select(Task.name).distinct().where(held, Task.id.in_(played)).limit(SOUGHT)


def _holds(column: Any, words: str) -> Any:
    return column.icontains(words, autoescape=True)


def choices(facts: Facts, run: str) -> dict[str, list[str]]:
    """What a run's episodes can be filtered by."""
    statuses = facts.ask("SELECT DISTINCT status FROM facts WHERE run = ? ORDER BY status", (run,))
    roles = facts.ask("SELECT DISTINCT roles FROM facts WHERE run = ?", (run,))
    names = {role for row in roles for role in row["roles"].split(",") if role}
    return {"status": [row["status"] for row in statuses], "role": sorted(names)}


@dataclass(frozen=True)
class Children:
    """Runs that another one began: evaluations, baselines, plays of an evolution."""

    rows: list[Any]
    """The first `CHILDREN`."""
    total: int
    open: int


def children(journal: Journal, run: str) -> Children:
    """The runs that this one began."""
    mine = Run.parent_id == run
    [(total, open_)] = journal.read(
        select(func.count(), func.count().filter(Run.status == "open")).where(mine)
    )
    query = select(*LIGHT).where(mine).order_by(Run.created_at, Run.id).limit(CHILDREN)
    return Children(journal.read(query), int(total), int(open_))

"""Results are reads of the journal: one line per finished, failed or open episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, case, func, select

from sparring.errors import UserError
from sparring.memory.database import transact
from sparring.memory.journal import CONFIGURED, Journal
from sparring.memory.schema import Episode, Event, Run, Task, Turn


@dataclass(frozen=True, slots=True)
class Result:
    """One episode as a user sees it."""

    task_id: str
    question: Any
    answer: str | None
    correct: bool | None
    """None where the task has no reference or the episode has no verdict."""
    status: str
    calls: int
    """Attempts that were made, failed ones included."""
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    """Money; None where no engine said a price (`money`)."""
    copy: int
    episode: str
    outcome: Any = None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def played_row(journal: Journal, run: str) -> Run:
    """The row of a run that plays tasks itself.

    Raises:
        UserError: there is no such run, or it is made of others: an evolution, a tournament, an archive.
    """
    row: Run = journal.run_row(run)
    if row.kind in CONFIGURED:
        query = select(Run.id).where(Run.parent_id == row.id).order_by(Run.created_at).limit(4)
        own = [f"`{child.id}`" for child in journal.read(query)]
        raise UserError(
            f"run `{row.id}` is of kind `{row.kind}` and played no tasks as a whole: name one of the "
            f"runs that belong to it: {', '.join(own[:3]) or 'none yet'}{' and more' if len(own) > 3 else ''}"
        )
    return row


def read_results(journal: Journal, run: str) -> list[Result]:
    """The results of a run in the order of its tasks, abandoned episodes left out."""
    usage = (
        select(
            Turn.episode_number,
            func.count().label("calls"),
            func.sum(Turn.prompt_tokens).label("prompt_tokens"),
            func.sum(Turn.completion_tokens).label("completion_tokens"),
            func.sum(Turn.cost).label("cost"),
            func.sum(case((Turn.from_cache, 0), else_=1)).label("asked"),
        )
        .join(Episode, Episode.number == Turn.episode_number)
        .where(Episode.run_id == run)
        .group_by(Turn.episode_number)
        .subquery()
    )
    used = (usage.c.calls, usage.c.prompt_tokens, usage.c.completion_tokens, usage.c.cost, usage.c.asked)
    query = (
        select(*Episode.__table__.columns, Task.name, Task.question, *used)
        .join(Task, Task.id == Episode.task_id)
        .outerjoin(usage, usage.c.episode_number == Episode.number)
        .where(Episode.run_id == run, Episode.status != "abandoned")
    )
    verdicts = (
        select(Event.episode_number, Event.key, Event.payload)
        .join(Episode, Episode.number == Event.episode_number)
        .where(Episode.run_id == run, Event.kind == "verdict")
        .order_by(Event.id)
    )

    def both(connection: Connection) -> tuple[list[Any], list[Any]]:
        return list(connection.execute(verdicts)), list(connection.execute(query))

    judged, rows = transact(journal.engine, both, write=False)
    correct = {row.episode_number: row.payload["correct"] for row in judged}
    tasks = (journal.run_row(run).config or {}).get("tasks")
    listed = tasks if isinstance(tasks, list) else []  # an evolution names a file
    order = {task["id"]: place for place, task in enumerate(listed)}
    results = [_result(row, correct) for row in rows]
    return sorted(results, key=lambda r: (order.get(r.task_id, len(order)), r.task_id, r.copy))


def _result(row: Any, correct: dict[int, bool]) -> Result:
    outcome = row.outcome or {}
    return Result(
        task_id=row.name,
        question=row.question,
        answer=outcome.get("answer"),
        correct=correct.get(row.number),
        status=row.status,
        calls=row.calls or 0,
        prompt_tokens=int(row.prompt_tokens or 0),
        completion_tokens=int(row.completion_tokens or 0),
        cost=money(row.cost, row.asked),
        copy=row.copy,
        episode=row.id,
        outcome=row.outcome,
        error=row.error,
    )


def money(cost: float | None, asked: int | None) -> float | None:
    """What calls cost; None where backends were asked and it came to nothing: nobody said their prices.

    Args:
        cost: as journaled, 0 without prices; None: no calls.
        asked: calls, or tokens, that the response cache did not give.
    """
    return None if asked and not cost else float(cost or 0.0)


def detailed_outcomes(journal: Journal, run: str, episodes: Sequence[int] | None = None) -> list[Any]:
    """Outcomes of a run's finished episodes, or of those with these numbers, where they have a `detail`."""
    query = select(Episode.outcome).where(Episode.run_id == run, Episode.status == "done")
    if episodes is not None:
        query = query.where(Episode.number.in_(episodes))
    return [row.outcome for row in journal.read(query) if row.outcome and "detail" in row.outcome]

"""Instances as tasks, and their grades as verdicts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from sparring.errors import UserError
from sparring.graphs.context import Context
from sparring.graphs.protocol import Outcome
from sparring.memory.journal import Journal
from sparring.memory.records import TaskRecord
from sparring.memory.schema import Episode, Event
from sparring.memory.tasks import as_tasks
from sparring.tools.swe.instances import Instance, instance_of, load_instances, row_of

if TYPE_CHECKING:
    from sparring.tools.swe.grading import Grade

log = logging.getLogger("sparring")
VERIFIER = "swe"
RESOLVED = "resolved"
"""The reference of every instance: what its patch is to be."""
GRADE, MASKED = "grade", "masked_grade"
"""Kinds of events: a grade by its key, and one that says nothing about the patch, by the run's epoch."""


def software_task(one: Instance) -> TaskRecord:
    """An instance as a task; all of it is in the task, its source by absolute path."""
    if one.source is not None:
        one = replace(one, source=one.source.resolve())
    return TaskRecord(one.id, one.problem, RESOLVED, meta={"instance": row_of(one)})


def software_tasks(source: str | Path | Iterable[Any], limit: int | None = None) -> tuple[TaskRecord, ...]:
    """Tasks of a file or folder of instances, of instances, of their rows, or such tasks themselves."""
    if isinstance(source, str | Path):
        return tuple(as_tasks(map(software_task, load_instances(source)), limit))
    if not isinstance(source, Iterable) or isinstance(source, Mapping | bytes):
        raise UserError(f"give instances as a file, a folder or a list, not {type(source).__name__}")
    return tuple(as_tasks([_task(one, place) for place, one in enumerate(source)], limit))


def _task(one: Any, place: int) -> TaskRecord:
    if isinstance(one, TaskRecord):
        instance(one)
        return one
    if isinstance(one, Instance):
        return software_task(one)
    if isinstance(one, Mapping):
        return software_task(instance_of(one, f"instance {place}"))
    raise UserError(f"instance {place}: an instance or a row of one is needed, not {type(one).__name__}")


def instance(task: TaskRecord) -> Instance:
    """The instance that a task was made of.

    Raises:
        UserError: it was made of something else.
    """
    row = (task.meta or {}).get("instance")
    if not isinstance(row, Mapping):
        raise UserError(f"task `{task.id}` is no instance of a repository; protocol `software` plays those")
    return instance_of(row, f"instance `{task.id}`")


async def graded(context: Context, outcome: Outcome | None) -> dict[str, Any] | None:
    """A verdict with the whole grade of a patch; None where the grader's world failed.

    A patch that this journal holds a grade of (same instance, patch, environment and grader) is not graded
    again. A grade is journaled as soon as it is known, before the episode closes.
    """
    from sparring.tools.swe.grading import Grade

    task, shop = context.task, context.equipment
    assert task is not None
    patch = outcome["answer"] if outcome else None
    one = instance(task)
    try:
        key = await asyncio.to_thread(shop.grader.key, one, patch)
        kept = _kept(context.episode.run.journal, task, key)
        if kept is None:
            async with shop.slots:
                grade = await shop.grader.grade(one, patch)
        else:
            grade = Grade.from_json(kept)
    except UserError:
        raise
    except Exception as failure:  # whatever it is, it is not the patch's: an attempt is paid for
        log.warning("grading instance `%s` failed: %r", one.id, failure)
        payload = {"status": "infra", "reason": f"{type(failure).__name__}: {failure}"}
        await context.episode.event(MASKED, str(context.episode.run.epoch), payload)
        return None
    if grade.resolved is None:
        await context.episode.event(MASKED, str(context.episode.run.epoch), grade.to_json())
        return None
    if kept is None:
        await context.episode.event(GRADE, key, grade.to_json())
    return _verdict(grade, key)


def _verdict(grade: Grade, key: str) -> dict[str, Any]:
    return {
        "correct": grade.resolved,
        "verifier": VERIFIER,
        "version": key,
        "extracted": str(grade.status),
        "reference": RESOLVED,
        "reason": grade.reason or str(grade.status),
        "grade": grade.to_json(),
    }


def _kept(journal: Journal, task: TaskRecord, key: str) -> dict[str, Any] | None:
    """The grade that any episode of this task has under a key."""
    query = (
        select(Event.payload)
        .join(Episode, Episode.number == Event.episode_number)
        .where(Episode.task_id == task.key, Event.kind == GRADE, Event.key == key)
    )
    return next((row.payload for row in journal.read(query)), None)

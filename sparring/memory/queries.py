"""Reads of the journal for those who do not drive it: reports, rewards, experience, the viewer.

Iterators fetch an `ahead` of episodes at a time, each in a transaction of its own, so that a long read
neither fills memory nor keeps the writer's log from being folded back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import Integer, cast, func, select

from ..errors import UserError
from .messages import content_of, path, said
from .records import GIVEN, WORLD_FAULT
from .samples import TrainingTurn, training_turns
from .schema import Agent, Episode, Event, Message, Task, Turn

if TYPE_CHECKING:
    from .journal import Journal

__all__ = [
    "Said",
    "Totals",
    "TrainingTurn",
    "Usage",
    "decisions",
    "episodes",
    "mean_logprobs",
    "readable",
    "statuses",
    "taught",
    "training_turns",
    "transcript",
    "turns",
    "usage",
]
AHEAD = 200
"""Episodes read at once."""
BLOBS = ("fingerprint", "prompt_tail", "completion_ids", "logprobs")
LIGHT = [column for column in Turn.__table__.columns if column.name not in BLOBS]


def episodes(journal: Journal, run: str) -> Iterator[Any]:
    """Rows of a run's episodes: the columns of `episodes` and the task's `name`, `answer`, `check`.

    In the order of iteration, task name, copy.
    """
    journal.run_row(run)
    for ids in _episode_ids(journal, run):
        query = (
            select(Episode.__table__, Task.name, Task.answer, Task.check)
            .join(Task, Task.id == Episode.task_id)
            .where(Episode.id.in_(ids))
        )
        rows = {row.id: row for row in journal.read(query)}
        yield from (rows[episode] for episode in ids if episode in rows)


def decisions(journal: Journal, run: str, kind: str) -> dict[str, Any]:
    """Key -> payload of a run's own events of a kind."""
    query = select(Event.key, Event.payload).where(Event.run_id == run, Event.kind == kind)
    return {row.key: row.payload for row in journal.read(query)}


def mean_logprobs(
    journal: Journal, run: str, episodes: Sequence[int] | None = None
) -> dict[str, tuple[float, int]]:
    """Role -> (mean log-probability of a completion token, tokens), over a run's turns that have them, or
    those of some of its episodes, by number."""
    query = (
        select(Agent.role, Turn.logprobs)
        .join(Agent, Agent.id == Turn.agent_id)
        .join(Episode, Episode.number == Turn.episode_number)
        .where(Episode.run_id == run, Turn.final, Turn.logprobs.is_not(None))
    )
    if episodes is not None:
        query = query.where(Episode.number.in_(episodes))
    sums: dict[str, tuple[float, int]] = {}
    for role, logprobs in journal.read(query):
        total, count = sums.get(role, (0.0, 0))
        sums[role] = (total + float(logprobs.sum(dtype=float)), count + len(logprobs))
    return {role: (total / count, count) for role, (total, count) in sums.items() if count}


def turns(journal: Journal, run: str) -> Iterator[Any]:
    """Rows of a run's turns without token ids: `turns`' light columns, `episode_id`, the agent's `role`.

    Episode by episode (order of `episodes`), within one in the order they were asked for.
    """
    journal.run_row(run)
    for ids in _episode_ids(journal, run):
        query = (
            select(*LIGHT, Episode.id.label("episode_id"), Agent.role)
            .join(Episode, Episode.number == Turn.episode_number)
            .join(Agent, Agent.id == Turn.agent_id)
        )
        by_episode: dict[str, list[Any]] = {episode: [] for episode in ids}
        for row in journal.read(query.where(Episode.id.in_(ids)).order_by(Turn.id)):
            by_episode[row.episode_id].append(row)
        for rows in by_episode.values():
            yield from rows


def _episode_ids(journal: Journal, run: str) -> Iterator[list[str]]:
    query = select(Episode.id).join(Task, Task.id == Episode.task_id).where(Episode.run_id == run)
    order = query.order_by(Episode.iteration, Task.name, Episode.copy, Episode.id)
    ids = [row.id for row in journal.read(order)]
    for start in range(0, len(ids), AHEAD):
        yield ids[start : start + AHEAD]


@dataclass(frozen=True, slots=True)
class Said:
    """A turn as a reader sees it."""

    turn: Any
    """Light columns of `turns` and the agent's `role`."""
    messages: list[dict[str, Any]]
    """The conversation it saw: role and content (text, or typed parts)."""
    text: str | None
    """What it said; None where the call came to no text."""


def transcript(journal: Journal, episode: str) -> list[Said]:
    """The turns of an episode in the order they were asked for, failed attempts included.

    Raises:
        UserError: there is no such episode.
    """
    light = select(*LIGHT, Agent.role).join(Agent, Agent.id == Turn.agent_id)
    numbers = journal.read(select(Episode.number).where(Episode.id == episode))
    if not numbers:
        raise UserError(f"there is no episode `{episode}`")
    number = numbers[0].number
    rows = journal.read(light.where(Turn.episode_number == number).order_by(Turn.id))
    known = {row.id: row for row in journal.read(select(Message).where(Message.episode_number == number))}
    return [
        Said(
            row,
            [
                {"role": known[m].role, "content": content_of(known[m].content)}
                for m in path(known, row.input_id)
            ],
            None if row.output_id is None else said(known[row.output_id].content),
        )
        for row in rows
    ]


@dataclass(slots=True)
class Totals:
    """Sums over turns; failed attempts count, since they were paid for."""

    turns: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cost: float = 0.0
    latency_s: float = 0.0
    retries: int = 0
    from_cache: int = 0

    def add(self, other: Totals) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(slots=True)
class Usage:
    """What a run has used: in all, by role, by status; and how many turns by both."""

    total: Totals = field(default_factory=Totals)
    roles: dict[str, Totals] = field(default_factory=dict)
    statuses: dict[str, Totals] = field(default_factory=dict)
    turns: dict[str, dict[str, int]] = field(default_factory=dict)
    """Role -> status -> how many turns."""


def usage(journal: Journal, run: str) -> Usage:
    """Sums over all turns of a run."""
    journal.run_row(run)
    names = Totals.__slots__[1:]
    columns = {**{name: getattr(Turn, name) for name in names}, "from_cache": cast(Turn.from_cache, Integer)}
    sums = [func.coalesce(func.sum(columns[name]), 0) for name in names]
    query = (
        select(Agent.role, Turn.status, func.count(), *sums)
        .select_from(Episode)
        .join(Turn, Turn.episode_number == Episode.number)
        .join(Agent, Agent.id == Turn.agent_id)
        .where(Episode.run_id == run)
        .group_by(Agent.role, Turn.status)
        .order_by(Agent.role, Turn.status)
    )
    used = Usage()
    for role, status, turns_, *values in journal.read(query):
        part = Totals(int(turns_))
        for name, value in zip(names, values, strict=True):
            setattr(part, name, value if isinstance(value, float) else int(value))
        for sum_ in (used.total, used.roles.setdefault(role, Totals())):
            sum_.add(part)
        used.statuses.setdefault(status, Totals()).add(part)
        used.turns.setdefault(role, {})[status] = part.turns
    return used


def readable(journal: Journal, run: str) -> dict[str, float]:
    """Role -> share of its attempts that could be parsed, cut off or not; the world's faults and the words of
    a teacher are left out."""
    query = (
        select(Agent.role, func.avg(cast(Turn.parsed.is_not(None), Integer)))
        .select_from(Episode)
        .join(Turn, Turn.episode_number == Episode.number)
        .join(Agent, Agent.id == Turn.agent_id)
        .where(Episode.run_id == run, Turn.status.not_in(WORLD_FAULT), Turn.logprob_kind != GIVEN)
        .group_by(Agent.role)
        .order_by(Agent.role)
    )
    return {role: float(share) for role, share in journal.read(query)}


def taught(journal: Journal, run: str) -> bool:
    """Whether words of a run are a teacher's."""
    said = select(Turn.id).join(Episode, Episode.number == Turn.episode_number)
    return bool(journal.read(said.where(Episode.run_id == run, Turn.logprob_kind == GIVEN).limit(1)))


def statuses(journal: Journal, run: str) -> Counter[str]:
    """How many of a run's episodes have each status."""
    query = select(Episode.status, func.count()).where(Episode.run_id == run).group_by(Episode.status)
    return Counter({status: count for status, count in journal.read(query)})

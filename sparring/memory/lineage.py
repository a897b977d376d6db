"""From weights down to words: the updates that made a version, and the turns that trained each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from ..errors import UserError
from .messages import said
from .schema import Agent, Episode, Message, PolicyVersion, Reward, Task, Turn, Update, UpdateTurn
from .versions import Version, by_id

if TYPE_CHECKING:
    from .journal import Journal


@dataclass(frozen=True, slots=True)
class Step:
    """A version and the update that made it."""

    version: Version
    update: dict[str, Any] | None
    """id, run_id, step, status, config, metrics, created_at; None for a base, or where it was deleted."""
    turns: int
    """How many turns trained it."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A turn that trained an update."""

    id: int
    episode: str
    task: str
    role: str
    status: str
    rewards: tuple[dict[str, Any], ...]
    """function, version, value (None: masked), and span (start, end) or None for the whole turn."""
    text: str | None


def lineage(journal: Journal, version_id: int) -> list[Step]:
    """A version and its ancestors up to the base, newest first.

    Raises:
        UserError: there is no such version.
    """
    steps, current = [], by_id(journal, version_id)
    while True:
        steps.append(_step(journal, current))
        if current.parent_id is None:
            return steps
        current = by_id(journal, current.parent_id)


def _step(journal: Journal, version: Version) -> Step:
    # A version that was imported knows its update from the other side only.
    made = Update.to_version_id == version.id
    if version.update_id is not None:
        made = Update.id == version.update_id
    rows = journal.read(select(Update).where(made).order_by(Update.id).limit(1))
    if not rows:
        return Step(version, None, 0)
    names = ("id", "run_id", "step", "status", "config", "metrics", "created_at")
    update = {name: getattr(rows[0], name) for name in names}
    counted = select(func.count()).select_from(UpdateTurn).where(UpdateTurn.update_id == update["id"])
    return Step(version, update, int(journal.read(counted)[0][0]))


def updates(journal: Journal, policy: str) -> dict[int, Any]:
    """Version id -> the update's id, run, step and status, for the versions of a policy that have one."""
    columns = (Update.id, Update.to_version_id, Update.run_id, Update.step, Update.status)
    query = select(*columns).where(Update.policy == policy, Update.to_version_id.is_not(None))
    return {row.to_version_id: row for row in journal.read(query)}


def trained_on(journal: Journal, update_id: int, limit: int | None = None, offset: int = 0) -> list[Trained]:
    """The turns that trained an update, oldest first, with what they were paid and what they said.

    Args:
        limit: how many of them; None: all that follow.
        offset: how many are left out before.

    Raises:
        UserError: there is no such update.
    """
    if not journal.read(select(Update.id).where(Update.id == update_id)):
        raise UserError(f"the journal has no update with id {update_id}")
    columns = (
        Turn.id,
        Episode.id.label("episode"),
        Task.name,
        Agent.role,
        Turn.status,
        Message.content,
    )
    query = (
        select(*columns)
        .join(UpdateTurn, UpdateTurn.turn_id == Turn.id)
        .join(Episode, Episode.number == Turn.episode_number)
        .join(Task, Task.id == Episode.task_id)
        .join(Agent, Agent.id == Turn.agent_id)
        .outerjoin(Message, Message.id == Turn.output_id)
        .where(UpdateTurn.update_id == update_id)
    )
    rows = journal.read(query.order_by(Turn.id).limit(limit).offset(offset or None))
    paid = _rewards(journal, [row.id for row in rows])
    return [
        Trained(
            *(row.id, row.episode, row.name, row.role, row.status, paid[row.id]),
            text=None if row.content is None else said(row.content),
        )
        for row in rows
    ]


def _rewards(journal: Journal, turns: list[int]) -> dict[int, tuple[dict[str, Any], ...]]:
    found: dict[int, tuple[dict[str, Any], ...]] = dict.fromkeys(turns, ())
    for start in range(0, len(turns), 10_000):
        part = turns[start : start + 10_000]
        for row in journal.read(select(Reward).where(Reward.turn_id.in_(part)).order_by(Reward.id)):
            span = None if row.span_start < 0 else (row.span_start, row.span_end)
            reward = {"function": row.function, "version": row.version, "value": row.value, "span": span}
            found[row.turn_id] += (reward,)
    return found


def distance(journal: Journal, a: int, b: int) -> int | None:
    """Updates between two versions of one policy: the edges of the tree between them through their
    nearest common ancestor. The staleness of a turn is the distance from its version to the one trained.

    None where they have no common ancestor (another policy, another base).
    """
    if a == b:
        return 0
    # All versions of the policies concerned, few beside anything else, in one query.
    mine = select(PolicyVersion.policy).where(PolicyVersion.id.in_((a, b)))
    query = select(PolicyVersion.id, PolicyVersion.parent_id).where(PolicyVersion.policy.in_(mine))
    parents = {row.id: row.parent_id for row in journal.read(query)}
    above: dict[int, int] = {}
    place: int | None = a
    while place in parents and place is not None:
        above[place] = len(above)
        place = parents[place]
    place, steps = b, 0
    while place in parents and place is not None:
        if place in above:
            return above[place] + steps
        place, steps = parents[place], steps + 1
    return None

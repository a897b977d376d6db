"""One episode as a reader wants it: what was asked, who said what having seen what, what was decided."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from sparring.errors import UserError
from sparring.memory.journal import Journal
from sparring.memory.queries import LIGHT
from sparring.memory.schema import Agent, Episode, Event, Message, PolicyVersion, Reward, Score, Task, Turn


@dataclass(frozen=True)
class Heard:
    """A message that a turn saw."""

    role: str
    parts: list[dict[str, Any]]
    turn: int | None
    """The turn of this episode whose reply it is."""


@dataclass(frozen=True)
class Spoken:
    """A turn, beside what it saw and what became of it."""

    row: Any
    """Light columns of `turns`, with the agent's `role`."""
    seat: str
    policy: str
    version: int | None
    """Number of the policy's version that spoke."""
    before: list[Heard]
    """What its seat's last turn had seen too."""
    heard: list[Heard]
    """What was new to it."""
    text: str | None
    scores: list[Any] = field(default_factory=list)
    rewards: list[Any] = field(default_factory=list)

    is_turn = True

    @property
    def at(self) -> float:
        return float(self.row.created_at)


@dataclass(frozen=True)
class Decided:
    """A decision that is no model call."""

    row: Any

    is_turn = False

    @property
    def at(self) -> float:
        return float(self.row.created_at)


@dataclass(frozen=True)
class Transcript:
    """All of an episode."""

    episode: Any
    """Columns of `episodes` and the task's name, question, answer, check."""
    items: list[Spoken | Decided]
    """In the order they were written."""
    verdict: dict[str, Any] | None


def read_transcript(journal: Journal, episode: str) -> Transcript:
    """The transcript of an episode.

    Raises:
        UserError: there is no such episode.
    """
    columns = (Task.name, Task.question, Task.answer, Task.check, Task.meta)
    query = select(Episode.__table__, *columns).join(Task, Task.id == Episode.task_id)
    rows = journal.read(query.where(Episode.id == episode))
    if not rows:
        raise UserError(f"there is no episode `{episode}` in this journal")
    number = rows[0].number
    events = journal.read(select(Event).where(Event.episode_number == number).order_by(Event.id))
    items: list[Spoken | Decided] = [*_turns(journal, number), *map(Decided, events)]
    verdicts = [row.payload for row in events if row.kind == "verdict"]
    return Transcript(rows[0], sorted(items, key=lambda item: item.at), verdicts[-1] if verdicts else None)


def _turns(journal: Journal, number: int) -> list[Spoken]:
    query = select(*LIGHT, Agent.role, Agent.policy).join(Agent, Agent.id == Turn.agent_id)
    rows = journal.read(query.where(Turn.episode_number == number).order_by(Turn.id))
    messages = {row.id: row for row in journal.read(select(Message).where(Message.episode_number == number))}
    said_by = {row.output_id: row.id for row in rows if row.output_id is not None}
    versions = _versions(journal, {row.policy_version_id for row in rows})
    scores, rewards = _by_turn(journal, Score, number), _by_turn(journal, Reward, number)
    seen: dict[str, list[int]] = defaultdict(list)
    spoken = []
    for row in rows:
        path = _path(messages, row.input_id)
        seat = row.key.partition("/")[2] or row.role
        shared = _shared(path, seen[seat])
        seen[seat] = [*path, *([row.output_id] if row.output_id is not None else [])]
        heard = [Heard(messages[place].role, messages[place].content, said_by.get(place)) for place in path]
        policy, number = versions.get(row.policy_version_id, (row.policy, None))
        spoken.append(
            Spoken(
                *(row, seat, policy, number, heard[:shared], heard[shared:]),
                text=_text(messages, row.output_id),
                scores=scores[row.id],
                rewards=rewards[row.id],
            )
        )
    return spoken


def _path(messages: dict[int, Any], last: int) -> list[int]:
    path = []
    while last in messages:
        path.append(last)
        last = messages[last].parent_id
    return path[::-1]


def _shared(path: list[int], seen: list[int]) -> int:
    """How many messages two conversations begin with."""
    together = 0
    for one, other in zip(path, seen, strict=False):
        if one != other:
            break
        together += 1
    return together


def _text(messages: dict[int, Any], output: int | None) -> str | None:
    if output not in messages:
        return None
    return "".join(part.get("text", "") for part in messages[output].content)


def _by_turn(journal: Journal, table: Any, number: int) -> dict[int, list[Any]]:
    query = select(table).join(Turn, Turn.id == table.turn_id).where(Turn.episode_number == number)
    found: dict[int, list[Any]] = defaultdict(list)
    for row in journal.read(query.order_by(table.id)):
        found[row.turn_id].append(row)
    return found


def _versions(journal: Journal, ids: set[int]) -> dict[int, tuple[str, int | None]]:
    query = select(PolicyVersion.id, PolicyVersion.policy, PolicyVersion.number)
    rows = journal.read(query.where(PolicyVersion.id.in_(ids)))
    return {row.id: (row.policy, row.number) for row in rows}

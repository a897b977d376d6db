"""One episode as a reader wants it: what was asked, who said what having seen what, what was decided."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select

from sparring.errors import UserError
from sparring.memory.journal import Journal
from sparring.memory.messages import path, said
from sparring.memory.queries import LIGHT
from sparring.memory.schema import (
    Agent,
    Blob,
    Episode,
    Event,
    Message,
    PolicyVersion,
    Reward,
    Score,
    Task,
    Turn,
    Update,
    UpdateTurn,
)
from sparring.memory.types import plain


@dataclass(frozen=True)
class Heard:
    """A message that a turn saw."""

    role: str
    parts: list[dict[str, Any]]


@dataclass(frozen=True)
class Judged:
    """What one scorer says of a turn."""

    scorer: str
    version: str
    whole: list[float | None]
    """Of the whole turn, or of a span of it."""
    steps: list[tuple[int, float | None]]
    """Step and value."""

    @property
    def name(self) -> str:
        """The scorer without its settings."""
        return self.scorer.partition("?")[0]


@dataclass(frozen=True)
class Spoken:
    """A turn, beside what it saw and what became of it."""

    row: Any
    """Light columns of `turns`, with the agent's `role`."""
    policy: str
    version: int | None
    """Number of the policy's version that spoke."""
    before: int
    """How many of the messages that it saw were seen or said in an earlier turn of the same conversation."""
    since: int | None
    """That turn."""
    heard: list[Heard]
    """What was new to it."""
    text: str | None
    scores: list[Judged] = field(default_factory=list)
    rewards: list[Any] = field(default_factory=list)
    trained: list[Any] = field(default_factory=list)
    """Updates that it trained: `id`, `policy`, `step`."""

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
    question: list[dict[str, Any]]
    """The task's question as the parts of a message."""


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
    messages = {row.id: row for row in journal.read(select(Message).where(Message.episode_number == number))}
    asked = as_parts(rows[0].question)
    known = _blobs(journal, [*asked, *(part for row in messages.values() for part in as_parts(row.content))])
    items: list[Spoken | Decided] = [*_turns(journal, number, messages, known), *map(Decided, events)]
    verdicts = [row.payload for row in events if row.kind == "verdict" and isinstance(row.payload, dict)]
    return Transcript(
        rows[0],
        sorted(items, key=lambda item: item.at),
        verdicts[-1] if verdicts else None,
        _shown(asked, known),
    )


def _turns(
    journal: Journal, number: int, messages: dict[int, Any], known: dict[str, dict[str, Any]]
) -> list[Spoken]:
    query = select(*LIGHT, Agent.role, Agent.policy).join(Agent, Agent.id == Turn.agent_id)
    rows = journal.read(query.where(Turn.episode_number == number).order_by(Turn.id))
    said_by: dict[int, int] = {}
    versions = _versions(journal, {row.policy_version_id for row in rows})
    scores, rewards = _by_turn(journal, Score, number), _by_turn(journal, Reward, number)
    trained = _trained(journal, number)
    spoken = []
    for row in rows:
        seen = path(messages, row.input_id)
        before = max((place + 1 for place, one in enumerate(seen) if one in said_by), default=0)
        since = said_by[seen[before - 1]] if before else None
        if row.output_id is not None:
            said_by.setdefault(row.output_id, row.id)
        heard = [
            Heard(messages[one].role, _shown(as_parts(messages[one].content), known)) for one in seen[before:]
        ]
        policy, number = versions.get(row.policy_version_id, (row.policy, None))
        spoken.append(
            Spoken(
                *(row, policy, number, before, since, heard),
                text=said(messages[row.output_id].content) if row.output_id in messages else None,
                scores=_judged(scores[row.id]),
                rewards=rewards[row.id],
                trained=trained[row.id],
            )
        )
    return spoken


def _judged(rows: list[Any]) -> list[Judged]:
    """Scores by who gave them."""
    found: dict[tuple[str, str], Judged] = {}
    for row in rows:
        one = found.setdefault((row.scorer, row.version), Judged(row.scorer, row.version, [], []))
        if row.step is None:
            one.whole.append(row.value)
        else:
            one.steps.append((row.step, row.value))
    return list(found.values())


def as_parts(content: Any) -> list[dict[str, Any]]:
    """Whatever a question or a message is, as parts: a text is one, other data is shown as it is."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return content
    return [] if content is None else [{"type": "data", "data": content}]


def _blobs(journal: Journal, parts: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Hash -> kind and size of the files that parts refer to."""
    hashes = {
        part["hash"] for part in parts if part.get("type") == "blob" and isinstance(part.get("hash"), str)
    }
    if not hashes:
        return {}
    query = select(Blob.hash, Blob.media_type, func.length(Blob.data).label("size"))
    rows = journal.read(query.where(Blob.hash.in_({plain(one) for one in hashes})))
    return {row.hash: {"media_type": row.media_type, "size": row.size} for row in rows}


def _shown(parts: list[dict[str, Any]], known: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Parts, those that are files with what the journal knows of them."""
    return [
        part | known.get(str(part.get("hash")), {"size": None}) if part.get("type") == "blob" else part
        for part in parts
    ]


def _by_turn(journal: Journal, table: Any, number: int) -> dict[int, list[Any]]:
    query = select(table).join(Turn, Turn.id == table.turn_id).where(Turn.episode_number == number)
    found: dict[int, list[Any]] = defaultdict(list)
    for row in journal.read(query.order_by(table.id)):
        found[row.turn_id].append(row)
    return found


def _trained(journal: Journal, number: int) -> dict[int, list[Any]]:
    query = (
        select(UpdateTurn.turn_id, Update.id, Update.policy, Update.step)
        .join(Turn, Turn.id == UpdateTurn.turn_id)
        .join(Update, Update.id == UpdateTurn.update_id)
        .where(Turn.episode_number == number)
    )
    found: dict[int, list[Any]] = defaultdict(list)
    for row in journal.read(query.order_by(Update.id)):
        found[row.turn_id].append(row)
    return found


def _versions(journal: Journal, ids: set[int]) -> dict[int, tuple[str, int | None]]:
    query = select(PolicyVersion.id, PolicyVersion.policy, PolicyVersion.number)
    rows = journal.read(query.where(PolicyVersion.id.in_(ids)))
    return {row.id: (row.policy, row.number) for row in rows}

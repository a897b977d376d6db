"""What the journal holds of an episode, read back to be played on, or to be shared with a fork of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, select

from ..errors import UserError
from .database import transact
from .episode import SHARED, Attempt
from .messages import Conversation
from .records import Fork, Turn
from .schema import Episode, Event, Message, Score
from .schema import Turn as TurnTable
from .scores import COLUMNS, ScoreRecord
from .tokens import EMPTY, PrefixIndex, StoredTurn, resolve

if TYPE_CHECKING:
    from .journal import Journal

FORK = "fork"
"""Kind of the event that says which turns and events of its parent an episode shares."""
Attempts = dict[str, list[Attempt]]
Events = dict[tuple[str, str], Any]


@dataclass(frozen=True, slots=True)
class StoredEpisode:
    """The rows of one episode; messages and turns in the order of their ids."""

    parent: str | None
    messages: list[Any]
    """(id, parent id, role, content); parents come before what follows them."""
    turns: list[Any]
    events: Events
    scores: list[ScoreRecord]

    def attempts(self, conversation: Conversation) -> Attempts:
        """Key -> its attempts, with the texts that the conversation holds."""
        found: Attempts = defaultdict(list)
        for row in sorted(self.turns, key=lambda row: (row.key, row.attempt)):
            text = conversation.text(row.output_id)
            found[row.key].append(Attempt(_turn(row, text), row.fingerprint, row.agent_id, row.final))
        return dict(found)


def read_episode(journal: Journal, number: int) -> StoredEpisode:
    """The rows of the episode with this number."""
    return transact(journal.engine, lambda connection: _read(connection, number), write=False)


def _read(connection: Connection, number: int) -> StoredEpisode:
    columns = (Message.id, Message.parent_id, Message.role, Message.content)
    said = connection.execute(
        select(*columns).where(Message.episode_number == number).order_by(Message.id)
    ).all()
    turns = select(TurnTable).where(TurnTable.episode_number == number).order_by(TurnTable.id)
    rows = connection.execute(turns).all()
    events = select(Event.kind, Event.key, Event.payload).where(Event.episode_number == number)
    known = {(row.kind, row.key): row.payload for row in connection.execute(events)}
    judged = select(*COLUMNS).join(TurnTable, TurnTable.id == Score.turn_id)
    scores = connection.execute(judged.where(TurnTable.episode_number == number).order_by(Score.id))
    judgements = [ScoreRecord.of_row(row) for row in scores]
    parent = connection.execute(select(Episode.parent_id).where(Episode.number == number)).scalar()
    return StoredEpisode(parent, list(said), list(rows), known, judgements)


def history(journal: Journal, episode: str) -> tuple[Attempts, Events]:
    """All that an episode has said and decided, with what it shares with the one that it was forked from.

    Raises:
        UserError: it is not there, or one that it was forked from is not.
    """
    numbers = journal.read(select(Episode.number).where(Episode.id == episode))
    if not numbers:
        raise UserError(f"episode {episode} is not in this journal; a fork of it cannot be played without it")
    stored = read_episode(journal, numbers[0].number)
    conversation = Conversation(numbers[0].number, journal.ids)
    for message in stored.messages:
        conversation.load(*message)
    attempts, events = stored.attempts(conversation), stored.events
    if (shared := events.get((FORK, "0"))) is not None:
        before, decided = shared_history(journal, stored.parent, shared)
        attempts, events = {**before, **attempts}, {**decided, **events}
    return attempts, events


def shared_history(journal: Journal, parent: str | None, shared: dict[str, Any]) -> tuple[Attempts, Events]:
    """What a fork takes over of its parent, by the payload of its event `fork`.

    Raises:
        UserError: the parent was deleted.
    """
    if parent is None:
        raise UserError("the episode that this one was forked from was deleted; it cannot be played on")
    attempts, events = history(journal, parent)
    last = {key: attempts[key][-1] for key in shared["turns"]}
    names = [(kind, key) for kind, key in shared["events"]]
    told = {key: [Attempt(one.turn, SHARED, one.agent, True)] for key, one in last.items()}
    return told, {name: events[name] for name in names}


def fork_at(journal: Journal, episode: str, turns: Sequence[str], events: Sequence[tuple[str, str]]) -> Fork:
    """The fork of an episode that shares these turns (by key, in their order) and events (by kind and key).

    Raises:
        UserError: it has no such turn or event, or a turn that is still to be made.
    """
    attempts, known = history(journal, episode)
    gone = [key for key in turns if key not in attempts or not attempts[key][-1].final]
    gone += [f"{kind} {key}" for kind, key in events if (kind, key) not in known]
    if gone:
        raise UserError(f"episode {episode} has not come as far as `{gone[0]}`; fork it at an earlier step")
    if not turns:
        raise UserError("a fork shares at least one turn; play the task anew instead")
    return Fork(episode, attempts[turns[-1]][-1].turn.id, tuple(turns), tuple(events))


def load_ids(prefixes: PrefixIndex, rows: Sequence[Any]) -> None:
    """Remember the token ids of turns, which later ones may begin with."""
    stored = {row.id: _stored(row) for row in rows if row.prompt_tail is not None}
    for row in rows:
        if row.id in stored:
            completion = EMPTY if row.completion_ids is None else row.completion_ids
            prefixes.add(row.id, resolve(row.id, stored), completion)


def _stored(row: Any) -> StoredTurn:
    completion = None if row.completion_ids is None else row.completion_ids.tobytes()
    return StoredTurn(row.prefix_turn_id, row.prefix_length, row.prompt_tail.tobytes(), completion)


def _turn(row: Any, text: str) -> Turn:
    return Turn(
        id=row.id,
        key=row.key,
        attempt=row.attempt,
        status=row.status,
        text=text,
        parsed=row.parsed,
        error=row.error,
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        cost=row.cost,
        replayed=True,
    )

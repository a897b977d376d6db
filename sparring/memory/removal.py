"""Delete runs without cutting the lineage of weights in use.

An episode stays if one of its turns trained a policy version that a head (live or training) descends
from: its words can still be read beside the weights they shaped. `force` deletes those too.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Text, delete, select, type_coerce, update

from .database import transact
from .lock import acquire
from .postgres import unhurried
from .schema import (
    Base,
    Blob,
    Episode,
    Event,
    Match,
    Message,
    Policy,
    PolicyVersion,
    Rating,
    RecomputedLogprobs,
    Reward,
    Run,
    Score,
    Task,
    Turn,
    Update,
    UpdateTurn,
)

if TYPE_CHECKING:
    from .journal import Journal

AT_ONCE = 500
"""Episodes of one statement."""
CONTENT: Any = type_coerce(Message.content, Text)


@dataclass(slots=True)
class Removed:
    """What a deletion did."""

    rows: dict[str, int] = field(default_factory=dict)
    kept_episodes: list[str] = field(default_factory=list)
    """Episodes that weights in use descend from."""


def remove(journal: Journal, run: str, force: bool = False) -> Removed:
    """Delete a run and its child runs. Agents and policy versions stay; they belong to all runs.

    Raises:
        UserError: there is no such run.
        RunLocked: it, or a child run, is being driven.
    """
    journal.run_row(run)
    journal.writer.flush()
    with ExitStack() as locks:
        runs = transact(journal.engine, lambda connection: family(connection, run), write=False)
        for name in runs:
            locks.callback(acquire(journal.engine, name).release)
        return transact(journal.engine, lambda connection: _Removal(connection).run(runs, force))


def family(connection: Connection, run: str) -> list[str]:
    """A run and those that were begun for it (a baseline), parents first."""
    found, last = [run], [run]
    while last:
        last = list(connection.execute(select(Run.id).where(Run.parent_id.in_(last))).scalars())
        found += last
    return found


def lineage(connection: Connection) -> set[int]:
    """Updates that led to the policy versions in use."""
    parents = {
        row.id: row
        for row in connection.execute(
            select(PolicyVersion.id, PolicyVersion.parent_id, PolicyVersion.update_id)
        )
    }
    heads = connection.execute(select(Policy.live_version_id, Policy.training_version_id)).all()
    pending, seen, updates = [head for pair in heads for head in pair], set(), set()
    while pending:
        version = parents.get(pending.pop())
        if version is None or version.id in seen:
            continue
        seen.add(version.id)
        pending.append(version.parent_id)
        if version.update_id is not None:
            updates.add(version.update_id)
    led = select(Update.id).where(Update.to_version_id.in_(seen))
    return updates | set(connection.execute(led).scalars())


class _Removal:
    """One deletion, inside one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._removed = Removed()

    def run(self, runs: list[str], force: bool) -> Removed:
        unhurried(self._connection)
        needed = set() if force else lineage(self._connection)
        mine = select(Episode.id).where(Episode.run_id.in_(runs))
        episodes = set(self._connection.execute(mine).scalars())
        kept = self._kept(needed, episodes)
        updates = set(self._connection.execute(select(Update.id).where(Update.run_id.in_(runs))).scalars())
        self._delete(Rating, Rating.run_id.in_(runs))
        self._delete(Match, Match.run_id.in_(runs))
        self._delete(Event, Event.run_id.in_(runs))
        self._updates(updates - needed)
        gone = sorted(episodes - kept)
        blobs = self._blobs(gone)
        tasks = set(
            self._connection.execute(select(Episode.task_id).where(Episode.run_id.in_(runs))).scalars()
        )
        for start in range(0, len(gone), AT_ONCE):
            self._episodes(gone[start : start + AT_ONCE])
        self._tasks(tasks)
        self._unreferenced(blobs)
        self._runs(runs)
        self._removed.kept_episodes = sorted(kept)
        return self._removed

    def _kept(self, needed: set[int], episodes: set[str]) -> set[str]:
        trained = (
            select(Episode.id)
            .join(Turn, Turn.episode_number == Episode.number)
            .join(UpdateTurn, UpdateTurn.turn_id == Turn.id)
            .where(UpdateTurn.update_id.in_(needed))
            .distinct()
        )
        kept = episodes & set(self._connection.execute(trained).scalars())
        last = kept
        while last:  # an episode inside another is read with it
            parents = select(Episode.parent_id).where(Episode.id.in_(last), Episode.parent_id.is_not(None))
            last = (episodes & set(self._connection.execute(parents).scalars())) - kept
            kept |= last
        return kept

    def _delete(self, table: type[Base], *where: Any) -> None:
        count = self._connection.execute(delete(table).where(*where)).rowcount
        self._removed.rows[table.__tablename__] = self._removed.rows.get(table.__tablename__, 0) + count

    def _updates(self, gone: set[int]) -> None:
        for part in _parts(sorted(gone)):
            self._delete(UpdateTurn, UpdateTurn.update_id.in_(part))
            orphans = update(PolicyVersion).where(PolicyVersion.update_id.in_(part))
            self._connection.execute(orphans.values(update_id=None))
            self._delete(Update, Update.id.in_(part))

    def _episodes(self, ids: Sequence[str]) -> None:
        mine = select(Episode.number).where(Episode.id.in_(ids))
        turns = select(Turn.id).where(Turn.episode_number.in_(mine))
        for table in (Score, Reward, RecomputedLogprobs, UpdateTurn):
            self._delete(table, table.turn_id.in_(turns))
        for spoken in (Event, Turn, Message):
            self._delete(spoken, spoken.episode_number.in_(mine))
        child = update(Episode).where(Episode.parent_id.in_(ids))
        self._connection.execute(child.values(parent_id=None))
        match = update(Match).where(Match.episode_number.in_(mine))
        self._connection.execute(match.values(episode_number=None))
        self._delete(Episode, Episode.id.in_(ids))

    def _tasks(self, ids: set[str]) -> None:
        """Tasks of the deleted episodes that no other episode plays and no other task comes from."""
        for part in _parts(sorted(ids)):
            used = select(Episode.task_id).where(Episode.task_id.in_(part))
            parents = select(Task.parent_id).where(Task.parent_id.in_(part))
            self._delete(Task, Task.id.in_(part), Task.id.not_in(used), Task.id.not_in(parents))

    def _blobs(self, episodes: list[str]) -> set[str]:
        hashes: set[str] = set()
        for part in _parts(episodes):
            mine = select(Episode.number).where(Episode.id.in_(part))
            said = select(Message.content).where(Message.episode_number.in_(mine), CONTENT.contains('"blob"'))
            for content in self._connection.execute(said).scalars():
                hashes.update(piece["hash"] for piece in content if piece.get("type") == "blob")
        return hashes

    def _unreferenced(self, hashes: set[str]) -> None:
        for name in sorted(hashes):
            refers = select(Message.id).where(CONTENT.contains(name, autoescape=True))
            if self._connection.execute(refers.limit(1)).one_or_none() is None:
                self._delete(Blob, Blob.hash == name)

    def _runs(self, runs: list[str]) -> None:
        """Children first; a run stays while an episode, an update or a child of it does."""
        for name in reversed(runs):
            held = [
                select(Episode.id).where(Episode.run_id == name),
                select(Update.id).where(Update.run_id == name),
                select(Run.id).where(Run.parent_id == name),
            ]
            if all(self._connection.execute(query.limit(1)).one_or_none() is None for query in held):
                self._delete(Run, Run.id == name)


def _parts(ids: Sequence[Any]) -> list[Sequence[Any]]:
    return [ids[start : start + AT_ONCE] for start in range(0, len(ids), AT_ONCE)]

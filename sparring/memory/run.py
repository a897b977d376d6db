"""A run that this process drives: its lock, its epoch, its episodes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from sqlalchemy import Connection, select, update

from ..errors import BudgetSpent, StaleEpoch
from .database import transact
from .episode import EpisodeHandle
from .heads import fence
from .lock import Lock
from .records import AgentRecord, Fork, TaskRecord
from .replay import FORK, load_ids, read_episode, shared_history
from .rows import Row
from .schema import Agent, Episode, Event, Run
from .seeds import episode_id
from .types import plain
from .writer import Write

if TYPE_CHECKING:
    from .journal import Journal

WRITTEN = ("episodes", "messages", "turns", "events", "scores")
"""Tables that need ids while a run is played."""
UNFINISHED = ("open", "failed")
Seats = dict[str, dict[str, Any]]


@dataclass(slots=True)
class Ending:
    """How a run ends, to be said by who drives it."""

    status: str = "failed"


@dataclass(slots=True)
class EpisodeState:
    """What is known of a journaled episode without opening it."""

    number: int
    status: str
    seats: Seats
    outcome: Any


class RunHandle:
    """The right to write one run, held until `release`."""

    def __init__(self, journal: Journal, run_id: str, seed: int, epoch: int, lock: Lock | None) -> None:
        self.journal, self.id, self.seed, self.epoch = journal, run_id, seed, epoch
        self.ids = journal.ids
        self._lock = lock
        self._agents: dict[str, dict[str, Any]] = {}
        self._opened: WeakValueDictionary[str, EpisodeHandle] = WeakValueDictionary()
        self.episodes: dict[str, EpisodeState] = {}
        self.ids.refill(WRITTEN)
        self._load()

    def _load(self) -> None:
        self._read(Episode.run_id == self.id)

    def _read(self, which: Any) -> None:
        columns = (Episode.id, Episode.number, Episode.status, Episode.seats, Episode.outcome)
        for row in self.journal.read(select(*columns).where(which)):
            self.episodes[row.id] = EpisodeState(row.number, row.status, row.seats, row.outcome)

    def write(self) -> Write:
        """An empty write that carries this driver's epoch."""
        return Write(self.id, self.epoch)

    def submit(self, rows: list[tuple[str, Row]]) -> None:
        """Queue rows without waiting; they are committed before or with every later write."""
        self.journal.writer.submit(Write(self.id, self.epoch, rows))

    async def commit(self, write: Write) -> None:
        """Return once the write is durable."""
        await self.journal.writer.commit(write)

    def post(self, write: Write) -> None:
        """Queue a write whose `done` says what became of it."""
        self.journal.writer.post(write)

    def register(self, agent: AgentRecord) -> str:
        """The agent's id; its row is written the first time it speaks in this process."""
        if agent.id not in self._agents:
            row = {
                "id": agent.id,
                "role": agent.role,
                "prompt_hash": agent.prompt_hash,
                "prompt": agent.prompt,
                "parser": agent.parser,
                "parser_version": agent.parser_version,
                "sampling": agent.sampling,
                "policy": agent.policy,
            }
            self.submit([("agents", row)])
            self._agents[agent.id] = row
        return agent.id

    def agent_fields(self, agent_id: str) -> dict[str, Any]:
        """A journaled agent's fields, for saying how a request differs."""
        self.journal.writer.flush()
        rows = self.journal.read(select(Agent).where(Agent.id == agent_id))
        if not rows:
            return {}
        [row] = rows
        return {
            "role": row.role,
            "prompt": row.prompt_hash,
            "parser": f"{row.parser} {row.parser_version}",
            "sampling": row.sampling,
            "policy": row.policy,
        }

    def state(self, task: TaskRecord, iteration: int = 0, copy: int = 0) -> EpisodeState | None:
        """What the journal knows of an episode; None if it was never begun."""
        return self.episodes.get(episode_id(self.id, task.key, iteration, copy))

    def episode(
        self,
        task: TaskRecord,
        iteration: int = 0,
        copy: int = 0,
        *,
        seats: Seats,
        parent: str | None = None,
        fork: Fork | None = None,
    ) -> EpisodeHandle:
        """Open an episode, or reopen it with everything it has said. Seats of a reopened one stay.

        Args:
            fork: what a new one begins with; a reopened one keeps what it began with.

        Raises:
            UserError: the episode that it was forked from is gone.
        """
        key = task.key
        identity = episode_id(self.id, key, iteration, copy)
        opened = self._opened.get(identity)
        if opened is not None and opened.broken is None:
            return opened  # two handles of one episode would not see each other's turns in flight
        known = self.episodes.get(identity)
        if opened is not None:
            self._agents.clear()  # what was refused may have held any of these rows: they are written again
        state = known or EpisodeState(self.ids.take("episodes"), "open", seats, None)
        handle = EpisodeHandle(self, state.number, (task.id, key, iteration, copy), state.seats)
        if known is not None and opened is None:
            self._reload(handle)
            self._opened[identity] = handle
            return handle
        row = {
            "number": handle.number,
            "id": handle.id,
            "run_id": self.id,
            "task_id": key,
            "iteration": iteration,
            "copy": copy,
            "parent_id": fork.parent if fork else parent,
            "forked_from_turn_id": fork.turn if fork else None,
            "seats": handle.seats,
            "status": "open",
            "outcome": None,
            "error": None,
            "started_at": time.time(),
            "finished_at": None,
        }
        rows = [("tasks", _task_row(task)), ("episodes", row)]
        if fork is not None:
            shared = {"turns": list(fork.turns), "events": [list(name) for name in fork.events]}
            rows.append(("events", self.event_row(FORK, "0", shared, episode=handle.number)))
        self.submit(rows)
        if known is None:
            self.episodes[handle.id] = state
            if fork is not None:
                self.journal.writer.flush()
                handle.share(*shared_history(self.journal, fork.parent, shared))
        else:
            self._reload(handle)
        self._opened[identity] = handle
        return handle

    def abandon(self, task: TaskRecord, iteration: int, copy: int, reason: str) -> None:
        """Give up an unfinished episode; its rows stay, and it is never continued.

        Raises:
            StaleEpoch: another driver has taken the run over.
        """
        status = self._end(task, iteration, copy, ("abandoned", reason))
        self.episodes[episode_id(self.id, task.key, iteration, copy)].status = status

    def fail(self, task: TaskRecord, iteration: int, copy: int, reason: str) -> str:
        """Note why an episode that another process was to play came to nothing; it can be tried again.

        Returns: its status: `failed`, or as what that process has finished it before it was lost.

        Raises:
            StaleEpoch: another driver has taken the run over.
        """
        return self._end(task, iteration, copy, ("failed", reason))

    def _end(self, task: TaskRecord, iteration: int, copy: int, ended: tuple[str, str]) -> str:
        mine = Episode.id == episode_id(self.id, task.key, iteration, copy)
        values = {"status": ended[0], "error": plain(ended[1]), "finished_at": time.time()}

        def write(connection: Connection) -> str:
            fence(connection, self)
            connection.execute(update(Episode).where(mine, Episode.status.in_(UNFINISHED)).values(values))
            return connection.execute(select(Episode.status).where(mine)).scalar_one_or_none() or ended[0]

        return transact(self.journal.engine, write)

    def closed(self, episode: str, status: str, outcome: Any) -> None:
        """Note that an episode has ended."""
        state = self.episodes[episode]
        state.status, state.outcome = status, outcome

    def event_row(self, kind: str, key: str, payload: Any, *, episode: int | None = None) -> Row:
        """A row of `events`, owned by the episode of that number or else by the run."""
        return {
            "id": self.ids.take("events"),
            "run_id": None if episode is not None else self.id,
            "episode_number": episode,
            "kind": kind,
            "key": key,
            "payload": payload,
            "epoch": self.epoch,
            "created_at": time.time(),
        }

    async def event(self, kind: str, key: str, payload: Any) -> None:
        """Journal a decision of the run itself."""
        write = self.write()
        write.rows.append(("events", self.event_row(kind, key, payload)))
        await self.commit(write)

    def decided(self, kind: str, key: str) -> Any:
        """The payload of a decision of the run itself; None where there is none yet."""
        query = select(Event.payload).where(Event.run_id == self.id, Event.kind == kind, Event.key == key)
        return next((row.payload for row in self.journal.read(query)), None)

    @contextmanager
    def driven(self) -> Iterator[Ending]:
        """Notes at the end how the run ended, `failed` unless the body says otherwise, and lets it go."""
        ending = Ending()
        try:
            yield ending
        except (asyncio.CancelledError, BudgetSpent):
            ending.status = "interrupted"
            raise
        finally:
            try:
                if not self.journal.writer.gone:  # it has just waited in vain
                    self.finish(ending.status)
            finally:
                self.release()

    def finish(self, status: str) -> None:
        """Record how the run ended: done, interrupted or failed."""
        statement = (
            update(Run)
            .where(Run.id == self.id, Run.epoch == self.epoch)
            .values(status=status, finished_at=time.time())
        )
        self.journal.execute(statement)

    def release(self) -> None:
        """Give up the run; others may drive it."""
        if self._lock is not None:
            self._lock.release()

    def keep(self) -> None:
        """See to it that the lock is held, as is done after each commit: for a driver that makes none."""
        if self._lock is not None:
            self._lock.keep()

    def renew(self) -> None:
        """Take over from oneself: what other processes still write under the old epoch is refused.

        Nothing of this handle may be on its way to the journal.

        Raises:
            StaleEpoch: another driver has taken the run over.
        """
        stored = self.journal.run_row(self.id)
        then = {"epoch": self.epoch + 1, "driver": stored.driver}
        mine = update(Run).where(Run.id == self.id, Run.epoch == self.epoch)
        renewed = stored.epoch == self.epoch and (
            self.journal.execute(mine.values(epoch=then["epoch"])).rowcount == 1
            or self.journal.drives(self.id, then)  # the answer was lost, and it was asked twice
        )
        if not renewed:
            raise StaleEpoch(f"run `{self.id}` was taken over by another driver")
        self.epoch += 1

    def _reload(self, handle: EpisodeHandle) -> None:
        self.journal.writer.flush()  # what an earlier handle of this process said may still be on its way
        stored = read_episode(self.journal, handle.number)
        for message in stored.messages:
            handle.conversation.load(*message)
        self.ids.skip("messages", stored.messages[-1].id if stored.messages else 0)
        self.ids.skip("turns", stored.turns[-1].id if stored.turns else 0)
        handle.load(stored.attempts(handle.conversation), stored.events)
        if (shared := stored.events.get((FORK, "0"))) is not None:
            handle.share(*shared_history(self.journal, stored.parent, shared))
        handle.scores.load(stored.scores)
        load_ids(handle.prefixes, stored.turns)


class JoinedRun(RunHandle):
    """A run that another process drives: this one writes episodes that it was handed, under the driver's
    epoch and only as long as that one holds."""

    def _load(self) -> None:
        """Nothing: what is known of an episode is asked when it comes, others may have played it before."""

    def state(self, task: TaskRecord, iteration: int = 0, copy: int = 0) -> EpisodeState | None:
        name = episode_id(self.id, task.key, iteration, copy)
        if name not in self.episodes:
            self._read(Episode.id == name)
        return self.episodes.get(name)

    def closed(self, episode: str, status: str, outcome: Any) -> None:
        """Forget it: the next to play it may be another process."""
        self.episodes.pop(episode, None)
        self._opened.pop(episode, None)


def _task_row(task: TaskRecord) -> Row:
    return {
        "id": task.key,
        "name": task.id,
        "question": task.question,
        "answer": task.answer,
        "check": task.check,
        "meta": task.meta,
        "parent_id": task.parent,
        "source_turn_id": task.source_turn,
    }

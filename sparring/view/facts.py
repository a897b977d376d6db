"""What pages count, sort and filter by, derived from the journal and kept in memory.

A journal of a million turns cannot be summed while somebody waits for a page. So a thread reads every episode
once when it is new and again for as long as it is open, and keeps one small row of it in a SQLite database of
its own; pages ask that one. The journal is never written to.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from sqlalchemy import Text, func, select, true, type_coerce

from sparring.errors import JournalError, SparringError
from sparring.graphs.pool import answer_of
from sparring.memory.journal import Journal
from sparring.memory.schema import Agent, Episode, Event, Reward, Run, Task, Turn

logger = logging.getLogger(__name__)
LOOK_S = 1.0
"""How often the journal is looked at for what is new."""
AHEAD = 40
"""Episodes read at once; between two such reads the pages have their turn."""
PATIENCE_S = 0.5
"""The longest wait for pages to be made."""
ANSWERS = 512
"""Queries whose rows are kept."""
BLOCK = 16 * 4096
"""Ids are handed out in blocks of 4,096: the newest rows need not have the highest, so many are looked at
again."""
TABLE = """
CREATE TABLE facts (
    number INTEGER PRIMARY KEY, id TEXT, run TEXT, task TEXT, iteration INT, copy INT, status TEXT,
    started REAL, finished REAL, calls INT, prompt_tokens INT, completion_tokens INT, cost REAL,
    roles TEXT, answers INT, correct INT, referenced INT, reward REAL
);
CREATE INDEX facts_run ON facts (run, number);
"""
COLUMNS = (
    *("number", "id", "run", "task", "iteration", "copy", "status", "started", "finished"),
    *("calls", "prompt_tokens", "completion_tokens", "cost", "roles", "answers", "correct", "referenced"),
)
"""All but the reward, which comes later than the episode's end."""
KEEP = (
    f"INSERT INTO facts ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) "
    f"ON CONFLICT DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in COLUMNS[1:])}"
)
KNOWN = "SELECT count(*), coalesce(sum(number), 0) FROM facts"
PAY = "UPDATE facts SET reward = ?1 WHERE number = ?2 AND abs(coalesce(reward, 0)) <= abs(?1)"


class Facts:
    """One row for each episode, as fresh as the last look.

    Args:
        runs: Those whose episodes are read; None: all.
    """

    def __init__(self, journal: Journal, runs: Collection[str] | None = None) -> None:
        self._journal, self._file = journal, _file(journal)
        self._ours = true() if runs is None else Episode.run_id.in_(runs)
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        self._database.row_factory = sqlite3.Row
        self._database.executescript(TABLE)
        self._guard, self._counting = threading.Lock(), threading.Lock()
        self._answers: dict[tuple[Any, ...], list[Any]] = {}
        self._state = 0
        """The table's number of changes when those were read."""
        self._pages = 0
        self._idle = threading.Event()
        self._idle.set()
        self._roles: dict[str, str] = {}
        self._unfinished: dict[int, str] = {}
        """Number -> run of those that may still change: a failed one is played again when its run goes on."""
        self._runs: dict[str, tuple[str, int]] = {}
        self._last_reward = 0
        self._rewards = 0
        self._stop = threading.Event()
        self.total = 0
        """Episodes in the journal at the last look."""
        self.known = 0
        """Those that have a row."""
        self.trouble: str | None = None
        """Why the last look failed."""
        self._thread = threading.Thread(target=self._follow, name="sparring-view", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._database.close()

    @property
    def ready(self) -> bool:
        return self.known >= self.total

    def ask(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Rows of a query over the table `facts`; the same ones again until the table changes."""
        key = (query, *values)
        with self._guard:
            if self._state != self._database.total_changes or len(self._answers) >= ANSWERS:
                self._answers, self._state = {}, self._database.total_changes
            if key not in self._answers:
                self._answers[key] = self._database.execute(query, values).fetchall()
            return self._answers[key]

    def once(self, key: tuple[Any, ...], read: Callable[[], list[Any]]) -> list[Any]:
        """What a slow read of the journal gives; the same again until the table changes."""
        with self._guard:
            kept = self._answers.get(key) if self._state == self._database.total_changes else None
        if kept is None:
            state, kept = self._database.total_changes, read()
            with self._guard:
                if self._state == state == self._database.total_changes:
                    self._answers[key] = kept
        return kept

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While a page is made: reading waits, or both would share one interpreter."""
        with self._counting:
            self._pages += 1
            self._idle.clear()
        try:
            yield
        finally:
            with self._counting:
                self._pages -= 1
                if not self._pages:
                    self._idle.set()

    def look(self) -> None:
        """Read what is new, or was open at the last look.

        Raises:
            JournalError: the journal does not answer, or its file is another one now.
        """
        if _file(self._journal) != self._file:  # what is open is read on, whatever has its name
            raise JournalError("its file was replaced or deleted, and this is what was there; start it again")
        runs = {row.id: (row.status, row.epoch) for row in self._journal.read(RUNS)}
        paid = self._journal.read(select(func.count(Reward.id), func.max(Reward.id)))[0]
        moving = {run for run, state in runs.items() if state[0] == "open" or state != self._runs.get(run)}
        again = {number for number, run in self._unfinished.items() if run in moving}
        waiting = sorted({*self._new(), *again})
        self.known = self.ask(KNOWN)[0][0]
        for part in _parts(waiting, AHEAD):
            if self._stop.is_set():
                return
            self._read(part)
            self.known = self.ask(KNOWN)[0][0]
            self._idle.wait(PATIENCE_S)
        self._runs = runs
        self._pay(int(paid[0]), int(paid[1] or 0))

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                self.look()
                self.trouble = None
            except SparringError as error:
                self.trouble = str(error)
            except Exception as error:  # a page that says so is better than figures that silently stand still
                logger.exception("the viewer cannot read the journal")
                self.trouble = f"{type(error).__name__}: {error}"
            self._stop.wait(LOOK_S)

    def _new(self) -> list[int]:
        """Numbers of episodes that have no row yet; rows of those that were deleted are forgotten."""
        summed = select(func.count(Episode.number), func.coalesce(func.sum(Episode.number), 0))
        total, sum_ = map(int, self._journal.read(summed.where(self._ours))[0])
        self.total = total
        if tuple(self.ask(KNOWN)[0]) == (total, sum_):  # as many may have come as went
            return []
        with self._guard:
            known = {number for (number,) in self._database.execute("SELECT number FROM facts")}
        new = self._numbers(max(known, default=0) - BLOCK) - known
        if len(known) + len(new) != total:  # somebody's block is older still, or some are gone
            there = self._numbers()
            self._forget(known - there)
            new = there - known
        return sorted(new)

    def _numbers(self, since: int = 0) -> set[int]:
        query = select(Episode.number).where(Episode.number > since, self._ours)
        return {row.number for row in self._journal.read(query)}

    def _forget(self, gone: Collection[int]) -> None:
        with self._guard, self._database:
            self._database.executemany("DELETE FROM facts WHERE number = ?", [(number,) for number in gone])
        for number in gone:
            self._unfinished.pop(number, None)

    def _read(self, numbers: Sequence[int]) -> None:
        rows = {row.number: row for row in self._journal.read(_episodes(numbers))}
        spoken = self._spoken(list(rows))
        payload = type_coerce(Event.payload, Text).label("payload")
        verdicts = (
            select(Event.episode_number, payload)
            .where(Event.episode_number.in_(rows), Event.kind == "verdict")
            .order_by(Event.id)
        )
        correct = {row.episode_number: _correct(row.payload) for row in self._journal.read(verdicts)}
        made = [
            (*(row.number, row.id, row.run_id, row.name, row.iteration, row.copy, row.status),
             *(row.started_at, row.finished_at), *spoken[number].row(), correct.get(number), row.referenced)
            for number, row in rows.items()
        ]  # fmt: skip
        with self._guard, self._database:
            self._database.executemany(KEEP, made)
        for number, row in rows.items():
            if row.status == "done":
                self._unfinished.pop(number, None)
            else:
                self._unfinished[number] = row.run_id

    def _spoken(self, numbers: Sequence[int]) -> dict[int, _Spoken]:
        columns = (Turn.episode_number, Turn.agent_id, Turn.final, Turn.prompt_tokens, Turn.completion_tokens)
        parsed = type_coerce(Turn.parsed, Text).label("parsed")
        query = select(*columns, Turn.cost, parsed).where(Turn.episode_number.in_(numbers))
        found: dict[int, _Spoken] = defaultdict(_Spoken)
        for row in self._journal.read(query):
            found[row.episode_number].add(row, self._role(row.agent_id))
        return found

    def _role(self, agent: str) -> str:
        if agent not in self._roles:
            self._roles.update({row.id: row.role for row in self._journal.read(select(Agent.id, Agent.role))})
        return self._roles.get(agent, "?")

    def _pay(self, count: int, last: int) -> None:
        """The reward furthest from 0 of each episode; rewards are often derived long after its end.

        Args:
            count: Rewards that the journal held before its episodes were read: all of those are known.
            last: The highest id among them.
        """
        if count == self._rewards:
            return
        since = max(0, self._last_reward - BLOCK) if count > self._rewards else 0
        query = (
            select(Reward.id, Turn.episode_number, Reward.value)
            .join(Turn, Turn.id == Reward.turn_id)
            .where(Reward.value.is_not(None))
            .order_by(Reward.id)
            .limit(20_000)
        )
        while (rows := self._journal.read(query.where(Reward.id > since))) and not self._stop.is_set():
            with self._guard, self._database:
                self._database.executemany(PAY, [(row.value, row.episode_number) for row in rows])
            since = rows[-1].id
        self._rewards, self._last_reward = count, last


class _Spoken:
    """Sums over the turns of an episode."""

    __slots__ = ("answers", "calls", "completion", "cost", "prompt", "roles")

    def __init__(self) -> None:
        self.calls = self.prompt = self.completion = 0
        self.cost = 0.0
        self.roles: set[str] = set()
        self.answers: set[str] = set()

    def add(self, row: Any, role: str) -> None:
        self.calls += 1
        self.prompt += row.prompt_tokens
        self.completion += row.completion_tokens
        self.cost += row.cost
        self.roles.add(role)
        told = row.final and row.parsed and '"answer"' in row.parsed
        if told and (answer := answer_of(_object(row.parsed))):
            self.answers.add(answer)

    def row(self) -> tuple[Any, ...]:
        roles = f",{','.join(sorted(self.roles))},"
        return self.calls, self.prompt, self.completion, self.cost, roles, len(self.answers)


def _correct(payload: str) -> bool | None:
    said = (_object(payload) or {}).get("correct")
    return said if isinstance(said, bool) else None


def _object(text: str) -> dict[str, Any] | None:
    """What a JSON text says; one that cannot be read must not keep all other rows from being known."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def _file(journal: Journal) -> tuple[int, int] | None:
    """Which file a journal is; None where there is none."""
    url = journal.engine.url
    try:
        found = None if journal.engine.dialect.name != "sqlite" else os.stat(str(url.database))
    except OSError:
        return None
    return found and (found.st_dev, found.st_ino)


RUNS = select(Run.id, Run.status, Run.epoch)


def _episodes(numbers: Sequence[int]) -> Any:
    columns = (
        *(Episode.number, Episode.id, Episode.run_id, Episode.iteration, Episode.copy, Episode.status),
        *(Episode.started_at, Episode.finished_at, Task.name, Task.answer.is_not(None).label("referenced")),
    )
    return select(*columns).join(Task, Task.id == Episode.task_id).where(Episode.number.in_(numbers))


def _parts(values: Iterable[int], size: int) -> Iterator[list[int]]:
    iterator = iter(values)
    while part := list(islice(iterator, size)):
        yield part

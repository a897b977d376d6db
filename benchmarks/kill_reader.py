"""What an onlooker sees of a run: snapshots of its rows through a connection of its own.

A journal holds one run with all that was begun for it. Places are `RUN TASK/ITERATION/COPY`, not ids, so that
runs of different journals can be compared.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, select, text
from sqlalchemy.exc import OperationalError, ProgrammingError

from sparring.memory.database import connect
from sparring.memory.schema import (
    Episode,
    Event,
    Match,
    Message,
    PolicyVersion,
    Rating,
    Reward,
    Task,
    Turn,
    Update,
)

Key = tuple[str, str, int]
"""Place, key, attempt."""
Item = tuple[str, ...]
"""What can depend or be depended on: ("turn", place, key), ("event", place, kind, key), ("closed", place)."""
Facts = dict[tuple[Any, ...], Any]
Needs = Mapping[Item, frozenset[Item]]


class SeenTurn(NamedTuple):
    """A turn as the reader sees it."""

    id: int
    seed: int
    status: str
    content: Any
    """The parts of its text."""
    parsed: Any
    heard: tuple[Any, ...] = ()
    """The parts of each message that it answers, the first one first."""
    tokens: Any = None
    """How many the prompt has; ids and log-probabilities of the completion, as bytes."""


@dataclass
class Snapshot:
    """All rows of one run in one instant."""

    turns: dict[Key, SeenTurn] = field(default_factory=dict)
    events: dict[tuple[str, str, str], Any] = field(default_factory=dict)
    """(place, kind, key) -> payload."""
    episodes: dict[str, tuple[str, Any]] = field(default_factory=dict)
    """Place -> status and outcome."""
    facts: Facts = field(default_factory=dict)
    """What else was decided, by name: events of runs, games, ratings, rewards, updates, versions."""
    dangling: list[str] = field(default_factory=list)
    """Turns whose messages or whose prefix turn are not there."""

    def items(self) -> Iterator[Item]:
        """Everything that is there."""
        yield from (("turn", place, key) for place, key, _ in self.turns)
        yield from (("event", *name) for name in self.events)
        yield from (("closed", place) for place, (status, _) in self.episodes.items() if status != "open")

    def orphans(self, needs: Needs) -> Iterator[str]:
        """What is there without something it depends on."""
        here = set(self.items())
        for item in here:
            if item not in needs:
                yield f"{item}, which the undisturbed run has not"
            elif missing := needs[item] - here:
                yield f"{item} without {sorted(missing)[0]}"
        yield from self.dangling

    def results(self) -> tuple[Any, ...]:
        """What two runs of the same work must have in common."""
        return {key: turn[1:] for key, turn in self.turns.items()}, self.events, self.episodes

    def turns_only(self) -> dict[Key, tuple[Any, ...]]:
        """Seed, status, text and result of each turn: no ids, no message that may tell how long a command
        took, no floats that hang on what was computed beside them."""
        return {key: (turn.seed, turn.status, turn.content, turn.parsed) for key, turn in self.turns.items()}


def differences(before: Snapshot, now: Snapshot) -> Iterator[str]:
    """What was visible and is not any more, or not as it was."""
    for key, turn in before.turns.items():
        if now.turns.get(key) != turn:
            yield f"turn {key} was visible and is {'changed' if key in now.turns else 'missing'}"
    for name, payload in before.events.items():
        if name not in now.events or now.events[name] != payload:
            yield f"event {name} was visible and is {'changed' if name in now.events else 'missing'}"
    for place, state in before.episodes.items():
        if place not in now.episodes or (state[0] != "open" and now.episodes[place] != state):
            yield f"episode {place} was visible as {state[0]} and is {now.episodes.get(place, 'missing')}"
    for name, value in before.facts.items():
        if name not in now.facts or now.facts[name] != value:
            yield f"{name} was visible and is {'changed' if name in now.facts else 'missing'}"


def dependencies(rule: str, end: Snapshot) -> Needs:
    """What each row of a run depends on, from its protocol's rule and the undisturbed run's rows.

    `du`: a statement needs all of the rounds before it. `line`: every turn needs all before it, and after
    a debate's verdict of a round also that event. `any`: turns of an episode do not depend on one another.
    In `du` and in debates of `line` a vote or decision needs all turns, the verdict needs that. A closed
    episode needs everything.
    """
    needs: dict[Item, frozenset[Item]] = {}
    for place in end.episodes:
        ordered = sorted((turn.id, key) for (where, key, _), turn in end.turns.items() if where == place)
        keys = [key for _, key in ordered]
        turns = {key: ("turn", place, key) for key in keys}
        events = [("event", *name) for name in end.events if name[0] == place]
        rounds = [event for event in events if event[2] == "verdict_round"]
        debate = rule == "du" or bool(rounds)
        for number, key in enumerate(keys):
            before = {"line": keys[:number], "du": [k for k in keys if _round(k) < _round(key)]}.get(rule, [])
            heard = {event for event in rounds if int(event[3]) < _round(key)}
            needs[turns[key]] = frozenset(turns[k] for k in before) | heard
        for event in events:
            if event in rounds:
                needs[event] = frozenset({turns[f"{event[3]}/moderator"]})
            elif debate:
                decided = {e for e in events if event[2] == "verdict" and e != event}
                needs[event] = frozenset(turns.values()) | decided
            else:
                needs[event] = frozenset()
        needs["closed", place] = frozenset([*turns.values(), *events])
    return needs


def _round(key: str) -> int:
    """`2/solver.0` is of round 2; a judge comes after all rounds."""
    head = key.split("/")[0]
    return int(head) if head.isdigit() else 1_000_000


class Reader:
    """A connection that only looks."""

    def __init__(self, memory: str, shared: tuple[str, ...] = ()) -> None:
        """`shared` names kinds of events that an episode may have or not; one that is there stays."""
        self._shared = shared
        self._engine = connect(memory)
        self._postgres = self._engine.dialect.name == "postgresql"
        self._begun = False

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.dispose()

    def snapshot(self) -> Snapshot:
        """All rows, of one instant; nothing where there is no journal yet."""
        options = {"isolation_level": "REPEATABLE READ"} if self._postgres else {}
        with self._engine.connect().execution_options(**options) as connection, connection.begin():
            try:
                seen = _read(connection, self._shared)
                self._begun = True
                return seen
            except (OperationalError, ProgrammingError):
                if self._begun:
                    raise
                return Snapshot()  # a journal that is being made has no tables for a moment

    def cut(self) -> int:
        """End every other session of this database; how many there were."""
        others = text(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() "
            "AND backend_type = 'client backend'"
        )
        with self._engine.connect() as connection:
            return int(connection.execute(others).scalar_one())

    def settle(self, seconds: float = 5.0) -> None:
        """Wait until a server has noticed that a killed client is gone: its last commit may be under way."""
        if not self._postgres:
            return
        others = text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with self._engine.connect() as connection:
                if connection.execute(others).scalar_one() == 0:
                    return
            time.sleep(0.01)


def _read(connection: Connection, shared: tuple[str, ...]) -> Snapshot:
    episodes = select(
        Episode.number,
        Episode.run_id,
        Task.name,
        Episode.iteration,
        Episode.copy,
        Episode.status,
        Episode.outcome,
    )
    rows = list(connection.execute(episodes.join(Task)))
    places = {row.number: f"{row.run_id} {row.name}/{row.iteration}/{row.copy}" for row in rows}
    turns = list(connection.execute(select(Turn)))
    messages = list(connection.execute(select(Message)))
    contents = {row.id: row.content for row in messages}
    parents = {row.id: row.parent_id for row in messages}
    seen = Snapshot(episodes={places[row.number]: (row.status, row.outcome) for row in rows})
    known = {row.id for row in turns}
    called: dict[int, Key] = {}
    for row in turns:
        key = called[row.id] = (places[row.episode_number], row.key, row.attempt)
        said, heard = contents.get(row.output_id), tuple(_heard(row.input_id, parents, contents))[::-1]
        seen.turns[key] = SeenTurn(row.id, row.seed, row.status, said, row.parsed, heard, _tokens(row))
        if not _whole(row, parents) or row.prefix_turn_id not in {None, *known}:
            seen.dangling.append(f"turn {key} without all of its messages or its prefix")
    for row in connection.execute(select(Event)):
        if row.episode_number is None:
            seen.facts["event", row.run_id, row.kind, row.key] = row.payload
        elif row.kind in shared:
            seen.facts["event", places[row.episode_number], row.kind, row.key] = row.payload
        else:
            seen.events[places[row.episode_number], row.kind, row.key] = row.payload
    seen.facts.update(_facts(connection, called))
    return seen


def _facts(connection: Connection, called: Mapping[int, Key]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    for row in connection.execute(select(Match).where(Match.result.is_not(None))):
        yield ("match", row.run_id, row.position), (row.players, row.result, row.status)
    for row in connection.execute(select(Rating)):
        yield ("rating", row.run_id, row.player, row.system, row.after_position), row.value
    for row in connection.execute(select(Reward)):
        name = (*called[row.turn_id], row.span_start, row.function, row.version, row.config_hash)
        yield ("reward", *name), row.value
    for row in connection.execute(select(Update).where(Update.status != "open")):
        yield ("update", row.run_id, row.policy, row.step), (row.status, row.to_version_id)
    for row in connection.execute(select(PolicyVersion)):
        yield ("version", row.policy, row.number), (row.base_hash, row.adapter_hash)


def _heard(message: int, parents: Mapping[int, int], contents: Mapping[int, Any]) -> Iterator[Any]:
    while message in parents:
        yield contents[message]
        message = parents[message]


def _tokens(turn: Any) -> Any:
    prompt = None if turn.prompt_tail is None else turn.prefix_length + len(turn.prompt_tail)
    packed = (turn.completion_ids, turn.logprobs)
    return prompt, *(None if array is None else array.tobytes() for array in packed)


def _whole(turn: Any, parents: Mapping[int, int]) -> bool:
    """Whether the conversation a turn saw, and its text, are all there."""
    if turn.output_id not in parents:
        return False
    message = turn.output_id
    while message and message in parents:
        message = parents[message]
    return message == 0 and bool(parents[turn.output_id] == turn.input_id)

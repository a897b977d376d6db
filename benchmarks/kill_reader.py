"""What an onlooker sees of a run: snapshots of its rows through a connection of its own.

Places are `TASK/COPY`, not episode ids, so that runs of different names can be compared.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import select, text

from sparring.memory.database import connect
from sparring.memory.schema import Episode, Event, Message, Task, Turn

Key = tuple[str, str, int]
"""Place, key, attempt."""
Item = tuple[str, ...]
"""What can depend or be depended on: ("turn", place, key), ("event", place, kind, key), ("closed", place)."""
Needs = Mapping[Item, frozenset[Item]]


class SeenTurn(NamedTuple):
    """A turn as the reader sees it."""

    id: int
    seed: int
    status: str
    content: Any
    """The parts of its text."""
    parsed: Any


@dataclass
class Snapshot:
    """All rows of one run in one instant."""

    turns: dict[Key, SeenTurn] = field(default_factory=dict)
    events: dict[tuple[str, str, str], Any] = field(default_factory=dict)
    """(place, kind, key) -> payload."""
    episodes: dict[str, tuple[str, Any]] = field(default_factory=dict)
    """Place -> status and outcome."""
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
        """What two runs of the same play must have in common."""
        turns = {key: turn[1:] for key, turn in self.turns.items()}
        return turns, self.events, self.episodes


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


def dependencies(protocol: str, end: Snapshot) -> Needs:
    """What each row of a run depends on, from its protocol's rules and the undisturbed run's rows.

    `du`: a statement needs all of the rounds before it. `mad`: every turn needs all before it, and after
    a round's verdict also that event. A vote or decision needs all turns, the verdict needs that, and a
    closed episode everything.
    """
    needs: dict[Item, frozenset[Item]] = {}
    for place in end.episodes:
        ordered = sorted((turn.id, key) for (where, key, _), turn in end.turns.items() if where == place)
        keys = [key for _, key in ordered]
        turns = {key: ("turn", place, key) for key in keys}
        events = [("event", *name) for name in end.events if name[0] == place]
        for number, key in enumerate(keys):
            before = keys[:number] if protocol == "mad" else [k for k in keys if _round(k) < _round(key)]
            needs[turns[key]] = frozenset(turns[k] for k in before) | {
                event for event in events if event[2] == "verdict_round" and int(event[3]) < _round(key)
            }
        for event in events:
            if event[2] == "verdict_round":
                needs[event] = frozenset({turns[f"{event[3]}/moderator"]})
            else:
                decided = {e for e in events if event[2] == "verdict" and e != event}
                needs[event] = frozenset(turns.values()) | decided
        needs["closed", place] = frozenset([*turns.values(), *events])
    return needs


def _round(key: str) -> int:
    """`2/solver.0` is of round 2; a judge comes after all rounds."""
    head = key.split("/")[0]
    return int(head) if head.isdigit() else 1_000_000


class Reader:
    """A connection that only looks."""

    def __init__(self, memory: str) -> None:
        self._engine = connect(memory)
        self._postgres = self._engine.dialect.name == "postgresql"

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.dispose()

    def snapshot(self, run: str) -> Snapshot:
        """The run's rows, all of one instant."""
        options = {"isolation_level": "REPEATABLE READ"} if self._postgres else {}
        with self._engine.connect().execution_options(**options) as connection, connection.begin():
            episodes = select(Episode.number, Task.name, Episode.copy, Episode.status, Episode.outcome)
            rows = list(connection.execute(episodes.join(Task).where(Episode.run_id == run)))
            places = {row.number: f"{row.name}/{row.copy}" for row in rows}
            owned = list(places)
            turns = list(connection.execute(select(Turn).where(Turn.episode_number.in_(owned))))
            events = list(connection.execute(select(Event).where(Event.episode_number.in_(owned))))
            said = list(connection.execute(select(Message).where(Message.episode_number.in_(owned))))
        contents = {row.id: row.content for row in said}
        parents = {row.id: row.parent_id for row in said}
        seen = Snapshot(episodes={places[row.number]: (row.status, row.outcome) for row in rows})
        known = {row.id for row in turns}
        for row in turns:
            key = (places[row.episode_number], row.key, row.attempt)
            seen.turns[key] = SeenTurn(row.id, row.seed, row.status, contents.get(row.output_id), row.parsed)
            if not _whole(row, parents) or row.prefix_turn_id not in {None, *known}:
                seen.dangling.append(f"turn {key} without all of its messages or its prefix")
        seen.events = {(places[row.episode_number], row.kind, row.key): row.payload for row in events}
        return seen

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


def _whole(turn: Any, parents: Mapping[int, int]) -> bool:
    """Whether the conversation a turn saw, and its text, are all there."""
    if turn.output_id not in parents:
        return False
    message = turn.output_id
    while message and message in parents:
        message = parents[message]
    return message == 0 and bool(parents[turn.output_id] == turn.input_id)

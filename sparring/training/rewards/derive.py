"""From journal rows to reward rows: read, compute, append. Old rows are never touched.

    derive(journal, Verifier(), run="first")

Deriving again adds nothing; under a new version or configuration it adds rows beside the old ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from math import isfinite
from numbers import Real
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, select

from sparring.errors import UserError
from sparring.memory.database import transact
from sparring.memory.messages import content_of
from sparring.memory.schema import (
    Agent,
    Episode,
    Event,
    Message,
    PolicyVersion,
    Reward,
    Run,
    Score,
    Task,
    Turn,
)
from sparring.training.rewards.base import (
    WHOLE,
    Derived,
    EpisodeRow,
    EventRow,
    Paid,
    RewardFunction,
    RewardRef,
    ScoreRow,
    TurnRow,
)

if TYPE_CHECKING:
    from sparring.memory.journal import Journal

CLOSED = ("done", "capped")
AT_ONCE = 200
"""Episodes read, paid and written in one transaction each."""


def derive(
    journal: Journal,
    function: RewardFunction,
    *,
    run: str | None = None,
    iteration: int | None = None,
    episodes: Iterable[int] | None = None,
) -> Derived:
    """Append the rewards of closed episodes: of a run, of one iteration of it, or those numbered.

    Raises:
        UserError: there is no such run, nothing says which episodes, or the function pays a turn twice or of
            another episode, tokens that a turn does not have, or a value that is not finite.
    """
    done = Derived()
    for numbers in _parts(_numbers(journal, run, iteration, episodes)):
        rows = read_episodes(journal, numbers)
        paid = [_row(reward, function) for row in rows for reward in _checked(function, row)]
        done.episodes += len(rows)
        _append(journal, RewardRef.of(function), paid, done)
    return done


def _numbers(
    journal: Journal, run: str | None, iteration: int | None, episodes: Iterable[int] | None
) -> list[int]:
    if episodes is not None:
        return sorted(set(episodes))
    if run is None:
        raise UserError("rewards: say of which run, or of which episodes")
    journal.run_row(run)
    query = select(Episode.number).where(Episode.run_id == run, Episode.status.in_(CLOSED))
    if iteration is not None:
        query = query.where(Episode.iteration == iteration)
    return [row.number for row in journal.read(query.order_by(Episode.number))]


def _parts(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    return (numbers[start : start + AT_ONCE] for start in range(0, len(numbers), AT_ONCE))


def _checked(function: RewardFunction, episode: EpisodeRow) -> list[Paid]:
    paid = function(episode)
    places = [(reward.turn_id, reward.span) for reward in paid]
    tokens = {turn.id: turn.completion_tokens for turn in episode.turns}
    where = f"reward function `{function.name}`, episode {episode.id}"
    if len(set(places)) != len(places):
        raise UserError(f"{where}: pays a turn twice")
    if strange := {turn for turn, _ in places} - tokens.keys():
        raise UserError(f"{where}: turns {sorted(strange)} are not of the episode")
    for reward in paid:
        start, end = reward.span
        if reward.span != WHOLE and not 0 <= start < end <= tokens[reward.turn_id]:
            said = f"tokens {start} to {end} of turn {reward.turn_id}"
            raise UserError(f"{where}: pays {said}, which has {tokens[reward.turn_id]}")
        value: Any = reward.value
        if value is not None and not (isinstance(value, Real) and isfinite(value)):
            raise UserError(f"{where}: pays {value!r} for turn {reward.turn_id}; None masks a turn")
        if not isinstance(reward.reason, str):
            raise UserError(f"{where}: pays turn {reward.turn_id} for the reason {reward.reason!r}, no text")
    return paid


def _row(reward: Paid, function: RewardFunction) -> dict[str, Any]:
    read = {
        "turns": list(reward.turns) or [reward.turn_id],
        "events": list(reward.events),
        "scores": list(reward.scores),
    }
    return {
        "turn_id": reward.turn_id,
        "span_start": reward.span[0],
        "span_end": reward.span[1],
        "function": function.name,
        "version": function.version,
        "config_hash": function.config_hash,
        "value": None if reward.value is None else float(reward.value),
        "reason": reward.reason,
        "read_ids": {kind: ids for kind, ids in read.items() if ids},
    }


PLACE = ("turn_id", "span_start", "span_end")


def _append(journal: Journal, ref: RewardRef, rows: list[dict[str, Any]], done: Derived) -> None:
    """Add the rows that are new; note those whose stored value is another."""
    if not rows:
        return

    def write(connection: Connection) -> tuple[list[dict[str, Any]], list[int], int]:
        turns = sorted({row["turn_id"] for row in rows})
        columns = (Reward.turn_id, Reward.span_start, Reward.span_end, Reward.value)
        stored: dict[tuple[int, ...], float | None] = {}
        for part in (turns[start : start + 5000] for start in range(0, len(turns), 5000)):
            for *place, value in connection.execute(
                select(*columns).where(Reward.turn_id.in_(part), *ref.rows)
            ):
                stored[tuple(place)] = value
        fresh = [row for row in rows if tuple(row[name] for name in PLACE) not in stored]
        old = [row for row in rows if tuple(row[name] for name in PLACE) in stored]
        changed = [row["turn_id"] for row in old if stored[tuple(row[n] for n in PLACE)] != row["value"]]
        if fresh:
            numbered = [{"id": begin + number, **row} for number, row in enumerate(fresh)]
            connection.execute(journal.insert(Reward), numbered)
        return fresh, changed, len(old) - len(changed)

    begin = journal.ids.block("rewards", len(rows))  # before the transaction: taking ids is one of its own
    fresh, changed, already = transact(journal.engine, write)
    done.rewards += len(fresh)
    done.null += sum(row["value"] is None for row in fresh)
    done.already += already
    done.changed += changed


EPISODE: tuple[Any, ...] = (
    Episode.number,
    Episode.id,
    Episode.run_id,
    Episode.status,
    Episode.outcome,
    Run.protocol,
    Task.name,
    Task.question,
    Task.answer,
    Task.check,
    Task.meta,
)


def read_episodes(journal: Journal, numbers: Sequence[int]) -> list[EpisodeRow]:
    """Closed episodes with their turns, events and scores."""

    def read(connection: Connection) -> list[EpisodeRow]:
        query = (
            select(*EPISODE)
            .join(Run, Run.id == Episode.run_id)
            .join(Task, Task.id == Episode.task_id)
            .where(Episode.number.in_(numbers), Episode.status.in_(CLOSED))
            .order_by(Episode.number)
        )
        found = list(connection.execute(query))
        turns = _turns(connection, numbers)
        events = _events(connection, numbers)
        scores = _scores(connection, [turn.id for said in turns.values() for turn in said])
        return [_episode(row, turns[row.number], events[row.number], scores) for row in found]

    return transact(journal.engine, read, write=False)


def _episode(
    row: Any, turns: list[TurnRow], events: list[EventRow], scores: dict[int, list[ScoreRow]]
) -> EpisodeRow:
    return EpisodeRow(
        id=row.id,
        number=row.number,
        run=row.run_id,
        protocol=row.protocol,
        status=row.status,
        outcome=row.outcome,
        task=row.name,
        question=row.question,
        answer=row.answer,
        check=row.check,
        meta=row.meta,
        turns=tuple(turns),
        events=tuple(events),
        scores=tuple(score for turn in turns for score in scores[turn.id]),
    )


def _turns(connection: Connection, numbers: Sequence[int]) -> dict[int, list[TurnRow]]:
    query = (
        select(
            Turn.episode_number,
            Turn.id,
            Turn.key,
            Turn.attempt,
            Turn.final,
            Agent.role,
            PolicyVersion.policy,
            Turn.policy_version_id,
            Turn.status,
            Message.content,
            Turn.parsed,
            Turn.completion_tokens,
        )
        .join(Agent, Agent.id == Turn.agent_id)
        .join(PolicyVersion, PolicyVersion.id == Turn.policy_version_id)
        .outerjoin(Message, Message.id == Turn.output_id)
        .where(Turn.episode_number.in_(numbers))
        .order_by(Turn.id)
    )
    turns: dict[int, list[TurnRow]] = defaultdict(list)
    for row in connection.execute(query):
        text = None if row.content is None else content_of(row.content)
        turns[row.episode_number].append(
            TurnRow(
                id=row.id,
                key=row.key,
                attempt=row.attempt,
                final=row.final,
                role=row.role,
                policy=row.policy,
                policy_version_id=row.policy_version_id,
                status=row.status,
                text=text if isinstance(text, str) or text is None else str(text),
                parsed=row.parsed,
                completion_tokens=row.completion_tokens,
            )
        )
    return turns


def _events(connection: Connection, numbers: Sequence[int]) -> dict[int, list[EventRow]]:
    query = select(Event.episode_number, Event.id, Event.kind, Event.key, Event.payload)
    events: dict[int, list[EventRow]] = defaultdict(list)
    for row in connection.execute(query.where(Event.episode_number.in_(numbers)).order_by(Event.id)):
        events[row.episode_number].append(EventRow(row.id, row.kind, row.key, row.payload))
    return events


def _scores(connection: Connection, turns: Sequence[int]) -> dict[int, list[ScoreRow]]:
    scores: dict[int, list[ScoreRow]] = defaultdict(list)
    for start in range(0, len(turns), 5000):
        query = select(Score.id, Score.turn_id, Score.step, Score.scorer, Score.version, Score.value)
        part = turns[start : start + 5000]
        for row in connection.execute(query.where(Score.turn_id.in_(part)).order_by(Score.id)):
            scores[row.turn_id].append(ScoreRow(*row))
    return scores

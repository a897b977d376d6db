"""Experience: the turns of one policy as a trainer needs them, straight from the journal.

Token ids and behaviour log-probabilities are the engine's own, nothing is tokenised again. A turn is
taken once: what an update was made of is in `update_turns`, and is left out of every later batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    CTE,
    ColumnElement,
    Connection,
    LargeBinary,
    Select,
    and_,
    exists,
    func,
    select,
    type_coerce,
)
from sqlalchemy.orm import aliased

from sparring.memory.database import transact
from sparring.memory.samples import SAMPLE, TrainingTurn, complete
from sparring.memory.schema import Agent, Episode, Reward, Run, Turn, Update, UpdateTurn
from sparring.training.packing import Row
from sparring.training.rewards.base import RewardRef
from sparring.training.rewards.derive import CLOSED

if TYPE_CHECKING:
    from sparring.memory.journal import Journal

MOST_IDS = 10_000
"""Turns named in one query; below every database's limit on variables."""
HELD_OUT = ("evaluation", "baseline")
"""Kinds of runs whose turns are never trained on."""


@dataclass(slots=True)
class Sample:
    """One turn with its reward. Arrays are (T,) over the completion's tokens."""

    turn: TrainingTurn
    role: str
    task: str
    temperature: float
    reward: float
    staleness: int
    """Updates between the version that spoke and the one that is trained."""
    advantages: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    old: NDArray[np.float32] | None = None
    """Log-probabilities under the version that is trained, before the first step, where recomputed."""
    weights: NDArray[np.float32] | None = None
    """Truncated importance weights, trainer over engine, where `old` was recomputed."""
    reference: NDArray[np.float32] | None = None
    supervised: bool = False
    """A demonstration: it has no reward, and its log-probabilities are nobody's that matters."""

    @property
    def row(self) -> Row:
        return Row(self.turn.prompt_ids, self.turn.completion_ids, self.temperature)

    @property
    def prompt(self) -> tuple[int, bytes, float]:
        """Equal for samples of one prompt by one policy version."""
        return self.turn.policy_version_id, self.turn.prompt_ids.tobytes(), self.temperature


@dataclass(slots=True)
class Experience:
    """What one update of a policy is made of."""

    policy: str
    samples: list[Sample]
    left_out: Counter[str] = field(default_factory=Counter)
    """Why turns were not taken, and how many."""

    @property
    def turn_ids(self) -> list[int]:
        return [sample.turn.id for sample in self.samples]


@dataclass(frozen=True, slots=True)
class Source:
    """Which turns may be taken."""

    runs: tuple[str, ...] | None = None
    """Names; None: every run that is not held out."""
    but: str | None = None
    """A run that is left out."""
    iteration: int | None = None
    since: float | None = None
    """Only episodes finished at or after this time, in seconds since 1970."""
    without: tuple[str, ...] = ()
    """Keys of tasks whose turns are not taken: the gate's."""


def experience(
    journal: Journal,
    policy: str,
    reward: RewardRef,
    staleness: Mapping[int, int],
    *,
    source: Source | None = None,
    limit: int | None = None,
) -> Experience:
    """Untrained turns of a policy with their rewards, oldest first, at most `limit`, the oldest.

    Args:
        staleness: policy version id -> updates between it and the version to be trained; turns of other
            versions are not taken.

    Turns whose reward is NULL or missing, that have no token ids, or whose log-probabilities are not those
    they were drawn with, are left out and, without a `limit`, counted.
    """
    query = _eligible(_rewarded(reward), policy, source or Source(), sorted(staleness))
    if limit is not None:  # of what can be used: what cannot stays where it is, and fills no update
        query = query.where(*USABLE)
    return _read(journal, policy, [query.order_by(Turn.id).limit(limit)], staleness)


def same_experience(
    journal: Journal, policy: str, reward: RewardRef, staleness: Mapping[int, int], turns: Sequence[int]
) -> Experience:
    """The experience of an update that was opened with these turns."""
    query = _rewarded(reward).join(Episode, Episode.number == Turn.episode_number).order_by(Turn.id)
    wanted = sorted(turns)
    parts = [wanted[start : start + MOST_IDS] for start in range(0, len(wanted), MOST_IDS)]
    return _read(journal, policy, [query.where(Turn.id.in_(part)) for part in parts], staleness)


def _read(
    journal: Journal, policy: str, queries: Sequence[Select[Any]], staleness: Mapping[int, int]
) -> Experience:
    found = Experience(policy, [])

    def read(connection: Connection) -> list[tuple[Any, TrainingTurn]]:
        found.left_out.clear()
        usable = []
        for query in queries:
            for row in connection.execute(query):
                if reason := _unusable(row):
                    found.left_out[reason] += 1
                else:
                    usable.append(row)
        return list(zip(usable, complete(connection, usable), strict=True))

    for row, turn in transact(journal.engine, read, write=False):
        found.samples.append(
            Sample(
                turn=turn,
                role=row.role,
                task=row.task_id,
                temperature=float(row.sampling["temperature"]),
                reward=float(row.value),
                staleness=staleness[turn.policy_version_id],
            )
        )
    return found


def _bytes(column: Any) -> Any:
    """A packed column as it is stored: 4 bytes for each token."""
    return type_coerce(column, LargeBinary)


USABLE = (
    Reward.value.is_not(None),
    Turn.prompt_tail.is_not(None),
    func.length(_bytes(Turn.completion_ids)) > 0,
    func.length(_bytes(Turn.logprobs)) == func.length(_bytes(Turn.completion_ids)),
    Turn.logprob_kind == "tempered",
)
"""What `_unusable` finds nothing wrong with."""


def usable(journal: Journal, policy: str, reward: RewardRef, versions: Sequence[int], source: Source) -> int:
    """How many turns `experience` would give."""
    query: Select[Any] = select(func.count(Turn.id)).select_from(Turn).join(Reward, _paid_by(reward))
    query = _eligible(query, policy, source, versions).where(*USABLE)
    return int(journal.read(query)[0][0])


def unpaid(
    journal: Journal, policy: str, reward: RewardRef, versions: Sequence[int], source: Source
) -> list[int]:
    """Numbers of the closed episodes that hold untrained turns without a row of this reward."""
    query: Select[Any] = select(Turn.episode_number).select_from(Turn)
    query = query.outerjoin(Reward, _paid_by(reward))
    query = _eligible(query, policy, source, versions).where(Reward.id.is_(None)).distinct()
    return [row.episode_number for row in journal.read(query)]


def untrained(journal: Journal, policy: str, versions: Sequence[int], source: Source) -> int:
    """How many turns of these versions no update has, paid or not."""
    query: Select[Any] = select(func.count(Turn.id)).select_from(Turn)
    return int(journal.read(_eligible(query, policy, source, versions))[0][0])


def turn_rows(journal: Journal, policy: str, versions: Sequence[int], source: Source) -> list[Any]:
    """Ids and episode numbers of the untrained turns of closed episodes, for paying them."""
    query: Any = select(Turn.id, Turn.episode_number).select_from(Turn)
    return journal.read(_eligible(query, policy, source, versions))


def _rewarded(reward: RewardRef) -> Select[Any]:
    columns = (*SAMPLE, Agent.role, Agent.sampling, Episode.task_id, Reward.value)
    query = select(*columns).select_from(Turn).join(Agent, Agent.id == Turn.agent_id)
    return query.outerjoin(Reward, _paid_by(reward))


def _paid_by(reward: RewardRef) -> ColumnElement[bool]:
    return and_(Reward.turn_id == Turn.id, *reward.whole)


def _eligible(query: Select[Any], policy: str, source: Source, versions: Sequence[int]) -> Select[Any]:
    fresh = _fresh(policy, versions)
    query = (
        query.join(fresh, fresh.c.id == Turn.id)
        .join(Episode, Episode.number == Turn.episode_number)
        .join(Run, Run.id == Episode.run_id)
        .where(Turn.final, Episode.status.in_(CLOSED))
    )
    query = query.where(Run.kind.not_in(HELD_OUT), Episode.task_id.not_in(source.without))
    if source.runs is not None:
        query = query.where(Episode.run_id.in_(source.runs))
    if source.but is not None:
        query = query.where(Episode.run_id != source.but)
    if source.iteration is not None:
        query = query.where(Episode.iteration == source.iteration)
    if source.since is not None:
        query = query.where(Episode.finished_at >= source.since)
    return query


def _fresh(policy: str, versions: Sequence[int]) -> CTE:
    """Ids of the turns that no update took: found in indexes alone, before any turn's row is touched."""
    said = aliased(Turn)
    trained = (
        select(UpdateTurn.turn_id)
        .join(Update, Update.id == UpdateTurn.update_id)
        .where(UpdateTurn.turn_id == said.id, Update.policy == policy)
    )
    query = select(said.id).where(said.policy_version_id.in_(versions), ~exists(trained))
    return query.cte("fresh").prefix_with("MATERIALIZED")


def _unusable(row: Any) -> str | None:
    if row.value is None:
        return "no reward"
    if row.prompt_tail is None or not row.completion_ids:
        return "no token ids"
    if row.logprob_kind != "tempered":
        return f"log-probabilities are {row.logprob_kind}"
    if row.logprobs is None or len(row.logprobs) != len(row.completion_ids):
        return "no log-probability for each token"
    return None

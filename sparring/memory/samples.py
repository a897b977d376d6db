"""Training samples in bulk: turns with their token ids, prompts put together from what is stored once.

A prompt is spread over the turns it continues (`tokens`), so those are fetched too: the turns asked for
in one query, then a generation of ancestors a query, and no row twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import Connection, Select, select, type_coerce
from sqlalchemy import LargeBinary as Bytes

from ..errors import UserError
from .database import transact
from .schema import Episode, Turn
from .tokens import Ids, StoredTurn, resolve

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .journal import Journal

MOST_IDS = 10_000
"""Ids in one query; below every database's limit on variables."""


def _raw(column: Any) -> Any:
    """A packed column as its bytes."""
    return type_coerce(column, Bytes).label(column.key)


IDS: tuple[Any, ...] = (
    Turn.id,
    Turn.prefix_turn_id,
    Turn.prefix_length,
    _raw(Turn.prompt_tail),
    _raw(Turn.completion_ids),
)
SAMPLE: tuple[Any, ...] = (
    *IDS,
    Episode.id.label("episode_id"),
    Turn.key,
    Turn.agent_id,
    Turn.policy_version_id,
    Turn.status,
    _raw(Turn.logprobs),
    Turn.logprob_kind,
)


@dataclass(frozen=True, slots=True)
class TrainingTurn:
    """One training sample: what was seen, what was said, and how likely it was then."""

    id: int
    episode_id: str
    key: str
    agent_id: str
    policy_version_id: int
    status: str
    prompt_ids: Ids
    """(P,) int32."""
    completion_ids: Ids
    """(T,) int32."""
    logprobs: NDArray[np.float32] | None
    """(T,) float32; None where the engine gave none."""
    logprob_kind: str


def training_turns(
    journal: Journal,
    *,
    turn_ids: Sequence[int] | None = None,
    policy_version: int | None = None,
    run: str | None = None,
    after: int = 0,
    limit: int | None = None,
) -> list[TrainingTurn]:
    """Turns with token ids, oldest first: those named, of a policy version, of a run, or of both.

    Args:
        after: only turns with a greater id, a watermark.
        limit: at most so many, the oldest.

    Raises:
        UserError: nothing says which turns, or a named turn is not there or has no token ids.
    """
    if turn_ids is None and policy_version is None and run is None:
        raise UserError("training turns: say which (turn ids, a policy version, a run)")
    query: Select[Any] = (
        select(*SAMPLE)
        .join(Episode, Episode.number == Turn.episode_number)
        .where(Turn.prompt_tail.is_not(None), Turn.completion_ids.is_not(None), Turn.id > after)
    )
    if policy_version is not None:
        query = query.where(Turn.policy_version_id == policy_version)
    if run is not None:
        query = query.where(Episode.run_id == run)

    def work(connection: Connection) -> list[TrainingTurn]:
        if turn_ids is None:
            rows = list(connection.execute(query.order_by(Turn.id).limit(limit)))
        else:
            rows = _named(connection, query, turn_ids)[:limit]
        return complete(connection, rows)

    return transact(journal.engine, work, write=False)


def complete(connection: Connection, rows: Sequence[Any]) -> list[TrainingTurn]:
    """The turns of rows that begin with the columns `SAMPLE`, their prompts put together."""
    stored: dict[int, StoredTurn] = {row[0]: StoredTurn(*row[1:5]) for row in rows}
    _load_ancestors(connection, stored)
    return [_training_turn(row, stored) for row in rows]


def _named(connection: Connection, query: Select[Any], turn_ids: Sequence[int]) -> list[Any]:
    rows: list[Any] = []
    for part in _parts(sorted({int(turn) for turn in turn_ids})):
        rows += connection.execute(query.where(Turn.id.in_(part)).order_by(Turn.id))
    if missing := {int(turn) for turn in turn_ids} - {row[0] for row in rows}:
        raise UserError(f"turns {sorted(missing)[:5]} are not in the journal or have no token ids")
    return rows


def _load_ancestors(connection: Connection, stored: dict[int, StoredTurn]) -> None:
    """Add the id columns of every turn that a stored one continues, a generation a query."""
    wanted = {row.prefix_turn_id for row in stored.values()} - stored.keys() - {None}
    while wanted:
        found: dict[int, StoredTurn] = {}
        for part in _parts(sorted(turn for turn in wanted if turn is not None)):
            for turn, *rest in connection.execute(select(*IDS).where(Turn.id.in_(part))):
                found[turn] = StoredTurn(*rest)
        stored |= found
        wanted = {row.prefix_turn_id for row in found.values()} - stored.keys() - {None}


def _parts(ids: Sequence[int]) -> Iterable[Sequence[int]]:
    return (ids[start : start + MOST_IDS] for start in range(0, len(ids), MOST_IDS))


def _training_turn(row: Any, stored: dict[int, StoredTurn]) -> TrainingTurn:
    return TrainingTurn(
        id=row.id,
        episode_id=row.episode_id,
        key=row.key,
        agent_id=row.agent_id,
        policy_version_id=row.policy_version_id,
        status=row.status,
        prompt_ids=resolve(row.id, stored),
        completion_ids=np.frombuffer(row.completion_ids, "<i4"),
        logprobs=None if row.logprobs is None else np.frombuffer(row.logprobs, "<f4"),
        logprob_kind=row.logprob_kind,
    )

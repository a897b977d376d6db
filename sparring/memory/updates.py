"""Updates: which turns an update was made of, and what became of it. Written once, in the journal.

An update is opened with its turns in one transaction, before any training, so that a killed one is begun
again from the same rows. A turn belongs to at most one update of a policy.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, insert, select, update

from ..errors import UserError
from .database import transact
from .heads import fence, lock
from .schema import Update, UpdateTurn

if TYPE_CHECKING:
    from .journal import Journal
    from .run import RunHandle

OPEN, DONE, STOPPED, EMPTY = "open", "done", "stopped", "empty"
AT_ONCE = 10_000
"""Turns named in one query."""


@dataclass(frozen=True, slots=True)
class UpdateRow:
    """One update as the journal holds it."""

    id: int
    run: str
    policy: str
    step: int
    status: str
    """open, done, stopped (it diverged), empty (nothing to learn from)."""
    config: Any
    metrics: Any
    from_version_id: int | None
    to_version_id: int | None
    created_at: float


def find_update(journal: Journal, run: str, policy: str, step: int) -> UpdateRow | None:
    """The update of a policy at a step of a run."""
    query = select(Update).where(Update.run_id == run, Update.policy == policy, Update.step == step)
    return next((_update(row) for row in journal.read(query)), None)


def update_by_id(journal: Journal, update_id: int) -> UpdateRow:
    """An update by its row id.

    Raises:
        UserError: it is not there.
    """
    rows = journal.read(select(Update).where(Update.id == update_id))
    if not rows:
        raise UserError(f"the journal has no update with id {update_id}")
    return _update(rows[0])


def updates_of(journal: Journal, run: str, policy: str | None = None) -> list[UpdateRow]:
    """The updates of a run in order of their steps."""
    query = select(Update).where(Update.run_id == run).order_by(Update.step, Update.policy)
    if policy is not None:
        query = query.where(Update.policy == policy)
    return [_update(row) for row in journal.read(query)]


def open_update(
    run: RunHandle,
    policy: str,
    step: int,
    from_version: int,
    turns: Sequence[int],
    config: Any,
    *,
    again: bool = False,
) -> UpdateRow:
    """Begin an update with the turns it is made of; the one that was begun before, if there is one.

    Args:
        again: its turns may be those of other updates too: it begins at a version that learned from none.

    Raises:
        StaleEpoch: another driver has the run.
        UserError: another update of the policy has one of these turns.
    """
    known = find_update(run.journal, run.id, policy, step)
    if known is not None:
        return known
    number = run.journal.ids.block("updates", 1)
    values = {
        "id": number,
        "run_id": run.id,
        "policy": policy,
        "step": step,
        "from_version_id": from_version,
        "to_version_id": None,
        "status": OPEN if turns else EMPTY,
        "config": config,
        "metrics": None,
        "created_at": time.time(),
    }

    def write(connection: Connection) -> None:
        fence(connection, run)
        lock(connection, policy)
        if connection.execute(select(Update.id).where(Update.id == number)).one_or_none() is not None:
            return  # it was stored, and the answer that said so was lost
        if not again:
            _free(connection, policy, turns)
        connection.execute(insert(Update).values(values))
        if turns:
            rows = [{"update_id": number, "turn_id": turn} for turn in turns]
            connection.execute(insert(UpdateTurn), rows)

    transact(run.journal.engine, write)
    found = find_update(run.journal, run.id, policy, step)
    assert found is not None
    return found


def stop_update(run: RunHandle, update_id: int, metrics: Any, status: str = STOPPED) -> None:
    """Note that an update came to nothing, and why; its turns stay its own."""

    def write(connection: Connection) -> None:
        fence(connection, run)
        values = {"status": status, "metrics": metrics}
        connection.execute(update(Update).where(Update.id == update_id, Update.status == OPEN).values(values))

    transact(run.journal.engine, write)


def update_turns(journal: Journal, update_id: int) -> list[int]:
    """Ids of the turns an update is made of."""
    query = select(UpdateTurn.turn_id).where(UpdateTurn.update_id == update_id).order_by(UpdateTurn.turn_id)
    return [row.turn_id for row in journal.read(query)]


def _free(connection: Connection, policy: str, turns: Sequence[int]) -> None:
    """Refuse turns that an update of this policy has: two runs may train it, none of them twice on a turn."""
    taken = select(UpdateTurn.turn_id).join(Update, Update.id == UpdateTurn.update_id)
    for start in range(0, len(turns), AT_ONCE):
        part = turns[start : start + AT_ONCE]
        query = taken.where(Update.policy == policy, UpdateTurn.turn_id.in_(part)).limit(1)
        if connection.execute(query).one_or_none() is not None:
            raise UserError(
                f"another run has begun to train policy `{policy}` on the same turns; nothing was written: "
                "go on with this run for those that are left"
            )


def _update(row: Any) -> UpdateRow:
    return UpdateRow(
        row.id,
        row.run_id,
        row.policy,
        row.step,
        row.status,
        row.config,
        row.metrics,
        row.from_version_id,
        row.to_version_id,
        row.created_at,
    )

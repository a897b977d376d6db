"""Policies: named weights that grow by versions, with two heads that say which version is used.

    first = register(journal, policy="solver", base_hash=..., base_spec="smollm2-135m")
    ...an update is trained; its row is `update_id`...
    version = publish(journal, update_id=update_id, adapter_path=folder, adapter_hash=digest)
    move_head(journal, "solver", "live", version.id, by="gate", reason="better by 0.04", run=run)

`training` moves with every update, `live` through the gate or by hand. Every move is an event: from
where, to where, by whom and why. Whatever belongs together is one transaction.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, func, select, update

from ..errors import JournalError, UserError
from .database import transact
from .heads import Move, fence, history, lock, move_head, previous, rollback, set_head
from .lineage import Step, Trained, distance, lineage, trained_on, updates
from .schema import Policy, PolicyVersion, Update
from .versions import (
    HEADS,
    Head,
    Known,
    Version,
    by_id,
    find,
    head_id,
    heads,
    parse,
    policies,
    resolve_adapter,
    store_folder,
    stored_path,
    versions,
)

if TYPE_CHECKING:
    from .journal import Journal
    from .run import RunHandle

__all__ = [
    "HEADS",
    "Head",
    "Known",
    "Move",
    "Step",
    "Trained",
    "Version",
    "by_id",
    "distance",
    "find",
    "head_id",
    "heads",
    "history",
    "lineage",
    "move_head",
    "parse",
    "policies",
    "previous",
    "publish",
    "register",
    "resolve_adapter",
    "rollback",
    "store_folder",
    "trained_on",
    "updates",
    "versions",
]


def register(  # noqa: PLR0913 - the columns of a version, by name
    journal: Journal,
    *,
    policy: str,
    base_hash: str,
    base_spec: str,
    adapter_path: str | Path | None = None,
    adapter_hash: str | None = None,
    parent_id: int | None = None,
    update_id: int | None = None,
    metrics: dict[str, Any] | None = None,
) -> Version:
    """A version of a policy under the next number; both heads of a new policy stand at its first.

    What is there already is returned: the version of the same update, or without one the version with
    the same base and adapter. Several processes may call it at once.

    Raises:
        UserError: an adapter without its hash, or the other way round.
    """
    values = {
        "policy": policy,
        "base_hash": base_hash,
        "base_spec": base_spec,
        "parent_id": parent_id,
        "update_id": update_id,
        "metrics": metrics,
        **_adapter(journal, adapter_path, adapter_hash),
    }
    return by_id(journal, _write_version(journal, values))


def publish(  # noqa: PLR0913 - what an update came to, by name
    journal: Journal,
    *,
    update_id: int,
    adapter_path: str | Path | None,
    adapter_hash: str | None,
    metrics: dict[str, Any] | None = None,
    base: tuple[str, str] | None = None,
    move_training: bool = True,
    run: RunHandle | None = None,
) -> Version:
    """The version an update came to, the update done, the training head moved: all or nothing.

    Policy and parent are those of the update's row. Called again for the same update it changes nothing.

    Args:
        base: Hash and engine spec of a new base (full fine-tuning); by default the parent's.
        run: Its driver; a driver that lost the run publishes nothing.

    Raises:
        JournalError: there is no such update, or no version it started from.
        StaleEpoch: `run` was taken over by another driver.
    """
    version_id, event_id = journal.ids.take("policy_versions"), journal.ids.take("events")
    adapter = _adapter(journal, adapter_path, adapter_hash)

    def work(connection: Connection) -> int:
        fence(connection, run)
        made = connection.execute(select(Update).where(Update.id == update_id)).one_or_none()
        if made is None:
            raise JournalError(f"there is no update {update_id} to publish")
        head = lock(connection, made.policy)
        # Read again under the lock: another process may have published it meanwhile.
        made = connection.execute(select(Update).where(Update.id == update_id)).one()
        if made.status == "done" and made.to_version_id is not None:
            return int(made.to_version_id)
        parent = connection.execute(
            select(PolicyVersion).where(PolicyVersion.id == made.from_version_id)
        ).one_or_none()
        if parent is None:
            raise JournalError(f"update {update_id} names no version that it started from")
        values = {
            "policy": made.policy,
            "base_hash": base[0] if base else parent.base_hash,
            "base_spec": base[1] if base else parent.base_spec,
            "parent_id": parent.id,
            "update_id": update_id,
            "metrics": metrics,
            **adapter,
        }
        new = _insert(connection, journal, version_id, values)
        done = {"status": "done", "to_version_id": new, "metrics": metrics}
        connection.execute(update(Update).where(Update.id == update_id).values(done))
        if move_training:
            why = {"by": "update", "reason": f"update {made.step}"}
            set_head(connection, head, "training", new, why, (made.run_id, event_id))
        return new

    return by_id(journal, transact(journal.engine, work))


# --- inside a transaction -----------------------------------------------------------------------------


def _adapter(journal: Journal, path: str | Path | None, digest: str | None) -> dict[str, str | None]:
    if (path is None) != (digest is None):
        raise UserError("a policy version has an adapter with its hash, or neither")
    return {"adapter_path": None if path is None else stored_path(journal, path), "adapter_hash": digest}


def _write_version(journal: Journal, values: dict[str, Any]) -> int:
    version_id = journal.ids.take("policy_versions")

    def work(connection: Connection) -> int:
        name = {"name": values["policy"], "created_at": time.time()}
        connection.execute(journal.insert(Policy).values(name))
        row = lock(connection, values["policy"])
        same = ["policy", "update_id"]
        if values["update_id"] is None:
            same += ["base_hash", "adapter_hash"]
        where = [getattr(PolicyVersion, column).is_not_distinct_from(values[column]) for column in same]
        there = select(PolicyVersion.id).where(*where).order_by(PolicyVersion.number)
        known = connection.execute(there.limit(1)).scalar_one_or_none()
        new = _insert(connection, journal, version_id, values) if known is None else int(known)
        if row.live_version_id is None:
            both = {"live_version_id": new, "training_version_id": new}
            connection.execute(update(Policy).where(Policy.name == values["policy"]).values(both))
        return new

    return transact(journal.engine, work)


def _insert(connection: Connection, journal: Journal, version_id: int, values: dict[str, Any]) -> int:
    """A row under the next number; the policy is locked, yet a bare engine may take a number meanwhile."""
    last = select(func.max(PolicyVersion.number)).where(PolicyVersion.policy == values["policy"])
    for _ in range(100):
        highest = connection.execute(last).scalar_one()
        row = {"id": version_id, "number": 0 if highest is None else highest + 1, "created_at": time.time()}
        statement = journal.insert(PolicyVersion).values(**row, **values).returning(PolicyVersion.id)
        if connection.execute(statement).one_or_none() is not None:
            return version_id
    raise JournalError(f"policy `{values['policy']}` could not be registered")

"""The two heads of a policy: `training` moves with every update, `live` through the gate or by hand.

Every move is an event: from where, to where, by whom and why. A move is one transaction, in which the
policy's row is locked, so that moves have an order whoever makes them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, insert, select, update

from ..errors import StaleEpoch, UserError, unknown
from .database import transact
from .schema import Event, Policy, Run
from .versions import HEADS, Head, Version, by_id, find, heads

if TYPE_CHECKING:
    from .journal import Journal
    from .run import RunHandle

EVENT = "head"
"""Kind of the events that say how a head moved."""


@dataclass(frozen=True, slots=True)
class Move:
    """One move of a head."""

    move: int
    """1, 2, ... of this policy and head."""
    policy: str
    head: str
    origin: int | None
    """Row id of the version it left."""
    target: int
    by: str
    reason: str
    run: str
    at: float


def move_head(
    journal: Journal,
    policy: str,
    head: Head,
    version_id: int,
    *,
    by: str,
    reason: str,
    run: RunHandle | None = None,
) -> bool:
    """Point a head at a version and journal the move; False where it stood there already.

    Args:
        by: Who decided: `gate`, a monitor, a user.
        run: The run whose decision it is. Without one a run `policy/NAME` is driven for this event.

    Raises:
        UserError: no such policy or head, or the version is another policy's.
        StaleEpoch: `run` was taken over by another driver.
    """
    _checked(head)
    if by_id(journal, version_id).policy != policy:
        heads(journal, policy)  # says so where there is no such policy
        raise UserError(f"{by_id(journal, version_id).label} is no version of policy `{policy}`")
    if run is None:
        own = journal.drive(f"policy/{policy}", kind="policy", protocol="policy", config={}, seed=0)
        try:
            return move_head(journal, policy, head, version_id, by=by, reason=reason, run=own)
        finally:
            own.finish("done")
            own.release()
    event_id = journal.ids.take("events")

    def work(connection: Connection) -> bool:
        fence(connection, run)
        row = lock(connection, policy)
        why = {"by": by, "reason": reason}
        return set_head(connection, row, head, version_id, why, (run.id, event_id))

    return transact(journal.engine, work)


def previous(journal: Journal, policy: str, head: Head = "live") -> Version:
    """The version a head stood at before its present one.

    A version that was left for an older one does not count, so that rolling back twice goes back two
    versions and not forth again.

    Raises:
        UserError: no such policy or head, or nothing came before.
    """
    now = heads(journal, policy)[_checked(head)]
    path: list[int | None] = []
    for move in history(journal, policy, head):
        path = path or [move.origin]
        path = path[: path.index(move.target) + 1] if move.target in path else [*path, move.target]
    if now is None or len(path) < 2 or path[-1] != now.id or path[-2] is None:
        raise UserError(
            f"head `{head}` of policy `{policy}` has no earlier version to go back to; "
            "name one (`--to NUMBER`)"
        )
    return by_id(journal, path[-2])


def rollback(
    journal: Journal, policy: str, head: Head = "live", *, by: str, reason: str, to: int | None = None
) -> Version:
    """Point a head at version number `to`, by default at the `previous` one.

    Raises:
        UserError: as `previous` and `move_head`.
    """
    target = previous(journal, policy, head) if to is None else find(journal, policy, to)
    move_head(journal, policy, head, target.id, by=by, reason=reason)
    return target


def history(journal: Journal, policy: str, head: Head | None = None) -> list[Move]:
    """How the heads of a policy moved, oldest first; not to versions that an import left behind."""
    rows = transact(journal.engine, moves, write=False)
    found = [
        Move(p["move"], p["policy"], p["head"], p["from"], p["to"], p["by"], p["reason"], run, at)
        for run, p, at in rows
        if isinstance(p, dict)
        and p.get("policy") == policy
        and head in (None, p["head"])
        and p["to"] is not None
    ]
    return sorted(found, key=lambda move: (move.head, move.move, move.at))


def _checked(head: Head) -> Head:
    if head not in HEADS:
        raise unknown("head of a policy", head, HEADS)
    return head


# --- inside a transaction -----------------------------------------------------------------------------


def moves(connection: Connection) -> list[Any]:
    """(run, move, when) of every move in the journal."""
    # Through the runs, few beside the events: the index begins with the run.
    query = select(Event.run_id, Event.payload, Event.created_at).where(Event.kind == EVENT)
    return list(connection.execute(query.where(Event.run_id.in_(select(Run.id)))).all())


def fence(connection: Connection, run: RunHandle | None) -> None:
    """Refuse the write of a driver that lost its run."""
    if run is None:
        return
    epoch = select(Run.epoch).where(Run.id == run.id).with_for_update(read=True)
    if connection.execute(epoch).scalar_one_or_none() != run.epoch:
        raise StaleEpoch(f"run `{run.id}` was taken over by another driver; nothing was written")


def lock(connection: Connection, policy: str) -> Any:
    """The policy's row, ours until the end of the transaction."""
    return connection.execute(select(Policy).where(Policy.name == policy).with_for_update()).one()


def set_head(
    connection: Connection,
    policy: Any,
    head: Head,
    version_id: int,
    why: dict[str, str],
    event: tuple[str | None, int],
) -> bool:
    """Move a head of a locked policy and journal it under (run, event id); False if it stands there."""
    column = f"{head}_version_id"
    before, (run, event_id) = getattr(policy, column), event
    if before == version_id:
        return False
    connection.execute(update(Policy).where(Policy.name == policy.name).values({column: version_id}))
    if run is not None:  # an event belongs to a run; an update of no run is its own record
        mine = [p for _, p, _ in moves(connection) if (p["policy"], p["head"]) == (policy.name, head)]
        number = 1 + max((payload["move"] for payload in mine), default=0)
        moved = {"policy": policy.name, "head": head, "move": number, "from": before, "to": version_id}
        row = {
            "id": event_id,
            "run_id": run,
            "kind": EVENT,
            "key": f"{policy.name}/{head}/{number}",
            "payload": moved | why,
            "epoch": connection.execute(select(Run.epoch).where(Run.id == run)).scalar_one(),
            "created_at": time.time(),
        }
        connection.execute(insert(Event).values(row))
    return True

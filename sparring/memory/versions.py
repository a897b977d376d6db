"""Policy versions as they are read: named weights, where their adapters lie, which one a head points at.

Adapters below the journal's store are stored by their path in it, so that a journal and its weights can
be moved together; every other path is absolute.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import Select, func, select

from ..errors import UserError, unknown
from .schema import Policy, PolicyVersion

if TYPE_CHECKING:
    from .journal import Journal

Head = Literal["live", "training"]
HEADS: tuple[Head, ...] = ("live", "training")
MOST_LISTED = 20
"""Versions that an error names, the newest."""


@dataclass(frozen=True, slots=True)
class Version:
    """A base checkpoint plus at most one adapter, and where it came from."""

    id: int
    policy: str
    number: int
    base_hash: str
    base_spec: str
    """Engine spec that serves the base."""
    adapter_path: Path | None
    """Absolute; None for the bare base."""
    adapter_hash: str | None
    parent_id: int | None
    update_id: int | None
    metrics: dict[str, Any] | None
    created_at: float

    @property
    def label(self) -> str:
        return f"{self.policy}@{self.number}"

    @property
    def present(self) -> bool:
        """Whether its adapter's folder is there; the bare base needs none."""
        return self.adapter_path is None or self.adapter_path.is_dir()


@dataclass(frozen=True, slots=True)
class Known:
    """A policy at a glance: numbers of the versions its heads point at, and how many there are."""

    name: str
    live: int | None
    training: int | None
    versions: int
    base_spec: str
    """Of the newest version."""


def store_folder(journal: Journal) -> Path:
    """Where this journal's weights live: `FILE.policies` beside an SQLite file, gone with a journal in
    memory; for PostgreSQL `$SPARRING_STORE`, else `sparring-policies` in the working folder. Not created."""
    return folder_beside(journal, "policies", "")


def folder_beside(journal: Journal, name: str, within: str | None = None) -> Path:
    """`FILE.NAME` beside an SQLite file; for PostgreSQL `$SPARRING_STORE/NAME`, else `sparring-NAME` in the
    working folder. Not created.

    Args:
        within: the folder of `$SPARRING_STORE`, where it is not called NAME.
    """
    if journal.engine.dialect.name == "sqlite":
        file = Path(str(journal.engine.url.database)).resolve()
        return file.with_name(f"{file.name}.{name}")
    store = os.environ.get("SPARRING_STORE")
    path = Path(store, name if within is None else within) if store else Path(f"sparring-{name}")
    return path.expanduser().resolve()


def stored_path(journal: Journal, adapter: str | Path) -> str:
    """What the journal keeps of an adapter's folder: relative to the store if it lies there."""
    path, store = Path(adapter).expanduser().resolve(), store_folder(journal)
    return path.relative_to(store).as_posix() if path.is_relative_to(store) else str(path)


def resolve_adapter(journal: Journal, stored: str | None) -> Path | None:
    """The adapter's folder as an absolute path, from what the journal keeps of it."""
    if stored is None:
        return None
    path = Path(stored)
    return path if path.is_absolute() else store_folder(journal) / path


def parse(text: str) -> tuple[str, Head | int]:
    """Policy and version of `NAME` (its live head), `NAME@live`, `NAME@training` or `NAME@7`.

    Raises:
        UserError: something else follows the last `@`.
    """
    name, mark, which = text.rpartition("@")
    if not mark:
        return text, "live"
    if which.isascii() and which.isdigit():
        return name, int(which)
    for head in HEADS:
        if which == head and name:
            return name, head
    raise UserError(f"`{text}`: write a policy as NAME, NAME@live, NAME@training or NAME@NUMBER")


def find(journal: Journal, policy: str, which: Head | int = "live") -> Version:
    """A version of a policy by number, or the one a head points at now (one small read).

    Raises:
        UserError: there is no such policy or version; the message lists those that exist.
    """
    query = select(PolicyVersion).where(PolicyVersion.policy == policy)
    if isinstance(which, int):
        query = query.where(PolicyVersion.number == which)
    else:
        column = _column(which)
        query = query.join(Policy, column == PolicyVersion.id).where(Policy.name == policy)
    rows = journal.read(query)
    if rows:
        return version_of(journal, rows[0])
    numbers = [version.number for version in versions(journal, policy)]
    if not isinstance(which, int):
        raise UserError(f"head `{which}` of policy `{policy}` points nowhere; versions: {numbers}")
    listed = ", ".join(str(number) for number in numbers[-MOST_LISTED:])
    more = f"the last {MOST_LISTED} of {len(numbers)}: " if len(numbers) > MOST_LISTED else ""
    raise UserError(f"policy `{policy}` has no version {which}; it has {more}{listed}")


def by_id(journal: Journal, version_id: int) -> Version:
    """A version by its row id.

    Raises:
        UserError: it is not there.
    """
    row = journal.version_row(version_id)
    if row is None:
        raise UserError(f"the journal has no policy version with id {version_id}")
    return version_of(journal, row)


def versions(journal: Journal, policy: str) -> list[Version]:
    """All versions of a policy, oldest first.

    Raises:
        UserError: there is no such policy; the message lists those that exist.
    """
    query = select(PolicyVersion).where(PolicyVersion.policy == policy).order_by(PolicyVersion.number)
    rows = journal.read(query)
    if not rows:
        raise unknown("policy", policy, journal_names(journal))
    return [version_of(journal, row) for row in rows]


def journal_names(journal: Journal) -> list[str]:
    """Names of the policies that have a version."""
    rows = journal.read(select(PolicyVersion.policy).distinct().order_by(PolicyVersion.policy))
    return [row.policy for row in rows]


def policies(journal: Journal) -> list[Known]:
    """Every policy with its heads, by name."""
    own = PolicyVersion.__table__.c
    newest = select(own.policy, func.max(own.number).label("last"), func.count().label("count"))
    about = newest.group_by(own.policy).subquery()
    live, training = (PolicyVersion.__table__.alias(head).c for head in HEADS)
    query: Select[Any] = (
        select(Policy.name, live.number, training.number, about.c.count, own.base_spec)
        .join(about, about.c.policy == Policy.name)
        .join(PolicyVersion, (own.policy == Policy.name) & (own.number == about.c.last))
        .outerjoin(live.id.table, live.id == Policy.live_version_id)
        .outerjoin(training.id.table, training.id == Policy.training_version_id)
        .order_by(Policy.name)
    )
    return [Known(*row) for row in journal.read(query)]


def heads(journal: Journal, policy: str) -> dict[Head, Version | None]:
    """The version each head points at.

    Raises:
        UserError: there is no such policy.
    """
    known = {version.id: version for version in versions(journal, policy)}
    [row] = journal.read(select(Policy).where(Policy.name == policy))
    return {"live": known.get(row.live_version_id), "training": known.get(row.training_version_id)}


def head_id(journal: Journal, policy: str, head: Head) -> int | None:
    """Row id of the version a head points at now: one look-up by key, for those who follow it."""
    rows = journal.read(select(_column(head)).where(Policy.name == policy))
    return rows[0][0] if rows else None


def version_of(journal: Journal, row: Any) -> Version:
    """A row of `policy_versions` as it is used."""
    return Version(
        id=row.id,
        policy=row.policy,
        number=row.number,
        base_hash=row.base_hash,
        base_spec=row.base_spec,
        adapter_path=resolve_adapter(journal, row.adapter_path),
        adapter_hash=row.adapter_hash,
        parent_id=row.parent_id,
        update_id=row.update_id,
        metrics=row.metrics,
        created_at=row.created_at,
    )


def _column(head: str) -> Any:
    if head not in HEADS:
        raise unknown("head of a policy", head, HEADS)
    return Policy.live_version_id if head == "live" else Policy.training_version_id

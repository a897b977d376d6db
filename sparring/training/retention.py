"""Which weights stay on disk: the newest, and those that somebody may still ask for."""

from __future__ import annotations

import shutil
from collections.abc import Collection

from sqlalchemy import select

from sparring.memory.journal import Journal
from sparring.memory.policies import heads, store_folder, versions
from sparring.memory.schema import Episode

STATES = 2
"""Optimizer states kept: of the newest version, and of the one before it."""


def prune(
    journal: Journal, policy: str, keep: int, reference: str | None = None, also: Collection[int] = ()
) -> list[int]:
    """Delete weights of a policy's old versions; numbers of the versions whose weights went.

    Kept are the newest `keep`, the heads, the version named as `reference`, versions that an open episode is
    pinned to, and those whose ids are in `also`. The rows stay: what trained what can still be read, and a
    version without weights is refused by name.
    """
    known = versions(journal, policy)
    pinned = _pinned(journal) | {version.id for version in heads(journal, policy).values() if version}
    if reference is not None:
        named = reference.rpartition("@")[2]
        pinned |= {version.id for version in known if str(version.number) == named}
    gone = []
    store = store_folder(journal) / policy
    for version in known[:-keep]:
        if version.update_id is None or version.id in pinned or version.id in also:
            continue
        folder = store / f"update-{version.update_id:06d}"
        if folder.is_dir():
            shutil.rmtree(folder)
            gone.append(version.number)
    newest = {version.update_id for version in known[-STATES:]}
    newest |= {version.update_id for version in known if version.id in pinned}
    for folder in store.glob("optimizer-*"):
        if int(folder.name.rpartition("-")[2]) not in newest:
            shutil.rmtree(folder)
    return gone


def _pinned(journal: Journal) -> set[int]:
    """Versions that open episodes began with."""
    rows = journal.read(select(Episode.seats).where(Episode.status == "open"))
    return {int(seat["version"]) for row in rows for seat in row.seats.values() if "version" in seat}

"""A clock that runs backwards: nothing is decided by which of two times is later."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from full_journal import everything, evolved, fill
from sqlalchemy import insert, select, update

from sparring.memory.heads import history, rollback
from sparring.memory.journal import Journal
from sparring.memory.merge_heads import HeadsOfFile
from sparring.memory.schema import Episode, Reward, Turn, Update
from sparring.memory.transfer import export, import_
from sparring.memory.versions import heads
from sparring.training.feed import SourceFeed


@pytest.fixture
def backwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each look at the clock shows an hour less than the last one."""
    now = [time.time()]

    def earlier() -> float:
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr(time, "time", earlier)
    yield


def at(journal: Journal) -> dict[str, int]:
    return {str(head): found.number for head, found in heads(journal, "base").items() if found}


@pytest.mark.usefixtures("backwards")
async def test_a_journal_travels_whole(journal: Journal, database: Callable[[], str], tmp_path: Path) -> None:
    """A fork is begun before its parent by the clock; a reward of it was computed from its parent's turns."""
    await fill(journal)
    whens = {row.parent_id: row.started_at for row in journal.read(select(Episode)) if row.parent_id}
    [(parent, began)] = whens.items()
    assert journal.read(select(Episode.started_at).where(Episode.id == parent))[0][0] > began
    export(journal, None, tmp_path / "all.jsonl")
    with Journal.open(database()) as other:
        other.ids.block("turns", 1000)  # ids of the journals differ
        import_(other, tmp_path / "all.jsonl")
        assert everything(other) == everything(journal)
        known = {row.id for row in other.read(select(Turn.id))}
        assert all(set(row.read_ids["turns"]) <= known for row in other.read(select(Reward.read_ids)))


@pytest.mark.usefixtures("backwards")
async def test_heads_move_in_the_order_of_their_moves(journal: Journal) -> None:
    evolved(journal)
    moves = [(m.head, m.move, m.target) for m in history(journal, "base")]
    assert moves == sorted(moves) and at(journal) == {"live": 1, "training": 2}
    rollback(journal, "base", "live", by="hand", reason="")
    assert at(journal)["live"] == 2, "where it stood before"


def test_the_last_move_is_the_one_with_the_highest_number() -> None:
    found = HeadsOfFile()
    for number, target in ((2, 12), (1, 11), (3, None)):
        found.moved("r", {"policy": "p", "head": "live", "move": number, "to": target})
    assert found._led["p"]["live"] == (2, 12)


@pytest.mark.parametrize(("ago", "due"), [(-86_400.0, True), (10.0, False), (100.0, True)])
def test_a_cadence_does_not_wait_for_a_time_that_was(journal: Journal, ago: float, due: bool) -> None:
    evolved(journal)
    journal.execute(update(Update).values(created_at=time.time() - ago))
    feed: Any = SimpleNamespace(run=SimpleNamespace(journal=journal, id="evolve"))
    assert SourceFeed._due(feed, 60.0) is due
    journal.execute(insert(Update).values(**_old(ago)))
    assert SourceFeed._due(feed, 60.0) is due


def _old(ago: float) -> dict[str, Any]:
    """An update that is older still."""
    made = {"id": 9, "run_id": "evolve", "policy": "base", "step": 9, "status": "done", "config": {}}
    return {**made, "created_at": time.time() - abs(ago) - 200}

"""A commit that is stored while the answer that says so is lost: the work is done again, and counts once."""

from __future__ import annotations

from typing import Any

import pytest
from journal_helpers import TASK, drive, one, version
from sqlalchemy import func, select, update

from sparring.errors import JournalError, StaleEpoch
from sparring.memory import away
from sparring.memory.heads import history, move_head
from sparring.memory.journal import Journal
from sparring.memory.records import VersionRecord
from sparring.memory.schema import Run, UpdateTurn
from sparring.memory.updates import open_update, update_turns


class Losing:
    """Loses the answers to the next commits of a journal."""

    def __init__(self, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
        dialect = journal.engine.dialect
        self.lost, self._next, self._commit = 0, 0, dialect.do_commit
        self._error: Any = dialect.loaded_dbapi.OperationalError  # type: ignore[attr-defined]  # both have one
        monkeypatch.setattr(dialect, "do_commit", self._do)
        monkeypatch.setattr(away.time, "sleep", lambda seconds: None)

    def next(self, commits: int) -> None:
        self._next = commits

    def _do(self, connection: Any) -> None:
        self._commit(connection)
        if self._next:
            self._next -= 1
            self.lost += 1
            raise self._error("server closed the connection unexpectedly")


@pytest.fixture
def losing(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> Losing:
    return Losing(journal, monkeypatch)


@pytest.mark.parametrize("commits", [1, 2, 3])
def test_a_run_that_is_begun(journal: Journal, losing: Losing, commits: int) -> None:
    losing.next(commits)
    run = drive(journal)
    assert losing.lost == commits and run.epoch == journal.run_row("r").epoch
    run.finish("done")
    run.release()
    assert journal.read(select(func.count()).select_from(Run))[0][0] == 1


def test_a_take_over_that_lost_its_answer(journal: Journal, losing: Losing) -> None:
    drive(journal).release()
    execute, told = journal.execute, list[int]()

    def counted(statement: Any, rows: Any = None) -> Any:
        told.append(1)
        if len(told) == 2:  # the first is the row itself, the second takes it over
            losing.next(1)
        return execute(statement, rows)

    journal.execute = counted  # type: ignore[method-assign]  # to lose this very answer
    run = drive(journal)
    assert losing.lost == 1 and run.epoch == 2 == journal.run_row("r").epoch
    run.release()


def test_an_epoch_that_was_renewed(journal: Journal, losing: Losing) -> None:
    run = drive(journal)
    losing.next(1)
    run.renew()
    assert losing.lost == 1 and run.epoch == 2 == journal.run_row("r").epoch
    journal.execute(update(Run).values(epoch=3))  # somebody else
    losing.next(1)
    with pytest.raises(StaleEpoch):
        run.renew()
    run.release()


async def test_an_update_that_is_opened(journal: Journal, losing: Losing) -> None:
    base, run = version(journal), drive(journal)
    turn = await one(run.episode(TASK, seats={}), journal)
    losing.next(0)
    journal.ids.take("updates")
    journal.ids.refill(["updates"])
    block = journal.ids.block
    journal.ids.block = lambda table, count: (block(table, count), losing.next(1))[0]  # type: ignore[method-assign]  # as above
    made = open_update(run, "base", 0, base, [turn.id], {})
    assert losing.lost == 1 and update_turns(journal, made.id) == [turn.id]
    assert journal.read(select(func.count()).select_from(UpdateTurn))[0][0] == 1
    run.release()


def test_a_head_that_moves(journal: Journal, losing: Losing) -> None:
    version(journal)
    second = journal.version(VersionRecord("base", "hash", "s", "f", "a"))
    run = drive(journal)
    journal.ids.take("events")
    losing.next(1)
    move_head(journal, "base", "live", second, by="gate", reason="", run=run)
    assert losing.lost == 1 and [move.target for move in history(journal, "base")] == [second]
    run.release()


def test_what_stays_away_is_said(journal: Journal, losing: Losing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(away, "RETRY_S", 0.05)
    losing.next(10_000_000)
    with pytest.raises(JournalError, match="the journal refused a write: server closed the connection"):
        drive(journal)

"""The writer: epochs, one guilty write among many, database errors, threads."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
from typing import Any

import pytest
from journal_helpers import TASK, Model, ask, drive, made, one, version
from sqlalchemy import event as events
from sqlalchemy import func, select, text, update

from sparring.errors import JournalError, StaleEpoch
from sparring.memory import away as away_module
from sparring.memory.database import connect
from sparring.memory.journal import Journal
from sparring.memory.records import TaskRecord
from sparring.memory.schema import Event, Run, Turn
from sparring.memory.writer import Write


def count(journal: Journal, table: Any = Turn) -> int:
    with journal.engine.connect() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def event(journal: Journal, run: Any, name: str, **fields: Any) -> Write:
    write: Write = run.write()
    write.rows.append(("events", run.event_row("test", name, {"k": name}) | fields))
    return write


async def test_an_older_drivers_write_is_refused_and_others_in_its_batch_are_not(journal: Journal) -> None:
    old, other = drive(journal, "r"), drive(journal, "other")
    episode = old.episode(TASK, seats={})
    await one(episode, journal)
    journal.execute(update(Run).where(Run.id == "r").values(epoch=2))  # a driver elsewhere took it over
    asked = [one(episode, journal, "s/1")]
    asked += [one(other.episode(TASK, copy=n, seats={}), journal) for n in range(5)]
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(results[0], StaleEpoch) and "`r` was taken over" in str(results[0])
    assert all(turn.ok for turn in results[1:])
    assert count(journal) == 6
    with pytest.raises(StaleEpoch):  # what was refused is not answered from memory
        await one(episode, journal, "s/1")
    with pytest.raises(StaleEpoch):
        await episode.event("vote", "0", {})
    with pytest.raises(StaleEpoch):
        await episode.close("done")


async def test_taking_over_raises_the_epoch(journal: Journal) -> None:
    for epoch in (1, 2, 3):
        run = drive(journal)
        assert run.epoch == epoch == journal.run_row("r").epoch
        run.release()
    with pytest.raises(StaleEpoch):
        old = drive(journal)
        old.release()
        drive(journal)
        await one(old.episode(TASK, seats={}), journal)


async def test_only_the_guilty_write_of_a_batch_fails(journal: Journal) -> None:
    run, results = drive(journal), []
    good = [event(journal, run, str(n)) for n in range(40)]
    bad = event(journal, run, "bad", run_id="no such run")
    writes = [*good[:17], bad, *good[17:]]
    results = await asyncio.gather(*(journal.writer.commit(w) for w in writes), return_exceptions=True)
    assert [type(r) for r in results if r is not None] == [JournalError] and isinstance(
        results[17], JournalError
    )
    assert count(journal, Event) == 40


async def test_a_row_the_driver_cannot_bind_does_not_end_the_writer(journal: Journal) -> None:
    run = drive(journal)
    for fields in ({"created_at": object()}, {"epoch": 2**80}, {"key": "\ud800"}):
        with pytest.raises(JournalError, match="refused a write"):
            await journal.writer.commit(event(journal, run, "x", **fields))
    await journal.writer.commit(event(journal, run, "y"))
    assert count(journal, Event) == 1


async def test_an_index_row_too_large_fails_alone(journal: Journal, postgres_only: None) -> None:
    run = drive(journal)
    key = "".join(map(chr, random.Random(1).choices(range(33, 20_000), k=20_000)))
    writes = [event(journal, run, k) for k in ("a", key, "b")]
    results = await asyncio.gather(*(journal.writer.commit(w) for w in writes), return_exceptions=True)
    assert [type(r) for r in results] == [type(None), JournalError, type(None)]


def test_unknown_columns_are_refused(journal: Journal) -> None:
    run = drive(journal)
    with pytest.raises(JournalError, match=r"unknown columns: \['colour'\]"):
        run.submit([("events", {"colour": 1})])


def test_reads_survive_a_cut_connection(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    from sqlalchemy.exc import OperationalError

    first = version(journal)
    drive(journal).release()
    cut = iter([True])

    def cutting(*_: Any) -> None:
        if next(cut, False):
            raise OperationalError("SELECT", {}, Exception("server closed the connection unexpectedly"))

    for read in (
        lambda: journal.run_row("r").id == "r",
        lambda: version(journal) == first,
        lambda: journal.version_row(first).id == first,
        lambda: journal.runs() == ["r"] and journal.has_run("r"),
    ):
        cut = iter([True])
        events.listen(journal.engine, "before_cursor_execute", cutting)
        try:
            assert read() and next(cut, None) is None
        finally:
            events.remove(journal.engine, "before_cursor_execute", cutting)


async def test_reads_survive_a_connection_that_the_server_ended(
    journal: Journal, postgres_only: None
) -> None:
    drive(journal).release()
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
    for read in (lambda: journal.run_row("r"), lambda: version(journal), lambda: drive(journal).release()):
        killer = connect(journal.engine.url.render_as_string(hide_password=False))
        with killer.connect() as connection:
            connection.exec_driver_sql(f"{others} AND pid <> pg_backend_pid()")
        killer.dispose()
        read()


async def test_a_locked_database_is_waited_for(memory: str, sqlite_only: None) -> None:
    with Journal.open(memory) as journal:
        episode, question = drive(journal).episode(TASK, seats={}), ask(journal)
        await episode.turns(["s/0"], question, Model())
        other = sqlite3.connect(memory, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        asked = asyncio.create_task(episode.turns(["s/1"], question, Model()))
        await asyncio.sleep(0.5)
        assert not asked.done()
        other.execute("COMMIT")
        assert (await asked)[0].ok and count(journal) == 2
        other.close()


async def test_a_database_that_stays_away_fails_the_write_and_nothing_is_kept(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import OperationalError

    monkeypatch.setattr(away_module, "RETRY_S", 0.2)
    run = drive(journal)
    episode = run.episode(TASK, seats={})
    journal.writer.flush()
    write = journal.writer._write

    def away(*_: Any) -> None:
        raise OperationalError("INSERT", {}, Exception("disk I/O error\nmore"))

    monkeypatch.setattr(journal.writer, "_write", away)
    with pytest.raises(JournalError, match=r"refused a write: disk I/O error$"):
        await one(episode, journal)
    monkeypatch.setattr(journal.writer, "_write", write)
    model = Model()
    assert (await one(run.episode(TASK, seats={}), journal, produce=model)).attempt == 0
    assert len(model.calls) == 1 and count(journal) == 1


@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_error_around_the_commit_neither_loses_nor_doubles(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    from sqlalchemy.exc import OperationalError

    run, write, failures = drive(journal), journal.writer._write, []

    def breaks(connection: Any, batch: Any) -> None:
        write(connection, batch)
        if len(failures) < 3 and batch:
            failures.append(len(batch))
            if when == "after":  # the server committed, and the answer was lost
                connection.commit()
            raise OperationalError("COMMIT", {}, Exception("connection lost"))

    monkeypatch.setattr(journal.writer, "_write", breaks)
    turns = await asyncio.gather(*(one(run.episode(TASK, copy=n, seats={}), journal) for n in range(10)))
    assert failures and all(turn.ok for turn in turns) and count(journal) == 10
    with journal.engine.connect() as connection:
        assert {turn.id for turn in turns} == set(connection.execute(select(Turn.id)).scalars())


async def test_killed_connections_lose_nothing(journal: Journal, postgres_only: None) -> None:
    run, stop = drive(journal), threading.Event()
    kill = text(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    killed = 0

    def killer() -> None:
        nonlocal killed
        while not stop.wait(0.3):
            try:
                with journal.engine.connect() as connection:
                    killed += connection.execute(kill).scalar_one()
            except Exception:
                continue

    question, model = ask(journal), Model()
    thread = threading.Thread(target=killer)
    thread.start()
    try:
        for number in range(60):
            await asyncio.sleep(0.02)
            episode = run.episode(TASK, copy=number % 4, seats={})
            keys = [f"s/{number}/{n}" for n in range(3)]
            await asyncio.gather(*(episode.turns([key], question, model) for key in keys))
    finally:
        stop.set()
        thread.join()
    assert killed > 1 and count(journal) == 180 == len(model.places)


def test_eight_threads_with_loops_of_their_own(journal: Journal) -> None:
    errors: list[BaseException] = []

    async def work(number: int) -> None:
        run = drive(journal, f"r{number}")
        episodes = [run.episode(TaskRecord(f"q{n}", "?"), seats={}) for n in range(5)]
        for key in ("a/0", "b/0", "a/1"):
            turns = await asyncio.gather(*(one(episode, journal, key) for episode in episodes))
            assert all(turn.ok for turn in turns)
        run.release()

    def thread(number: int) -> None:
        try:
            asyncio.run(work(number))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=thread, args=(number,)) for number in range(8)]
    for one_thread in threads:
        one_thread.start()
    for one_thread in threads:
        one_thread.join()
    assert not errors and count(journal) == 8 * 5 * 3


async def test_many_turns_share_a_commit(journal: Journal) -> None:
    run = drive(journal)
    question, model = ask(journal), Model(lambda place: made(place, text="x" * 2000))
    episodes = [run.episode(TASK, copy=n, seats={}) for n in range(300)]
    journal.writer.flush()
    before = journal.writer.commits
    await asyncio.gather(*(episode.turns(["s/0"], question, model) for episode in episodes))
    assert journal.writer.commits - before <= 20 and count(journal) == 300


async def test_a_batch_larger_than_any_limit_on_variables(journal: Journal) -> None:
    run, write = drive(journal), Write()
    write.rows += [("events", run.event_row("bulk", str(n), {})) for n in range(5000)]
    await journal.writer.commit(write)
    assert count(journal, Event) == 5000


def test_close_and_submit_race(memory: str) -> None:
    for _ in range(20):
        journal = Journal.open(memory)
        outcomes: list[bool] = []

        def submit(journal: Journal = journal, outcomes: list[bool] = outcomes) -> None:
            for _ in range(50):
                try:
                    journal.writer.commit_now(Write())
                    outcomes.append(True)
                except JournalError:
                    outcomes.append(False)

        threads = [threading.Thread(target=submit) for _ in range(3)]
        for thread in threads:
            thread.start()
        journal.close()
        for thread in threads:
            thread.join(timeout=10)
            assert not thread.is_alive()
        assert len(outcomes) == 150


async def test_a_loop_that_ended_does_not_stop_the_writer(memory: str) -> None:
    with Journal.open(memory) as journal:
        run = drive(journal)
        loop = asyncio.new_event_loop()
        write = event(journal, run, "gone")
        write.loop, write.waiter = loop, loop.create_future()
        loop.close()
        journal.writer.submit(write)
        await journal.writer.commit(event(journal, run, "here"))
        assert count(journal, Event) == 2

"""PostgreSQL in earnest: time-outs, cut connections, locks that were lost, a server that restarts."""

from __future__ import annotations

import asyncio
import math
import os
import shlex
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from journal_helpers import TASK, Model, drive, one, version
from sqlalchemy import Engine, event, select

from sparring.agents.engines.base import Request
from sparring.agents.engines.scripted import ScriptedEngine, hash_reply
from sparring.errors import JournalError, RunLocked, StaleEpoch, UserError
from sparring.graphs.play import aplay, plan
from sparring.memory import away, lock
from sparring.memory.database import connect, parse_url
from sparring.memory.journal import Journal
from sparring.memory.postgres import TIMEOUTS_S, timeouts
from sparring.memory.schema import Event, Turn
from sparring.memory.transfer import export, import_, stats
from sparring.memory.writer import Write

pytestmark = pytest.mark.usefixtures("postgres_only")

CONTROL = os.environ.get("SPARRING_TEST_PG_CTL")
OTHERS = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


@pytest.fixture(autouse=True)
def attentive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks are looked after at every commit."""
    monkeypatch.setattr(lock, "KEEP_S", 0.0)


def timed(memory: str, **seconds: float) -> str:
    """The URL with time-outs."""
    return f"{memory}?{'&'.join(f'{name}={value}' for name, value in seconds.items())}"


def by_hand(memory: str, *statements: str) -> None:
    """Statements by somebody else, each committed."""
    engine = connect(memory)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def note(run: Any, name: str) -> Write:
    write: Write = run.write()
    write.rows.append(("events", run.event_row("test", name, {})))
    return write


# --- time-outs ------------------------------------------------------------------------------------------


def test_a_session_has_the_timeouts_of_its_url(memory: str) -> None:
    with Journal.open(timed(memory, statement_timeout=7.5, lock_timeout=0)) as journal:
        with journal.engine.connect() as connection:
            shown = {n: connection.exec_driver_sql(f"SHOW {n}").scalar_one() for n in TIMEOUTS_S}
        assert list(shown.values()) == ["7500ms", "0", "1min"]


def test_a_statement_that_hangs_is_cut_and_said(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(away, "RETRY_S", 0.1)
    body = "BEGIN PERFORM pg_sleep(60); RETURN NEW; END"
    by_hand(
        memory,
        f"CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS '{body}'",
        "CREATE TRIGGER hangs BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION hang()",
    )
    with Journal.open(timed(memory, statement_timeout=0.4)) as journal:
        run, began = drive(journal), time.monotonic()
        with pytest.raises(JournalError, match=r"statement timeout; .*statement_timeout=SECONDS"):
            journal.writer.commit_now(note(run, "a"))
        with pytest.raises(JournalError, match="statement timeout"):
            journal.execute(journal.insert(Event).values(**note(run, "b").rows[0][1]))
        assert time.monotonic() - began < 30
        by_hand(memory, "DROP TRIGGER hangs ON events")
        journal.writer.commit_now(note(run, "c"))


def test_a_lock_that_somebody_holds_is_waited_for_again_and_again(memory: str) -> None:
    other = connect(memory)
    with Journal.open(timed(memory, lock_timeout=0.2)) as journal, other.connect() as holder:
        run = drive(journal)
        holder.exec_driver_sql("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
        threading.Timer(1.5, holder.rollback).start()
        began = time.monotonic()
        journal.writer.commit_now(note(run, "a"))
        assert time.monotonic() - began > 1 and run.decided("test", "a") == {}
    other.dispose()


def test_who_sleeps_in_a_transaction_holds_up_nobody(memory: str) -> None:
    slow = timed(memory, idle_in_transaction_session_timeout=0.5)
    with Journal.open(slow) as sleeper, Journal.open(memory) as journal:
        drive(sleeper, "other").release()
        with sleeper.engine.connect() as connection:
            connection.exec_driver_sql("SELECT * FROM counters FOR UPDATE")
            began = time.monotonic()
            journal.ids.block("turns", 1)
            assert time.monotonic() - began < 20
            connection.invalidate()
        sleeper.ids.block("turns", 1)


@pytest.mark.parametrize("given", ["soon", "-1", "nan", "1e12"])
def test_a_timeout_that_is_none(given: str) -> None:
    with pytest.raises(UserError, match=f"`lock_timeout={given}` of the URL is no number of seconds"):
        timeouts(parse_url(f"postgresql://u@h/d?lock_timeout={given}"))


def test_who_is_refused_is_told_who_has_the_lock_whatever_the_row_says(memory: str) -> None:
    """The row names the driver before, until the one who has the lock has written its own name."""
    with Journal.open(memory) as journal:
        run = drive(journal)
        by_hand(memory, """UPDATE runs SET driver = '{"host": "old", "pid": 1, "since": "then"}'""")
        with pytest.raises(RunLocked, match=f"by process {os.getpid()} on"):
            lock.acquire(journal.engine, run.id)


def test_who_finds_all_connections_taken_waits_and_is_told(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where every thread of a process stands behind one lock."""
    with Journal.open(memory) as journal:
        run, pool = drive(journal), journal.engine.pool
        monkeypatch.setattr(pool, "_timeout", 0.05)
        held = [journal.engine.connect() for _ in range(14)]
        threading.Timer(1, held[0].close).start()
        assert journal.runs() == ["r"]
        held[0] = journal.engine.connect()
        threading.Timer(1, held[0].close).start()
        journal.writer.commit_now(note(run, "a"))  # and the writer keeps the one that it found
        monkeypatch.setattr(away, "RETRY_S", 0.1)
        with pytest.raises(JournalError, match="refused a read: QueuePool limit"):
            journal.runs()
        for connection in held:
            connection.close()


@contextmanager
def cut_at(memory: str, what: str, moment: str = "before", times: float = 1) -> Iterator[list[str]]:
    """All connections are cut at the first statements that hold `what`; yields those statements."""
    cuts: list[str] = []

    def cut(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if what in statement and len(cuts) < times:
            cuts.append(statement)
            by_hand(memory, OTHERS)

    event.listen(Engine, f"{moment}_cursor_execute", cut)
    try:
        yield cuts
    finally:
        event.remove(Engine, f"{moment}_cursor_execute", cut)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_connection_that_is_cut_while_it_takes_the_lock(memory: str, moment: str) -> None:
    """Before: the attempt fails. After: the session had the lock, and the server's answer is there."""
    with cut_at(memory, "pg_try_advisory_lock", moment) as cuts, Journal.open(memory) as journal:
        run = drive(journal)
        journal.writer.commit_now(note(run, "a"))
        assert cuts and run.decided("test", "a") == {}
        run.keep()  # as the writer does in a moment
        with pytest.raises(RunLocked, match=f"by process {os.getpid()} on"):
            lock.acquire(journal.engine, run.id)


@pytest.mark.parametrize("what", ["pg_catalog", "CREATE TABLE turns", "INSERT INTO alembic_version"])
def test_a_connection_that_is_cut_while_the_journal_is_made(empty: str, what: str) -> None:
    with cut_at(empty, what, times=2) as cuts, Journal.open(empty) as journal:
        drive(journal)
        assert len(cuts) == 2


def test_a_connection_that_is_cut_beneath_an_export(memory: str, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with Journal.open(memory) as journal:
        drive(journal)
        cut_off = pytest.raises(JournalError, match=r"export to .*: terminating connection.*; nothing was")
        with cut_at(memory, "FROM policies") as cuts, cut_off:
            export(journal, None, path)
        assert cuts and not list(tmp_path.iterdir())
        export(journal, None, path)
        with cut_at(memory, "FROM messages"):
            assert stats(journal)["rows"]["runs"] == 1
    with Journal.open(memory) as journal:
        with (
            cut_at(memory, 'INTO "runs"') as cuts,
            pytest.raises(JournalError, match=r"all of it .* or nothing"),
        ):
            import_(journal, path)
        assert cuts and import_(journal, path) == {"runs": 0}


def test_a_server_that_cuts_for_ever_is_said(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(away, "RETRY_S", 0.2)
    said = pytest.raises(JournalError, match="`r` cannot be locked: terminating connection")
    with Journal.open(memory) as journal, cut_at(memory, "pg_try_advisory_lock", times=math.inf), said:
        drive(journal)


def test_a_database_that_may_only_be_read_is_not_waited_for(memory: str) -> None:
    name = parse_url(memory).database
    by_hand(memory, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    began = time.monotonic()
    with Journal.open(memory) as journal, pytest.raises(JournalError, match="read-only transaction"):
        drive(journal)
    assert time.monotonic() - began < away.RETRY_S


# --- the lock -------------------------------------------------------------------------------------------


async def test_a_lock_that_was_lost_is_taken_again(memory: str) -> None:
    with Journal.open(memory) as journal, Journal.open(memory) as other:
        run = drive(journal)
        await one(run.episode(TASK, seats={}), journal)
        by_hand(memory, OTHERS)
        await one(run.episode(TASK, seats={}), journal, "s/1")
        journal.writer.flush()  # the writer has looked after the lock before it came to this
        with pytest.raises(RunLocked, match=f"driven by process {os.getpid()}"):
            drive(other)
        assert (await one(run.episode(TASK, seats={}), journal, "s/2")).ok and run.epoch == 1
        run.release()
        assert drive(other).epoch == 2


async def test_a_lock_that_another_driver_took_meanwhile_stays_theirs(memory: str) -> None:
    with Journal.open(memory) as journal, Journal.open(memory) as other:
        run = drive(journal)
        episode = run.episode(TASK, seats={})
        await one(episode, journal)
        by_hand(memory, OTHERS)
        taken = drive(other)
        assert taken.epoch == 2
        with pytest.raises(StaleEpoch, match="taken over by another driver"):
            await one(episode, journal, "s/1")
        journal.writer.flush()
        run.release()
        assert (await one(taken.episode(TASK, seats={}), other, "s/1")).ok
        with pytest.raises(RunLocked):  # what the loser lets go of is not the winner's lock
            drive(journal)


# --- a server that restarts -------------------------------------------------------------------------------


@pytest.fixture
def restart() -> Iterator[Callable[[str], None]]:
    """Restarts the server."""
    if CONTROL is None:
        pytest.skip("needs a server of its own: run with scripts/with_postgres.sh")

    def again(mode: str) -> None:
        words = [*shlex.split(CONTROL), "restart", "-m", mode]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=100)

    yield again


TASKS = [{"id": f"q{n}", "question": f"What is {n}?", "answer": str(n)} for n in range(12)]


def played(memory: str, at_call: Callable[[int], None]) -> tuple[Any, Counter[int]]:
    """A play, and how often each seed was asked for; `at_call` is told the number of each call."""
    calls = Counter[int]()

    async def reply(request: Request, seed: int) -> str:
        calls[seed] += 1
        at_call(calls.total())
        await asyncio.sleep(0.05)
        return hash_reply(request, seed)

    asked = plan("du", TASKS, engine=ScriptedEngine(reply), seed=3, rounds=2)
    return asyncio.run(aplay(asked, memory, run="r", concurrency=4)), calls


def said(memory: str) -> list[Any]:
    with Journal.open(memory) as journal:
        columns = (Turn.key, Turn.attempt, Turn.seed, Turn.status, Turn.parsed, Turn.prompt_tokens)
        return sorted(map(str, journal.read(select(*columns))))


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_play_goes_on_when_the_server_restarts(
    database: Callable[[], str], restart: Callable[[str], None], mode: str
) -> None:
    """Every call is made once: no process died, so nothing may be lost or asked for again."""
    quiet, memory = database(), database()
    restarts = [threading.Thread(target=restart, args=(mode,))]
    whole, once = played(quiet, lambda number: None)
    again, calls = played(memory, lambda number: restarts[0].start() if number == 20 else None)
    restarts[0].join()
    assert again.complete and again.results == whole.results
    assert calls == once and set(calls.values()) == {1} and said(memory) == said(quiet)


async def test_after_a_restart_the_lock_is_held(memory: str, restart: Callable[[str], None]) -> None:
    with Journal.open(memory) as journal, Journal.open(memory) as other:
        run, model = drive(journal), Model()
        await one(run.episode(TASK, seats={}), journal, produce=model)
        restart("fast")
        await one(run.episode(TASK, seats={}), journal, "s/1", model)
        journal.writer.flush()
        with pytest.raises(RunLocked):
            drive(other)
        assert len(model.calls) == 2 and version(other) == version(journal)

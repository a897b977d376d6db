"""Eight processes write one journal at once: nothing is lost, nobody waits in a circle."""

from __future__ import annotations

import multiprocessing
import time

import crowd
import pytest
from sqlalchemy import func, select, text

from sparring.memory.journal import Journal
from sparring.memory.rows import codecs
from sparring.memory.schema import Base, Run, Turn

WRITERS = 8
LOCKS = text("SELECT pid FROM pg_locks WHERE locktype = 'advisory'")
START = multiprocessing.get_context("forkserver")


def test_eight_processes(memory: str) -> None:
    START.set_forkserver_preload(["sparring.memory.journal", "sparring.cli", "sparring.graphs.play"])
    together, calls = START.Barrier(WRITERS), START.Queue()
    writers = [START.Process(target=crowd.live, args=(memory, n, together, calls)) for n in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(100)
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    turns = crowd.TASKS * crowd.AGENTS
    assert [calls.get(timeout=5) for _ in writers] == [turns] * WRITERS
    with Journal.open(memory) as journal:
        tables = Base.metadata.tables
        counts = {t: journal.read(select(func.count()).select_from(tables[t]))[0][0] for t in tables}
        assert counts["tasks"] == crowd.TASKS and counts["agents"] == crowd.AGENTS
        assert counts["policies"] == counts["policy_versions"] == crowd.POLICIES
        assert counts["episodes"] == counts["events"] == WRITERS * crowd.TASKS
        assert counts["turns"] == WRITERS * turns and counts["runs"] == WRITERS
        assert set(journal.read(select(Run.status, Run.epoch))) == {("done", 1)}
        if journal.engine.dialect.name == "postgresql":
            with journal.engine.connect() as connection:
                query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
                assert connection.exec_driver_sql(query).scalar_one() == 0


def test_shared_rows_go_in_one_order_and_children_behind_their_parents() -> None:
    tasks = codecs("sqlite")["tasks"]
    row = {"name": "n", "question": "?", "check": "exact"}
    named = (("c", None), ("a", "c"), ("b", None))
    given = [tasks.encode({**row, "id": name, "parent_id": parent}) for name, parent in named]
    assert [values[0] for values in tasks.in_order(given)] == ["b", "c", "a"]
    assert next(iter(codecs("postgresql"))) == "tasks", "as in an export"


@pytest.mark.timeout(300)
def test_two_who_resume_one_run_at_once(memory: str) -> None:
    """One of them plays it to its end; the other says who drives it and exits with 2."""
    first = START.Process(target=crowd.begin, args=(memory,))
    first.start()
    with Journal.open(memory) as journal:
        while not journal.read(select(Turn.id).limit(1)):
            assert first.is_alive()
            time.sleep(0.05)
        first.kill()
        first.join()
        while journal.engine.dialect.name == "postgresql" and journal.read(LOCKS):
            time.sleep(0.05)  # a server needs a moment to see that its client is gone
        together, told = START.Barrier(3), START.Queue()
        both = [START.Process(target=crowd.resume, args=(memory, together, told)) for _ in range(2)]
        for process in both:
            process.start()
        together.wait(200)
        outcomes = sorted((told.get(timeout=100) for _ in both), reverse=True)
        (lost, loser, said), (won, winner, quiet) = outcomes
        assert (lost, won, quiet) == (2, 0, "")
        assert said.startswith(f"sparring: run `r` is driven by process {winner} on ") and loser != winner
        assert said.count("\n") == 1
        assert journal.run_row("r").status == "done" and journal.run_row("r").epoch == 2
        turns = journal.read(select(Turn.episode_number, Turn.key))
        assert len(turns) == len(set(turns)) == 8 * 6
    for process in both:
        process.join(60)

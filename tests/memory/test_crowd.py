"""Eight processes write one journal at once: nothing is lost, nobody waits in a circle."""

from __future__ import annotations

import multiprocessing

import crowd
from sqlalchemy import func, select

from sparring.memory.journal import Journal
from sparring.memory.rows import codecs
from sparring.memory.schema import Base, Run

WRITERS = 8


def test_eight_processes(memory: str) -> None:
    start = multiprocessing.get_context("forkserver")
    start.set_forkserver_preload(["sparring.memory.journal"])
    together, calls = start.Barrier(WRITERS), start.Queue()
    writers = [start.Process(target=crowd.live, args=(memory, n, together, calls)) for n in range(WRITERS)]
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

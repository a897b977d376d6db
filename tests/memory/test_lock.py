"""One driver a run: refused by name, freed by kill -9, never left behind."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest
from journal_helpers import TASK, drive, one, python
from sqlalchemy import select

from sparring.errors import RunLocked, StaleEpoch, UserError
from sparring.memory.journal import Journal
from sparring.memory.lock import gone
from sparring.memory.schema import Episode

HOLD = (
    "from journal_helpers import drive\nfrom sparring.memory.journal import Journal\n"
    "run = drive(Journal.open(sys.argv[1]))\nprint(run.epoch, flush=True)\nsys.stdin.readline()\n"
)


def test_second_process_is_refused_until_the_first_dies(memory: str) -> None:
    holder = python(HOLD, memory)
    assert holder.stdout
    assert holder.stdout.readline() == "1\n"
    with Journal.open(memory) as journal:
        with pytest.raises(RunLocked) as caught:
            drive(journal)
        words = str(caught.value)
        assert not gone(journal.run_row("r").driver)
        assert f"process {holder.pid} on {socket.gethostname()} since 20" in words and "\n" not in words
        drive(journal, "another").release()
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        assert gone(journal.run_row("r").driver) and not gone(journal.run_row("another").driver)
        for _ in range(100):  # a server needs a moment to see that its client is gone
            try:
                run = drive(journal)
                break
            except RunLocked:
                time.sleep(0.05)
        assert run.epoch == 2
    holder.communicate()


def test_a_forked_child_does_not_keep_the_lock(memory: str, sqlite_only: None) -> None:
    source = HOLD.replace(
        "print(run", "import os, time\nif os.fork() == 0:\n    time.sleep(30)\n    os._exit(0)\nprint(run"
    )
    holder = python(source, memory, start_new_session=True)
    assert holder.stdout
    assert holder.stdout.readline() == "1\n"
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    try:
        with Journal.open(memory) as journal:
            assert drive(journal).epoch == 2
    finally:
        os.killpg(holder.pid, signal.SIGKILL)  # the child of the process started above
        holder.communicate()


def test_same_process_is_refused_too_and_release_frees(journal: Journal) -> None:
    run = drive(journal)
    with pytest.raises(RunLocked, match=f"process {os.getpid()}"):
        drive(journal)
    run.release()
    run.release()
    drive(journal).release()


def test_lock_files_are_removed(memory: str, sqlite_only: None, tmp_path: Path) -> None:
    with Journal.open(memory) as journal:
        runs = [drive(journal, name) for name in ("a/b", "a_b", "x" * 300)]
        assert len(list(tmp_path.glob("*.lock"))) == 3
        for run in runs:
            run.release()
    assert not list(tmp_path.glob("*.lock"))


def test_paths_to_one_file_share_the_lock(memory: str, sqlite_only: None, tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(memory)
    with Journal.open(memory) as journal, Journal.open(link) as other:
        run = drive(journal)
        with pytest.raises(RunLocked):
            drive(other)
        run.release()


def test_many_processes_race_for_one_run(memory: str) -> None:
    Journal.open(memory).close()
    racers = [python(HOLD, memory) for _ in range(6)]
    try:
        outcomes = []
        for racer in racers:
            assert racer.stdout
            outcomes.append(racer.stdout.readline())
        assert outcomes.count("1\n") == 1 and outcomes.count("") == 5
    finally:
        errors = [racer.communicate("\n")[1] for racer in racers]
    assert sum("RunLocked" in error for error in errors) == 5


def test_lock_that_cannot_be_made(memory: str, sqlite_only: None) -> None:
    with Journal.open(memory) as journal:
        Path(f"{memory}.r.lock").mkdir()
        with pytest.raises(UserError, match="cannot be locked"):
            drive(journal)


async def test_who_helps_a_driver_writes_until_the_epoch_is_raised(memory: str) -> None:
    """Of another process in earnest: it has a journal of its own, and no lock."""
    with Journal.open(memory) as journal, Journal.open(memory) as other:
        run = drive(journal)
        helper = other.join(run.id, 1)
        await helper.event("kind", "first", 1)
        run.renew()
        assert run.epoch == 2
        with pytest.raises(StaleEpoch):
            await helper.event("kind", "second", 2)
        with pytest.raises(StaleEpoch, match="at epoch 2, not 1"):
            other.join(run.id, 1)
        await other.join(run.id, 2).event("kind", "third", 3)
        await run.event("kind", "fourth", 4)
        assert [run.decided("kind", key) for key in ("first", "second", "third", "fourth")] == [1, None, 3, 4]
        run.release()
        drive(other).release()
        with pytest.raises(StaleEpoch):
            run.renew()


async def test_a_helper_goes_on_with_what_another_one_said(memory: str) -> None:
    with Journal.open(memory) as journal, Journal.open(memory) as first, Journal.open(memory) as second:
        run = drive(journal)
        for number, helper in enumerate((first, second, first)):
            joined = helper.join(run.id, 1)
            state = joined.state(TASK)
            assert (state is None) == (number == 0)
            episode = joined.episode(TASK, seats={})
            assert episode.event_payload("note", "0") == (None if number == 0 else {"by": 0})
            await episode.event("note", "0", {"by": number})
            assert await episode.event("note", "0", {"by": number}) == {"by": 0}
            assert not (await one(episode, helper, f"key{number}")).replayed
            assert [episode.turn(f"key{n}") is not None for n in range(3)] == [n <= number for n in range(3)]
        await episode.close("done", {"answer": "1"})
        state = second.join(run.id, 1).state(TASK)
        assert state is not None and (state.status, state.outcome) == ("done", {"answer": "1"})
        run.release()


async def test_who_lost_a_run_ends_none_of_its_episodes(memory: str) -> None:
    """Beside the writer, too: the winner may be in the midst of them."""
    with Journal.open(memory) as journal, Journal.open(memory) as other:
        run = drive(journal)
        await one(run.episode(TASK, seats={}), journal)
        run.release()
        taken = drive(other)
        with pytest.raises(StaleEpoch):
            run.abandon(TASK, 0, 0, "a version is gone")
        with pytest.raises(StaleEpoch):
            run.fail(TASK, 0, 0, "its worker was lost")
        row = other.join(taken.id, taken.epoch).state(TASK)
        assert row is not None and row.status == "open"
        await one(taken.episode(TASK, seats={}), other, "s/1")


async def test_what_a_lost_worker_had_finished_has_not_failed(memory: str) -> None:
    """Its answer was lost, not its work."""
    with Journal.open(memory) as journal, Journal.open(memory) as other:
        run = drive(journal)
        for copy, status in enumerate(("done", "capped")):
            episode = other.join(run.id, 1).episode(TASK, 0, copy, seats={})
            await one(episode, other)
            await episode.close(status, {"answer": "1"})
            assert run.fail(TASK, 0, copy, "lost three times") == status
        open_ = other.join(run.id, 1).episode(TASK, 0, 2, seats={})
        await one(open_, other)
        assert run.fail(TASK, 0, 2, "lost three times") == "failed"
        assert run.fail(TASK, 0, 3, "lost before it had a row") == "failed"
        columns = (Episode.copy, Episode.status, Episode.outcome, Episode.error)
        assert [tuple(row) for row in journal.read(select(*columns).order_by(Episode.copy))] == [
            (0, "done", {"answer": "1"}, None),
            (1, "capped", {"answer": "1"}, None),
            (2, "failed", None, "lost three times"),
        ]


@pytest.mark.parametrize(
    "driver", [None, 3, {}, {"host": socket.gethostname(), "pid": "x"}, {"host": "y", "pid": 1}]
)
def test_who_drives_elsewhere_is_not_known_to_be_gone(driver: object) -> None:
    assert not gone(driver)

"""Ray in earnest: two nodes on this machine, real worker processes, one PostgreSQL; they die, nothing shows.

`make test-ray` runs these.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import select, text

from sparring.errors import RunLocked, StaleEpoch, UserError
from sparring.graphs import workers
from sparring.graphs.play import PlayResult, aplay, plan
from sparring.memory import lock
from sparring.memory.journal import Journal
from sparring.memory.schema import Episode, Event, Run, Task, Turn

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.usefixtures("postgres_only")]

RUN = "r"
COUNT, ROUNDS, SPEAKERS = 16, 2, 3
TASKS = [{"id": f"q{n}", "question": f"What is {n}?", "answer": str(n)} for n in range(COUNT)]


class Stand:
    """A run of `du` whose engine keeps a call log outside the journal."""

    def __init__(self, memory: str, folder: Path) -> None:
        self.memory, self.log = memory, folder / "calls"

    def spec(self, delay: float) -> str:
        return f"scripted:hash?delay_s={delay}&call_log={self.log}"

    async def play(
        self, *, workers: str | None = "ray:2", delay: float = 0.05, count: int = COUNT
    ) -> PlayResult:
        planned = plan("du", TASKS[:count], engine=self.spec(delay), rounds=ROUNDS, seed=5)
        return await aplay(planned, self.memory, run=RUN, concurrency=8, workers=workers)

    def calls(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def journal(self) -> dict[str, Any]:
        """Epoch, status, and every turn and event of the run by its place."""
        with Journal.open(self.memory) as journal:
            run = journal.run_row(RUN)
            place = (Task.name, Episode.copy)
            of = select(*place, Turn.key, Turn.attempt, Turn.seed, Turn.parsed, Turn.status, Turn.created_at)
            of = of.join(Episode, Episode.number == Turn.episode_number).join(
                Task, Task.id == Episode.task_id
            )
            turns = {tuple(row[:4]): row[4:] for row in journal.read(of.where(Episode.run_id == RUN))}
            said = select(*place, Event.kind, Event.key, Event.payload)
            said = said.join(Episode, Episode.number == Event.episode_number)
            said = said.join(Task, Task.id == Episode.task_id).where(Episode.run_id == RUN)
            events = {tuple(row[:4]): row[4] for row in journal.read(said)}
        return {"epoch": run.epoch, "status": run.status, "turns": turns, "events": events}


@pytest.fixture
def stand(memory: str, tmp_path: Path) -> Stand:
    return Stand(memory, tmp_path)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], dict[str, Any]]:
    """What one process makes of it on SQLite: output lines, and the journal."""
    folder = tmp_path_factory.mktemp("alone")
    stand = Stand(str(folder / "journal.db"), folder)
    result = asyncio.run(stand.play(workers=None, delay=0))
    assert result.complete
    return lines(result), stand.journal()


def lines(result: PlayResult) -> list[Any]:
    return [row.to_json() for row in result]


def same(stand: Stand, result: PlayResult, alone: tuple[list[Any], dict[str, Any]]) -> dict[str, Any]:
    """Output lines, turns and events are those of one process; the journal."""
    assert lines(result) == alone[0]
    found = stand.journal()
    assert found["status"] == "done"
    assert found["events"] == alone[1]["events"]
    assert {k: row[:-1] for k, row in found["turns"].items()} == {
        k: row[:-1] for k, row in alone[1]["turns"].items()
    }
    return found


def doubled(stand: Stand, found: dict[str, Any], lost: set[int], most: int) -> None:
    """No call was made twice but those in flight of processes that were lost, and none after its commit."""
    committed = {row[0]: row[-1] for row in found["turns"].values()}
    first: dict[int, dict[str, Any]] = {}
    again = []
    for call in stand.calls():
        if (before := first.setdefault(call["seed"], call)) is not call:
            again.append(call)
            assert before["pid"] in lost, "only what a lost process had asked is asked again"
            assert call["time"] < committed[call["seed"]], "a committed turn was asked for again"
    assert len(again) <= most
    assert len(first) == len(committed) == COUNT * ROUNDS * SPEAKERS


async def until(condition: Callable[[], bool], seconds: float = 300) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        await asyncio.sleep(0.05)


def pids(stand: Stand) -> list[int]:
    """Processes that have called, the busiest first."""
    return [pid for pid, _ in Counter(call["pid"] for call in stand.calls()).most_common()]


async def test_two_nodes_come_to_what_one_process_comes_to(cluster: str, stand: Stand, alone: Any) -> None:
    found = same(stand, await stand.play(), alone)
    doubled(stand, found, set(), 0)
    assert found["epoch"] == 1
    import ray

    assert len(pids(stand)) == 2 and os.getpid() not in pids(stand)
    nodes = {actor["Address"]["NodeID"] for actor in ray._private.state.actors().values()}
    assert len(nodes) == 2
    again = await stand.play()  # nothing is left to play, and nothing is asked again
    assert lines(again) == alone[0] and len(stand.calls()) == COUNT * ROUNDS * SPEAKERS


async def test_a_killed_worker_loses_and_doubles_nothing(cluster: str, stand: Stand, alone: Any) -> None:
    playing = asyncio.create_task(stand.play(delay=0.3))
    await until(lambda: len(pids(stand)) == 2 and len(stand.calls()) > 30)
    victim = pids(stand)[0]
    os.kill(victim, signal.SIGKILL)
    found = same(stand, await playing, alone)
    doubled(stand, found, {victim}, most=4 * SPEAKERS)
    assert found["epoch"] == 2, "what was lost was played again under the next epoch"
    assert len(pids(stand)) == 3, "another worker took the place"


async def test_a_worker_that_is_only_thought_lost_is_refused(
    cluster: str, stand: Stand, alone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver is cut off from a worker, which is still playing when its episode is played again."""
    asked, cut = workers.Crew._ask, dict[str, Any]()

    async def ask(self: workers.Crew, place: workers.Place, verb: str, *given: Any) -> Any:
        if verb == "play" and not cut and given[0] == COUNT - 1:
            cut["actor"] = place.actor
            await asyncio.sleep(1)  # the others of its time are over when it has half of its turns
            cut["said"] = cut["actor"].play.remote(*given)
            place.actor = place.begun = None
            place.prepared = set()
            raise workers.WorkerLost("cut off")
        if cut and place.actor is cut["actor"]:
            raise workers.WorkerLost("cut off")
        return await asked(self, place, verb, *given)

    monkeypatch.setattr(workers.Crew, "_ask", ask)
    found = same(stand, await stand.play(delay=1), alone)
    assert found["epoch"] == 2
    with pytest.raises(StaleEpoch):
        await cut["said"]
    with Journal.open(stand.memory) as journal:
        epochs = {row.epoch for row in journal.read(select(Turn.epoch))}
    assert epochs == {1, 2}
    import ray

    ray.kill(cut["actor"])


async def test_a_driver_whose_sessions_are_cut_has_its_lock_again(
    cluster: str, stand: Stand, alone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes nothing while workers play, and a lock is looked after when something was written."""
    monkeypatch.setattr(lock, "KEEP_S", 0.5)
    playing = asyncio.create_task(stand.play(delay=0.5))
    await until(lambda: len(stand.calls()) > 10)
    with Journal.open(stand.memory) as journal:
        ended = text(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        with journal.engine.connect() as connection:
            assert connection.execute(ended).scalar_one() > 2

        def refused() -> bool:
            try:
                lock.acquire(journal.engine, RUN).release()
            except RunLocked as told:
                return f"by process {os.getpid()} on" in str(told)
            return False

        await asyncio.sleep(1.5)  # in its time, and not in ours
        await until(refused, 10)
        assert not playing.done()
    found = same(stand, await playing, alone)
    doubled(stand, found, set(), 0)
    assert found["epoch"] == 1


async def test_an_episode_that_kills_its_workers_fails_alone(cluster: str, stand: Stand, alone: Any) -> None:
    """One worker: all that are played beside it are lost with it, and again when they are tried again."""
    poison = {row[0] for key, row in alone[1]["turns"].items() if key[0] == "q3"}
    killed: set[int] = set()

    async def hunt() -> None:
        while True:
            for call in stand.calls():
                if call["seed"] in poison and call["pid"] not in killed:
                    killed.add(call["pid"])
                    os.kill(call["pid"], signal.SIGKILL)
            await asyncio.sleep(0.02)

    hunter = asyncio.create_task(hunt())
    try:
        result = await stand.play(workers="ray:1", delay=0.4, count=8)
    finally:
        hunter.cancel()
    wanted = [row for row in alone[0][:8] if row["task_id"] != "q3"]
    assert [row for row in lines(result) if row["task_id"] != "q3"] == wanted
    [row] = [row for row in result if row.task_id == "q3"]
    assert row.status == "failed" and "the worker that played it was lost, 3 times" in str(row.error)
    assert len(killed) == 3 and stand.journal()["status"] == "failed"


DRIVER = """
import asyncio, sys
sys.path.insert(0, sys.argv[3])
import test_ray
from pathlib import Path
result = asyncio.run(test_ray.Stand(sys.argv[1], Path(sys.argv[2])).play(delay=0.3))
sys.exit(0 if result.complete else 1)
"""


async def test_a_killed_driver_is_gone_on_from(cluster: str, stand: Stand, alone: Any) -> None:
    here = str(Path(__file__).parent)
    environment = {**os.environ, "RAY_ADDRESS": cluster}
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, stand.memory, str(stand.log.parent), here], env=environment
    )
    await until(lambda: len(pids(stand)) == 2 and len(stand.calls()) > 30)
    driver.kill()
    driver.wait()
    outlived = set(pids(stand))
    found = same(stand, await stand.play(), alone)
    doubled(stand, found, outlived, most=8 * SPEAKERS)
    assert found["epoch"] == 2
    await until(lambda: not any(psutil.pid_exists(pid) for pid in outlived), 60)


def command(stand: Stand, *words: str, tasks: Path) -> list[str]:
    given = ["--tasks", str(tasks), "--engine", stand.spec(0.3), "--set", f"rounds={ROUNDS}", "--seed", "5"]
    given = given if words[0] == "play" else []
    return [
        *(sys.executable, "-m", "sparring", *words, *given),
        *("--memory", stand.memory, "--workers", "ray:2", "--concurrency", "8", "--quiet"),
    ]


def test_ctrl_c_stops_the_workers_of_a_cluster_of_our_own(stand: Stand, alone: Any, tmp_path: Path) -> None:
    """No cluster is there, so one is started: on loopback, without a dashboard, and gone afterwards."""
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text("".join(json.dumps(task) + "\n" for task in TASKS))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    first = subprocess.Popen(
        command(stand, "play", "du", "--run", RUN, tasks=tasks),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    asyncio.run(until(lambda: len(stand.calls()) > 30))
    processes = psutil.Process(first.pid).children(recursive=True)
    names = {Path(process.exe()).name for process in processes if process.is_running()}
    assert {"raylet", "gcs_server"} <= names
    listening = [
        found.laddr
        for process in processes
        for found in process.net_connections("inet")
        if found.status == "LISTEN"
    ]
    loopback = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
    assert listening and all(at.ip in loopback for at in listening), listening
    boards = [words for process in processes if "dashboard.py" in " ".join(words := process.cmdline())]
    assert all("--disable-frontend" in words for words in boards)  # Ray keeps the process for other ends
    first.send_signal(signal.SIGINT)
    said, errors = first.communicate(timeout=120)
    assert first.returncode == 130 and said == "" and "continue with `sparring resume" in errors, errors
    assert stand.journal()["status"] == "interrupted"
    assert not [process for process in processes if process.is_running() and process.status() != "zombie"]
    done = subprocess.run(
        command(stand, "resume", RUN, tasks=tasks), env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == alone[0]
    doubled(stand, stand.journal(), set(pids(stand)[:]), most=8 * SPEAKERS)


async def test_what_cannot_work_leaves_no_run(cluster: str, stand: Stand) -> None:
    planned = plan("du", TASKS, engine=f"scripted:{stand.log.parent / 'none.jsonl'}")
    with pytest.raises(UserError, match="no such file either"):
        await aplay(planned, stand.memory, run=RUN, workers="ray:2")
    with Journal.open(stand.memory) as journal:
        assert journal.read(select(Run.id)) == []


async def test_workers_that_cannot_be_had_are_said_before_there_is_a_run(
    cluster: str, stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as other:
        other.setattr(workers, "code", lambda: "0.0.9 (1234)")
        with pytest.raises(UserError, match=r"has Sparring .*, the driver 0.0.9 \(1234\): install the same"):
            await stand.play()
    monkeypatch.setattr(workers, "START_S", 0.01)
    with pytest.raises(workers.NoWorkers, match=r"did not start: no answer in 0.01 s; Ray's logs say more"):
        await stand.play()
    with Journal.open(stand.memory) as journal:
        assert journal.read(select(Run.id)) == []


async def test_a_place_where_no_other_worker_starts_is_closed(
    cluster: str, stand: Stand, alone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a machine comes back with another Sparring, or the server has no connection left for it."""
    begin, crews = workers.Crew.begin, list[workers.Crew]()

    def noted(self: workers.Crew, run: Any) -> None:
        crews.append(self)
        begin(self, run)

    monkeypatch.setattr(workers.Crew, "begin", noted)
    playing = asyncio.create_task(stand.play(delay=0.3))
    await until(lambda: len(pids(stand)) == 2 and len(stand.calls()) > 20)
    crews[0]._opening = (*crews[0]._opening[:-1], "0.0.9 (1234)")
    victim = pids(stand)[0]
    os.kill(victim, signal.SIGKILL)
    doubled(stand, same(stand, await playing, alone), {victim}, most=4 * SPEAKERS)
    assert sorted(place.misses for place in crews[0].places) == [0, workers.TRIES]


async def test_failures_are_data_and_a_pool_is_drawn_beside(cluster: str, stand: Stand) -> None:
    """A scripted engine that breaks on one question; and the baseline on the same workers."""
    script = stand.log.parent / "script.jsonl"
    script.write_text(
        '{"match": "What is 3", "error": "engine_error"}\n{"replies": ["Answer: 1", "Answer: 2"]}\n'
    )
    engine = f"scripted:{script}?tries=1"
    planned = plan("du", TASKS[:6], engine=engine, rounds=ROUNDS, seed=5, baseline=True)
    found = {}
    for workers_, memory in ((None, "sqlite://"), ("ray:2", stand.memory)):
        result = await aplay(planned, memory, run=RUN, concurrency=4, workers=workers_)
        assert [row.status for row in result] == ["done"] * 3 + ["failed"] + ["done"] * 2
        told = lines(result)
        assert "engine error, as its rule says" in told[3].pop("error")  # of whichever call failed first
        found[workers_] = told, result.baseline_failed
    assert found[None] == found["ray:2"] and found[None][1] == 0

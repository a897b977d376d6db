"""A run goes on from the journal alone: after failures, interruptions, changed prompts and lost policies."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sparring.agents.engines.base import Request
from sparring.agents.engines.scripted import ScriptedEngine, digest
from sparring.errors import EngineError, EngineTimeout, ReplayDiverged, UserError
from sparring.graphs.context import Limits
from sparring.graphs.play import aplay, plan, play, resume

TASKS = [{"id": f"q{n}", "question": f"What is {n} plus {n}?", "answer": str(2 * n)} for n in range(4)]
SEATED = "JOIN episodes ON turns.episode_number = episodes.number JOIN tasks ON task_id = tasks.id"


class Script:
    """Replies that depend on request and seed; from call `fail_from` on, `error` is raised instead."""

    def __init__(self, error: BaseException | None = None, fail_from: int = 0, base: str = "v1") -> None:
        self.error, self.fail_from, self.base = error, fail_from, base
        self.calls = 0
        self.seeds: list[int] = []

    async def __call__(self, request: Request, seed: int) -> str:
        self.calls += 1
        if self.error is not None and self.calls > self.fail_from:
            raise self.error
        await asyncio.sleep(0.001)
        self.seeds.append(seed)
        return f"{digest(request, seed):x}\nAnswer: {digest(request, seed) % 10}"

    @property
    def engine(self) -> ScriptedEngine:
        """An engine whose weights are called `base`."""
        engine = ScriptedEngine(self)
        engine._base = self.base
        return engine


def rows(memory: Path, query: str) -> list[tuple[Any, ...]]:
    """What a query of the journal file gives, through a connection of its own."""
    connection = sqlite3.connect(memory)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def contents(memory: Path) -> list[tuple[Any, ...]]:
    """Every final turn by its place: seed, fingerprint, text, and every event."""
    turns = (
        f"SELECT tasks.name, copy, key, seed, fingerprint, content FROM turns {SEATED} "
        "JOIN messages ON output_id = messages.id WHERE final = 1 ORDER BY 1, 2, 3"
    )
    events = f"SELECT tasks.name, copy, kind, key, payload FROM events AS turns {SEATED} ORDER BY 1, 2, 3, 4"
    return [*rows(memory, turns), *rows(memory, events)]


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def undisturbed(tmp_path: Path) -> list[tuple[Any, ...]]:
    """What the journal of `du` over the tasks holds when nothing goes wrong."""
    play("du", TASKS, engine=Script().engine, memory=tmp_path / "undisturbed.db")
    return contents(tmp_path / "undisturbed.db")


def test_resume_needs_nothing_but_the_journal(memory: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.jsonl"
    script.write_text(json.dumps({"replies": ["Answer: 1", "Answer: 2"]}))
    options = {"engine": f"scripted:{script}", "rounds": 3, "temperature": 0.5, "copies": 2, "seed": 5}
    played = play("du", TASKS, memory=memory, run="r", limits=Limits(calls=100), **options)
    turns = rows(memory, "SELECT count(*), max(id) FROM turns")
    again = resume("r", memory)
    assert again.results == played.results and again.complete
    assert rows(memory, "SELECT count(*), max(id) FROM turns") == turns
    assert rows(memory, "SELECT epoch, status FROM runs") == [(2, "done")]


def test_an_unknown_run_is_named_with_those_that_exist(memory: Path) -> None:
    play("sample", TASKS, engine="scripted:hash", memory=memory, run="mine")
    with pytest.raises(UserError, match=r"unknown run `yours`.*mine"):
        resume("yours", memory)


@pytest.mark.parametrize("error", [EngineError("down"), EngineTimeout("slow")])
def test_what_the_world_broke_is_tried_again_as_a_new_attempt(memory: Path, error: EngineError) -> None:
    broken, mended = Script(error, fail_from=7), Script()
    first = play("du", TASKS, engine=broken.engine, memory=memory, concurrency=1)
    assert [line.status for line in first] == ["done", "failed", "failed", "failed"] and not first.complete
    failed = rows(memory, f"SELECT name, key, attempt, seed FROM turns {SEATED} WHERE final = 0")
    assert failed
    second = play("du", TASKS, engine=mended.engine, memory=memory, concurrency=1)
    assert second.complete and second.run == first.run
    tried: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
    query = f"SELECT name, key, attempt, seed, final, output_id FROM turns {SEATED} ORDER BY attempt"
    for name, key, *attempt in rows(memory, query):
        tried.setdefault((name, key), []).append(tuple(attempt))
    assert len(tried) == 4 * 6
    for name, key, _, _ in failed:
        attempts = tried[name, key]
        assert [a[0] for a in attempts] == [0, 1] and [a[2] for a in attempts] == [0, 1]
        assert attempts[0][1] != attempts[1][1], "another attempt has another seed"
        assert attempts[0][3] is None and attempts[1][3] is not None
    made = sum(a[2] for attempts in tried.values() for a in attempts)
    assert made == 24 and mended.calls == 24 - len(broken.seeds)
    attempts_of = Counter(name for (name, _), attempts in tried.items() for _ in attempts)
    assert {line.task_id: line.calls for line in second} == attempts_of


@pytest.mark.parametrize("error", [UserError("the key is wrong"), KeyboardInterrupt()])
@pytest.mark.parametrize("fail_from", [0, 4, 11])
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(
    memory: Path, undisturbed: list[tuple[Any, ...]], error: BaseException, fail_from: int
) -> None:
    stopped, rest = Script(error, fail_from), Script()
    with pytest.raises(type(error)):
        play("du", TASKS, engine=stopped.engine, memory=memory, concurrency=2)
    said = rows(memory, "SELECT seed FROM turns WHERE final = 1")
    assert rows(memory, "SELECT count(*) FROM turns WHERE final = 0") == [(0,)]
    result = play("du", TASKS, engine=rest.engine, memory=memory, concurrency=2)
    assert result.complete
    assert contents(memory) == undisturbed
    assert not {seed for (seed,) in said} & set(rest.seeds), "a committed turn was called again"
    assert len(said) + len(rest.seeds) == 24


def test_ctrl_c_keeps_what_is_done(memory: Path, undisturbed: list[tuple[Any, ...]]) -> None:
    script = Script()

    async def interrupted(request: Request, seed: int) -> str:
        if script.calls == 13:
            signal.raise_signal(signal.SIGINT)
        return await script(request, seed)

    interrupted.__qualname__ = Script.__qualname__
    with pytest.raises(KeyboardInterrupt):
        play("du", TASKS, engine=ScriptedEngine(interrupted), memory=memory, concurrency=1)
    assert rows(memory, "SELECT status FROM runs") == [("interrupted",)]
    assert rows(memory, "SELECT count(*) FROM episodes WHERE status = 'done'")[0][0] >= 2
    assert len(rows(memory, "SELECT id FROM turns")) >= 12


async def test_a_cancelled_run_keeps_what_is_done(memory: Path, undisturbed: list[tuple[Any, ...]]) -> None:
    running, rest = Script(), Script()
    task = asyncio.create_task(aplay(plan("du", TASKS, engine=running.engine), memory, concurrency=2))
    while running.calls < 9:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert rows(memory, "SELECT status FROM runs") == [("interrupted",)]
    kept = {seed for (seed,) in rows(memory, "SELECT seed FROM turns")}
    assert kept
    result = await aplay(plan("du", TASKS, engine=rest.engine), memory)
    assert result.complete and contents(memory) == undisturbed
    assert not kept & set(rest.seeds)


def test_a_changed_prompt_diverges_and_names_key_and_field(memory: Path, tmp_path: Path) -> None:
    prompt = tmp_path / "mine.md"
    prompt.write_text("{% block question %}{{ question }} {{ instruction }}{% endblock %}")
    call: dict[str, Any] = {"prompts": {"solver": str(prompt)}, "memory": memory, "run": "r"}
    stopped = Script(UserError("stop"), fail_from=1)
    with pytest.raises(UserError, match="stop"):
        play("sample", TASKS, n=1, engine=stopped.engine, concurrency=1, **call)
    before = rows(memory, "SELECT * FROM turns"), rows(memory, "SELECT * FROM messages")
    assert len(before[0]) == 1
    reopen(memory)
    prompt.write_text("{% block question %}Please: {{ question }} {{ instruction }}{% endblock %}")
    with pytest.raises(ReplayDiverged, match=r"`sample/0`.*`messages`|`sample/0`.*`prompt`"):
        play("sample", TASKS, n=1, engine=Script().engine, concurrency=1, **call)
    assert (rows(memory, "SELECT * FROM turns"), rows(memory, "SELECT * FROM messages")) == before


def reopen(memory: Path) -> None:
    """As a kill between the last turn and the episode's close leaves it."""
    connection = sqlite3.connect(memory)
    with connection:
        connection.execute("UPDATE episodes SET status = 'open', outcome = NULL, finished_at = NULL")
        connection.execute("DELETE FROM events")
    connection.close()


def test_a_resumed_episode_keeps_its_policy_versions(memory: Path) -> None:
    """New weights under the same name: what was begun with the old ones is never mixed with them."""
    with pytest.raises(UserError):
        play("du", TASKS, engine=Script(UserError("stop"), 9).engine, memory=memory, concurrency=1)
    begun = rows(memory, f"SELECT DISTINCT name FROM turns {SEATED} ORDER BY 1")
    assert begun == [("q0",), ("q1",)]
    result = play("du", TASKS, engine=Script(base="v2").engine, memory=memory, concurrency=1)
    assert result.complete and [line.task_id for line in result] == ["q0", "q1", "q2", "q3"]
    seats = (
        "SELECT name, copy, episodes.status, count(DISTINCT policy_version_id), max(base_hash), count(*) "
        f"FROM turns {SEATED} JOIN policy_versions v ON policy_version_id = v.id GROUP BY 1, 2, 3"
    )
    found = rows(memory, seats)
    assert ("q0", 0, "done", 1, "v1", 6) in found
    assert ("q1", 0, "abandoned", 1, "v1", 3) in found
    assert ("q1", 1, "done", 1, "v2", 6) in found
    assert ("q2", 0, "done", 1, "v2", 6) in found
    again = Script(base="v2")
    assert play("du", TASKS, engine=again.engine, memory=memory).results == result.results
    assert again.calls == 0


def test_an_abandoned_copy_never_takes_another_copys_place(memory: Path) -> None:
    with pytest.raises(UserError):
        play("du", TASKS[:2], copies=2, engine=Script(UserError("stop"), 2).engine, memory=memory)
    result = play("du", TASKS[:2], copies=2, engine=Script(base="v2").engine, memory=memory)
    assert result.complete and len(result) == result.expected == 4
    assert len({(line.task_id, line.copy) for line in result}) == 4
    assert {row[0] for row in rows(memory, "SELECT copy FROM episodes WHERE status = 'done'")} <= {0, 1, 2, 3}


def test_an_adapter_that_is_gone_abandons_and_one_that_is_there_stays(memory: Path, tmp_path: Path) -> None:
    """`pinned`: the version an episode began with decides, not the one that is served now."""
    from types import SimpleNamespace

    from sparring.agents.engines.base import PolicyVersion
    from sparring.agents.roles import Agent
    from sparring.graphs.cast import pinned
    from sparring.graphs.catalogue import make_protocol

    role = make_protocol("sample").seats()["solver"]
    agent = Agent(role, Script().engine, PolicyVersion("p", 1, "v1", str(tmp_path), "h1"), version_id=9)
    old = {"policy": "p", "number": 0, "base_hash": "v1", "adapter_path": str(tmp_path), "adapter_hash": "h0"}

    def held(**other: Any) -> Agent | None:
        row = SimpleNamespace(**{**old, **other})
        return pinned(agent, 3, SimpleNamespace(version_row=lambda _: row))  # type: ignore[arg-type]  # only this method is asked

    assert pinned(agent, 9, None) is agent  # type: ignore[arg-type]  # the served version needs no journal
    kept = held()
    assert kept is not None and (kept.version_id, kept.version.number, kept.version.adapter_hash) == (
        3,
        0,
        "h0",
    )
    assert held(adapter_path=str(tmp_path / "gone")) is None
    assert held(base_hash="v0") is None
    assert held(policy="q") is None


def test_caps_count_replayed_turns(memory: Path) -> None:
    limits = Limits(calls=6)
    with pytest.raises(UserError):
        play(
            "du",
            TASKS[:1],
            rounds=4,
            limits=limits,
            engine=Script(UserError("stop"), 3).engine,
            memory=memory,
        )
    rest = Script()
    result = play("du", TASKS[:1], rounds=4, limits=limits, engine=rest.engine, memory=memory)
    assert result[0].status == "capped" and result.complete
    assert result[0].calls == 6 and rest.calls == 3

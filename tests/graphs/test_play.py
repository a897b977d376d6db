"""`play`, `plan`: what a run does, what the journal holds of it, and what is refused before it begins."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import sqlite3
import threading
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from sparring.agents.engines.base import Request
from sparring.agents.engines.registry import EnginePool
from sparring.agents.engines.scripted import ScriptedEngine, digest
from sparring.errors import EngineError, EngineTimeout, UserError
from sparring.graphs.context import Context, Limits
from sparring.graphs.play import Play, PlayResult, aplay, aresume, plan, play, resume
from sparring.graphs.report import report
from sparring.memory.journal import Journal
from sparring.memory.records import TaskRecord
from sparring.memory.schema import Run
from sparring.tools.equality import equality

TASKS = [{"id": f"q{n}", "question": f"What is {n} plus {n}?", "answer": str(2 * n)} for n in range(4)]


class Script:
    """An engine's replies, counted: an answer that depends on request and seed, after a short wait."""

    def __init__(self, delay_s: float = 0.0, padding: str = "") -> None:
        self.calls: list[Request] = []
        self.delay_s, self.padding = delay_s, padding

    async def __call__(self, request: Request, seed: int) -> str:
        self.calls.append(request)
        await asyncio.sleep(self.delay_s)
        return f"{self.padding}{digest(request, seed):x}\nAnswer: {digest(request, seed) % 10}"

    @property
    def engine(self) -> ScriptedEngine:
        return ScriptedEngine(self)


def rows(memory: Path, query: str) -> list[tuple[Any, ...]]:
    """What a query of the journal file gives, through a connection of its own."""
    connection = sqlite3.connect(memory)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


PLACED = "JOIN episodes ON episode_number = episodes.number JOIN tasks ON task_id = tasks.id"
TURNS = f"""SELECT tasks.name, copy, turns.key, attempt, seed, turns.status, fingerprint, content
    FROM turns {PLACED.replace("episode_number", "turns.episode_number")}
    LEFT JOIN messages ON output_id = messages.id ORDER BY 1, 2, 3, 4"""
EVENTS = f"SELECT tasks.name, copy, kind, events.key, payload FROM events {PLACED} ORDER BY 1, 2, 3, 4"


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def test_results_come_in_task_order_whoever_finishes_first(memory: Path) -> None:
    async def slow_first(request: Request, seed: int) -> str:
        number = int(str(request.messages[0]["content"]).split()[2])
        await asyncio.sleep(0.02 * (3 - number))
        return f"Answer: {2 * number}"

    result = play("sample", TASKS, engine=ScriptedEngine(slow_first), memory=memory)
    assert [line.task_id for line in result] == ["q0", "q1", "q2", "q3"]
    assert [line.answer for line in result] == ["0", "2", "4", "6"]
    assert all(line.correct and line.status == "done" and line.calls == 1 for line in result)
    assert all(line.prompt_tokens > 0 and line.completion_tokens > 0 for line in result)
    assert result.complete and len(result) == result.expected == 4
    closed = rows(memory, "SELECT name FROM episodes JOIN tasks ON task_id = tasks.id ORDER BY finished_at")
    assert [name for (name,) in closed] == ["q3", "q2", "q1", "q0"]


def test_the_same_call_again_makes_no_call(memory: Path) -> None:
    script = Script()
    first = play("du", TASKS, engine=script.engine, memory=memory)
    made = len(script.calls)
    again = play("du", TASKS, engine=script.engine, memory=memory)
    assert made == 4 * 6 and len(script.calls) == made
    assert (again.run, again.results, again.complete) == (first.run, first.results, True)


def test_an_open_journal_is_played_into_and_left_open(tmp_path: Path) -> None:
    script = Script()
    with Journal.open(":memory:") as journal:
        first = play("sample", TASKS, engine=script.engine, memory=journal, run="r")
        assert play("sample", TASKS, engine=script.engine, memory=journal, run="r").results == first.results
        assert len(script.calls) == len(TASKS)
        assert journal.run_row("r").status == "done"
        with pytest.raises(UserError, match="open with durability `full`, not `normal`"):
            play("sample", TASKS, engine=script.engine, memory=journal, run="r", durability="normal")
    with pytest.raises(UserError, match="the journal is closed"):
        play("sample", TASKS, engine=script.engine, memory=journal, run="other")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("other", "field"),
    [
        ({"seed": 1}, "seed"),
        ({"copies": 2}, "copies"),
        ({"agents": 2}, "options"),
        ({"temperature": 0.5}, "sampling"),
        ({"limits": Limits(calls=3)}, "limits"),
        ({"roles": {"solver": "scripted:echo"}}, "roles"),
        ({"engine": "scripted:echo"}, "engine"),
        ({"tasks": TASKS[:2]}, "tasks"),
        ({"protocol": "sample"}, "protocol"),
    ],
)
def test_another_play_under_the_same_name_is_refused_and_names_the_field(
    memory: Path, other: dict[str, Any], field: str
) -> None:
    call: dict[str, Any] = {"protocol": "du", "tasks": TASKS[:1], "engine": "scripted:hash"}
    play(**call, memory=memory, run="mine")
    before = rows(memory, TURNS)
    with pytest.raises(UserError, match=rf"run `mine` exists with another .*\b{field}\b"):
        play(**{**call, **other}, memory=memory, run="mine")
    assert rows(memory, TURNS) == before


def test_a_run_goes_on_with_an_engine_that_may_hold_more_or_wait_less(memory: Path) -> None:
    call: dict[str, Any] = {"protocol": "du", "tasks": TASKS[:1], "memory": memory}
    begun = play(**call, engine="scripted:hash?delay_s=0.01", roles={"solver.1": "scripted:echo?delay_s=0"})
    before = rows(memory, TURNS)
    again = play(**call, engine="scripted:hash", roles={"solver.1": "scripted:echo?delay_s=0.02"})
    assert (again.run, rows(memory, TURNS)) == (begun.run, before)
    other = play(**call, engine="scripted:hash", roles={"solver.1": "scripted:hash"})
    assert other.run != begun.run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": []}, "no tasks"),
        ({"copies": 0}, "copies"),
        ({"engine": None}, "has no engine"),
        ({"roles": {"judge": "scripted:hash"}}, "unknown role"),
        ({"rounds": 0}, "rounds"),
        ({"rouns": 1}, "unknown option"),
        ({"temperature": "warm"}, "no number"),
        ({"tasks": [{"id": "a", "question": "q", "check": "code", "answer": "1"}]}, "`code` task|sandbox"),
    ],
)
def test_a_wrong_call_is_refused_before_there_is_a_journal(
    memory: Path, options: dict[str, Any], message: str
) -> None:
    call: dict[str, Any] = {"tasks": TASKS, "engine": "scripted:hash"}
    with pytest.raises(UserError, match=message):
        play("du", memory=memory, **{**call, **options})
    assert not memory.exists()


def test_copies_are_episodes_of_their_own(memory: Path) -> None:
    result = play("sample", TASKS[:2], engine=Script().engine, copies=3, memory=memory)
    assert [(line.task_id, line.copy) for line in result] == [(f"q{t}", c) for t in (0, 1) for c in range(3)]
    assert result.expected == 6 and result.complete
    texts = [row[-1] for row in rows(memory, TURNS)]
    assert len(set(texts)) == 6


async def test_four_copies_over_two_iterations_have_eight_sets_of_seeds(memory: Path) -> None:
    plan_ = plan("du", TASKS[:1], engine=Script().engine)
    with Journal.open(memory) as journal:
        run = journal.drive("r", kind="play", protocol="du", config={}, seed=0)
        async with EnginePool() as pool:
            cast = plan_.cast()
            agents = await cast.agents(pool, journal)
            for iteration in range(2):
                for copy in range(4):
                    episode = run.episode(plan_.tasks[0], iteration, copy, seats={})
                    await cast.protocol.run("Who?", Context(episode, agents, equality("exact")))
        run.release()
    found = rows(
        memory, "SELECT iteration, copy, seed FROM turns JOIN episodes ON episode_number = episodes.number"
    )
    sets = {
        place: {seed for *where, seed in found if tuple(where) == place}
        for place in {row[:2] for row in found}
    }
    assert len(sets) == 8 and all(len(seeds) == 6 for seeds in sets.values())
    assert len(set().union(*sets.values())) == 48


def test_the_run_seed_changes_every_seed(tmp_path: Path) -> None:
    seeds = []
    for seed in (0, 1):
        play("du", TASKS[:1], engine=Script().engine, seed=seed, memory=tmp_path / f"{seed}.db")
        seeds.append({row[4] for row in rows(tmp_path / f"{seed}.db", TURNS)})
    assert not seeds[0] & seeds[1]


@pytest.mark.parametrize("protocol", ["du", "mad", "reconcile", "sample"])
def test_concurrency_changes_nothing_in_the_journal(tmp_path: Path, protocol: str) -> None:
    async def reply(request: Request, seed: int) -> str:
        value = digest(request, seed)
        await asyncio.sleep(value % 5 / 1000)
        said = {"preference": "No", "side": "none", "reason": f"{value}", "reasoning": "", "confidence": 0.5}
        said |= {"answer": str(value % 3), "candidates": ["1"]}
        return f"{json.dumps(said)}\nAnswer: {value % 3}"

    journals = []
    for concurrency in (1, 64):
        memory = tmp_path / f"{concurrency}.db"
        result = play(
            protocol, TASKS, engine=ScriptedEngine(reply), memory=memory, concurrency=concurrency, copies=2
        )
        assert result.complete
        journals.append((rows(memory, TURNS), rows(memory, EVENTS)))
    assert len(journals[0][0]) >= 8
    assert journals[0] == journals[1]


def test_one_failing_episode_does_not_stop_the_others(memory: Path) -> None:
    def reply(request: Request, seed: int) -> str:
        if "What is 2 " in str(request.messages[0]["content"]):
            raise EngineError("the server is on fire")
        return "Answer: 0"

    result = play("sample", TASKS, engine=ScriptedEngine(reply), memory=memory)
    assert [line.status for line in result] == ["done", "done", "failed", "done"]
    assert not result.complete
    assert "the server is on fire" in str(result[2].error)
    assert result[2].correct is None and result[2].calls == 1
    assert rows(memory, "SELECT status FROM runs") == [("failed",)]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (EngineTimeout("too slow"), "timeout"),
        (EngineError("broken"), "engine_error"),
        (KeyError("x"), "engine_error"),
    ],
)
def test_the_worlds_fault_is_a_turn_without_text(memory: Path, error: Exception, status: str) -> None:
    def reply(request: Request, seed: int) -> str:
        raise error

    result = play("sample", TASKS[:1], engine=ScriptedEngine(reply), memory=memory)
    assert result[0].status == "failed" and result[0].answer is None
    assert rows(memory, "SELECT status, output_id, final, parsed, completion_ids FROM turns") == [
        (status, None, 0, None, None)
    ]
    assert rows(memory, "SELECT count(*) FROM events") == [(0,)]


@pytest.mark.parametrize("failure", [EngineError("the backend is gone"), UserError("no such key")])
def test_the_calls_beside_one_that_fails_are_journaled(memory: Path, failure: Exception) -> None:
    made: list[str] = []

    def speaker(name: str, broken: bool = False) -> ScriptedEngine:
        async def answer(request: Request, seed: int) -> str:
            if broken and not made:
                raise failure
            await asyncio.sleep(0.2)
            made.append(name)
            return "Answer: 4"

        return ScriptedEngine(answer)

    engine, roles = speaker("a"), {"solver.1": speaker("b", broken=True), "solver.2": speaker("c")}

    def played() -> PlayResult:
        return play("du", TASKS[:1], engine=engine, roles=roles, memory=memory, rounds=1, run="mine")

    if isinstance(failure, UserError):
        with pytest.raises(UserError, match="no such key"):
            played()
    else:
        assert played()[0].status == "failed"
    assert made == ["a", "c"]
    said = rows(memory, "SELECT key FROM turns WHERE status = 'ok' ORDER BY key")
    assert said == [("0/solver.0",), ("0/solver.2",)]
    again = played()
    assert again[0].status == "done" and made == ["a", "c", "b"]


def test_an_engine_that_does_not_answer_in_time_is_a_timeout(memory: Path) -> None:
    result = play("sample", TASKS[:1], engine="scripted:hash?delay_s=5&timeout=0.05", memory=memory)
    assert result[0].status == "failed"
    assert rows(memory, "SELECT status, output_id FROM turns") == [("timeout", None)]


@pytest.mark.parametrize(
    ("limits", "cap", "calls"),
    [
        (Limits(calls=4), "4 calls", 4),
        (Limits(tokens=100), "100 tokens", 3),
        (Limits(seconds=1.0), "1.0 seconds", 3),
        (Limits(cost=0.0001), "0.0001 cost", 3),
    ],
)
def test_a_cap_ends_the_episode(memory: Path, limits: Limits, cap: str, calls: int) -> None:
    from sparring.agents.engines.registry import make_engine

    engine = make_engine(Script(delay_s=1.0 if limits.seconds else 0).engine, price_out=10.0)
    result = play("du", TASKS[:2], engine=engine, limits=limits, memory=memory)
    for line in result:
        assert line.status == "capped" and cap in str(line.error)
        assert line.answer is None and line.correct is False  # no answer counts as wrong
        assert 3 <= line.calls <= calls
    assert result.complete
    assert play("du", TASKS[:2], engine=engine, limits=limits, memory=memory).results == result.results


def test_verdicts_keep_who_judged_what(memory: Path) -> None:
    answers = {"a": "Answer: 4.0", "b": "Answer: 5", "c": "I do not know."}
    tasks = [TaskRecord(name, f"{name}: 2 + 2", "4", "math") for name in answers]
    tasks.append(TaskRecord("d", "a: 2 + 2"))
    engine = ScriptedEngine(lambda request, seed: answers[str(request.messages[0]["content"])[0]])
    result = play("sample", tasks, engine=engine, memory=memory)
    assert [line.correct for line in result] == [True, False, False, None]
    found = rows(
        memory,
        "SELECT name, payload FROM events JOIN episodes ON episode_number = episodes.number "
        "JOIN tasks ON task_id = tasks.id WHERE kind = 'verdict' ORDER BY name",
    )
    verdicts = {name: json.loads(payload) for name, payload in found}
    assert sorted(verdicts) == ["a", "b", "c"]
    assert all(verdict["verifier"] and verdict["version"] for verdict in verdicts.values())
    assert all(verdict["reference"] == "4" for verdict in verdicts.values())
    assert verdicts["b"]["extracted"] == "5" and verdicts["c"]["extracted"] is None


def test_a_reply_that_does_not_parse_is_a_turn_and_no_crash(memory: Path) -> None:
    engine = ScriptedEngine(lambda request, seed: ("Answer", "length") if seed % 2 else "\x00\ud800 no idea")
    result = play("du", TASKS, engine=engine, memory=memory)
    assert result.complete and all(line.answer is None and line.correct is False for line in result)
    assert {row[5] for row in rows(memory, TURNS)} == {"parse_error", "truncated"}


def test_roles_can_have_engines_of_their_own(memory: Path) -> None:
    def named(name: str) -> ScriptedEngine:
        engine = ScriptedEngine(
            lambda request, seed: f"I am {name}. Answer: 1\nAnswer: {name}", ids=name != "c"
        )
        engine.spec = name
        return engine

    roles = {"solver.1": named("b"), "solver.2": named("c")}
    result = play("du", TASKS[:2], engine=named("a"), roles=roles, memory=memory)
    assert result.complete
    found = rows(
        memory,
        "SELECT key, engine, policy FROM turns JOIN policy_versions v ON policy_version_id = v.id",
    )
    seats = {"solver.0": "a", "solver.1": "b", "solver.2": "c"}
    assert {(key.split("/")[1], engine, policy) for key, engine, policy in found} == {
        (s, n, n) for s, n in seats.items()
    }
    assert rows(memory, "SELECT count(*) FROM turns WHERE prompt_tail IS NULL") == [(4,)]


def test_one_engine_for_several_roles_is_one_engine(memory: Path) -> None:
    made: list[str] = []

    class Counted(ScriptedEngine):
        async def probe(self) -> None:
            made.append("probe")

    engine = Counted("hash")
    play("mad", TASKS[:1], engine=engine, roles={"judge": engine, "moderator": engine}, memory=memory)
    assert made == ["probe"]
    assert rows(memory, "SELECT count(*) FROM policies") == [(1,)]
    assert rows(memory, "SELECT count(*) FROM policy_versions") == [(1,)]


async def test_play_inside_a_running_event_loop(memory: Path) -> None:
    results = await asyncio.gather(
        *(
            aplay(plan("du", TASKS, engine=Script(0.001).engine, seed=seed), memory, run=f"r{seed}")
            for seed in range(3)
        )
    )
    assert all(isinstance(result, PlayResult) and result.complete for result in results)
    assert rows(memory, "SELECT count(*) FROM turns") == [(3 * 4 * 6,)]


def test_progress_ends_complete(memory: Path) -> None:
    seen = []
    asyncio.run(aplay(plan("du", TASKS, engine=Script(0.01).engine), memory, on_progress=seen.append))
    assert (seen[-1].done, seen[-1].total, seen[-1].failed) == (4, 4, 0)
    assert [p.done for p in seen] == sorted(p.done for p in seen)


@pytest.mark.parametrize("episodes", [700, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_episodes_need_no_more_memory_than_a_few(memory: Path, episodes: int) -> None:
    """Texts of 20 kB: to hold on to those of the last 600 episodes would take 12 MB and more. The hashes of
    some 256 texts are cached by text, and each of 16 in flight may have its text four times."""
    held, calls = [], Counter[str]()

    def reply(request: Request, seed: int) -> str:
        calls["all"] += 1
        if calls["all"] == 100:
            tracemalloc.start(1)
        elif calls["all"] == episodes:
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
            tracemalloc.stop()
        return f"{calls['all']}{'x' * 20_000}\nAnswer: 1"

    tasks = [{"id": str(n), "question": f"{n}?"} for n in range(episodes)]
    result = play("sample", tasks, engine=ScriptedEngine(reply, ids=False), memory=memory, concurrency=16)
    assert result.complete and len(result) == episodes
    assert len(held) == 1 and held[0] < 20_000 * (256 + 4 * 16) + 3e6


def test_nothing_is_left_running(memory: Path) -> None:
    before = set(threading.enumerate())
    play("du", TASKS, engine=Script().engine, memory=memory)
    assert set(threading.enumerate()) <= before
    assert sorted(path.name for path in memory.parent.iterdir()) == ["journal.db"]


def test_the_default_name_is_the_play(memory: Path) -> None:
    one: Play = plan("du", TASKS, engine="scripted:hash")
    same = plan("du", [TaskRecord(**task) for task in TASKS], engine="scripted:hash")
    assert one.default_name == same.default_name
    others = [
        plan("du", TASKS, engine="scripted:hash", seed=1),
        plan("du", TASKS[:3], engine="scripted:hash"),
        plan("du", TASKS, engine="scripted:echo"),
        plan("sample", TASKS, engine="scripted:hash"),
        plan("du", TASKS, engine="scripted:hash", copies=2),
    ]
    assert len({one.default_name, *(other.default_name for other in others)}) == 6


async def test_play_inside_a_running_loop_says_what_to_use(memory: Path) -> None:
    with pytest.raises(UserError, match=r"await sparring\.aplay"):
        play("sample", TASKS[:1], engine="scripted:hash", memory=memory)
    assert not memory.exists()


@pytest.mark.parametrize(
    ("tasks", "options", "says"),
    [
        (
            [{"id": "a", "question": "1?", "answer": "1"}, {"id": "a", "question": "2?", "answer": "2"}],
            {},
            "`a` is given twice",
        ),
        ([{"question": "1?", "answer": "1"}], {}, "task 0: field `id` is missing"),
        ([{"id": "a", "question": None, "answer": "1"}], {}, "task 0: `question`"),
        (["what?"], {}, "task 0: a task is a JSON object"),
        (None, {}, "a list of tasks is needed"),
        ({"id": "a", "question": "1?", "answer": "1"}, {}, "a list of tasks is needed"),
        (TASKS, {"limit": -1}, "limit -1"),
        (TASKS, {"seed": "x"}, "seed='x'"),
        (TASKS, {"seed": 1.5}, "seed=1.5"),
        (TASKS, {"limit": "3"}, "limit='3'"),
        (TASKS, {"run": 3}, "run=3"),
        (TASKS, {"concurrency": "4"}, "concurrency='4'"),
        (TASKS, {"limits": {"calls": 1}}, "sparring.Limits"),
        (TASKS, {"roles": ["judge"]}, "roles="),
    ],
)
def test_a_wrong_call_is_the_users_error_before_any_work(
    memory: Path, tasks: Any, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        play("sample", tasks, engine="scripted:hash", memory=memory, **options)
    assert not memory.exists()


async def test_within_an_event_loop_the_error_shows_the_call_that_works(memory: Path) -> None:
    with pytest.raises(UserError) as refused:
        play("sample", TASKS, engine="scripted:hash", memory=memory, run="r")
    assert "await sparring.aplay(sparring.plan(PROTOCOL, TASKS, engine=" in str(refused.value)
    planned = plan("sample", TASKS, engine="scripted:hash")
    played = await aplay(planned, memory=memory, run="r")
    assert played == await aresume("r", memory)
    assert played == await asyncio.to_thread(resume, "r", memory)


def test_a_run_begun_with_an_object_says_how_to_go_on(memory: Path) -> None:
    play("sample", TASKS[:1], engine=lambda request, seed: "Answer: 1", memory=memory, run="r")
    with pytest.raises(UserError, match="the same call"):
        resume("r", memory)


@pytest.mark.parametrize("reply", [None, b"bytes", 7])
def test_a_reply_function_that_returns_no_text_is_told_so(memory: Path, reply: Any) -> None:
    with pytest.raises(UserError, match="the reply function returned"):
        play("sample", TASKS[:1], engine=lambda request, seed: reply, memory=memory)


def test_a_run_that_only_looks_like_a_pool_is_none(memory: Path) -> None:
    play("sample", TASKS[:2], engine="scripted:hash", memory=memory, run="x", baseline=True)
    with Journal.open(memory) as journal:
        journal.execute(update(Run).where(Run.id == "x.baseline").values(parent_id=None))
        assert report(journal, "x").baseline is None


def test_what_a_script_says_by_hash_does_not_hang_on_its_folder(tmp_path: Path) -> None:
    said = []
    for folder in (tmp_path / "here", tmp_path / "there" / "and further"):
        folder.mkdir(parents=True)
        (folder / "s.jsonl").write_text(json.dumps({"replies": [f"Answer: {n}" for n in range(50)]}))
        result = play("sample", TASKS, engine=f"scripted:{folder / 's.jsonl'}", memory=folder / "j.db")
        said.append([row.answer for row in result.results])
    assert said[0] == said[1] and len(set(said[0])) > 1


def test_a_prompt_is_given_by_its_role(tmp_path: Path) -> None:
    (tmp_path / "own.md").write_text("{% block question %}Own words: {{ question }}{% endblock %}")
    own = str(tmp_path / "own.md")
    one = plan("sample", TASKS, engine="scripted:hash", **{"prompts.solver": own})
    assert one.options == plan("sample", TASKS, engine="scripted:hash", prompts={"solver": own}).options
    with pytest.raises(UserError, match="`writer`; known: solver"):
        plan("sample", TASKS, engine="scripted:hash", **{"prompts.writer": own})
    with pytest.raises(UserError, match="give it as mapping"):
        plan("sample", TASKS, engine="scripted:hash", prompts="own.md")

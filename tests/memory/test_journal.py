"""Turns by key: committed before they are returned, replayed, tried again, never doubled or mixed."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from typing import Any

import numpy as np
import pytest
from journal_helpers import AGENT, QUESTION, TASK, Model, ask, drive, made, one, python, version
from sqlalchemy import func, select, text

from sparring.errors import JournalError, ReplayDiverged, UserError
from sparring.memory.journal import Journal
from sparring.memory.records import AgentRecord, Ask, Place, Produced, TaskRecord
from sparring.memory.schema import Agent, Base, Episode, Event, Message, Run, Task, Turn


def count(journal: Journal, table: Any) -> int:
    with journal.engine.connect() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def counts(journal: Journal) -> dict[str, int]:
    journal.writer.flush()
    return {name: count(journal, table) for name, table in Base.metadata.tables.items() if name != "counters"}


async def test_a_turn_is_visible_elsewhere_the_moment_it_returns(journal: Journal, memory: str) -> None:
    episode = drive(journal).episode(TASK, seats={"s": {"agent": "a"}})
    reader = python(
        "from sparring.memory.journal import Journal\n"
        "with Journal.open(sys.argv[1]) as journal, journal.engine.connect() as connection:\n"
        "    for line in sys.stdin:\n"
        "        connection.rollback()\n"
        "        query = 'SELECT count(*) FROM turns WHERE key = ' + repr(line.strip())\n"
        "        print(connection.exec_driver_sql(query).scalar(), flush=True)\n",
        memory,
    )
    assert reader.stdin and reader.stdout
    for number in range(20):
        await one(episode, journal, f"s/{number}")
        reader.stdin.write(f"s/{number}\n")
        reader.stdin.flush()
        assert reader.stdout.readline() == "1\n"
    _, errors = reader.communicate(timeout=20)
    assert reader.returncode == 0, errors


async def test_keys_of_one_request_are_one_call(journal: Journal) -> None:
    episode, model = drive(journal).episode(TASK, seats={}), Model()
    turns = await episode.turns(["s/0", "s/1", "s/2"], ask(journal), model)
    assert [len(call) for call in model.calls] == [3]
    assert [turn.key for turn in turns] == ["s/0", "s/1", "s/2"]
    assert len({turn.text for turn in turns}) == 3 and not any(turn.replayed for turn in turns)
    more = await episode.turns(["s/1", "s/3", "s/3"], ask(journal), model)
    assert [place.key for place in model.calls[1]] == ["s/3"]
    assert more[0].id == turns[1].id and more[0].replayed and more[1] == more[2]
    assert count(journal, Turn) == 4


@pytest.mark.parametrize("restart", [False, True])
async def test_replay(memory: str, restart: bool) -> None:
    first, model = Journal.open(memory), Model()
    run = drive(first)
    episode = run.episode(TASK, seats={"s": 1})
    turn = await one(episode, first, produce=model)
    await episode.event("vote", "0", {"winner": (1, 2)})
    second = first
    if restart:
        run.release()
        first.close()
        second = Journal.open(memory)
        run = drive(second)
    again = run.episode(TASK, seats={"s": 2})
    assert again.seats == {"s": 1}
    replayed = await one(again, second, produce=model)
    assert replayed.replayed and len(model.calls) == 1
    for name in ("id", "key", "attempt", "status", "text", "parsed", "cost", "completion_tokens"):
        assert getattr(replayed, name) == getattr(turn, name)
    assert again.event_payload("vote", "0") == {"winner": [1, 2]}
    assert await again.event("vote", "0", {"winner": "other"}) == {"winner": [1, 2]}
    new = await one(again, second, "s/1", produce=model)
    assert new.id > turn.id
    with second.engine.connect() as connection:
        parents = connection.execute(select(Turn.prefix_turn_id).order_by(Turn.id)).scalars().all()
    assert parents == [None, turn.id]  # the reopened episode knows what it can refer to
    second.close()


async def test_messages_are_stored_once_across_a_restart(memory: str) -> None:
    said = [*QUESTION, {"role": "assistant", "content": "4"}, {"role": "user", "content": "Sure?"}]
    for number in range(3):
        with Journal.open(memory) as journal:
            run = drive(journal)
            model = Model(lambda place: made(place, text="yes"))
            await run.episode(TASK, seats={}).turns([f"s/{number}"], ask(journal, said), model)
            assert count(journal, Message) == 4
            run.release()


async def test_rows_are_idempotent(journal: Journal) -> None:
    run, model = drive(journal), Model()
    for _ in range(3):
        episode = run.episode(TASK, seats={})
        await one(episode, journal, produce=model)
        await episode.event("gate", "0", {"open": True})
        await run.event("report", "0", {"rows": 1})
        await episode.close("done", {"answer": "4"}, verdict={"correct": True})
        version(journal)
    expected = {"runs": 1, "tasks": 1, "agents": 1, "episodes": 1, "turns": 1, "messages": 2, "events": 3}
    assert {k: v for k, v in counts(journal).items() if v} == expected | {"policies": 1, "policy_versions": 1}


async def test_in_flight_is_awaited_once(journal: Journal) -> None:
    run, started, go = drive(journal), asyncio.Event(), asyncio.Event()
    episode, calls = run.episode(TASK, seats={}), []

    async def slow(places: list[Place]) -> list[Produced]:
        calls.append(places)
        started.set()
        await go.wait()
        return [made(place) for place in places]

    first = asyncio.create_task(one(episode, journal, produce=slow))
    await started.wait()
    same = run.episode(TASK, seats={})  # a node delivered twice opens the episode twice
    second = asyncio.create_task(one(same, journal, produce=slow))
    await asyncio.sleep(0.01)
    go.set()
    a, b = await asyncio.gather(first, second)
    assert len(calls) == 1 and a.id == b.id and b.replayed and not a.replayed
    assert count(journal, Turn) == 1


class Slow(Model):
    """A model that answers once it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go = asyncio.Event(), asyncio.Event()

    async def __call__(self, places: list[Place]) -> list[Produced]:
        self.asked.set()
        await self.go.wait()
        return await super().__call__(places)


async def test_a_call_goes_on_when_its_maker_is_cancelled(journal: Journal) -> None:
    episode, slow, other = drive(journal).episode(TASK, seats={}), Slow(), Model()
    maker = asyncio.create_task(one(episode, journal, produce=slow))
    await slow.asked.wait()
    waiter = asyncio.create_task(one(episode, journal, produce=other))
    await asyncio.sleep(0)
    maker.cancel()
    with pytest.raises(asyncio.CancelledError):
        await maker
    slow.go.set()
    assert (await waiter).replayed and len(slow.calls) == 1 and not other.calls
    assert count(journal, Turn) == 1


async def test_what_is_in_flight_is_journaled_before_the_episode_is_left(journal: Journal) -> None:
    run = drive(journal)
    episode, slow = run.episode(TASK, seats={}), [Slow(), Slow()]
    with pytest.raises(RuntimeError, match="a sibling failed"):
        async with episode:
            asked = [
                asyncio.create_task(one(episode, journal, f"s/{n}", model)) for n, model in enumerate(slow)
            ]
            for task, model in zip(asked, slow, strict=True):
                await model.asked.wait()
                task.cancel()
                asyncio.get_running_loop().call_later(0.02, model.go.set)
            raise RuntimeError("a sibling failed")
    assert count(journal, Turn) == 2
    run.release()
    again = drive(journal).episode(TASK, seats={})
    turns = [await one(again, journal, f"s/{n}", model) for n, model in enumerate(slow)]
    assert all(turn.replayed for turn in turns) and [len(model.calls) for model in slow] == [1, 1]


@pytest.mark.parametrize("waits", [False, True])
async def test_a_cancelled_run_gives_up_what_is_in_flight(journal: Journal, waits: bool) -> None:
    episode, slow = drive(journal).episode(TASK, seats={}), Slow()

    async def play() -> None:
        async with episode:
            maker = asyncio.create_task(one(episode, journal, produce=slow))
            await slow.asked.wait()
            if waits:  # cancelled while it waits for what is in flight
                maker.cancel()
                raise RuntimeError
            await maker

    playing = asyncio.create_task(play())
    await slow.asked.wait()
    await asyncio.sleep(0.01)
    playing.cancel()
    start = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await playing
    slow.go.set()
    await asyncio.sleep(0.01)
    assert not slow.calls and count(journal, Turn) == 0 and time.monotonic() - start < 5
    assert (await one(episode, journal)).attempt == 0  # it can be asked again


async def test_a_call_that_is_given_up_is_made_by_who_still_waits(journal: Journal) -> None:
    episode, slow, model = drive(journal).episode(TASK, seats={}), Slow(), Model()
    maker = asyncio.create_task(one(episode, journal, produce=slow))
    await slow.asked.wait()
    waiter = asyncio.create_task(one(episode, journal, produce=model))
    await asyncio.sleep(0)
    episode.give_up()
    assert (await waiter).attempt == 0 and len(model.calls) == 1
    with pytest.raises(asyncio.CancelledError):
        await maker
    assert count(journal, Turn) == 1


async def test_a_failed_call_fails_all_who_wait_and_may_be_asked_again(journal: Journal) -> None:
    episode, go = drive(journal).episode(TASK, seats={}), asyncio.Event()

    async def fails(places: list[Place]) -> list[Produced]:
        await go.wait()
        raise RuntimeError("no budget")

    asked = [asyncio.create_task(one(episode, journal, produce=fails)) for _ in range(2)]
    await asyncio.sleep(0.01)
    go.set()
    assert [type(e) for e in await asyncio.gather(*asked, return_exceptions=True)] == [RuntimeError] * 2
    assert (await one(episode, journal)).attempt == 0


async def test_a_waiter_cancelled_while_the_turn_is_committed(journal: Journal) -> None:
    episode, model = drive(journal).episode(TASK, seats={}), Model()
    post = episode.run.post

    def cancelling(write: Any) -> None:
        asked.cancel()
        post(write)

    episode.run.post = cancelling  # type: ignore[method-assign]  # cancels the caller at the critical instant
    asked = asyncio.create_task(one(episode, journal, produce=model))
    with pytest.raises(asyncio.CancelledError):
        await asked
    episode.run.post = post  # type: ignore[method-assign]  # as before
    turn = await one(episode, journal, produce=model)
    assert len(model.calls) == 1 and turn.replayed  # it was on its way, and is not paid for twice
    assert count(journal, Turn) == 1


async def test_the_worlds_fault_is_tried_again_with_another_seed(journal: Journal) -> None:
    run = drive(journal)
    episode, statuses = run.episode(TASK, seats={}), iter(["timeout", "engine_error", "ok"])

    def answer(place: Place) -> Produced:
        status: Any = next(statuses)
        fields = {} if status == "ok" else {"text": f"half {place.attempt}", "error": "cut\x00 off"}
        return made(place, status=status, final=status == "ok", **fields)

    model = Model(answer)
    turns = [await one(episode, journal, produce=model) for _ in range(4)]
    assert [turn.status for turn in turns] == ["timeout", "engine_error", "ok", "ok"]
    assert [turn.attempt for turn in turns] == [0, 1, 2, 2]
    assert len({place.seed for place in model.places}) == 3
    with journal.engine.connect() as connection:
        rows = connection.execute(select(Turn).order_by(Turn.attempt)).all()
        texts = {i: content for i, content in connection.execute(select(Message.id, Message.content))}
    assert [(row.attempt, row.status, row.final, row.prompt_tokens) for row in rows] == [
        (0, "timeout", False, 5),
        (1, "engine_error", False, 5),
        (2, "ok", True, 5),
    ]
    assert texts[rows[0].output_id][0]["text"] == "half 0" and "cut" in rows[0].error
    run.release()
    reopened = drive(journal)
    assert (await one(reopened.episode(TASK, seats={}), journal, produce=model)).attempt == 2
    assert len(model.calls) == 3


@pytest.mark.parametrize("status", ["parse_error", "truncated", "refused"])
async def test_the_models_fault_is_final(journal: Journal, status: Any) -> None:
    episode = drive(journal).episode(TASK, seats={})
    model = Model(lambda place: made(place, status=status, parsed=None, error="no answer line"))
    assert [(await one(episode, journal, produce=model)).status for _ in range(2)] == [status] * 2
    assert len(model.calls) == 1


OTHERS = {
    "role": AgentRecord("judge", AGENT.prompt, "line", "1", AGENT.sampling, "base"),
    "prompt": AgentRecord("solver", "Other.", "line", "1", AGENT.sampling, "base"),
    "parser": AgentRecord("solver", AGENT.prompt, "line", "2", AGENT.sampling, "base"),
    "sampling": AgentRecord("solver", AGENT.prompt, "line", "1", {"temperature": 0.5}, "base"),
    "policy": AgentRecord("solver", AGENT.prompt, "line", "1", AGENT.sampling, "other"),
    "messages": AGENT,
}


@pytest.mark.parametrize("field", OTHERS)
@pytest.mark.parametrize("when", ["same process", "reopened", "in flight"])
async def test_another_request_is_refused_by_name(journal: Journal, field: str, when: str) -> None:
    run, go = drive(journal), asyncio.Event()
    episode = run.episode(TASK, seats={})
    version(journal)

    async def produce(places: list[Place]) -> list[Produced]:
        if when == "in flight":
            await go.wait()
        return [made(place) for place in places]

    first = asyncio.create_task(one(episode, journal, "judge/1", produce=produce))
    if when == "in flight":
        await asyncio.sleep(0.01)
    else:
        await first
    if when == "reopened":
        run.release()
        episode = drive(journal).episode(TASK, seats={})
    before = counts(journal)
    messages = [{"role": "user", "content": "2 + 3?"}] if field == "messages" else QUESTION
    with pytest.raises(ReplayDiverged) as caught:
        await episode.turns(["judge/1"], Ask(OTHERS[field], 1, messages), Model())
    assert "`judge/1`" in str(caught.value) and f"`{field}`" in str(caught.value)
    assert str(caught.value).count("field") == 1
    assert counts(journal) == before
    go.set()
    await first


async def test_one_divergent_key_of_several_writes_nothing(journal: Journal) -> None:
    episode, model = drive(journal).episode(TASK, seats={}), Model()
    await one(episode, journal, "s/1")
    before = counts(journal)
    with pytest.raises(ReplayDiverged):
        await episode.turns(["s/0", "s/1"], ask(journal, [{"role": "user", "content": "other"}]), model)
    assert counts(journal) == before and not model.calls


async def test_four_copies_over_two_iterations_have_eight_sets_of_seeds(journal: Journal) -> None:
    run = drive(journal)
    sets = []
    for iteration in range(2):
        for copy in range(4):
            model = Model()
            episode = run.episode(TASK, iteration, copy, seats={})
            await asyncio.gather(
                *(one(episode, journal, key, produce=model) for key in ("a/0", "b/0", "a/1"))
            )
            sets.append(frozenset(place.seed for place in model.places))
    assert all(len(seeds) == 3 for seeds in sets)
    assert len(set(sets)) == 8 and len(frozenset().union(*sets)) == 24


async def test_seeds_and_ids_do_not_depend_on_arrival(database: Any) -> None:
    seen = []
    for order in (["a/0", "b/0", "c/0"], ["c/0", "a/0", "b/0"]):
        with Journal.open(database()) as journal:
            run, model = drive(journal), Model()
            tasks = [TaskRecord(f"q{number}", "?") for number in range(3)]
            for task in tasks if order[0] == "a/0" else tasks[::-1]:
                for key in order:
                    await one(run.episode(task, seats={}), journal, key, produce=model)
            with journal.engine.connect() as connection:
                columns = (Episode.id, Turn.key, Turn.attempt, Turn.seed, Turn.fingerprint)
                query = select(*columns).join(Turn, Turn.episode_number == Episode.number)
                seen.append(Counter(tuple(row) for row in connection.execute(query)))
                ids = set(connection.execute(select(Episode.id)).scalars())
            assert len(ids) == 3
    assert seen[0] == seen[1]


async def test_another_run_seed_gives_other_seeds(journal: Journal) -> None:
    seeds = set()
    for seed in (0, 1):
        model = Model()
        await one(drive(journal, f"r{seed}", seed=seed).episode(TASK, seats={}), journal, produce=model)
        seeds |= {place.seed for place in model.places}
    assert len(seeds) == 2


async def test_what_was_refused_is_not_replayed(journal: Journal) -> None:
    run = drive(journal)
    episode, model = run.episode(TASK, seats={}), Model()
    bad = Ask(AGENT, 999, QUESTION)  # no such policy version
    with pytest.raises(JournalError, match=r"(?i)foreign key"):
        await episode.turns(["s/0"], bad, model)
    with pytest.raises(JournalError):
        await one(episode, journal, produce=model)  # its memory is not what is stored
    assert len(model.calls) == 1
    fresh = run.episode(TASK, seats={})
    assert fresh is not episode
    assert not (await one(fresh, journal, produce=model)).replayed
    assert count(journal, Turn) == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"parsed": {"x": object()}}, "`parsed` of `turns` cannot be stored"),
        ({"logprobs": np.zeros(2, np.float32)}, "3 completion ids but 2 log-probabilities"),
        ({"prompt_tokens": 2**70}, "(?i)too large|out of range"),
    ],
)
async def test_rows_that_cannot_be_stored(journal: Journal, fields: dict[str, Any], words: str) -> None:
    run = drive(journal)
    episode, other = run.episode(TASK, seats={}), run.episode(TASK, copy=1, seats={})
    bad = one(episode, journal, produce=Model(lambda place: made(place, **fields)))
    results = await asyncio.gather(bad, one(other, journal), return_exceptions=True)
    assert isinstance(results[0], JournalError)
    with pytest.raises(JournalError, match=words):
        raise results[0]
    assert results[1].ok and count(journal, Turn) == 1  # type: ignore[union-attr]  # the second is a turn
    await episode.close("failed", error=str(results[0]))


async def test_engine_without_ids(journal: Journal) -> None:
    bare = {"prompt_ids": None, "completion_ids": None, "logprobs": None, "logprob_kind": "none"}
    run = drive(journal)
    episode = run.episode(TASK, seats={})
    await one(episode, journal, produce=Model(lambda place: made(place, **bare)))
    await one(episode, journal, "s/1", Model(lambda place: made(place, completion_ids=None, logprobs=None)))
    run.release()
    model = Model()
    await one(drive(journal).episode(TASK, seats={}), journal, produce=model)
    assert not model.calls


async def test_concurrent_events_are_decided_once(journal: Journal) -> None:
    episode = drive(journal).episode(TASK, seats={})
    decided = await asyncio.gather(*(episode.event("break", "1", {"n": number}) for number in range(5)))
    assert decided == [{"n": 0}] * 5
    assert count(journal, Event) == 1


async def test_close_shows_verdict_outcome_and_status_together(journal: Journal) -> None:
    run = drive(journal)
    episode = run.episode(TASK, seats={})
    assert run.state(TASK).status == "open" and run.state(TASK, copy=1) is None  # type: ignore[union-attr]  # it was begun
    await episode.close("failed", {"answer": None}, error="cut \ud800 off\x00", verdict={"correct": False})
    with journal.engine.connect() as connection:
        row = connection.execute(select(Episode)).one()
        event = connection.execute(select(Event)).one()
    assert (row.status, row.outcome, row.error) == ("failed", {"answer": None}, "cut \\ud800 off\\x00")
    assert (event.kind, event.payload, event.episode_number) == (
        "verdict",
        {"correct": False},
        episode.number,
    )
    run.release()
    assert drive(journal).state(TASK).outcome == {"answer": None}  # type: ignore[union-attr]  # it was begun


async def test_drive_again_with_other_settings(journal: Journal) -> None:
    run = drive(journal, config={"rounds": 2, "roles": ("a", "b")})
    run.release()
    drive(journal, config={"rounds": 2, "roles": ["a", "b"]}).release()
    for other, name in (
        ({"seed": 8}, "seed"),
        ({"protocol": "x"}, "protocol"),
        ({"config": {"rounds": 3}}, "rounds"),
    ):
        with pytest.raises(UserError, match=name):
            drive(journal, **{"config": {"rounds": 2, "roles": ["a", "b"]}, **other})
    drive(journal, config={"rounds": 2, "roles": ["a", "b"]}).release()  # a refusal keeps no lock


def test_run_names(journal: Journal) -> None:
    for name in ("", " ", "a\x00b", "a\nb", "\ud800"):
        with pytest.raises(UserError, match="run name"):
            drive(journal, name)
    with pytest.raises(UserError, match="64 bits"):
        drive(journal, seed=2**64)
    for name in ("a/../b", "größe", "x" * 300):
        drive(journal, name).release()
    assert sorted(journal.runs()) == sorted(["a/../b", "größe", "x" * 300])
    with pytest.raises(UserError, match=r"unknown run `y`; known: .*größe"):
        journal.run_row("y")


async def test_finish_and_rows(journal: Journal) -> None:
    run = drive(journal, parent=None)
    run.finish("done")
    row = journal.run_row("r")
    assert row.status == "done" and row.finished_at >= row.created_at and row.epoch == 1
    assert row.driver["pid"] and row.driver["host"] and row.driver["since"]
    assert count(journal, Run) == 1 and count(journal, Task) == 0 and count(journal, Agent) == 0


def test_closed_journal_refuses(journal: Journal) -> None:
    run = drive(journal)
    journal.close()
    with pytest.raises(JournalError, match="closed"):
        run.submit([])


@pytest.mark.parametrize("table", ["turns", "messages", "events", "rewards", "episodes"])
def test_unique_constraints(journal: Journal, table: str) -> None:
    wanted = {
        "turns": {"episode_number", "key", "attempt"},
        "messages": {"episode_number", "parent_id", "role", "content_hash"},
        "events": {"episode_number", "kind", "key"},
        "rewards": {"turn_id", "span_start", "span_end", "function", "version", "config_hash"},
        "episodes": {"run_id", "task_id", "iteration", "copy"},
    }[table]
    from sqlalchemy import inspect

    stored = inspect(journal.engine).get_unique_constraints(table)
    assert wanted in [set(constraint["column_names"]) for constraint in stored]


def test_policy_versions(journal: Journal) -> None:
    first, again, second = version(journal), version(journal), version(journal, base="other")
    assert first == again != second
    with journal.engine.connect() as connection:
        numbers = (
            connection.execute(text("SELECT number FROM policy_versions ORDER BY number")).scalars().all()
        )
        heads = connection.execute(text("SELECT live_version_id, training_version_id FROM policies")).one()
    assert numbers == [0, 1] and tuple(heads) == (first, first)


@pytest.mark.parametrize(
    ("kind", "stored", "said"),
    [
        ("play", "play", "(`--run NAME`), or continue the old one with `sparring resume r`"),
        (
            "evolve",
            "evolve",
            "(`run` in the configuration), or continue the old one with `sparring evolve` and",
        ),
        (
            "tournament",
            "tournament",
            "(`run` in the configuration), or continue the old one with `sparring tour",
        ),
        (
            "play",
            "tournament",
            "(`--run NAME`), or continue the old one with `sparring tournament` and the conf",
        ),
        ("evolve", "play", "(`run` in the configuration), or continue the old one with `sparring resume r`"),
    ],
)
def test_what_to_do_about_another_run_of_the_name(
    journal: Journal, kind: str, stored: str, said: str
) -> None:
    drive(journal, kind=stored).release()
    with pytest.raises(UserError, match=re.escape(said)):
        drive(journal, kind=kind, seed=8)

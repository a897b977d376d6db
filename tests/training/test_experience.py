"""Experience: bit for bit what the engine gave, each turn once, and everything that looks at it agrees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from journal_support import TASK, agent, drive, episode, says, version
from sqlalchemy import select

from sparring.memory.journal import Journal
from sparring.memory.records import Ask, Produced
from sparring.memory.schema import Turn
from sparring.memory.updates import find_update, open_update, stop_update, update_turns, updates_of
from sparring.training import experience as module
from sparring.training.experience import Source, experience, same_experience, turn_rows, unpaid, usable
from sparring.training.observing import observe, rewards_of, task_history
from sparring.training.rewards.base import RewardRef
from sparring.training.rewards.derive import derive, read_episodes
from sparring.training.rewards.verifier import Verifier

REF = RewardRef.of(Verifier())


def keys(journal: Journal, turns: Any) -> list[str]:
    query = select(Turn.id, Turn.key)
    names = {row.id: row.key for row in journal.read(query)}
    return [names[turn] for turn in turns]


async def played(journal: Journal, turns: dict[str, Produced], run: str = "r", **more: Any) -> int:
    kind = more.pop("kind", "play")
    with drive(journal, run, kind=kind) as handle:
        number = await episode(handle, turns, **more)
    if more.get("paid", True):
        derive(journal, Verifier(), episodes=[number])
    return number


async def test_arrays_are_the_engines_bit_for_bit_over_several_turns(journal: Journal, tf_tiny: Path) -> None:
    from tf_support import ask

    from sparring.agents.engines.transformers import TransformersEngine

    engine = TransformersEngine(str(tf_tiny), dtype="float32", max_batch=16)
    now, given, messages = version(journal), [], [{"role": "user", "content": "1 + 1?"}]
    try:
        with drive(journal) as run:
            handle = run.episode(TASK, seats={})
            for place in range(3):
                request = ask("", place, max_tokens=6, temperature=0.7)
                request = type(request)(tuple(messages), request.sampling, (place,), request.version)
                [completion] = await engine.generate(request)
                given.append(completion)

                async def produce(places: list[Any], made: Any = completion) -> list[Produced]:
                    fields = {name: getattr(made, name) for name in ("prompt_ids", "completion_ids")}
                    return [says("4", text=made.text, logprobs=made.logprobs, **fields, **counts(made))]

                speaker = agent(temperature=0.7)
                await handle.turns([f"solver/{place}"], Ask(speaker, now, messages), produce)
                messages = [
                    *messages,
                    {"role": "assistant", "content": completion.text},
                    {"role": "user", "content": "Sure?"},
                ]
            await handle.close("done", {"answer": "4"}, None)
    finally:
        await engine.close()
    derive(journal, Verifier(), run="r")
    samples = experience(journal, "base", REF, {now: 0}).samples
    assert len(samples) == 3 and {sample.temperature for sample in samples} == {0.7}
    for sample, completion in zip(samples, given, strict=True):
        for mine, theirs, kind in [
            (sample.turn.prompt_ids, completion.prompt_ids, np.int32),
            (sample.turn.completion_ids, completion.completion_ids, np.int32),
            (sample.turn.logprobs, completion.logprobs, np.float32),
        ]:
            assert mine is not None and theirs is not None and mine.dtype == kind
            assert mine.tobytes() == theirs.tobytes()
        assert sample.row.prompt is sample.turn.prompt_ids
    assert len(samples[2].turn.prompt_ids) > len(samples[1].turn.prompt_ids) + 6


def counts(made: Any) -> dict[str, int]:
    return {"prompt_tokens": len(made.prompt_ids), "completion_tokens": len(made.completion_ids)}


async def test_each_turn_is_taken_once(journal: Journal) -> None:
    await played(journal, {f"solver/{n}": says() for n in range(5)})
    near = {version(journal): 0}
    with drive(journal, "evo", kind="evolve") as run:
        first = experience(journal, "base", REF, near, limit=2)
        row = open_update(run, "base", 0, version(journal), first.turn_ids, {"a": 1})
        assert keys(journal, first.turn_ids) == ["solver/0", "solver/1"]
        assert update_turns(journal, row.id) == first.turn_ids and row.status == "open"
        # begun again after a kill: the same row, whatever is asked for now
        assert open_update(run, "base", 0, version(journal), [], {}) == row
        rest = experience(journal, "base", REF, near)
        assert keys(journal, rest.turn_ids) == ["solver/2", "solver/3", "solver/4"]
        again = same_experience(journal, "base", REF, near, update_turns(journal, row.id))
        assert again.turn_ids == first.turn_ids
        for mine, theirs in zip(again.samples, first.samples, strict=True):
            assert mine.row.completion.tobytes() == theirs.row.completion.tobytes()
            assert (mine.reward, mine.task, mine.role) == (theirs.reward, theirs.task, theirs.role)
        # what another policy learned from is not used up for this one
        open_update(run, "other", 0, version(journal, "other"), rest.turn_ids, {})
        assert experience(journal, "base", REF, near).turn_ids == rest.turn_ids
        # a stopped update keeps its turns
        stop_update(run, row.id, {"why": "nan"})
        assert experience(journal, "base", REF, near).turn_ids == rest.turn_ids
        found = find_update(journal, "evo", "base", 0)
        assert found is not None and (found.status, found.metrics) == ("stopped", {"why": "nan"})
        assert [row.policy for row in updates_of(journal, "evo")] == ["base", "other"]


async def test_an_update_of_many_turns_is_read_in_parts(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    await played(journal, {f"solver/{n}": says() for n in range(7)})
    near = {version(journal): 0}
    whole = experience(journal, "base", REF, near)
    monkeypatch.setattr(module, "MOST_IDS", 3)
    again = same_experience(journal, "base", REF, near, whole.turn_ids[::-1])
    assert again.turn_ids == whole.turn_ids and len(again.samples) == 7


async def test_what_cannot_be_trained_on_is_left_out_and_counted(journal: Journal) -> None:
    said = {
        "solver/good": says(),
        "solver/unread": says(None, "parse_error"),
        "solver/masked": says(None),  # gives no answer: NULL
        "solver/lost": says(None, "timeout"),
        "solver/noids": says(prompt_ids=None, completion_ids=None, logprobs=None, logprob_kind="none"),
        "solver/empty": says(completion_ids=np.zeros(0, np.int32), logprobs=np.zeros(0, np.float32)),
        "solver/greedy": says(logprob_kind="untempered"),
        "solver/nologs": says(logprobs=None),
        "solver/uncounted": says(completion_tokens=0),
    }
    number = await played(journal, said)
    near = {version(journal): 0}
    found = experience(journal, "base", REF, near)
    good = ["solver/good", "solver/unread", "solver/uncounted"]
    assert keys(journal, found.turn_ids) == good
    assert found.left_out == {
        "no reward": 1,
        "no token ids": 2,
        "log-probabilities are untempered": 1,
        "no log-probability for each token": 1,
    }
    assert keys(journal, experience(journal, "base", REF, near, limit=10).turn_ids) == good
    assert usable(journal, "base", REF, list(near), Source()) == 3
    newer = RewardRef.of(Verifier(right=2.0))
    unpaid_then = experience(journal, "base", newer, near)
    assert not unpaid_then.samples and unpaid_then.left_out == {"no reward": 8}
    assert unpaid(journal, "base", newer, list(near), Source()) == [number]
    assert unpaid(journal, "base", REF, list(near), Source()) == []


async def test_the_oldest_usable_turns_fill_a_limit(journal: Journal) -> None:
    said = {f"solver/{n}": says(None if n % 2 == 0 else "4") for n in range(8)}
    await played(journal, said)
    found = experience(journal, "base", REF, {version(journal): 0}, limit=3)
    assert keys(journal, found.turn_ids) == ["solver/1", "solver/3", "solver/5"]


async def test_staleness_is_of_the_version_and_others_are_not_taken(journal: Journal) -> None:
    old, mid, new = version(journal), version(journal, update=1), version(journal, update=2)
    said = {f"solver/{n}": says() for n in range(3)}
    await played(journal, said, versions={"solver/0": old, "solver/1": mid, "solver/2": new})
    found = experience(journal, "base", REF, {new: 0, mid: 1})
    assert [
        (key, s.staleness) for key, s in zip(keys(journal, found.turn_ids), found.samples, strict=True)
    ] == [
        ("solver/1", 1),
        ("solver/2", 0),
    ]
    assert experience(journal, "base", REF, {}).samples == []


async def test_sources(journal: Journal) -> None:
    times = {}
    for run, kind, iteration in [
        ("a", "play", 0),
        ("a", "play", 1),
        ("b", "embedded", 0),
        ("held", "evaluation", 0),
        ("pool", "baseline", 0),
    ]:
        number = await played(
            journal, {f"solver/{run}{iteration}": says()}, run, kind=kind, iteration=iteration
        )
        times[run, iteration] = number
    await played(journal, {"solver/failed": says()}, "b", kind="embedded", copy=1, status="failed")
    near = {version(journal): 0}

    def taken(**source: Any) -> list[str]:
        wanted = Source(**source)
        found = experience(journal, "base", REF, near, source=wanted)
        assert usable(journal, "base", REF, list(near), wanted) == len(found.samples)
        assert [row[0] for row in turn_rows(journal, "base", list(near), wanted)] == found.turn_ids
        return [key.partition("/")[2] for key in keys(journal, found.turn_ids)]

    assert taken() == ["a0", "a1", "b0"]
    assert taken(runs=("b",)) == ["b0"] and taken(runs=("a", "held", "pool")) == ["a0", "a1"]
    assert taken(runs=()) == []
    assert taken(iteration=1) == ["a1"] and taken(but="a") == ["b0"]
    finished = journal.read(select(module.Episode.number, module.Episode.finished_at))
    when = {row.number: row.finished_at for row in finished}
    assert taken(since=when[times["b", 0]]) == ["b0"]
    assert taken(since=when[times["b", 0]] + 1e6) == []


@pytest.mark.parametrize("seed", range(6))
async def test_all_looks_agree_on_random_journals(journal: Journal, seed: int) -> None:
    rng = np.random.default_rng(seed)
    versions = [version(journal), version(journal, update=1), version(journal, "other")]
    kinds = [
        lambda: says("4"),
        lambda: says("5"),
        lambda: says(None, "parse_error"),
        lambda: says(None),
        lambda: says(None, "timeout"),
        lambda: says(logprobs=None),
        lambda: says(logprob_kind="untempered"),
        lambda: says(prompt_ids=None, completion_ids=None, logprobs=None),
    ]
    numbers = []
    for run in ("a", "b"):
        with drive(journal, run) as handle:
            for copy in range(4):
                said = {f"solver/{n}": kinds[rng.integers(len(kinds))]() for n in range(6)}
                places = {key: versions[rng.integers(3)] for key in said}
                status = "failed" if rng.random() < 0.2 else "done"
                number = await episode(handle, said, copy=copy, versions=places, status=status)
                numbers.append(number)
    derive(journal, Verifier(), episodes=[n for n in numbers if rng.random() < 0.7])
    near, source = {versions[0]: 1, versions[1]: 0}, Source()
    with drive(journal, "evo", kind="evolve") as run:
        taken: set[int] = set()
        for step in range(4):
            _agree(journal, near, source)
            part = experience(journal, "base", REF, near, limit=3).turn_ids
            assert not taken & set(part)
            taken |= set(part)
            open_update(run, "base", step, versions[1], part, {})
        _agree(journal, near, source)


def _agree(journal: Journal, near: dict[int, int], source: Source) -> None:
    found = experience(journal, "base", REF, near, source=source)
    assert usable(journal, "base", REF, list(near), source) == len(found.samples)
    for limit in (1, 3, 100):
        short = experience(journal, "base", REF, near, source=source, limit=limit)
        assert short.turn_ids == found.turn_ids[:limit]
    rows = dict(map(tuple, turn_rows(journal, "base", list(near), source)))
    assert sum(found.left_out.values()) + len(found.samples) == len(rows)
    paid = rewards_of(journal, REF, list(rows))
    owed = sorted({number for turn, number in rows.items() if turn not in paid})
    assert sorted(unpaid(journal, "base", REF, list(near), source)) == owed
    assert all(paid[sample.turn.id] == sample.reward for sample in found.samples)


async def test_what_the_monitors_see(journal: Journal) -> None:
    said = {
        "solver/0": says("4"),
        "solver/1": says(None, "parse_error"),
        "solver/2'": says(None),
        "solver/3": says(None, "timeout"),
    }
    number = await played(journal, said)
    await played(journal, {"solver/0": says("5"), "solver/1": says("4")}, iteration=1)
    seen = observe(journal, read_episodes(journal, [number]), "base", REF, 0.5)
    np.testing.assert_array_equal(seen.rewards, [1.0, 0.0, np.nan])
    assert list(seen.answers) == ["4", None, None] and list(seen.lengths) == [3, 3, 3]
    assert len(set(seen.prompts)) == 1 and seen.references == ["4"] * 3 and seen.entropy == 0.5
    assert observe(journal, read_episodes(journal, [number]), "other", REF, None).texts == []
    assert task_history(journal, "r", REF, 1) == {"q1": (0, 0.5)}
    assert task_history(journal, "r", REF, 2) == {"q1": (1, 0.5)}
    assert task_history(journal, "r", REF, 0) == {}

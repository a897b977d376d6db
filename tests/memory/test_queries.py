"""Reads for those who do not drive the run."""

from __future__ import annotations

from typing import Any

import pytest
from journal_helpers import QUESTION, Model, ask, drive, made, one, version

from sparring.errors import UserError
from sparring.memory import queries
from sparring.memory.journal import Journal
from sparring.memory.records import AgentRecord, Ask, Place, Produced, TaskRecord

JUDGE = AgentRecord("judge", "Judge.", "line", "1", {}, "other")


async def play(journal: Journal) -> None:
    run = drive(journal)
    for copy in range(2):
        for name in ("q2", "q1"):
            episode = run.episode(TaskRecord(name, f"{name}?", "4", "math"), 0, copy, seats={})

            def late(place: Place) -> Produced:
                return made(
                    place,
                    status="timeout",
                    final=False,
                    text=None,
                    prompt_ids=None,
                    completion_ids=None,
                    logprobs=None,
                )

            await one(episode, journal, produce=Model(late))
            await one(episode, journal)
            said = [*QUESTION, {"role": "assistant", "content": "seed"}]
            judge = Ask(JUDGE, version(journal, "other"), said)
            await episode.turns(
                ["judge/0"], judge, Model(lambda place: made(place, status="parse_error", text="?"))
            )
            await episode.close("done" if copy else "failed", {"answer": name})


async def test_episodes_and_turns(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    await play(journal)
    for ahead in (1, 3, 200):
        monkeypatch.setattr(queries, "AHEAD", ahead)
        rows = list(queries.episodes(journal, "r"))
        names = [(row.name, row.copy, row.status, row.answer, row.check, row.outcome) for row in rows]
        assert names == [
            (name, copy, "done" if copy else "failed", "4", "math", {"answer": name})
            for name in ("q1", "q2")
            for copy in (0, 1)
        ]
        turns = list(queries.turns(journal, "r"))
        assert [turn.episode_id for turn in turns] == [row.id for row in rows for _ in range(3)]
        assert [(t.key, t.attempt, t.status, t.role) for t in turns[:3]] == [
            ("s/0", 0, "timeout", "solver"),
            ("s/0", 1, "ok", "solver"),
            ("judge/0", 0, "parse_error", "judge"),
        ]
        assert not hasattr(turns[0], "logprobs") and turns[1].parsed == {"answer": "4"}
    assert queries.statuses(journal, "r") == {"done": 2, "failed": 2}
    for read in (queries.episodes, queries.turns):
        with pytest.raises(UserError, match="unknown run"):
            next(read(journal, "x"))


async def test_transcript(journal: Journal) -> None:
    await play(journal)
    episode = next(queries.episodes(journal, "r")).id
    said = queries.transcript(journal, episode)
    assert [entry.text for entry in said] == [None, f"seed {said[1].turn.seed}", "?"]
    assert said[0].messages == said[1].messages == QUESTION
    assert said[2].messages == [*QUESTION, {"role": "assistant", "content": "seed"}]
    with pytest.raises(UserError, match="no episode `x`"):
        queries.transcript(journal, "x")


async def test_usage(journal: Journal) -> None:
    await play(journal)
    used = queries.usage(journal, "r")
    assert (used.total.turns, used.total.prompt_tokens, used.total.completion_tokens) == (12, 60, 36)
    assert used.total.cost == 6.0 and used.total.retries == 0
    assert {role: part.turns for role, part in used.roles.items()} == {"judge": 4, "solver": 8}
    assert {s: part.turns for s, part in used.statuses.items()} == {"ok": 4, "parse_error": 4, "timeout": 4}
    assert all(isinstance(part.turns, int) for part in used.roles.values())
    drive(journal, "empty").release()
    assert queries.usage(journal, "empty").total == queries.Totals()


async def test_training_turns(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparring.memory import samples

    await play(journal)
    every = queries.training_turns(journal, run="r")
    assert len(every) == 8 and [s.id for s in every] == sorted(s.id for s in every)
    sample = every[0]
    assert sample.prompt_ids.dtype == "int32" and sample.prompt_ids.tolist() == [0, 1, 2, 3, 4]
    assert sample.completion_ids.shape == (3,) and sample.logprobs is not None
    assert sample.logprobs.tolist() == [-0.5, -0.25, -0.125] and sample.logprob_kind == "tempered"
    mine = queries.training_turns(journal, policy_version=version(journal, "other"))
    assert [s.key for s in mine] == ["judge/0"] * 4 and {s.agent_id for s in mine} == {JUDGE.id}
    assert [s.id for s in queries.training_turns(journal, run="r", limit=3)] == [s.id for s in every[:3]]
    assert [s.id for s in queries.training_turns(journal, run="r", after=every[4].id)] == [
        s.id for s in every[5:]
    ]
    monkeypatch.setattr(samples, "MOST_IDS", 2)
    named = queries.training_turns(journal, turn_ids=[s.id for s in reversed(every)])
    assert [s.prompt_ids.tolist() for s in named] == [s.prompt_ids.tolist() for s in every]
    assert queries.training_turns(journal, turn_ids=[]) == []
    with pytest.raises(UserError, match=r"turns \[999\]"):
        queries.training_turns(journal, turn_ids=[every[0].id, 999])
    with pytest.raises(UserError, match="say which"):
        queries.training_turns(journal)


async def test_reading_while_the_run_goes_on(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "AHEAD", 1)
    run, seen = drive(journal), []
    for name in ("a", "b"):
        await one(run.episode(TaskRecord(name, "?"), seats={}), journal)
    reading: Any = queries.turns(journal, "r")
    seen.append(next(reading).key)
    await run.episode(TaskRecord("b", "?"), seats={}).turns(["s/1"], ask(journal), Model())
    assert [*seen, *(turn.key for turn in reading)] == ["s/0", "s/0", "s/1"]

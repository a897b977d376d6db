"""Forks: an episode that begins with what another one said, without a row of its own for any of it."""

from __future__ import annotations

import pytest
from journal_helpers import AGENT, TASK, Model, ask, drive, made, one
from sqlalchemy import func, select, update

from sparring.errors import UserError
from sparring.memory.episode import EpisodeHandle
from sparring.memory.journal import Journal
from sparring.memory.records import AgentRecord, Fork, Place, Produced
from sparring.memory.replay import fork_at
from sparring.memory.run import RunHandle
from sparring.memory.schema import Episode, Turn

SEATS = {"s": {"agent": "a"}}


async def parent(journal: Journal) -> tuple[RunHandle, EpisodeHandle]:
    run = drive(journal)
    episode = run.episode(TASK, seats=SEATS)
    for step in range(3):
        await one(episode, journal, f"s/{step}")
        await episode.event("step", str(step), {"n": step})
    return run, episode


def at(journal: Journal, episode: EpisodeHandle, steps: int) -> Fork:
    keys = [f"s/{step}" for step in range(steps)]
    return fork_at(journal, episode.id, keys, [("step", str(step)) for step in range(steps)])


async def test_what_is_shared_is_answered_and_what_is_not_is_asked(journal: Journal) -> None:
    run, episode = await parent(journal)
    before = [await one(episode, journal, f"s/{step}") for step in range(3)]
    child = run.episode(TASK, copy=1, seats=SEATS, fork=at(journal, episode, 2))
    model = Model()
    said = [await one(child, journal, f"s/{step}", model) for step in range(3)]
    assert said[:2] == before[:2] and [place.key for place in model.places] == ["s/2"]
    assert said[2].text != before[2].text, "it has a seed of its own"
    assert child.event_payload("step", "1") == {"n": 1} and child.event_payload("step", "2") is None
    assert await child.event("step", "1", {"n": 9}) == {"n": 1}
    [row] = journal.read(select(Episode).where(Episode.id == child.id))
    assert (row.parent_id, row.forked_from_turn_id) == (episode.id, before[1].id)
    mine = select(func.count()).where(Turn.episode_number == child.number)
    assert journal.read(mine)[0][0] == 1
    run.release()


async def test_a_reopened_fork_and_a_fork_of_it_remember(journal: Journal, memory: str) -> None:
    run, episode = await parent(journal)
    child = run.episode(TASK, copy=1, seats=SEATS, fork=at(journal, episode, 2))
    last = await one(child, journal, "s/2")
    await child.event("step", "2", {"n": "own"})
    run.release()
    with Journal.open(memory) as other:
        run = drive(other)
        again = run.episode(TASK, copy=1, seats=SEATS)
        model = Model()
        assert [(await one(again, other, f"s/{step}", model)).text for step in range(3)][2] == last.text
        grandchild = run.episode(TASK, copy=2, seats=SEATS, fork=at(other, again, 3))
        assert (await one(grandchild, other, "s/0", model)).replayed and not model.places
        assert [grandchild.event_payload("step", str(step)) for step in range(3)] == [
            {"n": 0},
            {"n": 1},
            {"n": "own"},
        ]
        run.release()


async def test_whoever_asks_gets_what_was_said(journal: Journal) -> None:
    run, episode = await parent(journal)
    child = run.episode(TASK, copy=1, seats=SEATS, fork=at(journal, episode, 1))
    other = AgentRecord("solver", "Another prompt.", "line", "1", {"temperature": 0.2}, "base")
    [turn] = await child.turns(["s/0"], ask(journal, agent=other), Model())
    assert turn.replayed and turn.text == (await one(episode, journal, "s/0")).text
    assert other.id != AGENT.id
    run.release()


async def test_a_beginning_that_is_not_there_is_refused(journal: Journal) -> None:
    def lost(place: Place) -> Produced:
        return made(place, status="timeout", final=False, text=None)

    run, episode = await parent(journal)
    await one(episode, journal, "s/3", Model(lost))
    for steps, name in ((4, "s/3"), (5, "s/3")):
        with pytest.raises(UserError, match=f"has not come as far as `{name}`"):
            at(journal, episode, steps)
    with pytest.raises(UserError, match="has not come as far as `vote 0`"):
        fork_at(journal, episode.id, ["s/0"], [("vote", "0")])
    with pytest.raises(UserError, match="at least one turn"):
        at(journal, episode, 0)
    with pytest.raises(UserError, match="is not in this journal"):
        fork_at(journal, "nobody", ["s/0"], [])
    run.release()


async def test_a_fork_whose_parent_is_gone_says_so(journal: Journal, memory: str) -> None:
    run, episode = await parent(journal)
    child = run.episode(TASK, copy=1, seats=SEATS, fork=at(journal, episode, 2))
    await one(child, journal, "s/2")
    run.release()
    journal.execute(update(Episode).where(Episode.id == child.id).values(parent_id=None))
    with Journal.open(memory) as other:
        run = drive(other)
        with pytest.raises(UserError, match="forked from was deleted"):
            run.episode(TASK, copy=1, seats=SEATS)
        run.release()

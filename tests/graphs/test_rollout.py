"""Roll-outs: which prefix a solver goes on from, how its samples vote, and that a replay draws the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from stage import Call, Stage

from sparring.agents.engines.scripted import ScriptedEngine
from sparring.errors import UserError
from sparring.graphs.play import aplay, plan
from sparring.graphs.protocols.rollout import Rollout
from sparring.memory.journal import Journal
from sparring.memory.records import TaskRecord
from sparring.memory.schema import Event

PROBLEM = "Start with 7. Add 5. Subtract 3. Double it."
STEPS = ["7 + 5 = 12", "12 - 3 = 9", "9 * 2 = 18"]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "journal.db", "normal") as opened:
        yield opened


def stage(journal: Journal, reply: Any = lambda c: "Answer: 18", name: str = "r", **options: Any) -> Stage:
    meta = {"steps": STEPS, **options.pop("meta", {})}
    return Stage(Rollout(**options), journal, reply, name, PROBLEM, "math", "18", meta)


def kept(call: Call) -> int:
    """How many steps a prompt gives, which are the first ones."""
    shown = [step for step in STEPS if step in call.text]
    assert shown == STEPS[: len(shown)]
    return len(shown)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"keep": 0}, 0),
        ({"keep": 2}, 2),
        ({"keep": 9}, 3),
        ({"meta": {"step": 0}}, 1),
        ({"meta": {"step": 2}}, 3),
        ({"meta": {"step": 7}}, 3),
        ({"keep": 1, "meta": {"step": 2}}, 1),
    ],
)
async def test_the_prefix_that_is_asked_for(journal: Journal, options: dict[str, Any], steps: int) -> None:
    played = stage(journal, **options)
    await played.play()
    assert [kept(call) for call in played.calls] == [steps]


async def test_a_drawn_prefix_is_any_of_them_and_never_empty(journal: Journal) -> None:
    drawn: Counter[int] = Counter()
    for number in range(40):
        played = stage(journal, name=f"run {number}")
        await played.play()
        drawn[kept(played.calls[0])] += 1
    assert drawn.keys() == {1, 2, 3} and min(drawn.values()) >= 5, drawn


async def test_a_replay_draws_the_same_prefix(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where drawing would come to another one by now: the journal has what was drawn."""
    first = stage(journal, n=2)
    outcome = await first.play()
    monkeypatch.setattr(Rollout, "_kept", lambda *given: 1 + kept(first.calls[0]) % 3)
    again = stage(journal, n=2)
    assert await again.play() == outcome and again.calls == []
    [event] = journal.read(select(Event.payload).where(Event.kind == "prefix"))
    assert event.payload == {"steps": kept(first.calls[0])}


async def test_samples_vote_and_each_is_a_turn(journal: Journal) -> None:
    said = ["so\nAnswer: 18", "Answer: 17", "no idea", "9 * 2 = 18\nAnswer: 18.0", "Answer: 17"]
    played = stage(journal, lambda call: said[call.nth], n=5, keep=2)
    outcome = await played.play()
    rows = {row.key: row for row in played.turns()}
    assert rows.keys() == {f"rollout/{n}" for n in range(5)}
    assert {row.status for row in rows.values()} == {"ok", "parse_error"}
    assert rows["rollout/3"].parsed == {"steps": ["9 * 2 = 18"], "answer": "18.0"}
    assert outcome["detail"]["invalid"] == 1
    assert sorted(outcome["distribution"].values()) == [0.5, 0.5] and outcome["tied"]
    assert {call.text for call in played.calls} == {played.calls[0].text}, "one prompt"
    assert Rollout(n=5).max_calls == 5 == len(played.calls)


async def test_nobody_readable_is_no_answer(journal: Journal) -> None:
    assert (await stage(journal, lambda call: "hm", n=3).play())["answer"] is None


async def test_episodes_close_with_a_verdict(tmp_path: Path) -> None:
    """The share of right ones is how good the solver is from correct prefixes."""
    tasks = [{"id": f"t{n}", "question": PROBLEM, "answer": a, "steps": STEPS} for n, a in ((1, 18), (2, 19))]
    engine = ScriptedEngine(lambda request, seed: "Answer: 18")
    result = await aplay(plan("rollout", tasks, engine=engine, keep=1), tmp_path / "j.db", run="r")
    assert [row.correct for row in result] == [True, False]


@pytest.mark.parametrize("meta", [{}, {"steps": []}, {"steps": "7 + 5 = 12"}, {"steps": ["", "x"]}])
def test_tasks_without_steps_are_refused_by_name(meta: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="task `t7`"):
        Rollout().accepts(TaskRecord("t7", PROBLEM, "18", "math", meta))


async def test_whole_solutions_need_no_steps_and_are_asked_for_as_such(journal: Journal) -> None:
    """Self-consistency: nothing says that a solution had begun."""
    Rollout(keep=0).accepts(TaskRecord("t7", PROBLEM, "18", "math"))
    played = stage(journal, n=3, keep=0, meta={"steps": None})
    assert (await played.play())["answer"] == "18" and len(played.calls) == 3
    assert all("Solve this step by step" in call.text for call in played.calls)
    assert not any("solution so far" in call.text for call in played.calls)


@pytest.mark.parametrize("step", [-1, -5, True, "1"])
def test_a_place_that_is_none_is_refused(step: Any) -> None:
    with pytest.raises(UserError, match="task `t7`: `step` must be the index of a step, from 0"):
        Rollout().accepts(TaskRecord("t7", PROBLEM, "18", "math", {"steps": STEPS, "step": step}))
    Rollout(keep=1).accepts(TaskRecord("t7", PROBLEM, "18", "math", {"steps": STEPS, "step": step}))

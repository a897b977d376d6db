"""The four settings: who plays what, accuracies by hand, before and after."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from sparring.agents.engines.base import Request
from sparring.agents.engines.registry import EnginePool
from sparring.agents.engines.scripted import ScriptedEngine
from sparring.errors import UserError
from sparring.graphs.display import settings_tables
from sparring.graphs.settings import NAMES, Asked, Lineup, compare, lineup, plays
from sparring.memory.journal import Journal
from sparring.memory.schema import Episode, Turn

TASKS: list[dict[str, Any]] = [
    {"id": f"t{n}", "question": f"Question {n}?", "answer": "4", "check": "math"} for n in range(12)
]


def says(*answers: str) -> ScriptedEngine:
    """One of some answers, by the seed."""
    return ScriptedEngine(lambda request, seed: f"Answer: {answers[seed % len(answers)]}")


async def played(engines: Any, asked: Asked, memory: Path, *, name: str) -> list[Lineup]:
    with Journal.open(memory) as journal:
        async with EnginePool() as pool:
            return await lineup(engines, asked, journal, pool, name=name)


async def found(memory: Path, *engines: Any, name: str = "run", **asked: Any) -> dict[str, Any]:
    rows = await played(engines, Asked(TASKS, **asked), memory, name=name)
    assert [row.setting for row in rows] == list(NAMES)
    return {row.setting: row for row in rows}


def mean(row: Any) -> float:
    return float(sum(row.accuracy.values()) / len(row.accuracy))


async def test_one_pool_gives_single_answers_votes_and_the_baseline(tmp_path: Path) -> None:
    """An agent that is always right and one that never is."""
    rows = await found(tmp_path / "j.db", says("4"), says("5"), votes=3, rounds=2)
    assert [mean(rows[name]) for name in ("single", "consistency")] == [0.5, 0.5]
    # one of either in the last round: the first speaker's answer wins the tie, the second has the last word
    assert (mean(rows["debate"]), mean(rows["conversation"])) == (1.0, 0.0)
    assert {row.calls for row in rows.values()} == {1, 3, 4}
    together = rows["debate"].baseline
    assert together is not None and set(together) == {task["id"] for task in TASKS}
    assert 0.3 < sum(together.values()) / 12 < 0.7  # four of six right and six wrong samples
    assert rows["single"].baseline is None


async def test_one_question_has_no_standard_error(tmp_path: Path) -> None:
    rows = await played([says("4"), says("5")], Asked(TASKS[:1], votes=3), tmp_path / "j.db", name="run")
    for row in compare(rows, rows):
        assert row.error_before is row.error_after is None  # and no NaN, which is no JSON
    assert " (-)" in "".join(str(cell) for cell in settings_tables(compare(rows, rows))[0].columns[2]._cells)


async def test_a_vote_is_better_than_one_answer_where_most_are_right(tmp_path: Path) -> None:
    rows = await found(tmp_path / "j.db", says("4", "4", "5"), says("4", "4", "6"), votes=7)
    assert mean(rows["consistency"]) > mean(rows["single"]) + 0.1


async def test_who_reads_whom(tmp_path: Path) -> None:
    """In a conversation the second speaker has read the first of the same round, in a debate not."""
    read: Counter[tuple[str, bool]] = Counter()

    def second(request: Request, seed: int) -> str:
        text = "\n".join(str(message["content"]) for message in request.messages)
        read[text.count("Answer: 41"), text.count("Answer: 42")] += 1
        return "Answer: 42"

    engines = (says("41"), ScriptedEngine(second))
    await played(engines, Asked(TASKS[:1], votes=1, rounds=2), tmp_path / "j.db", name="run")
    # Four samples and the debate's opening were alone; the debate's second round reads the first of both; in
    # the conversation the other one has always just spoken.
    assert read == {(0, 0): 5, (1, 1): 1, (1, 0): 1, (2, 1): 1}
    with Journal.open(tmp_path / "j.db") as journal:
        runs = {row.run_id for row in journal.read(select(Episode.run_id))}
    assert runs == {"run.pool.0", "run.pool.1", "run.conversation", "run.debate"}


async def test_agents_of_equal_weights_do_not_say_the_same(tmp_path: Path) -> None:
    await found(tmp_path / "j.db", "scripted:hash", "scripted:hash", votes=1)
    with Journal.open(tmp_path / "j.db") as journal:
        rows = journal.read(
            select(Episode.run_id, Episode.task_id, Turn.key, Turn.seed).join(
                Turn, Turn.episode_number == Episode.number
            )
        )
    pools = [
        {(row.task_id, row.key): row.seed for row in rows if row.run_id == f"run.pool.{n}"} for n in (0, 1)
    ]
    assert pools[0].keys() == pools[1].keys() and not set(pools[0].values()) & set(pools[1].values())


async def test_before_and_after(tmp_path: Path) -> None:
    memory, asked = tmp_path / "j.db", Asked(TASKS, votes=3)
    before = await played([says("5"), says("5")], asked, memory, name="before")
    after = await played([says("4", "5"), says("4")], asked, memory, name="after")
    rows = {row.setting: row for row in compare(before, after)}
    assert {row.before.mean for row in rows.values()} == {0.0}
    assert rows["single"].after.mean == pytest.approx(0.75, abs=0.15)
    assert all(row.difference.mean == row.after.mean > 0.3 for row in rows.values())
    assert all(row.difference.low > 0 and row.error_before == 0.0 for row in rows.values())
    single = rows["single"]
    values = list(next(row for row in after if row.setting == "single").accuracy.values())
    spread = sum((value - single.after.mean) ** 2 for value in values) / 11
    assert single.error_after == pytest.approx((spread / 12) ** 0.5)
    assert single.against_after is None and rows["debate"].against_before is not None
    assert rows["debate"].to_json()["setting"] == "debate"


async def test_played_again_nothing_is_asked_twice(tmp_path: Path) -> None:
    calls = 0

    def count(request: Request, seed: int) -> str:
        nonlocal calls
        calls += 1
        return "Answer: 4"

    first = await found(tmp_path / "j.db", ScriptedEngine(count), votes=2)
    made = calls
    assert await found(tmp_path / "j.db", ScriptedEngine(count), votes=2) == first and calls == made


@pytest.mark.parametrize(
    ("engines", "asked", "said"),
    [
        ([], {}, "at least one agent"),
        (["scripted:hash"], {"tasks": [{"id": "a", "question": "?"}]}, "no `answer`"),
        (["scripted:hash"], {"options": {"heat": 1}}, "heat"),
    ],
)
async def test_what_cannot_be_compared(tmp_path: Path, engines: Any, asked: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        await played(engines, Asked(**{"tasks": TASKS, **asked}), tmp_path / "j.db", name="run")
    with pytest.raises(UserError, match="at least 1"):
        Asked(TASKS, votes=0)


def test_the_pool_holds_twice_what_is_voted_on() -> None:
    assert plays(["scripted:hash"], Asked(TASKS, votes=5, rounds=2))["pool.0"].options["n"] == 10
    assert plays(["scripted:hash"], Asked(TASKS, votes=1, rounds=4))["pool.0"].options["n"] == 8

"""What the viewer keeps of each episode, held to the journal and to the report as both change."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import delete, insert, select, update

import sparring
from sparring.agents.engines.base import Request
from sparring.agents.engines.scripted import ScriptedEngine
from sparring.errors import JournalError
from sparring.graphs.report import report
from sparring.memory.journal import Journal
from sparring.memory.schema import Episode, Event, Message, Reward, Run, Turn
from sparring.view.facts import Facts
from sparring.view.runs import children, episode_list, run_list, sums_of

TASKS = [{"id": f"t{number}", "question": f"{number} + 1?", "answer": str(number + 1)} for number in range(6)]


def reply(request: Request, seed: int) -> str:
    """Right half of the time, and not always the same."""
    return f"Answer: {seed % 4}"


def played(memory: str, run: str, **options: Any) -> None:
    sparring.play(
        "du", options.pop("tasks", TASKS), engine=ScriptedEngine(reply), memory=memory, run=run, **options
    )


@pytest.fixture
def facts(journal: Journal) -> Any:
    made = Facts(journal)
    yield made
    made.close()


def numbers(facts: Facts) -> list[int]:
    return [row["number"] for row in facts.ask("SELECT number FROM facts ORDER BY number")]


def test_figures_are_the_reports(memory: str, journal: Journal, facts: Facts) -> None:
    played(memory, "one")
    played(memory, "copies", copies=2, seed=3)
    facts.look()
    assert facts.ready and facts.known == 18
    for run in ("one", "copies"):
        sums, said = sums_of(facts, [run])[run], report(journal, run)
        assert sums.accuracy is not None and said.accuracy is not None
        assert sums.accuracy.mean == pytest.approx(said.accuracy.mean) and sums.accuracy.n == said.accuracy.n
        assert (sums.calls, sums.done) == (said.usage.calls, said.episodes["done"])
        assert sums.tokens == said.usage.prompt_tokens + said.usage.completion_tokens
    one = report(journal, "one").accuracy
    assert one == sums_of(facts, ["one"])["one"].accuracy  # the interval too


def test_failed_episodes_are_wrong_as_in_the_report(memory: str, journal: Journal, facts: Facts) -> None:
    played(memory, "r")
    row = journal.read(select(Episode).order_by(Episode.number))[0]
    journal.execute(delete(Event).where(Event.episode_number == row.number))
    journal.execute(update(Episode).where(Episode.number == row.number).values(status="failed", outcome=None))
    facts.look()
    said = report(journal, "r").accuracy
    assert said is not None and sums_of(facts, ["r"])["r"].accuracy == said and said.n == 6


def test_new_ones_are_seen_and_open_ones_again(memory: str, journal: Journal, facts: Facts) -> None:
    facts.look()
    assert facts.ready and not facts.known
    played(memory, "a", tasks=TASKS[:2])
    facts.look()
    assert facts.known == 2
    last = journal.read(select(Episode).order_by(Episode.number.desc()))[0]
    journal.execute(update(Episode).where(Episode.id == last.id).values(status="failed"))
    facts.look()  # nothing is read again of a run that is done
    assert sums_of(facts, ["a"])["a"].failed == 0
    played(memory, "b", tasks=TASKS[:1])
    facts.look()
    assert facts.known == 3


def test_a_failed_episode_is_read_again_when_its_run_goes_on(
    memory: str, journal: Journal, facts: Facts
) -> None:
    played(memory, "a", tasks=TASKS[:2])
    row = journal.read(select(Episode).order_by(Episode.number))[0]
    failed = update(Episode).where(Episode.id == row.id)
    journal.execute(failed.values(status="failed"))
    facts.look()
    assert sums_of(facts, ["a"])["a"].failed == 1
    journal.execute(failed.values(status="done"))
    facts.look()
    assert sums_of(facts, ["a"])["a"].failed == 1  # its run stands still: nobody looks
    journal.execute(update(Run).where(Run.id == "a").values(epoch=Run.epoch + 1))
    facts.look()
    assert (sums_of(facts, ["a"])["a"].failed, sums_of(facts, ["a"])["a"].done) == (0, 2)


def test_an_open_episode_grows(memory: str, journal: Journal, facts: Facts) -> None:
    played(memory, "a", tasks=TASKS[:1])
    journal.execute(update(Run).values(status="open"))
    journal.execute(update(Episode).values(status="open"))
    turns = journal.read(select(Turn.id).order_by(Turn.id))
    kept = [row.id for row in turns[:2]]
    columns = [column for column in Turn.__table__.columns]
    rows = [dict(row._mapping) for row in journal.read(select(*columns).where(Turn.id.not_in(kept)))]
    journal.execute(delete(Turn).where(Turn.id.not_in(kept)))
    facts.look()
    assert sums_of(facts, ["a"])["a"].calls == 2
    journal.execute(insert(Turn), rows)
    facts.look()
    assert sums_of(facts, ["a"])["a"].calls == len(turns)


def test_deleted_runs_are_forgotten(memory: str, journal: Journal, facts: Facts) -> None:
    from sparring.memory.removal import remove

    played(memory, "a", tasks=TASKS[:2])
    played(memory, "b", tasks=TASKS[:3])
    facts.look()
    assert facts.known == 5
    remove(journal, "a")
    facts.look()
    assert facts.known == 3 and not sums_of(facts, ["a"])["a"].episodes
    assert sums_of(facts, ["b"])["b"].done == 3


def test_rewards_come_late_and_the_furthest_from_0_counts(
    memory: str, journal: Journal, facts: Facts
) -> None:
    played(memory, "a", tasks=TASKS[:2])
    facts.look()
    first, second = numbers(facts)
    turns = {n: journal.read(select(Turn.id).where(Turn.episode_number == n))[0].id for n in (first, second)}

    def pay(key: int, number: int, value: float | None) -> None:
        row = {"id": key, "turn_id": turns[number], "span_start": -1, "span_end": -1, "function": f"f{key}"}
        row |= {"version": "1", "config_hash": "", "value": value, "reason": "", "read_ids": []}
        journal.execute(insert(Reward).values(**row))

    def paid() -> dict[int, float]:
        return {row["number"]: row["reward"] for row in facts.ask("SELECT number, reward FROM facts")}

    pay(9000, first, 0.5)
    pay(9001, second, None)
    facts.look()
    assert paid() == {first: 0.5, second: None}
    pay(5000, first, -0.75)  # another process's block of ids is lower
    pay(9002, second, 0.0)
    facts.look()
    assert paid() == {first: -0.75, second: 0.0}
    found = episode_list(journal, facts, "a", {"sort": "reward"}, 1)
    assert [row["number"] for row, _ in found.rows] == [first, second]


def test_blocks_of_ids_come_out_of_order(memory: str, journal: Journal, facts: Facts) -> None:
    """A process that began earlier writes lower numbers later, also when they are far below."""
    played(memory, "a", tasks=TASKS[:1])
    row = dict(journal.read(select(*Episode.__table__.columns))[0]._mapping)
    for number in (10**6, 10**6 - 50_000, 3):  # new; within the blocks that are looked at again; far below
        journal.execute(
            insert(Episode).values(**(row | {"number": number, "id": f"e{number}", "copy": number}))
        )
        facts.look()
        assert facts.ready and number in numbers(facts)


def test_only_the_runs_that_are_asked_for(memory: str, journal: Journal) -> None:
    played(memory, "a", tasks=TASKS[:2])
    played(memory, "b", tasks=TASKS[:3])
    only = Facts(journal, ["b"])
    only.look()
    assert only.ready and only.known == 3 and not sums_of(only, ["a"])["a"].episodes
    only.close()


def test_words_roles_and_answers_filter(memory: str, journal: Journal, facts: Facts) -> None:
    played(memory, "a")
    facts.look()

    def names(**wanted: str) -> set[str]:
        return {row["task"] for row, _ in episode_list(journal, facts, "a", wanted, 1).rows}

    assert names(q="3 + 1") == {"t3"} and names(q="T4") == {"t4"} and not names(q="%")
    assert names(role="solver") == {task["id"] for task in TASKS} and not names(role="judge")
    wrong, right = names(verdict="wrong"), names(verdict="right")
    assert wrong | right == names() and not wrong & right and wrong and right
    differ = names(differ="1")
    said: dict[str, set[str]] = {}
    for row in journal.read(
        select(Turn.parsed, Episode.task_id).join(Episode, Episode.number == Turn.episode_number)
    ):
        said.setdefault(row.task_id, set()).add((row.parsed or {}).get("answer"))
    assert len(differ) == sum(len(answers) > 1 for answers in said.values())


def test_a_journal_that_does_not_answer_is_said(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Facts(journal)

    def away(_: Any) -> Any:
        made._stop.set()  # one look is enough
        raise JournalError("the server is away")

    monkeypatch.setattr(journal, "read", away)
    made._follow()
    assert made.trouble == "the server is away"
    made.close()


def test_payloads_that_are_none_of_ours(memory: str, journal: Journal, facts: Facts) -> None:
    played(memory, "a", tasks=TASKS[:2])
    first, second = (row.number for row in journal.read(select(Episode.number).order_by(Episode.number)))
    journal.execute(
        update(Event).where(Event.episode_number == first, Event.kind == "verdict").values(payload=["x"])
    )
    journal.execute(
        update(Event)
        .where(Event.episode_number == second, Event.kind == "verdict")
        .values(payload={"correct": {}})
    )
    journal.execute(update(Message).values(content=7))
    facts.look()
    assert facts.ready and {row["correct"] for row in facts.ask("SELECT correct FROM facts")} == {None}


def test_runs_of_another_run_are_listed_when_asked_for(journal: Journal, facts: Facts) -> None:
    given = {"kind": "play", "protocol": "test", "config": {}, "seed": 0}
    journal.drive("mother", **given).finish("done")
    journal.drive("child", **given, parent="mother").finish("done")
    for asked, names in (
        ({}, {"mother"}),
        ({"status": "done"}, {"mother"}),
        ({"all": "1"}, {"mother", "child"}),
        ({"kind": "play"}, {"mother", "child"}),
        ({"q": "child"}, {"child"}),
    ):
        assert {row.id for row, _ in run_list(journal, facts, asked, 1).rows} == names
    assert [row.id for row in children(journal, "mother").rows] == ["child"]

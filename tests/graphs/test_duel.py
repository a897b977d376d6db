"""Duel: who wins, before the check and before a judge who reads both orders; and a debate as a game."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from stage import Call, Stage

from sparring.agents.engines.base import Request
from sparring.agents.engines.scripted import ScriptedEngine
from sparring.errors import UserError
from sparring.graphs.catalogue import make_protocol
from sparring.graphs.play import PlayResult, aplay, plan
from sparring.memory.journal import Journal
from sparring.memory.schema import Event, Turn

TASKS = [{"id": "q", "question": "What is 3 + 4?", "answer": "7", "check": "math"}]


def judged(better: Callable[[str, str], str]) -> ScriptedEngine:
    """A judge from a function of answers A and B."""

    def reply(request: Request, seed: int) -> str:
        shown = re.search(
            r"\[Answer A\]\n(.*?)\n+\[Answer B\]\n(.*?)\n", str(request.messages[-1]["content"])
        )
        assert shown is not None
        return json.dumps({"reason": "so", "better": better(shown[1], shown[2])})

    return ScriptedEngine(reply)


async def duel(memory: Path, first: str, second: str, judge: Any = None) -> PlayResult:
    said = {"first": first, "second": second}
    roles = {seat: ScriptedEngine(lambda r, s, t=text: t) for seat, text in said.items()}
    filled = roles | ({"judge": judge} if judge else {})
    options = {"decide": "judge"} if judge else {}
    return await aplay(plan("duel", TASKS, roles=filled, **options), memory, durability="normal")


@pytest.mark.parametrize(
    ("first", "second", "points"),
    [
        ("Answer: 7", "Answer: 8", 1.0),
        ("Answer: 8", "Answer: 7.0", 0.0),
        ("Answer: 7", "Answer: 14/2", 0.5),
        ("Answer: 8", "Answer: 9", 0.5),
        ("no idea", "Answer: 9", 0.5),
        ("no idea", "Answer: 7", 0.0),
    ],
)
async def test_before_the_check_right_beats_wrong(
    tmp_path: Path, first: str, second: str, points: float
) -> None:
    [result] = await duel(tmp_path / "j.db", first, second)
    assert result.outcome["scores"] == {"first": points, "second": 1 - points}
    assert (result.status, result.answer, result.correct, result.calls) == ("done", None, None, 2)
    with Journal.open(tmp_path / "j.db") as journal:
        rows = journal.read(select(Event.kind, Event.payload))
        assert [row.kind for row in rows] == ["decision"]  # no verdict: nobody's answer is the episode's
        assert rows[0].payload["scores"] == result.outcome["scores"]


@pytest.mark.parametrize(
    ("better", "scores", "preferred"),
    [
        (lambda a, b: "A" if "8" in a else "B", (0.0, 1.0), ["second", "second"]),
        (lambda a, b: "A" if "7" in a else "B", (1.0, 0.0), ["first", "first"]),
        (lambda a, b: "A", (0.5, 0.5), ["first", "second"]),
        (lambda a, b: "B", (0.5, 0.5), ["second", "first"]),
        (lambda a, b: "tie", (0.5, 0.5), ["tie", "tie"]),
        (lambda a, b: "A" if "7" in a else "tie", (0.5, 0.5), ["first", "tie"]),
    ],
)
async def test_a_judge_must_prefer_a_side_in_both_orders(
    tmp_path: Path, better: Any, scores: tuple[float, float], preferred: list[str]
) -> None:
    [result] = await duel(tmp_path / "j.db", "Answer: 7", "Answer: 8", judged(better))
    assert tuple(result.outcome["scores"].values()) == scores
    assert result.outcome["detail"]["preferred"] == preferred and result.calls == 4
    with Journal.open(tmp_path / "j.db") as journal:
        seeds = {row.key: row.seed for row in journal.read(select(Turn.key, Turn.seed))}
    assert set(seeds) == {"first", "second", "judge/0", "judge/1"} and len(set(seeds.values())) == 4


async def test_an_unreadable_judge_makes_the_game_void_and_nobody_guilty(tmp_path: Path) -> None:
    for name, reply in (("0", "A"), ("1", '{"better": "A"}'), ("2", '{"reason": "", "better": "C"}')):
        judge = ScriptedEngine(lambda r, s, t=reply: t)
        [result] = await duel(tmp_path / f"{name}.db", "Answer: 7", "Answer: 8", judge)
        assert (result.outcome["scores"], result.outcome["fault"]) == (None, None)
    half = judged(lambda a, b: "A" if "7" in a else "?")
    [result] = await duel(tmp_path / "half.db", "Answer: 7", "Answer: 8", half)
    assert result.outcome["scores"] is None and result.outcome["detail"]["preferred"] == ["first", None]


async def test_a_side_without_an_answer_loses_and_the_judge_is_not_asked(tmp_path: Path) -> None:
    judge = judged(lambda a, b: "A")
    for name, first, second, points in (("a", "hm", "Answer: 8", 0.0), ("b", "hm", "hm", 0.5)):
        [result] = await duel(tmp_path / f"{name}.db", first, second, judge)
        assert result.outcome["scores"]["first"] == points and result.calls == 2


async def test_tasks_without_a_reference_need_a_judge(tmp_path: Path) -> None:
    calls: list[Request] = []
    engine = ScriptedEngine(lambda r, s: calls.append(r) or '{"reason": "so", "better": "tie"}')
    bare = [{"id": "q", "question": "?"}]
    with pytest.raises(
        UserError, match="task `q` has no `answer` to check by: add it, or set `decide=judge`"
    ):
        await aplay(plan("duel", bare, engine=engine), tmp_path / "j.db")
    assert calls == []
    [result] = await aplay(plan("duel", bare, engine=engine, decide="judge"), tmp_path / "j.db")
    assert result.status == "done"


def test_seats_prompts_and_options() -> None:
    protocol = make_protocol("duel", {"decide": "judge"})
    assert protocol.rivals == ("first", "second") and protocol.max_calls == 4 and not protocol.answers
    assert {seat: role.name for seat, role in protocol.seats().items()} == {
        "first": "solver",
        "second": "solver",
        "judge": "judge",
    }
    assert make_protocol("duel").max_calls == 2 and "judge" not in make_protocol("duel").seats()
    with pytest.raises(UserError, match="option `decide`"):
        make_protocol("duel", {"decide": "coin"})
    with pytest.raises(UserError, match="no block `compare`"):
        make_protocol("duel", {"decide": "judge", "prompts": {"judge": "judge"}})


# --- a debate of two sides is a game -------------------------------------------------------------------


def test_only_two_opposed_sides_are_rivals() -> None:
    assert make_protocol("mad").rivals == ("affirmative", "negative")
    for name, options in (("mad", {"agents": 3}), ("du", {}), ("reconcile", {}), ("sample", {})):
        assert make_protocol(name, options).rivals is None


async def debated(
    folder: Path, said: dict[str, str], verdict: dict[str, Any], final: str, **options: Any
) -> Any:
    def reply(call: Call) -> str:
        if call.seat == "moderator":
            return json.dumps({"preference": "No", "side": "none", "reason": "r", "answer": ""} | verdict)
        if call.seat == "judge":
            return final if call.nth else json.dumps({"candidates": ["7", "8"]})
        return said[call.seat]

    with Journal.open(folder / "j.db", "normal") as journal:
        return await Stage(
            make_protocol("mad", {"rounds": 2, **options}), journal, reply, check="math"
        ).play()


SEVEN = json.dumps({"reason": "r", "answer": "7.0"})
SAID = {"affirmative": "Answer: 7", "negative": "Answer: 8"}


@pytest.mark.parametrize(
    ("said", "verdict", "final", "points"),
    [
        (SAID, {"preference": "Yes", "side": "negative", "answer": "7"}, SEVEN, 0.0),
        (SAID, {"preference": "Yes", "side": "Affirmative", "answer": "9"}, SEVEN, 1.0),
        (SAID, {"preference": "Yes", "side": "none", "answer": "7"}, SEVEN, 0.5),
        (SAID, {}, SEVEN, 1.0),
        (SAID, {}, json.dumps({"reason": "r", "answer": "8"}), 0.0),
        (SAID, {}, json.dumps({"reason": "r", "answer": "9"}), 0.5),
        ({**SAID, "negative": "Answer: 14/2"}, {}, SEVEN, 0.5),
        ({**SAID, "affirmative": "no answer"}, {}, SEVEN, 0.5),
        (SAID, {}, "seven", None),
    ],
)
async def test_whom_a_debate_goes_to(
    tmp_path: Path, said: dict[str, str], verdict: dict[str, Any], final: str, points: float | None
) -> None:
    outcome = await debated(tmp_path, said, verdict, final)
    wanted = None if points is None else {"affirmative": points, "negative": 1 - points}
    assert (outcome["scores"], outcome["fault"]) == (wanted, None)


async def test_a_tied_vote_of_two_sides_is_a_draw_and_peers_have_no_scores(tmp_path: Path) -> None:
    options = {"close": "vote", "referee": "none"}
    assert (await debated(tmp_path, SAID, {}, "", **options))["scores"] == {
        "affirmative": 0.5,
        "negative": 0.5,
    }
    (tmp_path / "du").mkdir()
    with Journal.open(tmp_path / "du" / "j.db", "normal") as journal:
        outcome = await Stage(make_protocol("du"), journal, lambda call: "Answer: 7").play()
    assert "scores" not in outcome

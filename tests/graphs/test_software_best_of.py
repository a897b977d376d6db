"""Best of n with scripted engineers: attempts side by side, each with its own tree, and a choice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from engineer import DONE, engineer, events, rows, said
from grader_stand import StandGrader
from langgraph.runtime import Runtime
from searchers import (
    BAD,
    GOOD,
    RIGHT,
    SECRETS,
    chooser,
    places,
    search,
    secret_instance,
    turn_keys,
    valuer,
    way_of,
)

from sparring.agents.engines.base import Request
from sparring.agents.engines.script import text_of
from sparring.agents.engines.scripted import ScriptedEngine
from sparring.errors import EngineError, UserError
from sparring.graphs.context import Context, Limits
from sparring.graphs.display import SCRIPTED, report_tables
from sparring.graphs.forks import fork
from sparring.graphs.play import aresume
from sparring.graphs.protocols.software_attempts import replies, trajectory
from sparring.graphs.protocols.software_best_of import BestOfState, SoftwareBestOf
from sparring.graphs.protocols.software_choice import Candidate, by_majority, by_value, shortlist
from sparring.graphs.report import report
from sparring.memory.journal import Journal
from sparring.memory.parts import EpisodePart
from sparring.memory.seeds import derive_seed
from sparring.tools.swe.instances import Instance
from sparring.tools.swe.workshop import Bench, Workshop

BLANK = f"{BAD}; sed -i 's/return x + 1/return x + 1  /; $a\\\\' calc.py"
"""The bad fix with blanks at the end of its line."""
LINES = (GOOD, BAD, BLANK)
BEST: dict[str, Any] = {"protocol": "software_best_of", "n": 3}


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    return secret_instance(tmp_path / "source")


def tryers(lines: Sequence[str] = LINES, log: Any = lambda number, request: None) -> ScriptedEngine:
    """The attempt with each number runs one of the lines and then submits; it is known by its seed."""
    keys = [f"attempt/{number}/step/0" for number in range(len(lines))]
    seeds = {derive_seed(0, "calc-1", 0, 0, key, t): n for n, key in enumerate(keys) for t in range(2)}

    def reply(request: Request, seed: int) -> Any:
        way = way_of(request)
        number = seeds[seed] if not way else lines.index(way[0])
        return log(number, request) or said(DONE if way else lines[number])

    return ScriptedEngine(reply, ids=False)


def detail(result: Any) -> dict[str, Any]:
    found: dict[str, Any] = result.outcome["detail"]
    return found


@dataclass(frozen=True)
class Whole:
    memory: Path
    line: Any
    judged: list[Request]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    folder, judged = tmp_path_factory.mktemp("whole"), list[Request]()
    judge = chooser(log=lambda seat, request: judged.append(request))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workshop, "grader", StandGrader())
        roles = {"engineer": tryers(), "patch_judge": judge}
        instance = secret_instance(folder / "source")
        [line] = search(folder / "j.db", instance, roles, grade=True, **BEST)
    yield Whole(folder / "j.db", line, judged)


def candidate(name: str, change: str, value: int | None = None) -> Candidate:
    patch = f"diff --git a/a b/a\n--- a/a\n+++ b/a\n@@ -1 +1 @@\n-x\n+{change}\n"
    return Candidate(name=name, patch=patch, evidence="", value=value)


def test_at_most_five_different_changes_are_compared() -> None:
    six = [candidate(str(place), f"line {place}") for place in range(6)]
    assert [one["name"] for one in shortlist([*six, candidate("6", "line 5")])] == ["0", "1", "2", "3", "5"]
    valued = [{**one, "value": value} for one, value in zip(six, (5, 4, None, 9, -3, 7), strict=True)]
    assert [one["name"] for one in shortlist(valued)] == ["0", "1", "3", "4", "5"]
    twice = [candidate("0", "a", 1), candidate("1", "b"), candidate("2", "a  ", 8)]
    assert [one["name"] for one in shortlist(twice)] == ["2", "1"], (
        "the best valued of those that are the same"
    )
    assert by_value(twice) == "2" and by_majority(twice) == "0" and by_majority(six) == "0"
    assert by_value(six) is None and by_majority([]) is None and by_value([]) is None


def test_the_judge_overrules_the_majority(whole: Whole) -> None:
    memory, line = whole.memory, whole.line
    assert (line.status, line.correct, line.calls) == ("done", True, 7) and RIGHT in line.answer
    assert detail(line)["picks"] == {"value": None, "majority": "1", "judge": "0"}
    assert detail(line)["distinct"] == 2 and len(set(detail(line)["patches"].values())) == 3
    steps = {f"attempt/{number}/step/{step}" for number in range(3) for step in range(2)}
    assert set(turn_keys(memory)[:-1]) == steps and turn_keys(memory)[-1] == "judge"
    assert sorted(places(memory, "step")) == sorted(key.replace("step/", "") for key in steps)
    assert sorted(places(memory, "exit")) == [f"attempt/{number}/0" for number in range(3)]
    assert not list((memory.with_name("j.db.swe") / "work").iterdir())
    assert detail(line)["attempts"][2] == {"name": "2", "exit_status": "submitted", "steps": 2}


def test_the_report_of_a_choice(whole: Whole) -> None:
    with Journal.open(whole.memory) as journal:
        found = report(journal, "r")
    figures = found.figures
    assert found.scripted and SCRIPTED in [str(part) for part in report_tables(found)]
    rules = {"by_judge": 1.0, "resolved_by_judge": 1.0, "resolved_by_majority": 0.0, "oracle": 1.0}
    assert figures == {"calls": 7.0, "finished": 3.0, "distinct": 2.0, **rules}


def test_the_judge_reads_issue_patches_and_evidence_and_nothing_hidden(whole: Whole) -> None:
    [request] = whole.judged
    text = text_of(request.messages[-1])
    assert "double(calc-1) is off by one" in text and "Patch (B):" in text and "Patch (C):" not in text
    assert text.index(RIGHT) < text.index(f"$ {GOOD}") < text.index("Patch (B)") < text.index(f"$ {BAD}")
    messages = [str(content) for (content,) in rows(whole.memory, "SELECT content FROM messages")]
    assert not [text for text in messages for secret in SECRETS if secret in text]


def test_by_majority_nobody_is_asked(memory: Path, instance: Instance) -> None:
    [line] = search(memory, instance, {"engineer": tryers()}, **BEST, select="majority")
    assert (detail(line)["by"], detail(line)["chosen"], line.calls) == ("majority", "1", 6)


def test_by_value_the_highest_wins_and_an_unreadable_one_is_none(memory: Path, instance: Instance) -> None:
    values: dict[str, int | str] = {f"{GOOD} | {DONE}": -20, f"{BAD} | {DONE}": -30, f"{BLANK} | {DONE}": "?"}
    roles = {"engineer": tryers(), "valuer": valuer(values)}
    [line] = search(memory, instance, roles, **BEST, select="value")
    assert detail(line)["values"] == {"0": -20, "1": -30, "2": None} and detail(line)["chosen"] == "0"
    query = "SELECT turns.key, scores.value FROM scores JOIN turns ON turns.id = turn_id ORDER BY turns.key"
    scores = [(f"attempt/{n}/step/1", value) for n, value in ((0, -20.0), (1, -30.0), (2, None))]
    assert rows(memory, query) == scores


def test_an_unreadable_judge_leaves_it_to_the_majority(memory: Path, instance: Instance) -> None:
    roles = {"engineer": tryers(), "patch_judge": engineer("Answer: (D)")}
    [line] = search(memory, instance, roles, **BEST)
    assert detail(line)["picks"]["judge"] is None and detail(line)["by"] == "majority"


def test_without_a_patch_there_is_no_choice(memory: Path, instance: Instance) -> None:
    roles = {"engineer": engineer(said(DONE)), "patch_judge": chooser()}
    [line] = search(memory, instance, roles, **BEST)
    assert (line.answer, detail(line)["chosen"], line.calls) == ("", None, 3)


def test_a_cap_on_calls_ends_all_attempts_and_the_choice(memory: Path, instance: Instance) -> None:
    roles = {"engineer": tryers(), "patch_judge": chooser()}
    [line] = search(memory, instance, roles, **BEST, limits=Limits(calls=6))
    assert line.status == "capped" and detail(line)["by"] == "majority" and line.calls == 6
    [line] = search(memory, instance, roles, **BEST, limits=Limits(calls=3), run="fewer")
    ends = [one["exit_status"] for one in detail(line)["attempts"]]
    assert line.status == "capped" and ends == ["capped"] * 3 and len(detail(line)["patches"]) == 3


def test_attempts_go_on_where_they_were(
    memory: Path, instance: Instance, whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(number: int, request: Request) -> None:
        if number == 1 and way_of(request):
            raise EngineError("gone")

    roles = {"engineer": tryers(log=fail), "patch_judge": chooser()}
    [lost] = search(memory, instance, roles, **BEST)
    assert lost.status == "failed"
    done = len(events(memory))
    run, ran = Bench.run, list[str]()

    async def noted(self: Bench, command: str, limits: Any) -> Any:
        ran.append(command)
        return await run(self, command, limits)

    monkeypatch.setattr(Bench, "run", noted)
    [line] = search(memory, instance, {"engineer": tryers(), "patch_judge": chooser()}, **BEST)
    assert line.outcome == whole.line.outcome and len(ran) == 6 - done


def test_what_ended_before_counts_against_the_cap(memory: Path, instance: Instance) -> None:
    async def late() -> str:
        while len(places(memory, "exit")) < 2:
            await asyncio.sleep(0.02)
        raise EngineError("gone")

    roles = {"engineer": tryers(log=lambda number, _: late() if number == 1 else None)}
    capped: dict[str, Any] = {**BEST, "select": "majority", "limits": Limits(calls=5)}
    [lost] = search(memory, instance, roles, **capped)
    assert lost.status == "failed"
    [line] = search(memory, instance, {"engineer": tryers()}, **capped)
    assert line.status == "capped" and len(rows(memory, "SELECT id FROM turns WHERE status = 'ok'")) == 5
    assert [one["exit_status"] for one in detail(line)["attempts"]] == ["submitted", "capped", "submitted"]


def test_no_cap_takes_away_what_was_said_side_by_side(
    memory: Path, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All three are asked before the first reply has used up the tokens."""
    asked: list[int] = []

    async def together(number: int) -> str:
        asked.append(number)
        while len(asked) < 3:
            await asyncio.sleep(0.01)
        return said(LINES[number])

    async def lost_end(self: EpisodePart, kind: str, key: str, payload: dict[str, Any]) -> dict[str, Any]:
        while kind == "exit" and len(events(memory)) < 3:
            await asyncio.sleep(0.02)
        if kind == "exit":
            raise EngineError("gone")
        return await event(self, kind, key, payload)

    event, roles = EpisodePart.event, {"engineer": tryers(log=lambda number, _: together(number))}
    capped: dict[str, Any] = {**BEST, "select": "majority", "limits": Limits(tokens=1)}
    with monkeypatch.context() as patch:
        patch.setattr(EpisodePart, "event", lost_end)
        assert search(memory, instance, roles, **capped)[0].status == "failed"
    [line] = search(memory, instance, {"engineer": tryers()}, **capped)
    ends = [(one["exit_status"], one["steps"]) for one in detail(line)["attempts"]]
    assert ends == [("capped", 1)] * 3 and len(detail(line)["patches"]) == 3


class Told(SoftwareBestOf):
    """Tells each attempt how to go about it, and looks at what it did."""

    name: ClassVar[str] = "told"
    seen: ClassVar[list[Any]] = []

    async def try_it(self, state: BestOfState, runtime: Runtime[Context]) -> BestOfState:
        number, context = state["number"], runtime.context
        made = await self.attempt(context, state["question"], str(number), f"way number {number}")
        self.seen.append((made, trajectory(context, made), [turn.text for turn in replies(context, made)]))
        return {"attempts": [made]}


def test_an_attempt_is_a_name_and_a_strategy(memory: Path, instance: Instance) -> None:
    Told.seen.clear()
    asked: list[tuple[int, str]] = []
    log = tryers(log=lambda number, request: asked.append((number, str(request.messages))))
    search(memory, instance, {"engineer": log}, protocol=f"{__name__}:Told", n=3, select="majority")
    assert len(asked) == 6
    for number, text in asked:
        assert [f"way number {other}" in text for other in range(3)] == [number == o for o in range(3)]
    for made, steps, texts in Told.seen:
        assert made["strategy"] == f"way number {made['name']}" and made["exit_status"] == "submitted"
        assert [step["action"] for step in steps] == [LINES[int(made["name"])], DONE]
        assert texts == [said(step["action"]) for step in steps]


def test_it_cannot_be_forked(whole: Whole) -> None:
    with pytest.raises(UserError, match="cannot be forked"):
        fork(whole.line.episode, 1, whole.memory, roles={"engineer": tryers(), "patch_judge": chooser()})


@pytest.mark.parametrize("protocol", ["software", "software_best_of", "software_search", "se_agent"])
def test_no_pool_of_samples_is_drawn_beside_it(memory: Path, instance: Instance, protocol: str) -> None:
    """Its samples would be right where they say `resolved`."""
    with pytest.raises(UserError, match="no baseline of single samples"):
        search(memory, instance, {}, protocol=protocol, baseline=True)


def test_none_is_drawn_later_either(whole: Whole) -> None:
    with pytest.raises(UserError, match="no baseline of single samples"):
        asyncio.run(aresume("r", whole.memory, baseline={}))

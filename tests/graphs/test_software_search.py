"""A search over the steps of scripted engineers, in a real sandbox."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from engineer import DONE, engineer, events, last_message, rows, said
from grader_stand import StandGrader
from searchers import (
    GOOD,
    RIGHT,
    SECRETS,
    chooser,
    places,
    planner,
    search,
    secret_instance,
    turn_keys,
    two,
    valuer,
)

from sparring.agents.engines.base import Request
from sparring.agents.engines.scripted import ScriptedEngine
from sparring.errors import EngineError, UserError
from sparring.graphs.catalogue import make_protocol
from sparring.graphs.context import Limits
from sparring.graphs.forks import fork
from sparring.graphs.protocols.software_search import SoftwareSearch
from sparring.graphs.protocols.software_tree import Node, parent, selected
from sparring.graphs.report import report
from sparring.memory.journal import Journal
from sparring.tools.swe.instances import Instance
from sparring.tools.swe.workshop import Bench, Workshop

WIDE = {"finished": 2, "children": 2, "debaters": 3, "rounds": 2, "alpha": 2.0}
"""The root's children first."""


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    return secret_instance(tmp_path / "source")


def detail(result: Any) -> dict[str, Any]:
    found: dict[str, Any] = result.outcome["detail"]
    return found


def values(memory: Path) -> dict[str, Any]:
    """Place -> value, as scores of the engineer's turns have them."""
    query = "SELECT turns.key, scores.value FROM scores JOIN turns ON turns.id = turn_id ORDER BY scores.id"
    return {key.split("/")[1]: value for key, value in rows(memory, query)}


def grown(memory: Path) -> list[tuple[str, str | None, Any]]:
    """Place, end and value of each node, in the order in which they were made."""
    known = values(memory)
    made = zip(places(memory), events(memory, "node"), strict=True)
    return [(place, one["ends"], known.get(place)) for place, one in made]


# --- the whole -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Whole:
    """One search, undisturbed, and what the engineer was asked in it."""

    memory: Path
    line: Any
    asked: list[Request]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    folder, asked = tmp_path_factory.mktemp("whole"), list[Request]()
    roles = two(lambda seat, request: asked.append(request) if seat == "engineer" else None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workshop, "grader", StandGrader())
        [line] = search(folder / "j.db", secret_instance(folder / "source"), roles, grade=True, **WIDE)
    yield Whole(folder / "j.db", line, asked)


def test_the_debate_overrules_the_values(whole: Whole) -> None:
    memory, line = whole.memory, whole.line
    assert (line.status, line.correct) == ("done", True) and RIGHT in line.answer
    assert places(memory) == ["0.0", "0.1", "0.1.0", "0.0.0"]
    assert values(memory) == {"0.0": 40, "0.1": 50, "0.0.0": 10, "0.1.0": 90}
    found = detail(line)
    assert found["picks"] == {"value": "0.1.0", "majority": "0.1.0", "debate": "0.0.0"}
    assert (found["by"], found["chosen"], found["agreement"]) == ("debate", "0.0.0", 1.0)
    assert (found["stopped"], found["nodes"], found["depth"], found["submitted"]) == ("finished", 4, 2, 2)
    votes = [key for key in turn_keys(memory) if key.startswith("debate/")]
    assert votes == [f"debate/{round}/solver.{seat}" for round in range(2) for seat in range(3)]
    assert places(memory, "vote") == ["debate/0"]
    [choice] = events(memory, "choice")
    assert choice["shown"] == {"A": "0.1.0", "B": "0.0.0"}
    assert not list((memory.with_name("j.db.swe") / "work").iterdir())


def test_the_report_compares_the_rules_with_the_oracle(whole: Whole) -> None:
    [verdict] = events(whole.memory, "verdict")
    assert verdict["correct"] and verdict["candidates"] == {"0.1.0": False, "0.0.0": True}
    with Journal.open(whole.memory) as journal:
        figures = report(journal, "r").figures
    told = {"resolved_by_debate": 1.0, "resolved_by_value": 0.0, "resolved_by_majority": 0.0, "oracle": 1.0}
    tree = {"calls": 14.0, "nodes": 4.0, "depth": 2.0, "finished": 2.0, "distinct": 2.0, "valued": 1.0}
    rest = {"duplicates": 0.0, "abandoned": 0.0, "by_debate": 1.0, "agreement": 1.0}
    assert figures == {**told, **tree, **rest}


def test_no_prompt_holds_what_the_engineer_may_not_see(whole: Whole) -> None:
    messages = [str(content) for (content,) in rows(whole.memory, "SELECT content FROM messages")]
    assert len(messages) > 10 and any("double(calc-1) is off by one" in text for text in messages)
    assert not [text for text in messages for secret in SECRETS if secret in text]
    [task] = rows(whole.memory, "SELECT meta FROM tasks")
    assert all(secret in task[0] for secret in SECRETS), "the task has them all the same"


def test_it_cannot_be_forked(whole: Whole) -> None:
    with pytest.raises(UserError, match="cannot be forked"):
        fork(whole.line.episode, 1, whole.memory, roles=two())


def test_selection_is_a_function_of_what_is_journaled(memory: Path, instance: Instance) -> None:
    plan = _Wide()
    roles = {"engineer": planner(plan), "valuer": _by_letter(), "solver": chooser()}
    search(memory, instance, roles, expansions=14, depth=4)
    nodes = grown(memory)
    assert len(nodes) == 14 and len({parent(place) for place, *_ in nodes}) > 4
    tree = {"0": Node(place="0", ends=None, value=None)}
    rule = SoftwareSearch(depth=4).rule
    for place, ends, value in nodes:
        assert selected(tree, rule) == parent(place)
        tree[place] = Node(place=place, ends=ends, value=value)
    assert [one["number"] for one in events(memory, "node")] == list(range(14))


class _Wide(dict[tuple[str, ...], tuple[str, ...]]):
    """Three commands everywhere."""

    def __missing__(self, way: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f"echo {len(way)}{letter} >> log" for letter in "abc")


def _by_letter() -> ScriptedEngine:
    return valuer({"a >> log": 10, "b >> log": 60, "c >> log": -40})


# --- steps -----------------------------------------------------------------------------------------------


def test_the_explanation_reaches_the_next_child_and_nobody_else(whole: Whole) -> None:
    first, second, *deeper = map(last_message, whole.asked)
    assert "From this very point" not in first
    assert f"1. $ {GOOD}\nJudged 40 on a scale from -100 to 100: Because of 40." in second
    assert len(deeper) == 2 and all("From this very point" not in text for text in deeper)


def test_without_feedback_nothing_is_told(memory: Path, instance: Instance) -> None:
    seen: list[str] = []
    roles = two(lambda seat, request: seen.append(str(request.messages)) if seat == "engineer" else None)
    search(memory, instance, roles, feedback=False, **{**WIDE, "expansions": 2})
    assert len(seen) == 2 and seen[0] == seen[1]


def test_each_node_begins_at_its_parents_tree(whole: Whole) -> None:
    made = dict(zip(places(whole.memory), events(whole.memory, "node"), strict=True))
    base = events(whole.memory, "base")[0]["tree"]
    assert len({base, made["0.0"]["tree"], made["0.1"]["tree"]}) == 3
    assert made["0.0.0"]["tree"] == made["0.0"]["tree"] and made["0.0.0"]["delta"] == ""
    assert RIGHT in made["0.0"]["patch"] and made["0.1"]["patch"].count("\n+") == 2
    assert made["0.0.0"]["patch"] is None, "as its parent's"


def test_git_does_not_last(memory: Path, instance: Instance) -> None:
    mark = "git init -q sub; touch .git/mark sub/a; rm .git/HEAD"
    plan = {(): (mark,), (mark,): ("git status --short; ls .git sub -A",)}
    roles = {"engineer": planner(plan), "valuer": valuer({"": 10}), "solver": chooser()}
    search(memory, instance, roles, expansions=2, children=1)
    _, looked = events(memory, "node")
    assert "?? sub/" in looked["observation"] and looked["observation"].endswith("sub:\na\n")
    assert "mark" not in looked["observation"]


# --- caps ------------------------------------------------------------------------------------------------


def test_caps_hold_and_a_duplicate_is_not_run_again(
    memory: Path, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = _counted(monkeypatch)
    roles = {"engineer": engineer(said("ls")), "valuer": valuer({"": 10}), "solver": chooser()}
    [line] = search(memory, instance, roles, depth=2, children=2)
    nodes = {place: (ends, value) for place, ends, value in grown(memory)}
    assert nodes == {
        "0.0": (None, 10),
        "0.1": ("duplicate", None),
        "0.0.0": (None, 10),
        "0.0.1": ("duplicate", None),
    }
    assert ran == ["ls", "ls"], "the same command at another node is none"
    assert detail(line)["stopped"] == "exhausted" and detail(line)["duplicates"] == 2
    assert (line.answer, detail(line)["chosen"], line.status) == ("", None, "done")
    [line] = search(memory, instance, roles, depth=2, children=2, expansions=3, run="few")
    assert (detail(line)["stopped"], detail(line)["nodes"]) == ("expansions", 3)


def test_a_bad_branch_is_abandoned(memory: Path, instance: Instance) -> None:
    roles = {"engineer": planner(_Wide()), "valuer": valuer({"": -1}), "solver": chooser()}
    [line] = search(memory, instance, roles, children=1)
    assert places(memory) == ["0.0", "0.0.0", "0.0.0.0"] and detail(line)["abandoned"] == 1
    assert detail(line)["stopped"] == "exhausted"


def test_a_patch_of_enough_value_ends_the_search(memory: Path, instance: Instance) -> None:
    [line] = search(memory, instance, two(), **{**WIDE, "finished": 5, "reward": 90})
    assert detail(line)["stopped"] == "reward" and "0.1.0" in detail(line)["patches"]


def test_what_was_not_submitted_stands_where_nothing_was(memory: Path, instance: Instance) -> None:
    [line] = search(memory, instance, two(), **{**WIDE, "expansions": 2})
    assert detail(line)["submitted"] == 0 and detail(line)["chosen"] == "0.1", "it has the higher value"
    assert not any(key.startswith("debate") for key in turn_keys(memory)), "there is nothing to debate about"


def test_time_ends_the_search_between_two_nodes_for_good(memory: Path, instance: Instance) -> None:
    plan = {(): (f"sleep 0.4; {GOOD}", "ls")}
    failed: list[int] = []

    def fail(seat: str, request: Request) -> None:
        if seat == "valuer" and not failed:
            failed.append(1)
            raise EngineError("gone")

    roles = {**two(), "engineer": planner(plan), "valuer": valuer({"": 10}, fail)}
    [lost] = search(memory, instance, roles, seconds=0.4)
    assert lost.status == "failed" and places(memory) == ["0.0"]
    [line] = search(memory, instance, roles, seconds=0.4)
    assert detail(line)["stopped"] == "seconds" and places(memory) == ["0.0"] and RIGHT in line.answer
    [stop] = events(memory, "stop")
    assert stop["nodes"] == 1 and detail(line)["by"] == "only"


def test_a_cap_on_calls_ends_the_search_with_the_best_so_far(memory: Path, instance: Instance) -> None:
    [line] = search(memory, instance, two(), limits=Limits(calls=9), **WIDE)
    assert line.status == "capped" and "9 calls" in line.error
    assert detail(line)["by"] == "value" and detail(line)["chosen"] == "0.1.0" and line.calls <= 9
    [line] = search(memory, instance, two(), limits=Limits(calls=3), run="fewer", **WIDE)
    assert line.status == "capped" and RIGHT in line.answer, "the node without a value stands behind"


# --- what cannot be read -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", ["Fine.", "<score>50</score>", "Good.\n<score>101</score>", "<score>1</score> <score>2</score>"]
)
def test_an_unreadable_value_is_none(memory: Path, instance: Instance, words: str) -> None:
    roles = {**two(), "valuer": valuer({"": words})}
    [line] = search(memory, instance, roles, **WIDE)
    assert values(memory) == dict.fromkeys(places(memory)) and len(places(memory)) == 4
    assert detail(line)["picks"]["value"] is None and detail(line)["valued"] == 0
    assert RIGHT in line.answer, "the debate decides all the same"
    assert {s for (s,) in rows(memory, "SELECT status FROM turns WHERE key LIKE '%value'")} == {"parse_error"}


def test_a_reply_without_a_command_is_a_node_without_children(memory: Path, instance: Instance) -> None:
    seen: list[str] = []

    def log(seat: str, request: Request) -> None:
        if seat == "engineer":
            seen.append(last_message(request))

    plan = {(): ("!no command", GOOD), (GOOD,): (DONE,)}
    roles = {**two(), "engineer": planner(plan, log)}
    search(memory, instance, roles, **{**WIDE, "finished": 1})
    assert grown(memory)[0] == ("0.0", "mistake", None) and places(memory) == ["0.0", "0.1", "0.1.0"]
    assert "1. A reply from which nothing could be run: missing: no block" in seen[1]


def test_a_vote_for_no_patch_counts_for_none(memory: Path, instance: Instance) -> None:
    roles = {**two(), "solver.0": chooser(), "solver.1": chooser("nobody's"), "solver.2": chooser("nobody's")}
    [line] = search(memory, instance, roles, **WIDE)
    assert detail(line)["by"] == "debate" and RIGHT in line.answer
    roles = {**two(), "solver": engineer("Answer: (E)")}
    [line] = search(memory, instance, roles, run="strangers", **WIDE)
    assert detail(line)["by"] == "value" and detail(line)["picks"]["debate"] is None


def test_options_that_cannot_be(memory: Path) -> None:
    with pytest.raises(UserError, match="children"):
        make_protocol("software_search", {"children": 0})
    with pytest.raises(UserError, match="unknown role of protocol `software_search` in `prompts`"):
        make_protocol("software_search", {"prompts": {"solver.9": "solver"}})


# --- going on ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "at", [pytest.param(1, marks=pytest.mark.slow), 3, pytest.param(6, marks=pytest.mark.slow), 11]
)
def test_the_same_tree_after_a_failure_on_a_machine_without_the_objects(
    memory: Path, instance: Instance, whole: Whole, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    calls: list[str] = []

    def fail(seat: str, request: Request) -> None:
        calls.append(seat)
        if len(calls) == at:
            raise EngineError("gone")

    [lost] = search(memory, instance, two(fail), **WIDE)
    assert lost.status == "failed" and "gone" in lost.error
    done = len(places(memory))
    shutil.rmtree(memory.with_name("journal.db.swe"))
    ran = _counted(monkeypatch)
    [line] = search(memory, instance, two(), **WIDE)
    assert line.outcome == whole.line.outcome and grown(memory) == grown(whole.memory)
    assert len(ran) == 4 - done, "no command of a journaled node is run again"
    assert told(memory) == told(whole.memory)


SAME = ("tree", "delta", "patch", "ends", "action", "observation")


def told(memory: Path) -> list[list[Any]]:
    return [[one.get(name) for name in SAME] for one in events(memory, "node")]


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    run, ran = Bench.run, list[str]()

    async def noted(self: Bench, command: str, limits: Any) -> Any:
        ran.append(command)
        return await run(self, command, limits)

    monkeypatch.setattr(Bench, "run", noted)
    return ran

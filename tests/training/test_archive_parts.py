"""The pure parts of an archive: who has children, what is improved, what a change may be, who goes on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))

from archive_support import CARE, change, system

from sparring.agents.improvements import improvement
from sparring.agents.objects import ParseError
from sparring.agents.prompts import load_prompt
from sparring.errors import UserError
from sparring.graphs.protocols.software import MARKER
from sparring.graphs.stats import wilson
from sparring.training.archive.agents import Software, changed, changes, initial
from sparring.training.archive.config import ArchiveConfig, load_archive
from sparring.training.archive.logs import Attempt, as_text
from sparring.training.archive.record import Evaluation, Member, better_of
from sparring.training.archive.selection import Candidate, choose_parents, probabilities
from sparring.training.archive.stages import difference, entry, passes, threshold_of
from sparring.training.archive.topics import CHANCES, choose_topic

FOUR = [Candidate("a", 0.2, 3), Candidate("b", 0.5, 0), Candidate("c", 0.5, 1), Candidate("d", 0.9, 8)]


def plain(**over: Any) -> ArchiveConfig:
    return load_archive({"kind": "archive", "run": "r", "tasks": "t", "generations": 1, **over})


# --- parents -------------------------------------------------------------------------------------------


def test_parent_probabilities_by_hand() -> None:
    """s = 1/(1+exp(-10(a-.5))): .0474259, .5, .5, .9820138; h = 1/4, 1, 1/2, 1/9; so
    s h: .0118565, .5, .25, .1091126, in all .8709691; without h: 2.0294397."""
    found = probabilities(FOUR, "score_child_prop")
    assert found == pytest.approx([0.0136130, 0.5740732, 0.2870366, 0.1252773], abs=1e-6)
    found = probabilities(FOUR, "score_prop")
    assert found == pytest.approx([0.0233690, 0.2463734, 0.2463734, 0.4838842], abs=1e-6)
    assert probabilities(FOUR, "random") == pytest.approx([0.25] * 4)


def test_best_is_the_best_and_last_is_the_last() -> None:
    """In the original `best` cannot be chosen, and would take the worst."""
    assert choose_parents(FOUR, 3, "best", 0, 1) == ["d", "b", "c"]
    assert choose_parents(FOUR[:1], 2, "best", 0, 1) == ["a", "a"]
    assert choose_parents(FOUR, 2, "last", 0, 1) == ["d", "d"]
    assert plain(parents="best").parents == "best"


def test_parents_are_drawn_with_replacement_by_their_chances() -> None:
    drawn = [name for g in range(400) for name in choose_parents(FOUR, 5, "score_child_prop", 7, g)]
    shares = [drawn.count(each.id) / len(drawn) for each in FOUR]
    assert shares == pytest.approx(probabilities(FOUR, "score_child_prop"), abs=0.04)
    again = [choose_parents(FOUR, 5, "score_child_prop", 7, g) for g in range(4)]
    assert again == [choose_parents(FOUR, 5, "score_child_prop", 7, g) for g in range(4)]
    assert again != [choose_parents(FOUR, 5, "score_child_prop", 8, g) for g in range(4)]
    assert any(len(set(names)) < 5 for names in again)


# --- topics --------------------------------------------------------------------------------------------


def step(action: str | None = "ls", killed_by: str | None = None) -> dict[str, Any]:
    return {
        "action": action,
        "killed_by": killed_by,
        "error": "missing: no block",
        "observation": "",
        "returncode": 0,
    }


def attempt(
    name: str, resolved: bool = False, patch: str = "x", ending: str = "submitted", **kind: Any
) -> Attempt:
    return Attempt(name, "an issue", resolved, patch, ending, [step(**kind)])


def topics(attempts: list[Attempt], **chances: float) -> set[tuple[str, tuple[str, ...]]]:
    wanted: Any = {**dict.fromkeys(CHANCES, 0.0), **chances}
    found = (choose_topic(attempts, wanted, 0.1, 4, np.random.default_rng(n)) for n in range(60))
    return {(topic.name, topic.instances) for topic in found}


def test_topics_come_from_what_the_logs_show() -> None:
    logs = [
        attempt("empty", patch=""),
        attempt("mute", action=None),
        attempt("slow", killed_by="wall"),
        attempt("endless", ending="steps"),
        attempt("good", resolved=True),
    ]
    assert topics(logs, empty_patches=1) == {("empty_patches", ("empty",))}
    assert topics(logs, format_errors=1) == {("format_errors", ("mute",))}
    assert topics(logs, limits=1) == {("limits", ("slow", "endless"))}
    assert topics(logs, stochasticity=1) == {("stochasticity", ("empty", "mute", "slow", "endless"))}
    assert topics(logs) == {("unresolved", (name,)) for name in ("empty", "mute", "slow", "endless")}
    few = [attempt("empty", patch=""), *(attempt(f"n{n}", resolved=True) for n in range(19))]
    assert topics(few, empty_patches=1) == {("unresolved", ("empty",))}, "5 % is below a share of 0.1"


def test_nobody_fails_where_everything_is_resolved_or_nothing_judged() -> None:
    """The original compares a list with 0 there and ends."""
    done = [attempt("short", resolved=True), attempt("long", resolved=True)]
    done[1].steps.append(step())
    assert topics(done, stochasticity=1) == {("economy", ("long", "short"))}
    assert topics([], **dict.fromkeys(CHANCES, 1.0)) == {("economy", ())}
    assert as_text([], 100) == "(no attempt was judged)"


def test_logs_are_shortened_to_what_was_asked() -> None:
    logs = [Attempt("a", "issue " * 500, False, "p" * 9000, "steps", [step("echo " + "x" * 5000)] * 60)] * 4
    assert len(as_text(logs, 8000)) <= 8200


# --- changes -------------------------------------------------------------------------------------------

TASK = "Fix it.\n\n{{ question }}\n\nThen {{marker}}. {{ instruction }}"


def bred(reply: str, **over: Any) -> tuple[Software, Software]:
    config = plain(**over)
    parent = initial(config)
    return parent, changed(parent, improvement(reply), config.free, config.options)


def test_a_change_of_words_and_settings() -> None:
    reply = change(system=system(CARE), task=TASK, options={"steps": 80}, sampling={"temperature": 0.5})
    parent, child = bred(reply, agent={"options": {"steps": 50}})
    assert changes(parent, child) == [
        "system",
        "task",
        "options.steps 50 -> 80",
        "sampling.temperature unset -> 0.5",
    ]
    prompt = load_prompt(child.prompt)
    asked = {"question": "ISSUE {{ 7 * 7 }}", "marker": MARKER, "instruction": "Go."}
    assert prompt.render("task", asked) == f"Fix it.\n\nISSUE {{{{ 7 * 7 }}}}\n\nThen {MARKER}. Go."
    assert prompt.render("system", {}).endswith(CARE)
    assert {"observation", "mistake"} <= set(prompt.occasions()), "the rest of the prompt stays"
    assert (
        child.id != parent.id and Software.from_json(json.loads(json.dumps(child.to_json()))).id == child.id
    )
    again = changed(child, improvement(change(system=system("Again."))), plain().free, {})
    assert load_prompt(again.prompt).render("system", {}).endswith("Again.") and "Fix it." in again.prompt


def test_a_prompt_that_extends_a_shipped_one_can_be_rewritten(tmp_path: Path) -> None:
    own = tmp_path / "engineer.md"
    own.write_text('{% extends "engineer.md" %}\n{% block system %}Be brief.{% endblock %}\n')
    parent, child = bred(change(task=TASK), agent={"prompt": str(own)})
    prompt = load_prompt(child.prompt)
    assert prompt.render("system", {}) == "Be brief." and prompt.render(
        "task", {"question": "Q", "marker": "M", "instruction": "I"}
    ).startswith("Fix it.")
    assert "{{ question }}" in parent.shown() and "Be brief." in parent.shown()
    (tmp_path / "other.md").write_text('{% extends "base.md" %}')
    (tmp_path / "base.md").write_text(load_prompt("engineer").source["engineer.md"])
    with pytest.raises(UserError, match="carries its prompts as text"):
        initial(plain(agent={"prompt": str(tmp_path / "other.md")}))


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        ("No.", "missing"),
        ('{"system": "x"}', "missing_field: `why`"),
        (change(prompt="x"), "unknown_field: `prompt`"),
        (change(options={"steps": "many"}), "bad_field: `options.steps`"),
        (change(options={"steps": True}), "bad_field"),
        (change(), "no_change"),
        (change(options={"grade": 0}), "unknown_option: `options.'grade'`; known: steps, timeout"),
        (change(options={"i_understand": 1}), "unknown_option"),
        (change(sampling={"seed": 1}), "unknown_option: `sampling.'seed'`; known: temperature"),
        (change(options={"steps": 1e6}), r"out_of_range: `options.steps` is 1e\+06; it lies in 5 to 250"),
        (change(options={"steps": 7.5}), "bad_option"),
        (change(options={"steps": 7.5}, system="Be brief."), "bad_option"),
        (change(sampling={"max_tokens": 99.5}), "bad_option: .*`max_tokens`: `99.5` is no whole number"),
        (change(system="{{{ question }}}"), "bad_prompt: .* no valid template"),
        (change(task="Do it."), "bad_prompt: `task` has no `{{ question }}`"),
        (change(task=TASK + "{{ gold }}"), "bad_prompt: `task` asks for `gold`; known: question"),
        (change(system="{% for x in range(9) %}{% endfor %}"), "bad_prompt: `system` holds `{%`"),
        (change(system="{{ 9 ** 9 ** 9 }}"), "bad_prompt: `system` holds `{{`"),
        (change(system="{{ question.__class__ }}"), "bad_prompt: `system` holds `{{`"),
        (change(system="{% endblock %}{% block task %}"), "bad_prompt: `system` holds `{%`"),
        (change(system="{# gone #}"), "bad_prompt: `system` holds `{#`"),
        (change(system="  "), "bad_prompt: `system` is empty"),
        (change(system="x" * 30_000), "bad_prompt: `system` has 30000 characters"),
    ],
)
def test_what_cannot_be_done_is_named(reply: str, failure: str) -> None:
    with pytest.raises(ParseError, match=failure):
        bred(reply)


def test_sampling_that_no_engine_takes_is_no_child() -> None:
    """A child that is journaled and cannot be played would stop the archive for good."""
    space = {"sampling": {"top_p": {"low": 0, "high": 1}, "temperature": {"low": -1, "high": 2}}}
    for wrong in ({"top_p": 0}, {"temperature": -1}):
        with pytest.raises(ParseError, match="bad_option: sampling: temperature"):
            bred(change(sampling=wrong), space=space)


def test_what_is_fixed_for_all_is_nobodys_to_set() -> None:
    with pytest.raises(ParseError, match=r"unknown_option: `options.'steps'`; known: timeout"):
        bred(change(options={"steps": 9}), options={"steps": 20})
    for wrong, said in (
        ({"options": {"steps": 20}, "agent": {"options": {"steps": 9}}}, "keep one"),
        ({"agent": {"options": {"grade": 0}}}, "setting in `agent.options` .* `grade`"),
        (
            {"space": {"options": {"sandbox": {"low": 0, "high": 1}}}},
            "setting in `space.options` .* `sandbox`",
        ),
        ({"options": {"prompts": {"engineer": "x"}}}, "agent.prompt"),
        ({"options": {"grade": False}}, "nobody would judge"),
    ):
        with pytest.raises(UserError, match=said):
            initial(plain(**wrong))


# --- stages --------------------------------------------------------------------------------------------


def member(name: str, hits: int, n: int, *, generation: int = 0, stages: int = 1, patched: int = 1) -> Member:
    names = [f"i{k}" for k in range(n)]
    whole = Evaluation("run", tuple(names[:hits]), tuple(names[hits:]), ("gone",), patched)
    rest = (Evaluation("run", (), (), (), 0),) * (stages - 1)
    agent = Software(name, {}, {})
    return Member(name, agent, None, generation, "", (), "", (), (whole, *rest), True)


def test_a_stage_is_passed_by_its_interval() -> None:
    """Wilson, 95 %: 0 of 10 [0, .278], 1 [.018, .404], 7 [.397, .892], 8 [.490, .943]."""
    possible, sure, share = (plain(rule=rule) for rule in ("possible", "sure", "share"))
    assert [passes(hits, 10, 0.4, possible) for hits in (0, 1, 4)] == [False, True, True]
    assert [passes(hits, 10, 0.4, sure) for hits in (4, 7, 8)] == [False, False, True]
    assert [passes(hits, 10, 0.4, share) for hits in (3, 4)] == [False, True]
    assert not passes(0, 0, 0.0, possible), "nothing was judged"
    assert not passes(1, 10, 0.4, plain(confidence=0.8)), "a narrower interval decides sooner"
    assert possible.z == pytest.approx(1.959964, abs=1e-6)


def test_the_third_stage_asks_for_the_second_best() -> None:
    """Described in the original, and never used there."""
    config = plain()
    earlier = [member("a", 3, 10, stages=3), member("b", 7, 10, stages=3), member("c", 9, 10, stages=3)]
    assert threshold_of(config, 1, earlier) == 0.7 and threshold_of(config, 0, earlier) == 0.4
    assert threshold_of(config, 1, earlier[:1]) == 0.4
    assert threshold_of(config, 1, [member("d", 9, 10, stages=2)] * 2) == 0.4, "they did not come through"


def test_masked_instances_are_in_no_share() -> None:
    found = member("a", 3, 4)
    assert (found.accuracy.mean, found.accuracy.n, found.masked) == (0.75, 4, 1)


def test_the_best_is_not_who_was_judged_least() -> None:
    found = better_of([member("few", 4, 4), member("many", 11, 12), member("poor", 1, 12)])
    assert found is not None and found.id == "many"
    assert better_of([]) is None


def test_who_enters() -> None:
    first = member("first", 6, 10)
    better = plain(keep="better")
    assert entry(first, None, better)[0]
    assert entry(member("x", 0, 10), first, plain()) == (True, "it works")
    assert entry(member("x", 0, 10, patched=0), first, plain()) == (False, "no attempt left a patch")
    assert entry(member("x", 0, 0), first, plain()) == (False, "nothing of it could be judged")
    assert entry(member("x", 3, 10), first, better)[0], "ten instances do not prove it worse"
    entered, why = entry(member("x", 0, 10), first, better)
    assert not entered and why.startswith("-0.60 [") and why.endswith("to the first on 10 instances")


def test_newcombes_interval() -> None:
    """Newcombe 1998, table II, example (a): 56/70 - 48/80, method 10 gives .0524 to .3339."""
    found = difference(wilson(56, 70), wilson(48, 80))
    assert (found.mean, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


# --- configuration -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"stages": [10, 5]}, "that grow"),
        ({"parents": "worst"}, "score_child_prop"),
        ({"limits": {"euros": 1}}, "unknown cap `euros`"),
        ({"limits": {"calls": 0.5}}, "a cap on calls cannot be 0.5"),
        ({"limits": {"cost": 0}}, "a cap on cost cannot be 0"),
        ({"limits": {"tokens": float("inf")}}, "a cap on tokens cannot be inf"),
        ({"improver": {"chances": {"luck": 1}}}, "empty_patches"),
        ({"improver": {"chances": {"limits": 2}}}, "between 0 and 1"),
        ({"steps": 3}, "there is no such field"),
        ({"space": {"options": {"steps": {"low": 9, "high": 1}}}}, "above"),
    ],
)
def test_a_mistake_is_named(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        plain(**wrong)

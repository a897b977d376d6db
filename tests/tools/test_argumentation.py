"""Argumentation: every semantics against brute force, the decision, its reasons and its picture."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Collection, Iterable
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.errors import UserError
from sparring.tools.argumentation import (
    SCHEMES,
    SEMANTICS,
    Answer,
    Argument,
    Attack,
    Framework,
    extensions,
    grounded,
)
from sparring.tools.decisions import Decision, decide, draw, drawn, explain

Pairs = Collection[tuple[str, str]]


def abstract(ids: Iterable[str], pairs: Pairs) -> Framework:
    """A framework of bare nodes."""
    return Framework(
        arguments=tuple(Argument(id=id, scheme="objection", text=f"says {id}") for id in ids),
        attacks=tuple(Attack(attacker=one, target=other) for one, other in pairs),
    )


def sets(framework: Framework, semantics: str, **limits: int) -> list[str]:
    return ["".join(sorted(one)) for one in extensions(framework, semantics, **limits)]


# --- the oracle: every subset, by the definitions -----------------------------------------------------


def brute_force(ids: list[str], pairs: Pairs) -> dict[str, set[frozenset[str]]]:
    attacks = set(pairs)
    subsets = [frozenset(one) for size in range(len(ids) + 1) for one in combinations(ids, size)]

    def acceptable(id: str, members: frozenset[str]) -> bool:
        return all(any((c, b) in attacks for c in members) for b in ids if (b, id) in attacks)

    free = {s for s in subsets if not any((a, b) in attacks for a in s for b in s)}
    admissible = {s for s in free if all(acceptable(id, s) for id in s)}
    complete = {s for s in admissible if all(id in s for id in ids if acceptable(id, s))}
    preferred = {s for s in admissible if not any(s < other for other in admissible)}
    stable = {s for s in free if all(any((a, b) in attacks for a in s) for b in ids if b not in s)}
    least = {s for s in complete if all(s <= other for other in complete)}
    return {
        "conflict_free": free,
        "admissible": admissible,
        "complete": complete,
        "grounded": least,
        "preferred": preferred,
        "stable": stable,
    }


def agrees(ids: list[str], pairs: Pairs) -> None:
    framework = abstract(ids, pairs)
    for semantics, expected in brute_force(ids, pairs).items():
        found = extensions(framework, semantics, most=10_000)
        assert len(found) == len(set(found)), f"{semantics}: found twice"
        assert set(found) == expected, semantics


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[str], list[tuple[str, str]]]:
    """Up to 8 arguments, attacks of any density, on themselves too."""
    ids = list("abcdefgh")[: draw(st.integers(0, 8))]
    pairs = [(one, other) for one in ids for other in ids]
    density = draw(st.floats(0, 1))
    rng = random.Random(draw(st.integers(0, 2**32)))
    return ids, [pair for pair in pairs if rng.random() < density]


@given(graphs())
@settings(deadline=None, max_examples=150)
def test_every_semantics_is_what_the_definitions_say(graph: tuple[list[str], list[tuple[str, str]]]) -> None:
    agrees(*graph)


@pytest.mark.parametrize(
    ("seed", "count", "density"), [(1, 11, 0.1), (2, 12, 0.15), (3, 12, 0.3), (4, 10, 0.05)]
)
def test_larger_graphs_agree_with_brute_force(seed: int, count: int, density: float) -> None:
    rng = random.Random(seed)
    ids = list("abcdefghijkl")[:count]
    agrees(ids, [(one, other) for one in ids for other in ids if rng.random() < density])


@given(graphs())
@settings(deadline=None, max_examples=150)
def test_the_semantics_lie_in_each_other(graph: tuple[list[str], list[tuple[str, str]]]) -> None:
    framework = abstract(*graph)
    found = {semantics: set(extensions(framework, semantics)) for semantics in SEMANTICS}
    order = ["stable", "preferred", "complete", "admissible", "conflict_free"]
    for narrow, wide in pairwise(order):
        assert found[narrow] <= found[wide], (narrow, wide)
    assert found["preferred"], "at least one always exists"
    assert found["grounded"] <= found["complete"]
    assert all(grounded(framework) <= one for one in found["complete"])


# --- by hand -----------------------------------------------------------------------------------------


def edges(text: str) -> list[tuple[str, str]]:
    """`ab bc`: a attacks b, b attacks c."""
    return [(pair[0], pair[1]) for pair in text.split()]


@pytest.mark.parametrize(
    ("ids", "attacks", "expected"),
    [
        ("abc", "ab bc ca", {"grounded": [""], "preferred": [""], "complete": [""], "stable": []}),
        ("ab", "ab ba", {"grounded": [""], "preferred": ["a", "b"], "stable": ["a", "b"]}),
        ("ab", "ab ba", {"complete": ["", "a", "b"], "admissible": ["", "a", "b"]}),
        ("abc", "ab bc", {"grounded": ["ac"], "preferred": ["ac"], "stable": ["ac"], "complete": ["ac"]}),
        ("abc", "ab bc", {"conflict_free": ["", "a", "ac", "b", "c"], "admissible": ["", "a", "ac"]}),
        ("a", "aa", {"grounded": [""], "preferred": [""], "stable": [], "conflict_free": [""]}),
        ("ab", "aa ab", {"grounded": [""], "preferred": [""], "stable": [], "conflict_free": ["", "b"]}),
        ("abcd", "ab bc cd da", {"grounded": [""], "preferred": ["ac", "bd"], "stable": ["ac", "bd"]}),
        ("", "", {semantics: [""] for semantics in SEMANTICS}),
    ],
)  # fmt: skip
def test_known_frameworks(ids: str, attacks: str, expected: dict[str, list[str]]) -> None:
    framework = abstract(ids, edges(attacks))
    assert {semantics: sets(framework, semantics) for semantics in expected} == expected


# --- forty arguments, and limits ----------------------------------------------------------------------


def sparse(seed: int, count: int, density: float) -> Framework:
    rng = random.Random(seed)
    ids = [f"a{place}" for place in range(count)]
    return abstract(ids, [(one, other) for one in ids for other in ids if rng.random() < density])


def is_complete(framework: Framework, members: frozenset[str]) -> bool:
    graph = framework.graph
    defended = {id for id in graph if all(set(graph.pred[b]) & members for b in graph.pred[id])}
    return defended == members and not any(b in members for a in members for b in graph[a])


@pytest.mark.parametrize("density", [0.05, 0.1, 0.2, 0.4])
def test_forty_arguments_take_no_time(density: float) -> None:
    framework = sparse(7, 40, density)
    start = time.process_time()
    found = {name: extensions(framework, name) for name in ("grounded", "complete", "preferred", "stable")}
    assert time.process_time() - start < 3
    assert all(is_complete(framework, one) for name in found for one in found[name])
    complete = set(found["complete"])
    assert set(found["preferred"]) == {one for one in complete if not any(one < other for other in complete)}
    everyone = set(framework.by_id)
    assert set(found["stable"]) == {
        one for one in complete if one.union(*(framework.graph[id] for id in one)) == everyone
    }


def pairs(count: int) -> Framework:
    """So many pairs that attack each other: 2^count preferred extensions."""
    ids = [f"{side}{place}" for place in range(count) for side in "xy"]
    return abstract(ids, [(f"{a}{place}", f"{b}{place}") for place in range(count) for a, b in ("xy", "yx")])


def test_the_work_is_capped() -> None:
    assert len(extensions(pairs(5))) == len(extensions(pairs(5), most=32)) == 32
    with pytest.raises(
        UserError, match="preferred semantics of 10 arguments goes beyond 31 extensions; raise `most`"
    ):
        extensions(pairs(5), most=31)
    start = time.process_time()
    with pytest.raises(UserError, match="beyond 200 extensions"):
        extensions(pairs(20), most=200)
    assert time.process_time() - start < 5
    with pytest.raises(UserError, match="beyond its steps; raise `steps`, or take grounded"):
        extensions(pairs(5), steps=20)
    assert extensions(pairs(20), "grounded", most=0, steps=0) == [frozenset()]


def test_a_long_chain_needs_no_deep_stack() -> None:
    ids = [f"a{place}" for place in range(1_501)]
    framework = abstract(ids, list(pairwise(ids)))
    assert extensions(framework) == extensions(framework, "stable") == [frozenset(ids[::2])]


def test_unknown_semantics_are_named() -> None:
    with pytest.raises(UserError, match="unknown semantics `ideal`; known: admissible, complete"):
        extensions(abstract("a", []), "ideal")


# --- arguments of schemes ------------------------------------------------------------------------------


def argue(id: str, scheme: str, text: str, decision: str | None = None, **answers: str) -> Argument:
    """Answers: id of the argument -> the critical question."""
    asked = tuple(Answer(argument=target, question=question) for target, question in answers.items())
    return Argument(id=id, scheme=scheme, text=text, decision=decision, answers=asked)


STENT = argue("a1", "decision making", "A stent promotes blood flow.", "stent")
BLEEDING = argue("a2", "side effects", "Thinners bring about bleeding.", a1="side effects")
TOLERATED = argue("a3", "objection", "Thinners were tolerated.", a2="evidence")
BYPASS = argue("a4", "better alternative", "A bypass lasts longer.", "bypass", a1="alternative")
TABLETS = argue("a5", "decision making", "Tablets promote comfort.", "tablets")


def framed(*arguments: Argument, attacks: str = "") -> Framework:
    given = tuple(Attack(attacker=f"a{one}", target=f"a{other}") for one, other in edges(attacks))
    return Framework(arguments=arguments, attacks=given)


def test_failed_questions_and_rival_decisions_attack() -> None:
    graph = framed(STENT, BLEEDING, TOLERATED, BYPASS).graph
    assert {pair: graph.edges[pair]["questions"] for pair in graph.edges} == {
        ("a2", "a1"): ["side effects"],
        ("a3", "a2"): ["evidence"],
        ("a4", "a1"): ["alternative"],
        ("a1", "a4"): [],  # a rival attacks back
    }
    assert graph.nodes["a1"]["argument"] is STENT and list(graph) == ["a1", "a2", "a3", "a4"]
    again = argue("a6", "decision making", "A stent is quick.", "stent")
    assert not framed(STENT, again).attacks  # two reasons for one decision


def test_schemes_fill_in() -> None:
    parts = {
        "fact": "F",
        "goal": "G",
        "decision": "D",
        "effect": "E",
        "other": "O",
        "claim": "C",
        "reason": "R",
    }
    assert (
        SCHEMES["decision making"].form.format(**parts) == "In view of F, D promotes G; so D should be done."
    )
    for scheme in SCHEMES.values():
        assert all(words.format(**parts).endswith("?") for words in scheme.questions.values())
    assert {"evidence", "side effects", "alternative"} <= SCHEMES["decision making"].questions.keys()


def test_json_comes_back_equal() -> None:
    framework = framed(STENT, BLEEDING, TOLERATED, BYPASS, attacks="22")
    assert Framework.from_json(json.loads(json.dumps(framework.to_json()))) == framework
    alone = {"arguments": [argument.model_dump() for argument in framework.arguments]}
    assert Framework.from_json(alone) == framed(STENT, BLEEDING, TOLERATED, BYPASS)  # the rest follows


BARE = {"id": "a", "scheme": "objection", "text": "No."}
DECIDED = {"id": "b", "scheme": "decision making", "text": "Do.", "decision": "x"}


def asks(argument: str, question: str) -> dict[str, object]:
    return {"answers": [{"argument": argument, "question": question}]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([BARE, BARE], "two arguments have the id `a`"),
        ([{**BARE, "id": " "}], "empty id"),
        ([{**BARE, "scheme": "hunch"}], "unknown argumentation scheme `hunch`"),
        ([{**BARE, "decision": "x"}], "`a` contradicts itself: `objection` speaks for none"),
        ([{**BARE, "decision": ""}], "`a` contradicts itself: `objection` speaks for none"),
        ([{**DECIDED, "decision": " "}], "`b` contradicts itself: `decision making` needs"),
        ([{**DECIDED, "decision": None}], "`b` contradicts itself: `decision making` needs"),
        ([{**BARE, **asks("z", "evidence")}], "unknown argument `z`; known: a"),
        (
            [BARE, {**DECIDED, **asks("a", "mood")}],
            "question of `a` .objection. `mood`; known: evidence, rel",
        ),
        ([DECIDED, {**DECIDED, "id": "c", **asks("b", "alternative")}], "`c` contradicts itself: no altern"),
        ([DECIDED, {**BARE, **asks("b", "alternative")}], "`a` contradicts itself: no alternative to `b`"),
        ([{"id": "a"}], "option `arguments.0.scheme`"),
        (3, "option `arguments`"),
    ],
)
def test_bad_arguments_are_refused(arguments: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Framework.from_json({"arguments": arguments})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"attacks": [{"attacker": "z", "target": "a"}]}, "unknown argument `z`"),
        ({"attacks": [{"attacker": "a", "target": "z"}]}, "unknown argument `z`"),
        ({"attacks": [{"attacker": "a", "target": "a", "question": "mood"}]}, "critical question of `a`"),
        ({"edges": []}, "unknown option of argumentation framework `edges`"),
    ],
)
def test_bad_attacks_are_refused(more: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Framework.from_json({"arguments": [BARE], **more})


# --- the decision ----------------------------------------------------------------------------------------


def test_a_defended_decision_is_accepted_and_explained() -> None:
    framework = framed(STENT, BLEEDING, TOLERATED, TABLETS)
    decision = decide(framework, "preferred")
    assert (decision.decision, decision.extension, decision.tied) == ("stent", ("a1", "a3"), True)
    lines = explain(framework, decision).splitlines()
    assert lines == [
        "Accepted: `stent`, in 1 of 2 preferred extensions (credulous).",
        "Other extensions accept `tablets`; a tie goes to the earliest argument.",
        "It is supported by `a1` (decision making): A stent promotes blood flow.",
        "`a1` is attacked (side effects) by `a2` (side effects): Thinners bring about bleeding. "
        "It is rejected, being attacked by `a3` (objection): Thinners were tolerated.",
        "`a1` is attacked as a rival by `a5` (decision making): Tablets promote comfort. "
        "It is rejected, being attacked by `a1`.",
        "Nothing attacks `a3`.",
    ]


def test_an_unanswered_side_effect_defeats_the_decision() -> None:
    framework = framed(STENT, BLEEDING)
    for semantics in ("preferred", "grounded", "stable"):
        decision = decide(framework, semantics)
        assert (decision.decision, decision.extension, decision.candidates) == (None, ("a2",), ())
    words = explain(framework, decision)
    assert (
        "`a1`, for `stent`, is rejected." in words
        and "Thinners bring about bleeding. That is accepted." in words
    )
    assert decide(framed(STENT, BLEEDING, TABLETS)).decision == "tablets"


def test_a_tie_goes_to_the_earliest_argument() -> None:
    for order, first in (((STENT, TABLETS), "stent"), ((TABLETS, STENT), "tablets")):
        decision = decide(framed(*order))
        assert decision.decision == first and decision.tied and decision.support == 1
        assert decision.candidates == tuple(argument.decision for argument in order)
    # the earliest argument counts even where another one of that decision is accepted
    late = argue("a6", "decision making", "A stent is quick.", "stent")
    decision = decide(framed(STENT, TABLETS, late, BLEEDING))
    assert decision.decision == "stent" and decision.extension == ("a6", "a2")


def test_grounded_and_skeptical_take_no_side() -> None:
    framework = framed(STENT, TABLETS)
    grounded_one = decide(framework, "grounded")
    assert (grounded_one.decision, grounded_one.extension, grounded_one.tied) == (None, (), False)
    assert "`a5`, for `tablets`, is undecided." in explain(framework, grounded_one)
    skeptical = decide(framework, mode="skeptical")
    assert skeptical.decision is None and skeptical.tied and skeptical.candidates == ("stent", "tablets")
    assert "in some of them, but not in all: `stent`, `tablets`." in explain(framework, skeptical)


def test_skeptical_takes_a_decision_for_which_reasons_differ() -> None:
    again = argue("a6", "decision making", "A stent is quick.", "stent")
    framework = framed(STENT, again, attacks="16 61")
    assert sets(framework, "preferred") == ["a1", "a6"]
    decision = decide(framework, mode="skeptical")
    assert (decision.decision, decision.support, decision.extensions, decision.tied) == ("stent", 2, 2, False)


def test_without_a_stable_extension_nothing_is_accepted() -> None:
    odd = argue("a7", "objection", "This is false.")
    framework = framed(STENT, odd, attacks="77")
    for mode in ("credulous", "skeptical"):
        decision = decide(framework, "stable", mode)
        assert decision == Decision(None, None, (), 0, 0, "stable", mode)
        assert explain(framework, decision) == f"No decision is accepted (0 stable extensions, {mode})."
    assert decide(framework).decision == "stent" and decide(framed()).decision is None


def test_unknown_ways_to_decide_are_named() -> None:
    with pytest.raises(UserError, match="unknown semantics `complete`; known: grounded, preferred, stable"):
        decide(framed(STENT), "complete")
    with pytest.raises(UserError, match="unknown mode `brave`; known: credulous, skeptical"):
        decide(framed(STENT), mode="brave")
    with pytest.raises(UserError, match="beyond 3 extensions"):
        decide(pairs(3), most=3)


@given(graphs(), st.lists(st.sampled_from(["x", "y", None]), min_size=8, max_size=8))
@settings(deadline=None, max_examples=60)
def test_what_is_decided_is_defended(
    graph: tuple[list[str], list[tuple[str, str]]], decisions: list[str | None]
) -> None:
    arguments = tuple(
        Argument(id=id, scheme="decision making" if one else "objection", text=f"says {id}", decision=one)
        for id, one in zip(graph[0], decisions, strict=False)
    )
    attacks = tuple(Attack(attacker=one, target=other) for one, other in graph[1])
    framework = Framework(arguments=arguments, attacks=attacks)
    decision = decide(framework)
    words = explain(framework, decision)
    if decision.decision is None:
        assert words.startswith("No decision") and not decision.candidates
        return
    assert decision.extension is not None
    chosen = {framework.by_id[id].decision for id in decision.extension} - {None}
    assert chosen == {decision.decision}, "different decisions conflict"
    labels = framework.labels(decision.extension)
    for id in decision.extension:
        assert all(labels[attacker] == "rejected" for attacker in framework.graph.pred[id])
        if framework.by_id[id].decision:
            for attacker in framework.graph.pred[id]:
                assert re.search(
                    rf"^`{id}` is attacked.* by `{attacker}` .* It is rejected", words, re.MULTILINE
                )


# --- the drawing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(1, 11))
def test_boxes_do_not_overlap(count: int) -> None:
    text = "A long sentence about wide words, which fills the three lines of its box and more."
    ids = [f"argument-{place}" for place in range(count)]
    framework = Framework(
        arguments=tuple(Argument(id=id, scheme="decision making", text=text, decision="wide") for id in ids)
    )
    figure = drawn(framework, ids[:1])
    texts: list[Any] = [box for box in figure.axes[0].texts if box.get_text()]
    boxes = [box.get_bbox_patch().get_window_extent() for box in texts]
    assert len(boxes) == count
    for one, other in combinations(boxes, 2):
        assert not one.overlaps(other)
    low = 0.08 * figure.bbox.height  # below is the legend
    for box in boxes:
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= low and box.y1 <= figure.bbox.height


def test_labels_differ_in_colour_and_form() -> None:
    odd = argue("a7", "objection", "This $is$ false.")
    framework = framed(STENT, BLEEDING, odd, attacks="77")
    boxes: list[Any] = [box for box in drawn(framework, {"a2"}).axes[0].texts if box.get_text()]
    assert [box.get_text().splitlines()[0] for box in boxes] == ["a1: stent", "a2", "a7"]
    looks = [box.get_bbox_patch() for box in boxes]
    for get in ("get_facecolor", "get_edgecolor", "get_linestyle"):
        assert len({str(getattr(look, get)()) for look in looks}) == 3, get
    assert len({type(look.get_boxstyle()) for look in looks}) == 3
    assert "$is$" in boxes[2].get_text()


@pytest.mark.parametrize("count", [0, 1, 40])
def test_draw_writes_a_png(count: int, tmp_path: Path) -> None:
    framework = sparse(3, count, 0.1)
    path = draw(framework, tmp_path / "new" / "graph.png", grounded(framework))
    assert path.read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown argument `zz`"):
        draw(framed(STENT), tmp_path / "x.png", {"zz"})
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        draw(framed(STENT), tmp_path / "file" / "x.png")

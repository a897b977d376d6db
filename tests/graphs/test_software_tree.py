"""Selection in a tree of steps, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from sparring.graphs.protocols.software_tree import (
    Counts,
    Node,
    Rule,
    abandoned,
    depth,
    expandable,
    scaled,
    selected,
    uct,
    way,
)


def tree(**values: int | None) -> dict[str, Node]:
    """Nodes by place, written with underscores: `_0_1` is 0.0.1; the root comes by itself."""
    found = {"0": Node(place="0", ends=None, value=None)}
    for name, value in values.items():
        place = "0" + name.replace("_", ".")
        found[place] = Node(place=place, ends=None, value=value)
    return found


FOUR = tree(_0=60, _1=-20, _0_0=20)


def test_values_are_scaled_and_backed_up() -> None:
    assert [scaled(value) for value in (-100, -20, 0, 60, 100)] == [0.0, 0.4, 0.5, 0.8, 1.0]
    counts = Counts.of(FOUR)
    assert counts.visits == {"0": 3, "0.0": 2, "0.1": 1, "0.0.0": 1}
    assert {place: round(counts.mean(place), 9) for place in FOUR} == {
        "0": 0.6,
        "0.0": 0.7,
        "0.1": 0.4,
        "0.0.0": 0.6,
    }


@pytest.mark.parametrize(
    ("place", "value", "explored", "early", "late"),
    [
        ("0", 0.6, 0.853259, 0.25, 0.05),  # 1.41 sqrt(ln 3 / 3); 0.25 e^0; 0.05 sqrt(1)
        ("0.0", 0.7, 1.045024, 0.091970, 0.070711),  # 1.41 sqrt(ln 3 / 2); 0.25 e^-1; 0.05 sqrt(2)
        ("0.1", 0.4, 1.477887, 0.091970, 0.070711),  # 1.41 sqrt(ln 3 / 1)
        ("0.0.0", 0.6, 1.173902, 0.033834, 0.086603),  # 1.41 sqrt(ln 2 / 1); 0.25 e^-2; 0.05 sqrt(3)
    ],
)
def test_the_score_by_hand(place: str, value: float, explored: float, early: float, late: float) -> None:
    counts = Counts.of(FOUR)
    assert uct(counts, place, Rule()) == pytest.approx(value + explored + early - late, abs=2e-6)
    assert uct(counts, place, Rule(alpha=0, gamma=0)) == pytest.approx(value + explored, abs=2e-6)
    assert uct(counts, place, Rule(0, alpha=0, gamma=0)) == pytest.approx(value)


def test_the_highest_score_is_selected_and_the_first_of_equals() -> None:
    assert selected(tree(), Rule()) == "0" and uct(Counts.of(tree()), "0", Rule()) == math.inf
    assert selected(FOUR, Rule()) == "0.1", "less is known of it"
    assert selected(FOUR, Rule(exploration=0.1)) == "0"
    assert selected(FOUR, Rule(exploration=0.1, alpha=0)) == "0.0", "its values are the best"
    equal = tree(_0=10, _1=10)
    assert selected(equal, Rule(children=2)) == "0.0"
    assert selected(tree(_0=10, _1=11), Rule(children=2)) == "0.1"


def test_the_terms_of_depth_say_how_deep_to_look() -> None:
    chain = tree(_0=0, _0_0=0, _0_0_0=0)
    assert selected(chain, Rule(alpha=0, gamma=0)) == "0.0.0.0"
    assert selected(chain, Rule(alpha=0, gamma=1)) == "0"
    assert selected(chain, Rule(alpha=2, gamma=0)) == "0"


def test_a_node_without_a_value_takes_the_nearest_one_above() -> None:
    counts = Counts.of(tree(_0=40, _1=None, _0_0=None, _0_0_0=None))
    assert counts.visits["0"] == 4 and counts.visits["0.0"] == 3, "it was visited all the same"
    assert [counts.mean(place) for place in ("0", "0.0", "0.1", "0.0.0", "0.0.0.0")] == [0.7] * 5
    assert Counts.of(tree(_0=None)).mean("0.0") == Counts.of(tree(_0=None)).mean("0") == 0


def test_caps() -> None:
    assert [depth(place) for place in ("0", "0.2", "0.2.1")] == [0, 1, 2]
    assert way("0.2.1") == ["0", "0.2", "0.2.1"]
    assert not expandable(FOUR, "0", Rule(children=2)) and expandable(FOUR, "0", Rule(children=3))
    assert not expandable(FOUR, "0.0.0", Rule(depth=2)) and expandable(FOUR, "0.0.0", Rule(depth=3))
    ended = {**FOUR, "0.1": Node(place="0.1", ends="submitted", value=90)}
    assert not expandable(ended, "0.1", Rule())
    assert selected(ended, Rule(depth=1, children=2)) is None


def test_three_values_in_a_row_under_the_threshold_end_a_branch() -> None:
    bad = tree(_0=-1, _0_0=-1, _0_0_0=-1, _0_0_1=0, _0_0_2=None)
    assert abandoned(bad, "0.0.0.0", 0) and not expandable(bad, "0.0.0.0", Rule())
    assert not abandoned(bad, "0.0.0.0", -1) and not abandoned(bad, "0.0.0", 0)
    assert not abandoned(bad, "0.0.0.1", 0), "the threshold itself is not under it"
    assert not abandoned(bad, "0.0.0.2", 0), "two values alone"
    over = {**bad, "0.0.0.2.0": Node(place="0.0.0.2.0", ends=None, value=-50)}
    assert abandoned(over, "0.0.0.2.0", 0), "what has no value does not break the row"
    late = tree(_0=90, _0_0=-1, _0_0_0=-1, _0_0_0_0=-1)
    assert abandoned(late, "0.0.0.0.0", 0) and not abandoned(late, "0.0.0.0", 0)

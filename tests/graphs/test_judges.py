"""Figures of judges against tables worked by hand."""

from __future__ import annotations

from typing import Any

import pytest

from sparring.graphs.judges import figures, reports
from sparring.graphs.verdicts import debiased, higher, likelier, majority, met_more

Row = dict[str, Any]


def row(label: Any, said: dict[str, list[Any]], authors: Any = None) -> Row:
    """A pair, and the verdicts of judges by their models, in two orders."""
    judges = [
        {"seat": f"judge.{n}", "model": model, "version": 3, "verdicts": {"direct": {"clean": orders}}}
        for n, (model, orders) in enumerate(said.items())
    ]
    return {"pair": {"label": label, "authors": authors, "subset": ""}, "judges": judges}


@pytest.mark.parametrize(
    ("orders", "verdict"),
    [
        (["1", "1"], "1"), (["2", "2"], "2"), (["1", "2"], "tie"), (["1", "tie"], "tie"),
        (["tie", "tie"], "tie"), (["1", None], None), ([None, None], None), (["2"], "2"),
    ],
)  # fmt: skip
def test_a_verdict_is_what_holds_in_both_orders(orders: list[Any], verdict: Any) -> None:
    assert debiased(orders) == verdict


def test_grades_checklists_and_votes() -> None:
    assert [higher(3, 2), higher(2, 3), higher(2, 2), higher(None, 2)] == ["1", "2", "tie", None]
    assert met_more([True, False], [False, False]) == "1" and met_more([True], [True]) == "tie"
    # the second question is not answered for the first response, so it is asked of neither
    assert met_more([True, None, False], [False, True, True]) == "tie"
    assert met_more([None, True], [True, None]) is None and met_more([], []) is None
    assert majority(["1", "1", "2"]) == "1" and majority(["1", "2", None]) == "tie"
    assert majority(["tie", "2"]) == "2" and majority([None]) is None and majority([]) is None


def test_probabilities_of_both_orders_are_averaged() -> None:
    assert [likelier([0.9, 0.2]), likelier([0.7, 0.2]), likelier([0.9, 0.1])] == ["1", "2", "tie"]
    assert likelier([0.1 + 0.2, 0.7]) == "tie" and likelier([0.6]) == "1"


def test_dbg_against_the_label_by_hand() -> None:
    """In five pairs judge m gives itself 1, 1, 1/2, 1, 0 and deserves 1, 0, 1, 1/2, 0."""
    rows = [
        row("1", {"m": ["1", "1"]}, ["m", "x"]),
        row("1", {"m": ["2", "2"]}, ["x", "m"]),
        row("2", {"m": ["1", "2"]}, ["x", "m@3"]),
        row("tie", {"m": ["2", "2"]}, ["x", "m"]),
        row("2", {"m": ["2", "2"]}, ["m", "x"]),
        row("2", {"m": ["2", None]}, ["m", "x"]),  # cannot be read
        row("2", {"m": ["1", "1"]}, ["m", "m"]),  # both are its own
        row("2", {"m": ["1", "1"]}, ["x", "m@2"]),  # of another version
        row("2", {"m": ["1", "1"]}),
        row(None, {"m": ["1", "1"]}, ["m", "x"]),  # nobody has said
    ]
    (judge,) = reports(rows)
    found = judge.methods["direct"].self_preference
    assert set(found) == {"label"}
    assert (found["label"].n, found["label"].unreadable) == (5, 1)
    assert found["label"].own == pytest.approx(0.7) and found["label"].gold == pytest.approx(0.5)
    assert found["label"].difference.mean == pytest.approx(0.2)
    assert figures([judge])["judge.0/direct/dbg/label"] == pytest.approx(0.2)


def test_dbg_against_a_panel_of_the_others_by_hand() -> None:
    """Gold is the majority over the others' orders, equal is half each, unreadable votes do not count."""
    rows = [
        # m gives itself 1; the others 2 : 2, so 1/2
        row(None, {"m": ["1", "1"], "x": ["1", "1"], "y": ["2", "2"]}, ["m", "x"]),
        # m 1; the others 1 : 3, so 0
        row(None, {"m": ["1", "1"], "x": ["1", "2"], "y": ["2", "2"]}, ["m", "x"]),
        # m 0; the others 1 : 1 and two unreadable, so 1/2
        row(None, {"m": ["1", "1"], "x": ["1", None], "y": [None, "2"]}, ["y", "m"]),
        # m 1/2; y says 1 and a tie, so 1
        row(None, {"m": ["1", "2"], "x": [None, None], "y": ["1", "tie"]}, ["m", "x"]),
        # nobody else can be read
        row(None, {"m": ["1", "1"], "x": [None, None], "y": [None, None]}, ["m", "x"]),
    ]
    m, x, _ = reports(rows)
    own = m.methods["direct"].self_preference["panel"]
    assert (own.n, own.unreadable, own.own, own.gold) == (4, 0, 2.5 / 4, 2 / 4)
    assert own.difference.mean == pytest.approx(0.125)
    # x wrote the second response of rows 1, 2, 4 and 5; in 4 and 5 it cannot be read
    other = x.methods["direct"].self_preference["panel"]
    assert (other.n, other.unreadable) == (2, 2)
    # row 1: it gives itself 0, the others 2 : 2 so 1/2; row 2: 1/2, the others 2 : 2 so 1/2
    assert other.difference.mean == pytest.approx(-0.25)


def test_judges_of_one_model_are_no_panel_for_each_other() -> None:
    pair = row(None, {"m": ["1", "1"], "x": ["2", "2"]}, ["m", "z"])
    pair["judges"].append(pair["judges"][0] | {"seat": "judge.2"})
    first, _, again = reports([pair])
    for judge in (first, again):
        assert judge.model == "m" and judge.methods["direct"].self_preference["panel"].gold == 0.0


def test_a_judge_that_favours_itself_is_convicted_and_one_that_is_merely_better_is_not() -> None:
    vain = [row("2", {"m": ["1", "1"]}, ["m", "x"]) for _ in range(12)]
    good = [row("1", {"m": ["1", "1"]}, ["m", "x"]) for _ in range(12)]
    assert reports(vain)[0].methods["direct"].biases == ("self_preference",)
    assert reports(good)[0].methods["direct"].biases == ()
    assert reports(vain[:9])[0].methods["direct"].biases == ()  # too few to conclude from


def test_position_by_hand() -> None:
    """Straight, swapped: in the swapped order response 2 is shown first."""
    said = [["1", "2"], ["1", "1"], ["2", "1"], ["tie", "2"], ["1", None], ["2", "2"]]
    (judge,) = reports([row("1", {"m": orders}) for orders in said])
    position = judge.methods["direct"].position
    assert position is not None and position.consistency.n == 5 and position.consistency.mean == 2 / 5
    # for the first: 2 of row 1, 1 of 2, 0 of 3, 1 of 4, 1 of 6; nine verdicts are no ties
    assert (position.first.mean, position.first.n) == (5 / 9, 9)
    # 1, 0, -1, 1/2, 0
    assert position.bias.mean == pytest.approx(0.1)
    straight, swapped = judge.methods["direct"].orders
    assert (straight.right, straight.tied, straight.wrong, straight.unreadable) == (3, 1, 2, 0)
    assert (swapped.right, swapped.tied, swapped.wrong, swapped.unreadable) == (2, 0, 3, 1)
    tally = judge.methods["direct"].verdicts
    assert tally and (tally.right, tally.tied, tally.wrong, tally.unreadable) == (1, 3, 1, 1)
    assert judge.methods["direct"].readable.mean == 11 / 12


def test_a_probe_by_hand() -> None:
    """RBD's figures on the verdict over both orders; what cannot be read has its own count."""
    said = [  # label, before, after
        ("1", ["1", "1"], ["1", "1"]),
        ("1", ["1", "1"], ["1", "2"]),  # a tie now: harmed
        ("2", ["2", "2"], ["1", "1"]),  # harmed
        ("2", ["1", "1"], ["2", "2"]),  # right only with it
        ("1", ["1", "1"], ["1", None]),  # not readable: no harm, and not right either
        ("1", [None, "1"], ["1", "1"]),
        ("tie", ["tie", "tie"], ["1", "1"]),  # has no worse response
    ]
    rows = []
    for label, before, after in said:
        pair = row(label, {"m": before})
        pair["judges"][0]["verdicts"]["direct"]["cheerful"] = after
        rows.append(pair)
    found = reports(rows)[0].methods["direct"].probes["cheerful"]
    assert (found.n, found.unreadable) == (6, 2)
    assert (found.before.mean, found.after.mean, found.consistency.mean) == (4 / 6, 3 / 6, 1 / 6)
    assert (found.harm.mean, found.harm.n) == (2 / 3, 3)
    assert found.shift.mean == pytest.approx(-1 / 4) and found.shift.n == 4


def test_no_pairs_no_judges() -> None:
    assert reports([]) == [] and figures([]) == {}

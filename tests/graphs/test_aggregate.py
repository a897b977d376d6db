"""Aggregation: golden votes of the original implementations, and properties that hold for any ballots."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.errors import UserError
from sparring.graphs.aggregate import AGGREGATORS, Ballot, Vote, aggregator, natural, rescaled
from sparring.tools.equality import equality

DATA = Path(__file__).parent.parent / "data"
EXACT = equality("exact")
COUNTED = [("majority", {}), ("weighted", {}), ("reconcile", {}), ("borda", {}), ("borda", {"power": 2.0})]


def golden(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((DATA / f"{name}.json").read_text())["rows"]
    assert rows
    return rows


def ballots(
    answers: Sequence[str | None],
    confidence: Sequence[float | None] | None = None,
    weight: Sequence[float | None] | None = None,
) -> list[Ballot]:
    return [
        Ballot(
            key=f"solver/{i}",
            answer=answer,
            text=f"text {i}",
            weight=weight[i] if weight else None,
            confidence=confidence[i] if confidence else None,
        )
        for i, answer in enumerate(answers)
    ]


def vote(name: str, cast: Sequence[Ballot], select: Any = None, **options: Any) -> Vote:
    return asyncio.run(aggregator(name, **options)(cast, EXACT, select))


# --- golden ------------------------------------------------------------------------------------------


def test_majority_reproduces_du_most_frequent() -> None:
    for row in golden("du_most_frequent"):
        assert vote("majority", ballots(row["items"])).winner == row["out"], row


def test_reconcile_reproduces_the_original_votes() -> None:
    differ = 0
    for row in golden("reconcile_vote"):
        cast = ballots([a for a, _ in row["votes"]], confidence=[c for _, c in row["votes"]])
        result = vote("reconcile", cast)
        assert result.winner == row["weighted"], row
        assert vote("majority", cast).winner == row["majority"], row
        assert {a: t + 1e-5 for a, t in result.detail["totals"].items()} == pytest.approx(
            row["weighted_vote"]
        )
        differ += row["weighted"] != row["majority"]
    assert differ > 20, "the golden rows must contain cases where the weights decide"


def test_borda_reproduces_self_certainty() -> None:
    unparsable = 0
    for row in golden("self_certainty_borda"):
        result = vote("borda", ballots(row["answers"], confidence=row["confidence"]), power=row["power"])
        unparsable += "" in row["answers"]
        if not any(row["answers"]):
            assert (result.winner, result.distribution) == (None, {}), "the original calls '' the winner"
            continue
        assert result.winner == row["winner"], row
        assert result.detail["totals"][row["winner"]] == pytest.approx(row["score"])
        assert result.invalid == row["answers"].count("")
    assert unparsable > 20, "the golden rows must show what unparsable answers do"


@pytest.mark.parametrize(
    ("power", "points"),
    [(0, [1, 1, 1, 1]), (0.5, [2, 1.7321, 1.4142, 1]), (1.2, [5.278, 3.7372, 2.2974, 1])],
)
def test_borda_points(power: float, points: list[float]) -> None:
    totals = vote("borda", ballots("abcd", confidence=[4, 3, 2, 1]), power=power).detail["totals"]
    assert list(totals.values()) == pytest.approx(points, abs=5e-5)


@pytest.mark.parametrize(
    ("confidence", "value"),
    [
        (0, 0.1),
        (0.6, 0.1),
        (0.61, 0.3),
        (0.79, 0.3),
        (0.8, 0.5),
        (0.89, 0.5),
        (0.9, 0.8),
        (0.99, 0.8),
        (1, 1),
    ],
)
def test_reconcile_table(confidence: float, value: float) -> None:
    assert rescaled(confidence) == value


def test_reconcile_weights_overturn_the_majority() -> None:
    cast = ballots(["yes", "no", "no"], confidence=[0.95, 0.8, 0.6])
    result = vote("reconcile", cast)
    assert result.winner == "yes" and result.distribution == pytest.approx(
        {"yes": 0.8 / 1.4, "no": 0.6 / 1.4}
    )
    assert vote("majority", cast).winner == "no"


def test_weighted_reproduces_a_magicore_vector() -> None:
    cast = ballots(["5", "5", "5", "5", "6"], weight=[0.2, 0.2, 0.2, 0.2, 1.8])
    assert vote("weighted", cast).detail["totals"] == pytest.approx({"5": 0.8, "6": 1.8})
    assert vote("weighted", cast).winner == "6"


# --- ties, missing answers, bad numbers --------------------------------------------------------------


def test_a_tie_goes_to_the_earliest_sample_by_natural_key() -> None:
    cast = [Ballot("solver/10", "late"), Ballot("solver/2", "early")]
    result = vote("majority", cast)
    assert result.winner == "early" and result.tied
    assert sorted(["b/1", "a/10", "a/9", "a/09", "a"], key=natural) == ["a", "a/09", "a/9", "a/10", "b/1"]


def test_totals_that_differ_by_rounding_only_are_a_tie() -> None:
    cast = ballots(["a", "b", "b", "b"], weight=[0.3, 0.1, 0.1, 0.1])
    assert vote("weighted", cast).tied and vote("weighted", cast).winner == "a"
    clear = vote("weighted", ballots(["a", "b"], weight=[0.3, 0.31]))
    assert not clear.tied and clear.winner == "b"


def test_ballots_without_an_answer_never_vote() -> None:
    result = vote("majority", ballots([None, None, " ", "4"]))
    assert (result.winner, result.distribution, result.invalid) == ("4", {"4": 1.0}, 3)


@pytest.mark.parametrize("name", sorted(AGGREGATORS))
@pytest.mark.parametrize("answers", [[], [None, None, ""]])
def test_no_valid_ballot_gives_no_winner(name: str, answers: list[str | None]) -> None:
    async def select(texts: list[str]) -> str:
        raise AssertionError("there is nothing to select from")

    result = vote(name, ballots(answers), select)
    assert (result.winner, result.distribution, result.tied, result.invalid) == (
        None,
        {},
        False,
        len(answers),
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.5, None])
def test_bad_weights_name_the_ballot(bad: float | None) -> None:
    with pytest.raises(UserError, match="solver/1"):
        vote("weighted", ballots(["a", "b"], weight=[1, bad]))
    with pytest.raises(UserError, match="solver/1"):
        vote("reconcile", ballots(["a", "b"], confidence=[1, bad]))
    assert vote("weighted", ballots(["a", None], weight=[1, bad])).winner == "a"


def test_confidences_out_of_range() -> None:
    with pytest.raises(UserError, match="from 0 to 1"):
        vote("reconcile", ballots(["a"], confidence=[1.01]))
    with pytest.raises(UserError, match="finite"):
        vote("borda", ballots(["a"], confidence=[math.nan]))
    assert vote("borda", ballots(["a", None], confidence=[-3.5, None])).winner == "a"


@pytest.mark.parametrize("power", [-1, math.nan, math.inf, 65])
def test_borda_power_is_bounded(power: float) -> None:
    with pytest.raises(UserError, match="power"):
        aggregator("borda", power=power)


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"`plurality`; known: borda, majority, reconcile, usc, weighted"):
        aggregator("plurality")
    with pytest.raises(UserError, match="option of aggregator `borda` `p`; known: power"):
        aggregator("borda", p=1)


def test_equal_keys_are_refused() -> None:
    with pytest.raises(UserError, match="same key"):
        vote("majority", [Ballot("a", "1"), Ballot("a", "2")])


def test_all_weights_zero_is_a_tie_with_equal_shares() -> None:
    result = vote("weighted", ballots(["a", "b"], weight=[0, 0]))
    assert (result.winner, result.tied, result.distribution) == ("a", True, {"a": 0.5, "b": 0.5})


# --- usc ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "winner", "missing", "out_of_range", "unanswered"),
    [
        ("Response 0 is odd; the most consistent is Response 2.", "b", 0, 0, 0),
        ("I cannot tell.", "a", 1, 0, 0),
        ("Response 7", "a", 0, 1, 0),
        ("Response 99999999999999999999", "a", 1, 0, 0),
        ("Response\n1", "a", 0, 0, 1),
    ],
)
def test_usc(reply: str, winner: str, missing: int, out_of_range: int, unanswered: int) -> None:
    seen: list[list[str]] = []

    async def select(texts: list[str]) -> str:
        seen.append(texts)
        return reply

    result = vote("usc", ballots(["a", None, "b"])[::-1], select)
    assert seen == [["text 0", "text 1", "text 2"]]
    assert result.winner == winner and result.distribution == {"a": 0.5, "b": 0.5}
    found = [result.detail[name] for name in ("missing", "out_of_range", "unanswered")]
    assert found == [missing, out_of_range, unanswered]


def test_usc_counts_from_one_on_request_and_needs_a_selector() -> None:
    async def select(texts: list[str]) -> str:
        return "Response 2"

    assert vote("usc", ballots(["a", "b", "c"]), select, first=1).winner == "b"
    with pytest.raises(UserError, match="select"):
        vote("usc", ballots(["a"]))


# --- properties --------------------------------------------------------------------------------------

unit = st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.6, 0.7, 0.8, 0.9, 1.0]) | st.floats(0, 1)
rows = st.lists(
    st.tuples(st.sampled_from(["1", "2", "3", "4", None, ""]), unit, unit), min_size=1, max_size=12
)


def cast_rows(drawn: list[tuple[str | None, float, float]]) -> list[Ballot]:
    return ballots([r[0] for r in drawn], confidence=[r[1] for r in drawn], weight=[r[2] for r in drawn])


@given(rows=rows, data=st.data())
@settings(max_examples=150, deadline=None)
def test_the_order_of_arrival_changes_nothing(rows: list[tuple[str | None, float, float]], data: Any) -> None:
    cast = cast_rows(rows)
    shuffled = data.draw(st.permutations(cast))
    for name, options in COUNTED:
        result = vote(name, cast, **options)
        assert vote(name, shuffled, **options) == result
        assert math.isclose(sum(result.distribution.values()), 1.0) or result.distribution == {}


@given(rows=rows)
@settings(max_examples=150, deadline=None)
def test_borda_with_power_zero_is_the_majority(rows: list[tuple[str | None, float, float]]) -> None:
    ours, theirs = vote("borda", cast_rows(rows), power=0), vote("majority", cast_rows(rows))
    assert (ours.winner, ours.distribution, ours.tied) == (theirs.winner, theirs.distribution, theirs.tied)


@given(rows=rows, at=st.integers(0, 11), more=st.floats(0, 5))
@settings(max_examples=150, deadline=None)
def test_more_weight_never_hurts_an_answer(
    rows: list[tuple[str | None, float, float]], at: int, more: float
) -> None:
    before = vote("weighted", cast_rows(rows))
    at %= len(rows)
    answer, confidence, weight = rows[at]
    after = vote("weighted", cast_rows([*rows[:at], (answer, confidence, weight + more), *rows[at + 1 :]]))
    if answer and before.winner == answer:
        assert after.winner == answer
    if answer and sum(r[2] for r in rows if r[0]) > 0:  # with no weight at all the shares are equal by rule
        assert after.distribution[answer] >= before.distribution[answer] - 1e-12


@given(count=st.integers(1, 8), confidence=unit)
@settings(max_examples=30, deadline=None)
def test_one_answer_gets_the_whole_share(count: int, confidence: float) -> None:
    cast = ballots(["7"] * count, confidence=[confidence] * count, weight=[1.0] * count)
    for name, options in COUNTED:
        result = vote(name, cast, **options)
        assert (result.winner, result.distribution, result.tied) == ("7", {"7": 1.0}, False)


def test_equal_forms_vote_together_and_the_earliest_form_stands() -> None:
    cast = ballots(["3", "1/2", "0.5", r"\frac{1}{2}"])
    result = asyncio.run(aggregator("majority")(cast, equality("math")))
    assert result.winner == "1/2" and result.distribution == {"3": 0.25, "1/2": 0.75}


def test_speed_of_a_thousand_questions() -> None:
    questions = [
        ballots(
            [str((q * 7 + i * i) % 5 + q) if i % 4 else f"{q}.0" for i in range(8)],
            confidence=[(q + i) % 11 / 10 for i in range(8)],
            weight=[float(i) for i in range(8)],
        )
        for q in range(1000)
    ]

    async def run() -> float:
        equal = equality("math")
        started = time.process_time()
        for cast in questions:
            for name in ("majority", "weighted", "reconcile", "borda"):
                await aggregator(name)(cast, equal)
        return time.process_time() - started

    assert asyncio.run(run()) < 2.0

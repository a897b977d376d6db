"""MAgICoRe's gate against the released functions (golden file, spec 1.6) and its own identities."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring.errors import UserError
from sparring.graphs.aggregate import Ballot, aggregator
from sparring.graphs.protocols.refine_gate import (
    Calibration,
    GateDecision,
    Scored,
    best,
    confidence,
    decide,
    entropy,
)
from sparring.tools.equality import equality

GOLDEN: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "magicore_decision.json").read_text()
)["rows"]
"""100 questions as the functions of MAgICoRe @ 1388006 and its inline gate decide them."""


def chains(answers: list[str], outcome: list[float], steps: list[list[float]]) -> list[Scored]:
    number = {answer: place for place, answer in enumerate(dict.fromkeys(answers))}
    rows = zip(answers, outcome, steps, strict=True)
    return [Scored(number[answer], o, tuple(s)) for answer, o, s in rows]


def decided(
    answers: list[str], outcome: list[float], steps: list[list[float]], mean: float, sd: float
) -> GateDecision:
    scored = chains(answers, outcome, steps)
    majority = Counter(chain.answer for chain in scored).most_common(1)[0][0]
    return decide(scored, majority, Calibration(mean, sd))


async def weighted(answers: list[str], scored: list[Scored]) -> str | None:
    ballots = [
        Ballot(str(i), a, weight=c.reward) for i, (a, c) in enumerate(zip(answers, scored, strict=True))
    ]
    return (await aggregator("weighted")(ballots, equality("exact"))).winner


@pytest.mark.parametrize("row", GOLDEN, ids=range(len(GOLDEN)))
async def test_as_the_released_code_decides(row: dict[str, Any]) -> None:
    scored = chains(row["pred"], row["orm"], row["prm"])
    majority = scored[row["pred"].index(row["majority"])].answer
    found = decide(scored, majority, Calibration(row["mean"], row["std"]))
    assert found.quality == pytest.approx(row["mean_z"])
    assert found.majority_good == row["cond1"] and found.hard == row["hard"]
    assert found.confidence_outcome == pytest.approx(row["orm_conf"])
    assert found.confidence_process == pytest.approx(row["prm_conf"])
    kept = best([chain.reward for chain in scored], row["top_k"])
    assert [row["pred"][place] for place in kept] == row["top_k_pred"]
    assert await weighted(row["pred"], scored) == row["wsc"]
    pool = [(row["pred"][place], scored[place]) for place in kept]
    assert await weighted([a for a, _ in pool], [c for _, c in pool]) == row["wsc_top_k"]


def test_the_golden_rows_hold_both_decisions() -> None:
    assert Counter(row["hard"] for row in GOLDEN) == {False: 91, True: 9}


A = (
    ["5", "5", "5", "7", "8", "9"],
    [0.9, 0.8, 0.7, 0.2, 0.4, 0.3],
    [[0.9, 0.9], [0.8, 0.9], [0.7, 0.9], [0.3, 0.5], [0.6], [0.5, 0.5, 0.5]],
)
B = (["5", "6", "7", "8", "5"], [0.3, 0.3, 0.3, 0.3, 0.2], [[0.4, 0.5]] * 4 + [[0.3, 0.3]])
C = (["5"] * 4 + ["6"], [0.1] * 4 + [0.9], [[0.1]] * 4 + [[0.9]])


def test_an_easy_question() -> None:
    found = decided(*A, mean=1.0, sd=0.25)
    assert found.quality == pytest.approx(2.08) and found.majority_good and not found.hard
    assert (found.confidence_outcome, found.confidence_process) == pytest.approx(
        (0.588315, 0.602008), abs=1e-6
    )
    other = decided(*A, mean=1.6, sd=0.25)
    assert other.quality == pytest.approx(-0.32) and not other.majority_good
    assert other.confident and not other.hard and other.reason == "both are confident"


def test_a_hard_question() -> None:
    found = decided(*B, mean=1.0, sd=0.25)
    assert found.quality == pytest.approx(-2.42) and found.hard
    assert (found.confidence_outcome, found.confidence_process) == pytest.approx(
        (0.409129, 0.404648), abs=1e-6
    )


async def test_confidence_can_hide_a_bad_majority_that_the_weighted_vote_overturns() -> None:
    found = decided(*C, mean=1.0, sd=0.25)
    assert found.quality == pytest.approx(-3.2) and found.confidence_outcome == pytest.approx(
        0.700818, abs=1e-6
    )
    assert not found.hard
    assert await weighted(C[0], chains(*C)) == "6"


@pytest.mark.parametrize("n", range(1, 8))
def test_n_answers_of_equal_weight_have_a_confidence_of_2_in_n_plus_1(n: int) -> None:
    held = entropy(list(range(n)), [0.3] * n)
    assert confidence(held) == pytest.approx(2 / (1 + n)) and math.exp(held) == pytest.approx(n)


@pytest.mark.parametrize(("n", "hard"), [(3, False), (4, True)])
def test_three_answers_are_confident_and_four_are_not(n: int, hard: bool) -> None:
    scored = [Scored(place, 0.1, (0.7,)) for place in range(n)]
    assert decide(scored, 0, Calibration(5.0, 1.0)).hard is hard


def test_a_majority_exactly_at_the_mean_is_good() -> None:
    scored = [Scored(place, 0.1, (0.2,)) for place in range(5)]
    assert decide(scored, 0, Calibration(0.1 + 0.2, 1.0)).majority_good


def test_where_nobody_gives_the_majoritys_answer_confidence_decides() -> None:
    spread = [Scored(place, 0.5, (0.5,)) for place in (1, 2, 3, 4)]
    for majority in (0, None):
        found = decide(spread, majority, Calibration(1.0, 1.0))
        assert found.quality is None and found.supporters == 0 and found.hard
    assert not decide(spread[:2], 0, Calibration(1.0, 1.0)).hard


def test_chains_without_an_answer_are_one_answer_and_have_no_process_score() -> None:
    none = Scored(None, 0.4, (0.9, 0.9))
    assert none.process == 0 and none.reward == 0.4
    assert entropy([None, None, 0], [1.0, 1.0, 2.0]) == pytest.approx(math.log(2))


def test_scores_that_are_all_0_weigh_equally() -> None:
    assert entropy([0, 1, 1, 2], [0.0] * 4) == pytest.approx(math.log(3))


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 1)), min_size=1, max_size=12), st.randoms())
def test_the_order_of_chains_decides_nothing(rows: list[tuple[int, float]], rng: Any) -> None:
    scored = [Scored(answer, score, (score,)) for answer, score in rows]
    shuffled = rng.sample(scored, len(scored))
    calibration = Calibration(0.7, 0.3)
    first, second = decide(scored, 0, calibration), decide(shuffled, 0, calibration)
    assert first.hard == second.hard and first.supporters == second.supporters
    assert first.entropy_outcome == pytest.approx(second.entropy_outcome, abs=1e-9)


def test_calibration_is_the_population_of_what_was_scored() -> None:
    found = Calibration.of([1.0, 2.0, 3.0, 4.0], "a set")
    assert (found.mean, found.deviation, found.n) == (2.5, pytest.approx(math.sqrt(1.25)), 4)


@pytest.mark.parametrize("rewards", [[], [1.0], [0.1] * 7, [float("nan"), 1.0], [float("inf"), 1.0]])
def test_a_calibration_that_cannot_be_used_says_so(rewards: list[float]) -> None:
    with pytest.raises(UserError, match="calibration of a set"):
        Calibration.of(rewards, "a set")


def test_where_nobody_has_an_answer_there_is_nothing_to_be_confident_of() -> None:
    found = decide([Scored(None, 0.4, (0.9,))] * 3, None, Calibration(1.0, 0.1))
    assert found.hard and not found.confident and found.confidence_outcome == 1
    assert not decide([Scored(None, 0.4, ()), Scored(0, 0.9, (0.9,))], None, Calibration(1.0, 0.1)).hard

"""The statistics against exact enumeration, published numbers and the aggregator that votes in a run."""

from __future__ import annotations

import asyncio
from itertools import permutations

import numpy as np
import pytest

from sparring.graphs.aggregate import Ballot, aggregator
from sparring.graphs.stats import Estimate, Samples, bootstrap, single_answer, vote_at, wilson
from sparring.tools.equality import equality

ANSWERS = ["4", "5", None, "4", "6", "5", "4"]
COMPLETION = [3, 9, 2, 7, 5, 4, 6]


def pool(
    answers: list[str | None], right: str, completion: list[int] | None = None, prompt: int = 10
) -> Samples:
    order = [a for a in dict.fromkeys(answers) if a is not None]
    spent = np.array(completion or [1] * len(answers))
    return Samples(
        classes=np.array([-1 if a is None else order.index(a) for a in answers]),
        correct=np.array([a == right for a in answers]),
        completion_tokens=spent,
        total_tokens=spent + prompt,
    )


def vote(answers: list[str | None]) -> str | None:
    ballots = [Ballot(str(place), answer) for place, answer in enumerate(answers)]
    return asyncio.run(aggregator("majority")(ballots, equality("exact"))).winner


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    # Newcombe 1998 (Statistics in Medicine 17:857), table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_newcombes_numbers(hits: int, n: int, low: float, high: float) -> None:
    found = wilson(hits, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert found.mean == hits / n


@pytest.mark.parametrize("n", [1, 3, 7, 12, 40])
def test_wilson_reaches_its_ends(n: int) -> None:
    assert wilson(0, n).low == 0.0 and wilson(n, n).high == 1.0


def test_wilson_of_nothing_says_nothing() -> None:
    assert wilson(0, 0) == Estimate(0.0, 0.0, 1.0, 0)


def test_bootstrap_agrees_with_the_normal_interval_and_is_seeded() -> None:
    values = np.random.default_rng(7).normal(0.2, 1.0, 400)
    found = bootstrap(values)
    half = 1.96 * values.std() / 20
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), abs=0.01)
    assert bootstrap(values) == found
    assert bootstrap(values, seed=1) != found


def test_pairing_is_what_makes_a_small_difference_visible() -> None:
    hard = np.random.default_rng(3).random(200)  # tasks differ a lot, the two methods by a constant
    assert bootstrap(hard + 0.02 - hard).verdict == "better"
    assert bootstrap(hard - 0.02 - hard).verdict == "worse"


def test_few_or_undecided_items_conclude_nothing() -> None:
    assert bootstrap([1.0] * 9).verdict == "open"
    assert bootstrap([1.0] * 10).verdict == "better"
    assert bootstrap([1.0, -1.0] * 10).verdict == "open"
    assert bootstrap([0.0] * 50).verdict == "open"
    assert bootstrap([]) == Estimate(0.0, 0.0, 0.0, 0)


def test_a_single_answer_is_the_mean_of_the_pool() -> None:
    assert single_answer(pool(ANSWERS, "4")) == pytest.approx(3 / 7)
    assert vote_at(pool(ANSWERS, "4"), "calls", 1, draws=20_000)[0] == pytest.approx(3 / 7, abs=0.015)


@pytest.mark.parametrize("size", [2, 3, 4, 7])
@pytest.mark.parametrize("right", ["4", "5", "9"])
def test_subsets_vote_as_the_aggregator_does(size: int, right: str) -> None:
    """Every ordered subset, through the real majority vote, is what the draws estimate."""
    orders = list(permutations(range(len(ANSWERS)), size))
    known: dict[tuple[str | None, ...], str | None] = {}
    for order in orders:
        texts = tuple(ANSWERS[i] for i in order)
        if texts not in known:
            known[texts] = vote(list(texts))
    exact = sum(known[tuple(ANSWERS[i] for i in order)] == right for order in orders) / len(orders)
    found, spent = vote_at(pool(ANSWERS, right), "calls", size, draws=20_000)
    assert found == pytest.approx(exact, abs=0.015)
    assert spent == size


@pytest.mark.parametrize("unit", ["completion_tokens", "total_tokens"])
@pytest.mark.parametrize("budget", [12, 20, 25])
def test_token_budgets_are_spent_exactly_on_average(unit: str, budget: int) -> None:
    prompt = 1 if unit == "total_tokens" else 0
    _, spent = vote_at(pool(ANSWERS, "4", COMPLETION, prompt), unit, budget, draws=20_000)
    assert spent == pytest.approx(budget, abs=0.2)


def test_a_budget_above_the_pool_takes_all_and_one_below_a_sample_takes_one() -> None:
    full = pool(ANSWERS, "4", COMPLETION)
    assert vote_at(full, "completion_tokens", 1000) == (1.0, sum(COMPLETION))
    assert vote_at(full, "total_tokens", 1, draws=50)[1] >= 12


def test_no_answer_never_votes_and_is_wrong() -> None:
    assert vote_at(pool([None, None, None], "4"), "calls", 2) == (0.0, 2.0)
    assert vote_at(pool([None, None, None, "4"], "4"), "calls", 4)[0] == 1.0
    assert single_answer(pool([None, "4"], "4")) == 0.5


def test_ties_go_to_the_answer_drawn_first() -> None:
    assert vote_at(pool(["4", "5"], "4"), "calls", 2, draws=20_000)[0] == pytest.approx(0.5, abs=0.015)

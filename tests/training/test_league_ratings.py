"""Ratings against hand-computed odds and a brute-force optimiser; order of rows; cycles; void games."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable

import numpy as np
import pytest

from sparring.training.league import ratings
from sparring.training.league.matches import Game, share
from sparring.training.league.pairwise import explained, largest_cycle, pairwise
from sparring.training.league.ratings import ELO, Tally, bradley_terry, fit, openskill_curve

AB = ("a", "b")


def games(*rows: tuple[str, str, str, float | None]) -> list[Game]:
    """Games from (first, second, task, points of the first)."""
    return [Game(place, 0, (one, other), task, got) for place, (one, other, task, got) in enumerate(rows)]


def both_seats(one: str, other: str, results: Iterable[float]) -> list[tuple[str, str, str, float]]:
    """A pairing in both seats: `one` gets the same from either seat."""
    rows = []
    for number, got in enumerate(results):
        rows += [(one, other, f"t{number}", got), (other, one, f"t{number}", 1 - got)]
    return rows


def random_field(players: int = 4, tasks: int = 12, advantage: float = 0.6) -> list[Game]:
    source, names = random.Random(3), [f"p{n}" for n in range(players)]
    rows = []
    for task in range(tasks):
        for i, one in enumerate(names):
            for j, other in enumerate(names):
                if i != j:
                    chance = 1 / (1 + math.exp(-(0.5 * (i - j) + advantage)))
                    points = 0.5 if source.random() < 0.1 else float(source.random() < chance)
                    rows.append((one, other, f"t{task}", points))
    return games(*rows)


# --- Bradley-Terry ---------------------------------------------------------------------------------------


def test_two_players_differ_by_the_log_odds() -> None:
    """14 of 20 points: theta_a - theta_b = ln(14 / 6), by hand; in Elo points 400 log10(14 / 6) = 147.19."""
    tally = Tally.of(games(*both_seats("a", "b", [1.0] * 7 + [0.0] * 3)), AB)
    fitted = bradley_terry(tally, prior=0)
    assert fitted.theta[0] - fitted.theta[1] == pytest.approx(math.log(14 / 6), abs=1e-9)
    assert fitted.rating("a").mean == pytest.approx(1500 + 147.19 / 2, abs=0.01)
    assert fitted.rating("a").mean + fitted.rating("b").mean == pytest.approx(3000)
    assert fitted.gamma == pytest.approx(0, abs=1e-9) and abs(ELO - 173.7178) < 1e-4


def test_a_draw_is_half_a_win_for_either() -> None:
    drawn = Tally.of(games(*both_seats("a", "b", [1, 1, 0.5, 0.5])), AB)
    won = Tally.of(games(*both_seats("a", "b", [1, 1, 1, 0])), AB)
    assert bradley_terry(drawn).theta == pytest.approx(bradley_terry(won).theta)


def test_a_side_that_always_wins_is_no_skill() -> None:
    """First wins 3 of 4 whoever sits there: equal players, and an advantage of ln 3."""
    rows = [(one, other, f"t{n}", float(n < 3)) for n in range(4) for one, other in (AB, AB[::-1])]
    fitted = bradley_terry(Tally.of(games(*rows), AB), prior=0)
    assert fitted.theta == pytest.approx([0, 0], abs=1e-9)
    assert fitted.gamma == pytest.approx(math.log(3)) and fitted.advantage().mean == pytest.approx(0.75)
    unseen = bradley_terry(Tally.of(games(*rows), AB), sided=False)
    assert unseen.gamma == 0 and unseen.advantage() is None


def test_the_prior_keeps_who_never_lost_finite() -> None:
    """8 wins of 8, one drawn game of each parameter: 8 (1 - s(d)) = s(d / 2) - 1/2 has the root d = 3.1506.

    By bisection on that equation, which is the derivative of the penalised likelihood at theta = +-d/2.
    """
    low, high = 0.0, 20.0
    for _ in range(200):
        middle = (low + high) / 2
        slope = 8 / (1 + math.exp(middle)) - (1 / (1 + math.exp(-middle / 2)) - 0.5)
        low, high = (middle, high) if slope > 0 else (low, middle)
    fitted = bradley_terry(Tally.of(games(*both_seats("a", "b", [1] * 4)), AB))
    assert fitted.theta[0] - fitted.theta[1] == pytest.approx(low, abs=1e-8)
    rating = fitted.rating("a")
    assert 1500 < rating.low <= rating.mean <= rating.high < 3000


def test_a_brute_force_optimiser_finds_nothing_better() -> None:
    """The penalised likelihood, written out game by game, climbed by a shrinking random search."""
    rows, names = random_field(), [f"p{n}" for n in range(4)]
    fitted = bradley_terry(Tally.of(rows, names), resamples=2)

    def likelihood(values: np.ndarray) -> float:
        def log(x: float) -> float:
            return -math.log1p(math.exp(-x))

        total = sum(0.5 * (log(value) + log(-value)) for value in values)  # one drawn game each
        for game in rows:
            one, other = (names.index(name) for name in game.players)
            gap = values[one] - values[other] + values[-1]
            total += game.points * log(gap) + (1 - game.points) * log(-gap)
        return total

    source, best, width = np.random.default_rng(0), np.zeros(5), 1.0
    top = likelihood(best)
    for _ in range(3000):
        tried = best + width * source.standard_normal(5)
        if (found := likelihood(tried)) > top:
            best, top = tried, found
        else:
            width = max(width * 0.995, 1e-4)
    best[:-1] -= best[:-1].mean()
    assert np.append(fitted.theta, fitted.gamma) == pytest.approx(best, abs=5e-3)
    assert fitted.gamma > 0.3 and list(fitted.theta) == sorted(fitted.theta)


def test_all_resamples_at_once_take_the_newton_steps_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps, against one resample after another with the curvature written out as X' diag(w) X."""
    monkeypatch.setattr(ratings, "STEPS", 2)
    tally = Tally.of(random_field(players=5), [f"p{n}" for n in range(5)])
    points, counts = tally.resampled(20)
    design = np.array(
        [[(n == i) - (n == j) for n in range(5)] + [1] for i, j in tally.seatings] + np.eye(6).tolist()
    )
    wanted = []
    for won, played in zip(points, counts, strict=True):
        won, played, theta = np.append(won, [0.5] * 6), np.append(played, [1.0] * 6), np.zeros(6)
        for _ in range(2):
            chance = 1 / (1 + np.exp(-design @ theta))
            curvature = design.T @ np.diag(played * chance * (1 - chance)) @ design
            theta = theta + np.linalg.solve(curvature, design.T @ (won - played * chance))
        wanted.append(np.append(theta[:5] - theta[:5].mean(), theta[5]))
    found = fit(tally, points, counts, sided=True, prior=1.0)
    assert found == pytest.approx(np.array(wanted), abs=1e-10)


def test_intervals_resample_tasks_and_not_games() -> None:
    """Ten games on one task say no more than one: the interval of 10 x 10 is as wide as that of 10 x 1."""
    results = [1, 1, 1, 0, 1, 0, 1, 1, 0, 1]
    once = [(f"t{n}", got) for n, got in enumerate(results)]
    few = games(*(("a", "b", task, got) for task, got in once))
    many = games(*(("a", "b", task, got) for task, got in once for _ in range(10)))
    apart = games(*(("a", "b", f"{task}/{copy}", got) for task, got in once for copy in range(10)))

    def width(rows: list[Game]) -> float:
        rating = bradley_terry(Tally.of(rows, AB), sided=False, prior=0.01).rating("a")
        return rating.high - rating.low

    assert width(many) == pytest.approx(width(few), rel=0.05)
    assert width(apart) < 0.5 * width(few)


def test_a_resample_takes_all_games_of_a_task() -> None:
    """Three games won on one task, one lost on another: two draws of a task give 6 of 6, 3 of 4 or 0 of 2."""
    rows = games(*(("a", "b", "t0", 1.0),) * 3, ("a", "b", "t1", 0.0))
    points, counts = Tally.of(rows, AB).resampled(200)
    found = set(zip(points[:, 0].tolist(), counts[:, 0].tolist(), strict=True))
    assert found == {(6, 6), (3, 4), (0, 2)}


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """200 fields of two players with a true win rate of 0.6 on 40 tasks; the prior costs a little."""
    covered, truth = 0, 1500 + ELO * math.log(0.6 / 0.4) / 2
    for trial in range(200):
        source = random.Random(trial)
        rows = [("a", "b", f"t{n}", float(source.random() < 0.6)) for n in range(40)]
        fitted = bradley_terry(Tally.of(games(*rows), AB), sided=False, resamples=200, seed=trial)
        rating = fitted.rating("a")
        covered += rating.low <= truth <= rating.high
    assert 0.88 <= covered / 200 <= 0.99


def test_who_never_played_and_a_field_without_games() -> None:
    fitted = bradley_terry(Tally.of([], AB))
    assert fitted.rating("a").mean == 1500 and fitted.theta == pytest.approx([0, 0])
    third = bradley_terry(Tally.of(games(("a", "b", "t", 1.0)), (*AB, "c")))
    assert third.theta[0] > third.theta[2] > third.theta[1]


# --- the order of rows -----------------------------------------------------------------------------------


def test_ratings_do_not_depend_on_the_order_in_which_rows_come() -> None:
    rows = random_field()
    names = sorted({name for game in rows for name in game.players})
    fitted, curve = bradley_terry(Tally.of(rows, names), resamples=50), openskill_curve(rows)
    for trial in range(3):
        mixed = random.Random(trial).sample(rows, len(rows))
        again = bradley_terry(Tally.of(mixed, names), resamples=50)
        assert (again.theta == fitted.theta).all() and again.gamma == fitted.gamma
        assert (again.drawn == fitted.drawn).all() and openskill_curve(mixed) == curve


def test_openskill_is_that_of_the_library() -> None:
    """One win from the start: mu 27.6354 and 22.3646 (openskill 6.2.0, PlackettLuce)."""
    won = openskill_curve(games(("a", "b", "t", 1.0), ("b", "a", "t", 0.5)))
    assert [point.player for point in won] == ["a", "b", "b", "a"]
    assert (won[0].mu, won[1].mu) == pytest.approx((27.635389493140497, 22.364610506859503))
    assert won[0].sigma == pytest.approx(8.06590141354368)
    lost = openskill_curve(games(("a", "b", "t", 0.0)))
    assert (lost[0].mu, lost[1].mu) == pytest.approx((22.364610506859503, 27.635389493140497))
    level = openskill_curve(games(("a", "b", "t", 0.5)))
    assert level[0].mu == level[1].mu == 25 and level[0].sigma < 25 / 3


# --- void games ------------------------------------------------------------------------------------------


def test_void_games_are_skipped_or_lost_by_the_side_at_fault() -> None:
    fault = [Game(n, 0, AB, "t", None, fault) for n, fault in enumerate((0, 1, None))]
    assert [game.counted("skip") for game in fault] == [None] * 3
    assert [game.counted("loss") for game in fault] == [0.0, 1.0, None]
    rows = [*games(("a", "b", "t", 0.5)), Game(7, 0, ("b", "a"), "t", None, 0)]
    assert len(openskill_curve(rows)) == 2 and len(openskill_curve(rows, "loss")) == 4
    assert (share(rows, "a", "skip"), share(rows, "a", "loss"), share(fault, "a", "skip")) == (
        0.5,
        0.75,
        None,
    )
    assert Tally.of(rows, AB).games.sum() == 1 and Tally.of(rows, AB, "loss").games.sum() == 2


# --- what one number hides -------------------------------------------------------------------------------

RPS = ("rock", "paper", "scissors")


def circle(noise: int = 0) -> list[Game]:
    rows = []
    for place, loser in enumerate(RPS):
        rows += both_seats(RPS[(place + 1) % 3], loser, [1.0] * (12 - noise) + [0.0] * noise)
    return games(*rows)


def test_a_circle_has_equal_ratings_and_is_named() -> None:
    tally = Tally.of(circle(), RPS)
    fitted, rates = bradley_terry(tally), pairwise(tally)
    assert fitted.theta == pytest.approx([0, 0, 0], abs=1e-9)
    assert explained(tally, rates, fitted) == pytest.approx(0, abs=1e-9)
    cycle = largest_cycle(tally, rates)
    assert cycle is not None and cycle.certain and cycle.weakest.mean == 1
    links = {*zip(cycle.players, (*cycle.players[1:], cycle.players[0]), strict=True)}
    assert links == {("paper", "rock"), ("scissors", "paper"), ("rock", "scissors")}


def test_a_circle_within_chance_is_open_and_a_ladder_has_none() -> None:
    tally = Tally.of(circle(noise=5), RPS)
    cycle = largest_cycle(tally, pairwise(tally))
    assert cycle is not None and not cycle.certain and cycle.weakest.mean == pytest.approx(7 / 12)
    ranked = games(*both_seats("rock", "paper", [1, 1, 0]), *both_seats("paper", "scissors", [1, 1, 0]),
                   *both_seats("rock", "scissors", [1, 1, 1, 1, 0]))  # fmt: skip
    tally = Tally.of(ranked, RPS)
    rates = pairwise(tally)
    assert largest_cycle(tally, rates) is None
    assert explained(tally, rates, bradley_terry(tally, prior=0)) == pytest.approx(1, abs=1e-3)
    assert pairwise(Tally.of([], RPS)) == {}


def test_pairwise_results_weigh_both_seats_alike() -> None:
    """a wins 3 of 3 on the first seat and 0 of 1 on the second: one half, not three quarters."""
    rows = games(*(("a", "b", f"t{n}", 1.0) for n in range(3)), ("b", "a", "t0", 1.0))
    rates = pairwise(Tally.of(rows, AB))
    assert rates[0, 1][0] == 0.5 and rates[1, 0][0] == 0.5
    assert share(rows, "a", "skip") == 0.5
    drawn = games(("a", "b", "t", 0.5), ("b", "a", "t", 0.5))
    tally = Tally.of(drawn, AB)
    assert explained(tally, pairwise(tally), bradley_terry(tally)) is None

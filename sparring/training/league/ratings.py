"""Ratings as pure functions of games in schedule order: Bradley-Terry with intervals, openskill as a curve.

Bradley and Terry (1952): player i on the first seat wins against j with probability
sigma(theta_i - theta_j + gamma), gamma being what the first seat is worth; a draw is half a win for either
(Davidson's tie parameter is left out: a draw then says what two games, one won by each, would say). Maximum
likelihood with a small prior: every player, and the side advantage, also has one drawn game against a fixed
equal, so that who never lost has a finite rating. On the Elo scale theta is 400 / ln 10 points, the mean
1500.

Intervals resample tasks, not games: what is played on one task shares its difficulty and its seeds, and
often the very same answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparring.graphs.stats import Estimate
from sparring.training.league.matches import Game, Void

ELO = 400.0 / np.log(10.0)
"""Elo points of one unit of log-odds."""
CENTRE = 1500.0
PRIOR = 1.0
"""Drawn games against a fixed equal that every parameter begins with."""
RESAMPLES = 1000
STEPS = 200
CLOSE = 1e-10
LONGEST = 2.0
"""Of a Newton step, in log-odds: far from the optimum the curvature says too little."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tally:
    """Counted games by task and seating, in a fixed order whatever order they came in.

    `points` and `games` have shape (T, S): the first seat's points and how many games there were.
    """

    players: tuple[str, ...]
    tasks: tuple[str, ...]
    seatings: tuple[tuple[int, int], ...]
    points: Numbers
    games: Numbers

    @classmethod
    def of(cls, games: Sequence[Game], players: Sequence[str], void: Void = "skip") -> Tally:
        """The tally of the games that count."""
        places = {name: place for place, name in enumerate(players)}
        kept = [(game, scored) for game in games if (scored := game.counted(void)) is not None]
        tasks = sorted({game.task for game, _ in kept})
        pairs = {(places[game.players[0]], places[game.players[1]]) for game, _ in kept}
        seatings = sorted(pairs)
        rows, columns = ({name: place for place, name in enumerate(names)} for names in (tasks, seatings))
        points = np.zeros((len(tasks), len(seatings)))
        counts = np.zeros_like(points)
        for game, got in kept:
            at = rows[game.task], columns[places[game.players[0]], places[game.players[1]]]
            points[at] += got
            counts[at] += 1
        return cls(tuple(players), tuple(tasks), tuple(seatings), points, counts)

    def met(self) -> dict[tuple[int, int], float]:
        """(player, opponent) -> how many games they played, however they sat."""
        sat = dict(zip(self.seatings, self.games.sum(axis=0), strict=True))
        pairs = {pair for one, other in sat for pair in ((one, other), (other, one))}
        return {pair: float(sat.get(pair, 0) + sat.get(pair[::-1], 0)) for pair in pairs}

    def resampled(self, resamples: int = RESAMPLES, seed: int = 0) -> tuple[Numbers, Numbers]:
        """Points and games, each of shape (resamples, S), of as many tasks drawn with replacement."""
        count = len(self.tasks)
        drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples)
        return drawn @ self.points, drawn @ self.games


@dataclass(frozen=True, slots=True)
class BradleyTerry:
    """Strengths (n,) in log-odds, their mean 0, and what the first seat is worth; with all resamples."""

    players: tuple[str, ...]
    theta: Numbers
    gamma: float
    drawn: Numbers
    """Resampled parameters (resamples, n + 1), the last column being gamma."""
    sided: bool
    """Whether gamma was estimated: not where no player sits on both seats."""

    def rating(self, player: str) -> Estimate:
        """On the Elo scale, with its 95 % interval; `n` is the number of resamples."""
        place = self.players.index(player)
        low, high = np.percentile(elo(self.drawn[:, place]), (2.5, 97.5))
        return Estimate(float(elo(self.theta[place])), float(low), float(high), len(self.drawn))

    def deviation(self, player: str) -> float:
        """Standard deviation of a rating over the resamples, Elo points."""
        return float(ELO * self.drawn[:, self.players.index(player)].std())

    def advantage(self) -> Estimate | None:
        """The share of the points that the first seat gets between equals; None where nothing tells."""
        if not self.sided:
            return None
        low, high = np.percentile(_sigma(self.drawn[:, -1]), (2.5, 97.5))
        return Estimate(float(_sigma(np.array(self.gamma))), float(low), float(high), len(self.drawn))

    def expected(self, one: int, other: int) -> float:
        """The share of the points that `one` gets from `other`, over both seats alike."""
        gap = self.theta[one] - self.theta[other]
        return float((_sigma(gap + self.gamma) + _sigma(gap - self.gamma)) / 2)


def elo(theta: Numbers) -> Numbers:
    """Log-odds on the Elo scale."""
    return np.asarray(CENTRE + ELO * theta)


def bradley_terry(
    tally: Tally, *, sided: bool = True, prior: float = PRIOR, resamples: int = RESAMPLES, seed: int = 0
) -> BradleyTerry:
    """Fit strengths and side advantage to a tally, and once more to each resample of its tasks.

    Args:
        sided: estimate the side advantage; it must be False where every player has a seat of its own, since
            it cannot be told from the difference between the two groups.
        prior: drawn games that each parameter begins with; 0 is plain maximum likelihood, which is not
            finite where somebody won or lost everything.
    """
    one = fit(tally, tally.points.sum(axis=0)[None], tally.games.sum(axis=0)[None], sided=sided, prior=prior)[
        0
    ]
    drawn = np.tile(one, (resamples, 1))
    if tally.tasks:
        drawn = fit(tally, *tally.resampled(resamples, seed), sided=sided, prior=prior)
    return BradleyTerry(tally.players, one[:-1], float(one[-1]), drawn, sided)


def fit(tally: Tally, points: Numbers, games: Numbers, *, sided: bool, prior: float) -> Numbers:
    """Parameters (R, n + 1) that maximise R penalised likelihoods at once, by Newton's method.

    Args:
        points: the first seat's points by seating, shape (R, S).
        games: games by seating, shape (R, S).
    """
    count = len(tally.players)
    design = _design(tally, sided)
    drawn = np.full((len(games), count + 1), prior)
    games = np.concatenate([games, drawn], axis=1)
    points = np.concatenate([points, drawn / 2], axis=1)
    theta = np.zeros((len(games), count + 1))
    # Without the prior a shift of all strengths changes nothing, and a strength that nothing tells neither.
    ridge = 1e-12 * np.eye(count + 1)
    outer = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
    for _ in range(STEPS):
        chance = _sigma(theta @ design.T)
        gradient = (points - games * chance) @ design
        # One matrix product: as an einsum of three operands it is a plain loop, 18 times as slow.
        curvature = ((games * chance * (1 - chance)) @ outer).reshape(-1, count + 1, count + 1)
        step = np.linalg.solve(curvature + ridge, gradient[..., None])[..., 0]
        longest = np.abs(step).max(axis=1, keepdims=True)
        theta += step * np.minimum(1.0, LONGEST / np.maximum(longest, CLOSE))
        if longest.max() < CLOSE:
            break
    theta[:, :count] -= theta[:, :count].mean(axis=1, keepdims=True)
    return theta


def _design(tally: Tally, sided: bool) -> Numbers:
    """What the log-odds of each seating, and of the prior's games, add up from: shape (S + n + 1, n + 1)."""
    count = len(tally.players)
    seatings = np.zeros((len(tally.seatings), count + 1))
    for row, (first, second) in enumerate(tally.seatings):
        seatings[row, first], seatings[row, second], seatings[row, count] = 1.0, -1.0, float(sided)
    return np.concatenate([seatings, np.eye(count + 1)])


def _sigma(x: Numbers) -> Numbers:
    return np.asarray(0.5 * (1.0 + np.tanh(x / 2)))


# --- openskill ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Point:
    """A player's rating after a game."""

    player: str
    position: int
    mu: float
    sigma: float


def openskill_curve(games: Sequence[Game], void: Void = "skip") -> list[Point]:
    """Ratings after each game that counts, both players of it, by openskill's Plackett-Luce model.

    Weng and Lin, JMLR 12 (2011); every player begins at mu 25, sigma 25 / 3. The games are taken in
    schedule order, in whatever order they are given.
    """
    from openskill.models import PlackettLuce

    model = PlackettLuce()
    ratings: dict[str, tuple[float, float]] = {}
    points: list[Point] = []
    for game in sorted(games, key=lambda game: game.position):
        scored = game.counted(void)
        if scored is None:
            continue
        before = [ratings.get(name, (model.mu, model.sigma)) for name in game.players]
        teams = [[model.rating(mu=mu, sigma=sigma)] for mu, sigma in before]
        rated = model.rate(teams, scores=[scored, 1.0 - scored])
        for name, [after] in zip(game.players, rated, strict=True):
            ratings[name] = after.mu, after.sigma
            points.append(Point(name, game.position, after.mu, after.sigma))
    return points

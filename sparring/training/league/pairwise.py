"""What one number hides: the pairwise results of a field, and whether they go round in circles."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np

from sparring.graphs.stats import Estimate
from sparring.training.league.ratings import BradleyTerry, Numbers, Tally

Rates = dict[tuple[int, int], Numbers]
"""(player, opponent) -> the player's share of the points, the estimate first, then one of each resample."""


@dataclass(frozen=True, slots=True)
class Cycle:
    """Three players each of whom beats the next and the last the first."""

    players: tuple[str, str, str]
    weakest: Estimate
    """Of the three shares of the points, the smallest."""

    @property
    def certain(self) -> bool:
        """Whether all three lead by more than chance: the whole interval is above one half."""
        return self.weakest.low > 0.5


def pairwise(tally: Tally) -> Rates:
    """Who gets how much from whom, either seat weighing the same, so that its advantage falls out.

    In a resample of the tasks in which a pairing is missing, its share is that of all tasks.
    """
    if not tally.tasks:
        return {}
    drawn, counts = tally.resampled()
    points = np.concatenate([tally.points.sum(axis=0)[None], drawn])
    games = np.concatenate([tally.games.sum(axis=0)[None], counts])
    with np.errstate(invalid="ignore"):
        means = points / games
    columns = {seating: place for place, seating in enumerate(tally.seatings)}
    rates: Rates = {}
    for first, second in tally.seatings:
        there = means[:, columns[first, second]]
        back = columns.get((second, first))
        found = there if back is None else _mean(there, 1.0 - means[:, back])
        rates[first, second] = np.where(np.isnan(found), found[0], found)
        rates[second, first] = 1.0 - rates[first, second]
    return rates


def _mean(one: Numbers, other: Numbers) -> Numbers:
    """The mean of two arrays; where one of them has no value, the other."""
    both: Numbers = np.where(np.isnan(one), other, np.where(np.isnan(other), one, (one + other) / 2))
    return both


def estimate(drawn: Numbers) -> Estimate:
    """A value and its 95 % percentile interval over the resamples that follow it."""
    low, high = np.percentile(drawn[1:], (2.5, 97.5))
    return Estimate(float(drawn[0]), float(low), float(high), len(drawn) - 1)


def explained(tally: Tally, rates: Rates, fitted: BradleyTerry) -> float | None:
    """The share of the spread of the pairwise results around one half that the ratings account for.

    1 - sum n (p - q)^2 / sum n (p - 1/2)^2 over pairings of n games, p what happened and q what Bradley
    and Terry expect. None where everything is a draw.
    """
    pairs = sorted({(min(seating), max(seating)) for seating in tally.seatings})
    met = tally.met()
    weights = np.array([met[pair] for pair in pairs])
    happened = np.array([rates[pair][0] for pair in pairs])
    expected = np.array([fitted.expected(*pair) for pair in pairs])
    total = float(weights @ (happened - 0.5) ** 2)
    return None if total == 0 else max(0.0, 1 - float(weights @ (happened - expected) ** 2) / total)


def largest_cycle(tally: Tally, rates: Rates) -> Cycle | None:
    """The circle of three whose weakest lead is the largest; None where there is no circle."""
    best: tuple[float, tuple[int, ...]] = 0.5, ()
    for trio in permutations(range(len(tally.players)), 3):
        links = list(zip(trio, (*trio[1:], trio[0]), strict=True))
        if trio[0] == min(trio) and all(link in rates for link in links):
            weakest = min(float(rates[link][0]) for link in links)
            if weakest > best[0]:
                best = weakest, trio
    if not best[1]:
        return None
    one, two, three = best[1]
    drawn = np.min([rates[one, two], rates[two, three], rates[three, one]], axis=0)
    names = tally.players[one], tally.players[two], tally.players[three]
    return Cycle(names, estimate(drawn))

"""Who meets whom: pure functions from the players and the results of earlier rounds to the next pairings.

    round_robin   everybody meets everybody once, in one round
    swiss         in every round neighbours in the standing meet who have not met yet (Monrad's form)
    ladder        in every round neighbours on the ladder meet, in turn from the first and from the second
                  rung; who wins takes the upper rung

A round depends on the match rows of the rounds before it and on nothing else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from sparring.errors import UserError
from sparring.training.league.config import ScheduleConfig

Pairing = tuple[str, str]
"""Two players, as in the seating in which the pairing is played first."""
Results = Mapping[Pairing, float | None]
"""Pairing of a round -> the first player's share of the points; None where no game counted."""


@dataclass(frozen=True, slots=True)
class Entrants:
    """Who competes, in the order of the seeding."""

    order: tuple[str, ...]
    seats: Mapping[str, str] = field(default_factory=dict)
    """Player -> the only seat it takes; empty where everybody takes either."""
    rivals: tuple[str, str] = ("first", "second")

    @property
    def bipartite(self) -> bool:
        return bool(self.seats)

    def side(self, place: int) -> list[str]:
        """The players of one of the two seats, where each has its own."""
        return [name for name in self.order if self.seats.get(name) == self.rivals[place]]

    def pairings(self) -> list[Pairing]:
        """Everybody who can meet."""
        if not self.bipartite:
            return list(combinations(self.order, 2))
        return [(one, other) for one in self.side(0) for other in self.side(1)]


def check_schedule(schedule: ScheduleConfig, entrants: Entrants) -> None:
    """Refuse a schedule that cannot be played.

    Raises:
        UserError: players that cannot meet, or more rounds than there are pairings for.
    """
    if entrants.bipartite and not (entrants.side(0) and entrants.side(1)):
        empty = entrants.rivals[0 if not entrants.side(0) else 1]
        raise UserError(f"nobody plays seat `{empty}`: every player has the other one; add one with `seat`")
    if schedule.name == "ladder" and entrants.bipartite:
        raise UserError(
            "a ladder cannot rank players of different seats: neighbours on it must be able to meet; choose "
            "round_robin or swiss"
        )
    if schedule.name == "swiss":
        sizes = (len(entrants.side(0)), len(entrants.side(1))) if entrants.bipartite else ()
        count = len(entrants.order)
        most = max(sizes) if sizes else count - 1 + count % 2
        if schedule.rounds is not None and schedule.rounds > most:
            raise UserError(
                f"{schedule.rounds} swiss rounds: nobody meets twice, and {most} rounds are enough for "
                f"{count} players to meet all whom they can; choose at most {most}"
            )


def next_pairings(schedule: ScheduleConfig, entrants: Entrants, played: Sequence[Results]) -> list[Pairing]:
    """The pairings of the round after those that were played, in schedule order; empty at the end."""
    if len(played) >= (schedule.rounds or 1):
        return []
    if schedule.name == "swiss":
        return _swiss(entrants, played)
    if schedule.name == "ladder":
        return _rungs(ladder(entrants, played), len(played))
    return entrants.pairings()


def standing(entrants: Entrants, played: Sequence[Results]) -> list[str]:
    """Players by their mean share of the points, best first; equal ones stay in the order of the seeding."""
    shares: dict[str, list[float]] = defaultdict(list)
    for results in played:
        for (one, other), share in results.items():
            if share is not None:
                shares[one].append(share)
                shares[other].append(1.0 - share)
    # Who sat out a round neither gains nor loses by it; who has no result stands between the halves.
    means = {name: sum(found) / len(found) for name, found in shares.items()}
    return sorted(entrants.order, key=lambda name: -means.get(name, 0.5))


def _swiss(entrants: Entrants, played: Sequence[Results]) -> list[Pairing]:
    """A matching of the most pairs; among those of the players who played least, then of the nearest ranks,
    then of the highest ranks."""
    import networkx  # type: ignore[import-untyped]  # it has no annotations

    rank = {name: place for place, name in enumerate(standing(entrants, played))}
    met = {frozenset(pairing) for results in played for pairing in results}
    games = {name: sum(name in pair for pair in met) for name in rank}
    near = len(rank) ** 3 + 1  # more than all squared distances of a matching add up to
    graph = networkx.Graph()
    for one, other in entrants.pairings():
        if frozenset((one, other)) not in met:
            low, high = rank[one], rank[other]
            cost = (games[one] + games[other]) * near * near + (low - high) ** 2 * near + low + high
            graph.add_edge(low, high, weight=-cost, pair=(one, other))
    matched = networkx.max_weight_matching(graph, maxcardinality=True)
    return [graph.edges[edge]["pair"] for edge in sorted(tuple(sorted(edge)) for edge in matched)]


def ladder(entrants: Entrants, played: Sequence[Results]) -> list[str]:
    """The rungs after the rounds played, top first; a draw changes nothing."""
    rungs = list(entrants.order)
    for results in played:
        for (one, other), share in results.items():
            winner, loser = (one, other) if share is None or share > 0.5 else (other, one)
            above, below = rungs.index(loser), rungs.index(winner)
            if share not in (None, 0.5) and above < below:
                rungs[above], rungs[below] = winner, loser
    return rungs


def _rungs(rungs: Sequence[str], number: int) -> list[Pairing]:
    """Neighbours, from the top in even rounds and from the second rung in odd ones; two always meet."""
    start = number % 2 if len(rungs) > 2 else 0
    return list(zip(rungs[start::2], rungs[start + 1 :: 2], strict=False))

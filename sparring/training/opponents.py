"""Who plays whom: pairings of versions, their win rates so far, and the choice between them.

SPC (2504.19162, section 3.3) found that its newest generator against its newest critic won 13 % of the games
and that a critic trained on those got worse, while against an older critic it won 33 % and both got
better. So a pairing is chosen whose weaker side wins a share of the games within a band; the newest versions
where they do, older ones of either side where they do not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from sparring.memory.journal import Journal
from sparring.memory.schema import Episode, PolicyVersion

Pairing = tuple[int, int]
"""Numbers of the two sides' versions, the side that `Protocol.rivals` names first coming first."""


@dataclass(frozen=True, slots=True)
class Record:
    """Games of a pairing that were not void."""

    points: float = 0.0
    """Of the first side."""
    games: int = 0

    @property
    def rate(self) -> float | None:
        """Share of the points that the weaker side has won."""
        if not self.games:
            return None
        share = self.points / self.games
        return min(share, 1 - share)


def pairings(first: Sequence[int], second: Sequence[int]) -> list[Pairing]:
    """The pairings with a newest version in them, the newest ones first; pools are oldest first."""
    found = [(a, b) for a in first for b in second if a == first[-1] or b == second[-1]]

    def age(pair: Pairing) -> tuple[int, int]:
        behind = len(first) - 1 - first.index(pair[0]), len(second) - 1 - second.index(pair[1])
        return sum(behind), behind[0]  # as old as each other: the older second side comes first

    return sorted(found, key=age)


def choose(
    candidates: Sequence[Pairing], records: Mapping[Pairing, Record], band: tuple[float, float]
) -> Pairing:
    """The first candidate whose weaker side's win rate is in the band; without one, the nearest to it.

    A pairing without games is taken only where no candidate has any.
    """

    def off(pair: Pairing) -> float:
        rate = records.get(pair, Record()).rate
        return float("inf") if rate is None else max(band[0] - rate, rate - band[1], 0.0)

    return min(candidates, key=off)


def records_of(
    journal: Journal, run: str, rivals: tuple[str, str], iterations: range
) -> dict[Pairing, Record]:
    """What each pairing came to in some iterations of a run."""
    points: defaultdict[Pairing, list[float]] = defaultdict(list)
    for pair, row in _games(journal, run, rivals, iterations):
        if (scores := (row.outcome or {}).get("scores")) is not None:
            points[pair].append(scores[rivals[0]])
    return {pair: Record(sum(won), len(won)) for pair, won in points.items()}


def games_of(journal: Journal, run: str, rivals: tuple[str, str], iteration: int, pair: Pairing) -> list[int]:
    """Numbers of the games that a pairing finished in an iteration of a run, void ones among them."""
    games = _games(journal, run, rivals, range(iteration, iteration + 1))
    return [row.number for found, row in games if found == pair]


def _games(
    journal: Journal, run: str, rivals: tuple[str, str], iterations: range
) -> Iterator[tuple[Pairing, Any]]:
    numbers = {row.id: row.number for row in journal.read(select(PolicyVersion.id, PolicyVersion.number))}
    query = select(Episode.number, Episode.seats, Episode.outcome).where(
        Episode.run_id == run,
        Episode.iteration >= iterations.start,
        Episode.iteration < iterations.stop,
        Episode.status == "done",
    )
    for row in journal.read(query):
        first, second = (numbers[row.seats[side]["version"]] for side in rivals)
        yield (first, second), row

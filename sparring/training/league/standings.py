"""The standings of a tournament: a pure function of its match rows, read from the journal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sparring.graphs.stats import FEWEST, Estimate
from sparring.memory.journal import Journal
from sparring.training.league.matches import Game, Void
from sparring.training.league.pairwise import Cycle, Rates, estimate, explained, largest_cycle, pairwise
from sparring.training.league.ratings import (
    RESAMPLES,
    BradleyTerry,
    Point,
    Tally,
    bradley_terry,
    openskill_curve,
)
from sparring.training.league.record import Field, read_field, results_of
from sparring.training.league.schedule import Entrants, ladder


@dataclass(frozen=True, slots=True)
class Standing:
    """One player's line."""

    player: str
    games: int
    won: int
    drawn: int
    lost: int
    void: int
    pairs: tuple[int, int, int]
    """Pairs (an opponent, a task) won, drawn and lost, of those whose games are all there and count."""
    rating: Estimate | None
    """Bradley-Terry on the Elo scale; None where no game counts."""
    mu: float | None
    sigma: float | None


@dataclass(frozen=True, slots=True)
class Share:
    """What a player got from an opponent."""

    player: str
    opponent: str
    points: Estimate
    """Share of the points, either seat weighing the same."""
    games: int


@dataclass(frozen=True, slots=True)
class ErrorShare:
    """How games about one type of error went for one seat."""

    error: str
    seat: str
    player: str | None
    """None: all players of that seat."""
    points: Estimate
    games: int


@dataclass(frozen=True)
class Standings:
    """Everything that is shown of a tournament."""

    run: str
    protocol: str
    status: str
    schedule: str
    rivals: tuple[str, str]
    tasks: int
    players: list[Standing]
    """Best first."""
    shares: list[Share]
    advantage: Estimate | None
    """Share of the points that the first seat gets between equals."""
    explained: float | None
    cycle: Cycle | None
    errors: list[ErrorShare]
    ladder: list[str] | None
    notes: list[str]

    def to_json(self) -> list[dict[str, Any]]:
        """One dictionary a line: the tournament, its players, pairings and types of error."""
        whole = {
            name: value for name, value in asdict(self).items() if name not in ("players", "shares", "errors")
        }
        parts = (("player", self.players), ("pairing", self.shares), ("error", self.errors))
        return [
            {"kind": "tournament", **whole},
            *({"kind": kind, **asdict(row)} for kind, rows in parts for row in rows),
        ]


def read_standings(journal: Journal, run: str, fitted: BradleyTerry | None = None) -> Standings:
    """The standings of a tournament, finished or not; `fitted`, where its ratings are known already."""
    field = read_field(journal, run)
    entrants, games, void = field.entrants, field.games, field.void
    tally = Tally.of(games, entrants.order, void)
    fitted = fitted or bradley_terry(tally, sided=not entrants.bipartite)
    rates = pairwise(tally)
    schedule = field.row.config["schedule"]["name"]
    latest = {point.player: point for point in openskill_curve(games, void)}
    size = 1 if entrants.bipartite else 2
    rows = [_standing(name, games, void, size, fitted, latest.get(name)) for name in entrants.order]
    return Standings(
        run=run,
        protocol=field.row.protocol,
        status=field.row.status,
        schedule=schedule,
        rivals=entrants.rivals,
        tasks=len(tally.tasks),
        players=sorted(rows, key=lambda row: -(row.rating.mean if row.rating else 0.0)),
        shares=_shares(tally, rates),
        advantage=fitted.advantage() if tally.tasks else None,
        explained=explained(tally, rates, fitted) if rates else None,
        cycle=largest_cycle(tally, rates),
        errors=_errors(games, entrants, void),
        ladder=ladder(entrants, results_of(games, void)) if schedule == "ladder" else None,
        notes=_notes(field, tally),
    )


def _standing(
    player: str, games: Sequence[Game], void: Void, size: int, fitted: BradleyTerry, latest: Point | None
) -> Standing:
    """A player's line; `size` is how many games make a pair."""
    mine = [game for game in games if player in game.players]
    points = [_of(game, player, void) for game in mine]
    counted = [one for one in points if one is not None]
    pairs: dict[tuple[int, str, str], list[float | None]] = defaultdict(list)
    for game, got in zip(mine, points, strict=True):
        opponent = game.players[1 - game.players.index(player)]
        pairs[game.round, opponent, game.task].append(got)
    whole = [
        float(np.mean(_all(found))) for found in pairs.values() if None not in found and len(found) == size
    ]
    return Standing(
        player=player,
        games=len(counted),
        **dict(zip(("won", "drawn", "lost"), _counts(counted), strict=True)),
        void=sum(game.points is None for game in mine),
        pairs=_counts(whole),
        rating=fitted.rating(player) if counted else None,
        mu=latest.mu if latest else None,
        sigma=latest.sigma if latest else None,
    )


def _of(game: Game, player: str, void: Void) -> float | None:
    points = game.counted(void)
    return points if points is None or game.players[0] == player else 1.0 - points


def _all(found: Iterable[float | None]) -> list[float]:
    return [one for one in found if one is not None]


def _counts(points: Iterable[float]) -> tuple[int, int, int]:
    """How many are above, at and below one half."""
    signs = [int(np.sign(one - 0.5)) for one in points]
    return signs.count(1), signs.count(0), signs.count(-1)


def _shares(tally: Tally, rates: Rates) -> list[Share]:
    met, names = tally.met(), tally.players
    return [
        Share(names[one], names[other], estimate(drawn), int(met[one, other]))
        for (one, other), drawn in sorted(rates.items())
    ]


def _errors(games: Sequence[Game], entrants: Entrants, void: Void) -> list[ErrorShare]:
    """By type of error and seat: all players together, then each."""
    groups: dict[tuple[str, int, str], list[tuple[str, float]]] = defaultdict(list)
    for game in games:
        points = game.counted(void)
        if game.error is not None and points is not None:
            for seat in (0, 1):
                got = points if seat == 0 else 1.0 - points
                for player in ("", game.players[seat]):
                    groups[game.error, seat, player].append((game.task, got))
    return [
        ErrorShare(error, entrants.rivals[seat], player or None, _over_tasks(found), len(found))
        for (error, seat, player), found in sorted(groups.items())
    ]


def _over_tasks(found: Sequence[tuple[str, float]], seed: int = 0) -> Estimate:
    """Mean over games with its interval by resampling the tasks that they were played on."""
    tasks = sorted({task for task, _ in found})
    sums = np.array(
        [[sum(p for t, p in found if t == task), sum(t == task for t, _ in found)] for task in tasks]
    )
    drawn = np.random.default_rng(seed).multinomial(
        len(tasks), np.full(len(tasks), 1 / len(tasks)), RESAMPLES
    )
    totals = np.concatenate([sums.sum(axis=0)[None], drawn @ sums])
    return estimate(totals[:, 0] / totals[:, 1])


def _groups(tally: Tally) -> int:
    """Into how many parts the field falls that no game connects."""
    import networkx  # type: ignore[import-untyped]  # it has no annotations

    return int(networkx.number_connected_components(networkx.Graph(tally.seatings)))


def _notes(field: Field, tally: Tally) -> list[str]:
    """What a reader must know of the numbers."""
    notes = []
    if field.row.status != "done":
        notes.append(f"the tournament is {field.row.status}: these are the games so far")
    if field.entrants.bipartite:
        first, second = field.entrants.rivals
        notes.append(
            f"no player sits on both seats: what `{first}` is worth against `{second}` cannot be told from "
            "the difference between the two groups, so ratings compare within a seat"
        )
    if not tally.tasks:
        notes.append("no game counts: there is nothing to rate")
    elif len(tally.tasks) < FEWEST:
        notes.append(f"{len(tally.tasks)} tasks are too few for their intervals to be trusted")
    if (groups := _groups(tally)) > 1:
        notes.append(
            f"the players fall into {groups} groups with no game between them that counts: ratings of "
            "different groups cannot be compared"
        )
    voided = sum(game.points is None for game in field.games)
    if voided:
        counts = "count as losses of the side at fault" if field.void == "loss" else "are left out"
        notes.append(f"{voided} of {len(field.games)} games are void and {counts}")
    if judged := [game.agreed for game in field.games if game.agreed is not None]:
        notes.append(f"the judge said the same in both orders in {sum(judged)} of {len(judged)} games")
    return notes

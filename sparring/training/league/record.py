"""What a tournament's run holds beside its games: who competes, and ratings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from sparring.errors import UserError
from sparring.memory.journal import Journal
from sparring.memory.queries import decisions
from sparring.memory.run import RunHandle
from sparring.memory.schema import Rating
from sparring.training.league.matches import Game, Void, read_games, share
from sparring.training.league.schedule import Entrants, Results

KIND = "tournament"
FIELD = "field"
"""Event that says who competes: written once, before the first game."""
BRADLEY_TERRY, OPENSKILL = "bradley_terry", "openskill"
"""Systems of the rows of `ratings`."""


@dataclass(frozen=True, slots=True)
class Field:
    """A tournament's run as the journal tells it."""

    entrants: Entrants
    games: list[Game]
    void: Void
    row: Any


def read_field(journal: Journal, run: str) -> Field:
    """Who competes, and the games in schedule order.

    Raises:
        UserError: no such run, or one that is no tournament.
    """
    row = journal.run_row(run)
    if row.kind != KIND:
        raise UserError(f"run `{run}` is of kind `{row.kind}`, not a tournament")
    told = read_event(journal, run)
    if told is None:
        raise UserError(f"tournament `{run}` has not begun: start it again with `sparring tournament`")
    entrants = Entrants(tuple(told["order"]), told["seats"], (told["rivals"][0], told["rivals"][1]))
    return Field(entrants, read_games(journal, run, entrants.rivals), row.config["void"], row)


def read_event(journal: Journal, run: str) -> Any:
    """What was written of the field before the first game; None where nothing was."""
    return decisions(journal, run, FIELD).get("0")


def results_of(games: Iterable[Game], void: Void) -> list[Results]:
    """Round by round, each pairing with its first player's share of the points."""
    rounds: dict[int, dict[tuple[str, str], list[Game]]] = defaultdict(dict)
    for game in sorted(games, key=lambda game: game.position):
        one, other = game.players
        pairings = rounds[game.round]
        pairings.setdefault((other, one) if (other, one) in pairings else (one, other), []).append(game)
    return [
        {pairing: share(found, pairing[0], void) for pairing, found in rounds[number].items()}
        for number in sorted(rounds)
    ]


def final_ratings(journal: Journal, run: str) -> dict[str, float]:
    """Player -> its last rating in a run: Bradley-Terry's, or openskill's of one that was not finished."""
    query = select(Rating).where(Rating.run_id == run).order_by(Rating.after_position)
    found: dict[str, dict[str, float]] = {}
    for row in journal.read(query):
        found.setdefault(row.system, {})[row.player] = row.value
    return found.get(BRADLEY_TERRY) or found.get(OPENSKILL) or {}


def last_rated(journal: Journal, run: str) -> int:
    """The position up to which openskill's ratings are written; -1 where none is."""
    query = select(func.max(Rating.after_position)).where(Rating.run_id == run, Rating.system == OPENSKILL)
    [(last,)] = journal.read(query)
    return -1 if last is None else int(last)


async def write_ratings(run: RunHandle, system: str, rows: Sequence[tuple[str, int, float, float]]) -> None:
    """Rows of (player, after position, value, deviation), in one transaction: all of them or none."""
    write = run.write()
    for player, position, value, deviation in rows:
        row = {
            "id": run.ids.take("ratings"),
            "run_id": run.id,
            "player": player,
            "after_position": position,
            "system": system,
            "value": value,
            "deviation": deviation,
        }
        write.rows.append(("ratings", row))
    await run.commit(write)

"""How a tournament is watched and shown: lines on standard error, tables on standard output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from sparring.graphs.console import write_lines
from sparring.graphs.display import LineWatch, Pace, columns, family_spending, show
from sparring.graphs.report import all_spent
from sparring.graphs.stats import Estimate
from sparring.memory.journal import Journal
from sparring.training.league.pairwise import Cycle
from sparring.training.league.standings import ErrorShare, Share, Standing, Standings, read_standings


class Watch(LineWatch):
    """Prints what a tournament tells: its rounds, its pairings, and now and then how many games are over."""

    often = "game"

    _pace: Pace | None = None

    def line(self, kind: str, numbers: Mapping[str, Any]) -> str:
        left = ""
        if kind == "round":
            self._pace = Pace(numbers["done"])
        elif kind == "game" and self._pace is not None:
            left = self._pace.left(numbers["done"], numbers["games"])
        left = f", {left} of this round" if left else ""
        return f"round {numbers['round'] + 1}: {_told(kind, numbers)}{left}"


def _told(kind: str, numbers: Mapping[str, Any]) -> str:
    if kind == "pairing":
        one, other = numbers["players"]
        points = "no game counts" if numbers["points"] is None else f"{numbers['points']:.2f} of the points"
        return f"{one} against {other}: {points}, {numbers['games']} games"
    return f"{numbers['done']} of {numbers['games']} games"


def report_tournament(journal: Journal, run: str, *, as_json: bool) -> None:
    """A tournament's standings as its journal tells them, to standard output."""
    standings = read_standings(journal, run)
    if as_json:
        return write_lines(standings.to_json(), None)
    show(*tables(standings), Text(family_spending(all_spent(journal, run))))


def tables(standings: Standings) -> list[Any]:
    """The standings, who beats whom, types of error, and what is to be said about them."""
    names = [row.player for row in standings.players]
    parts: list[Any] = [_players(standings.players), _matrix(names, standings.shares)]
    if standings.errors:
        parts.append(_errors(standings.errors))
    return [*parts, Text("\n".join(remarks(standings)))]


def _players(rows: Sequence[Standing]) -> Table:
    header = ("player", "rating, 95 %", "openskill", "games", "won", "drawn", "lost", "void", "pairs")
    lines = [
        (
            row.player,
            _interval(row.rating, ".0f"),
            "-" if row.mu is None else f"{row.mu:.1f} ± {row.sigma:.1f}",
            *(row.games, row.won, row.drawn, row.lost, row.void),
            "-".join(map(str, row.pairs)),
        )
        for row in rows
    ]
    return columns(header, lines)


def _matrix(names: Sequence[str], shares: Sequence[Share]) -> Table:
    """Share of the points that the player of the row got from the one of the column."""
    found = {(row.player, row.opponent): row.points for row in shares}
    lines = []
    for one in names:
        cells = [found.get((one, other)) for other in names]
        lines.append((one, *("-" if cell is None else f"{cell.mean:.2f}" for cell in cells)))
    return columns(("points from", *names), lines)


def _errors(rows: Sequence[ErrorShare]) -> Table:
    lines = [
        (row.error, _interval(row.points, ".2f"), row.games, row.seat, row.player or "all") for row in rows
    ]
    return columns(("error", "points, 95 %", "games", "seat", "player"), lines)


def remarks(standings: Standings) -> list[str]:
    """What the tables do not say, a sentence a line."""
    said = []
    if (advantage := standings.advantage) is not None:
        seat = standings.rivals[0]
        said.append(
            f"side advantage: `{seat}` gets {_interval(advantage, '.2f')} of the points between equals"
        )
    if standings.explained is not None:
        said.append(f"one rating explains {standings.explained:.0%} of the spread of the pairwise results")
    if (cycle := standings.cycle) is not None:
        said.append(_circle(cycle))
    if standings.ladder is not None:
        said.append(f"ladder: {' > '.join(standings.ladder)}")
    return said + standings.notes


def _circle(cycle: Cycle) -> str:
    one, two, three = cycle.players
    weakest = _interval(cycle.weakest, ".2f")
    path = f"{one} beats {two}, {two} beats {three}, {three} beats {one}"
    if cycle.certain:
        return f"the field is cyclic: {path}, the weakest of them with {weakest} of the points"
    return f"the field may be cyclic: {path}, but the weakest lead is open, {weakest} of the points"


def _interval(value: Estimate | None, form: str) -> str:
    return "-" if value is None else f"{value.mean:{form}} [{value.low:{form}}, {value.high:{form}}]"

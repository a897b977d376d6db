"""A tournament's run: standings, rating curves, who beats whom, and the games one by one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import func, select

from sparring.errors import UserError
from sparring.memory.journal import Journal
from sparring.memory.policies import parse
from sparring.memory.schema import Episode, Match, Task
from sparring.training.league.console import remarks
from sparring.training.league.matches import Game, Void
from sparring.training.league.ratings import openskill_curve
from sparring.training.league.record import read_event, read_field
from sparring.training.league.standings import Share, Standings, read_standings
from sparring.view.charts import Chart, Line, chart, thinned
from sparring.view.runs import PAGE, Page
from sparring.view.text import is_number

LISTED, CROSSED, DRAWN = 200, 16, 8
"""Players in the standings, in the table of who beats whom, and with a curve: the best ones."""
POINTS = 200
"""Games after which a curve is drawn."""
POLICY = "policy:"


@dataclass(frozen=True)
class Cup:
    """What a page shows of a tournament."""

    standings: Standings
    remarks: list[str]
    specs: dict[str, dict[str, str]]
    """Player -> seat -> who plays it."""
    shares: dict[tuple[str, str], Share]
    curve: Chart | None
    span: tuple[float, float]
    """From the lowest end of a rating's interval to the highest."""

    @property
    def crossed(self) -> list[str]:
        return [row.player for row in self.standings.players[:CROSSED]]

    def places(self, player: str) -> list[tuple[str, str, int | None]]:
        """Who plays a player, each once: the spec, and policy and number where it is a version."""
        specs = dict.fromkeys(self.specs.get(player, {}).values())
        return [(spec, *_version(spec)) for spec in specs]


def read_cup(journal: Journal, run: str) -> Cup:
    """A tournament as its journal tells it.

    Raises:
        UserError: it has not begun.
    """
    standings, field = read_standings(journal, run), read_field(journal, run)
    best = [row.player for row in standings.players]
    ends = [end for row in standings.players if row.rating for end in (row.rating.low, row.rating.high)]
    return Cup(
        standings,
        remarks(standings),
        specs=read_event(journal, run).get("specs", {}),
        shares={(row.player, row.opponent): row for row in standings.shares},
        curve=rating_curve(field.games, field.void, best[:DRAWN]),
        span=(min(ends, default=0.0), max(ends, default=0.0)),
    )


def rating_curve(games: Sequence[Game], void: Void, players: Iterable[str]) -> Chart | None:
    """The openskill ratings of players after the games, as they were then."""
    after = [
        (position + 1, {point.player: point.mu for point in points})
        for position, points in groupby(openskill_curve(games, void), key=lambda point: point.position)
    ]
    kept = {at for at, _ in thinned(after, -(-len(after) // POINTS))} if after else set()
    lines: dict[str, Line] = {}
    for player in players:
        mu, line = None, list[tuple[float, float | None]]()
        for at, rated in after:
            mu = rated.get(player, mu)
            if at in kept:
                line.append((at, mu))
        lines[player] = line
    return chart("ratings", "Rating after each game (openskill, mu)", lines, x="games of the schedule")


def _version(spec: str) -> tuple[str, int | None]:
    """Policy and number of a pinned spec; ("", None) of anything else."""
    try:
        name, which = parse(spec.removeprefix(POLICY))
    except UserError:
        return "", None
    return (name, which) if spec.startswith(POLICY) and isinstance(which, int) else ("", None)


def match_list(journal: Journal, run: str, query: Mapping[str, str], page: int) -> Mapping[str, Any]:
    """`matches`: rows of the games in schedule order and their results; `rivals`; `pair`: whose were asked
    for."""
    told = read_event(journal, run)
    rivals = told.get("rivals") if isinstance(told, dict) else None
    if not isinstance(rivals, list) or len(rivals) != 2:
        return {}
    first, second = rivals
    one, other = query.get("one", ""), query.get("other", "")
    fits = [Match.run_id == run]
    if one or other:
        fits.append(Match.players.in_([{first: one, second: other}, {first: other, second: one}]))
    total = int(journal.read(select(func.count()).select_from(Match).where(*fits))[0][0])
    columns = (Match.position, Match.players, Match.result, Match.status, Episode.id, Task.name)
    rows = (
        select(*columns)
        .outerjoin(Episode, Episode.number == Match.episode_number)
        .outerjoin(Task, Task.id == Episode.task_id)
        .where(*fits)
        .order_by(Match.position)
        .limit(PAGE)
    )
    matches = Page.of(
        total,
        page,
        lambda start: [(row, _result(row.result, rivals)) for row in journal.read(rows.offset(start))],
    )
    pair = {"one": one, "other": other} if one or other else {}
    return {"matches": matches, "rivals": rivals, "pair": pair}


def _result(found: Any, rivals: Sequence[str]) -> Mapping[str, Any]:
    """What a game came to; one whose scores are no two numbers is void."""
    known: dict[str, Any] = found if isinstance(found, dict) else {}
    scores = known.get("scores")
    if not (isinstance(scores, dict) and all(is_number(scores.get(seat)) for seat in rivals)):
        scores = None
    number = known.get("round")
    return known | {"scores": scores, "round": number if isinstance(number, int) else 0}

"""The page of a tournament: what it shows is what the standings say, and its links lead somewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from view_support import HOSTILE, Browser, Page, browser  # isort: skip - it makes the paths
from league_support import small
from sqlalchemy import select, update

from sparring.memory.journal import Journal
from sparring.memory.schema import Episode, Match
from sparring.training.league.ratings import openskill_curve
from sparring.training.league.record import read_field
from sparring.training.league.standings import Standings, read_standings
from sparring.training.league.tournament import tournament
from sparring.view.tournament import POINTS, rating_curve


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cup")
    tournament(small(folder, plots=str(folder / "plots")), folder / "cup.db")
    return folder / "cup.db"


@pytest.fixture(scope="module")
def standings(memory: Path) -> Standings:
    with Journal.open(memory) as journal:
        return read_standings(journal, "cup")


@pytest.fixture(scope="module")
def seen(memory: Path) -> Iterator[Browser]:
    with browser(memory) as made:
        yield made


@pytest.fixture(scope="module")
def page(seen: Browser) -> Page:
    return seen.get("/run", name="cup")


def test_the_standings_are_those_of_the_report(page: Page, standings: Standings) -> None:
    for place, player in enumerate(standings.players, start=1):
        assert player.rating and player.mu and player.sigma
        row = page.row(str(place), player.player)
        rating = player.rating
        assert row[2] == f"{rating.mean:.0f} [{rating.low:.0f}, {rating.high:.0f}]"
        assert row[3] == f"{player.mu:.1f} ± {player.sigma:.1f}"
        assert row[4:8] == [str(n) for n in (player.games, player.won, player.drawn, player.lost)]
        assert row[9] == "-".join(map(str, player.pairs))
    for said in standings.notes:
        assert said.replace("`", " ") in page.text or said in page.text


def test_head_to_head_has_every_share_with_its_interval(page: Page, standings: Standings) -> None:
    names = [row.player for row in standings.players]
    assert ["points of", *names] in page.rows
    assert len(standings.shares) == 6
    for share in standings.shares:
        row = next(row for row in page.rows if row[0] == share.player and len(row) == 4)
        points = share.points
        sign = " ▲" if points.low > 0.5 else " ▼" if points.high < 0.5 else ""
        shown = f"{points.mean:.2f}{sign} [{points.low:.2f}, {points.high:.2f}]"
        assert row[1 + names.index(share.opponent)] == shown


def test_the_curve_ends_where_the_standings_do(page: Page, standings: Standings) -> None:
    [given] = [json.loads(chart) for chart in page.charts]
    assert given["series"] == [row.player for row in standings.players]
    assert given["rows"][0] == list(range(1, 25))
    for player, line in zip(standings.players, given["rows"][1:], strict=True):
        assert line[-1] == pytest.approx(player.mu)


def test_a_long_curve_is_thinned_and_still_ends_at_the_last_game(memory: Path) -> None:
    with Journal.open(memory) as journal:
        field = read_field(journal, "cup")
    games = [type(game)(*(place, 0, game.players, game.task, game.points)) for place, game in
             enumerate(field.games * 30)]  # fmt: skip
    made = rating_curve(games, "skip", ["strong", "weak"])
    last = {point.player: point.mu for point in openskill_curve(games)}
    assert made is not None and len(made.rows[0]) <= POINTS and made.rows[0][-1] == len(games)
    assert [line[-1] for line in made.rows[1:]] == [last["strong"], last["weak"]]
    assert len(made.table) <= 60 and made.table[-1][0] == len(games)


def test_matches_stand_in_schedule_order_and_lead_to_their_episodes(
    page: Page, seen: Browser, memory: Path
) -> None:
    with Journal.open(memory) as journal:
        query = select(Match.position, Match.players, Match.result, Episode.id).order_by(Match.position)
        rows = journal.read(query.join(Episode, Episode.number == Match.episode_number))
    shown = [row for row in page.rows if len(row) == 6 and row[0].isdigit()]
    assert [int(row[0]) for row in shown] == list(range(1, 25))
    for row, match in zip(shown, rows, strict=True):
        assert row[2:4] == [match.players["left"], match.players["right"]]
        scores = match.result["scores"]
        best = max(scores, key=scores.get)
        assert row[5] == ("drawn" if scores[best] == 0.5 else match.players[best])
        assert f"/episode?id={match.id}" in page.links
    assert len(seen.follow(page)) > 24


def test_a_pair_has_its_matches_alone(seen: Browser) -> None:
    pair = seen.get("/run?name=cup&one=weak&other=strong")
    shown = [row for row in pair.rows if len(row) == 6 and row[0].isdigit()]
    assert len(shown) == 8 and all({row[2], row[3]} == {"weak", "strong"} for row in shown)
    assert "They have not met" in seen.get("/run?name=cup&one=weak&other=nobody").text


def test_its_own_runs_are_summed_and_it_has_no_empty_list_of_episodes(page: Page) -> None:
    assert "24 of 24 done with those of its runs" in page.text and "Calls 48 " in page.text
    assert "No episode has begun" not in page.text and "Accuracy" not in page.text


def test_a_tournament_that_has_not_begun_says_so(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j.db") as journal:
        run = journal.drive("cup", kind="tournament", protocol="duel", config={}, seed=0)
        run.release()
    with browser(tmp_path / "j.db") as seen:
        page = seen.get("/run", name="cup")
        assert "has not begun" in page.text and "Matches" not in page.text


def test_hostile_names_are_words(memory: Path, tmp_path: Path) -> None:
    copy = tmp_path / "cup.db"
    copy.write_bytes(memory.read_bytes())
    with Journal.open(copy) as journal:
        rename(journal)
    with browser(copy) as seen:
        page = seen.get("/run", name="cup")
        assert page.text.count(HOSTILE) > 10 and "img" not in page.tags
        assert page.tags.count("script") == 3  # the page's own
        assert HOSTILE in json.loads(page.charts[0])["series"]
        seen.follow(page)


def rename(journal: Journal) -> None:
    """Call the weak player what no configuration would let it be called."""
    from sparring.memory.database import transact
    from sparring.memory.schema import Event

    def renamed(value: Any) -> Any:
        return json.loads(json.dumps(value).replace('"weak"', json.dumps(HOSTILE)))

    def work(connection: Any) -> None:
        for row in connection.execute(select(Match.id, Match.players)).all():
            connection.execute(update(Match).where(Match.id == row.id).values(players=renamed(row.players)))
        for row in connection.execute(select(Event.id, Event.payload).where(Event.kind == "field")).all():
            connection.execute(update(Event).where(Event.id == row.id).values(payload=renamed(row.payload)))

    transact(journal.engine, work)

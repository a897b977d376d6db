"""Tournaments on a real journal: both seats on the same seeds, rounds, resumption, kills, mistakes."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from league_support import START_CONTEXT, live, played, rows, script, small, turns
from sqlalchemy import delete, select, update

from sparring.agents.engines.budget import Budget
from sparring.errors import BudgetSpent
from sparring.graphs.budget import spent
from sparring.graphs.cast import policy_name
from sparring.memory.journal import Journal
from sparring.memory.schema import Episode, Match, PolicyVersion, Rating, Turn
from sparring.training.league import ratings
from sparring.training.league.standings import read_standings


@pytest.fixture
def db(tmp_path: Path) -> str:
    return str(tmp_path / "journal.db")


# --- what is played ---------------------------------------------------------------------------------------


async def test_every_pairing_in_both_seats_on_the_same_tasks_and_seeds(tmp_path: Path, db: str) -> None:
    result = await played(small(tmp_path), db)
    matches, _ = rows(db)
    assert [row[0] for row in matches] == list(range(24)) and result.missing == 0
    seen = Counter((row[1]["left"], row[1]["right"], row[2]["task"]) for row in matches)
    names = ("weak", "even", "strong")
    assert seen == Counter((a, b, f"t{n}") for a in names for b in names if a != b for n in range(4))
    for place in range(0, 24, 2):  # the two games of a pair stand side by side
        one, other = matches[place], matches[place + 1]
        assert one[1] == {"left": other[1]["right"], "right": other[1]["left"]}
        assert one[2]["task"] == other[2]["task"]
    there, back = turns(db, "cup.games/1/weak vs even"), turns(db, "cup.games/1/even vs weak")
    assert len(there) == 8 and there.keys() == back.keys()
    assert {key: row.seed for key, row in there.items()} == {key: row.seed for key, row in back.items()}
    for key, row in there.items():
        opposite = back[key[0], "right" if key[1] == "left" else "left"]
        assert row.policy_version_id == opposite.policy_version_id != back[key].policy_version_id
    assert len({row.seed for row in there.values()}) == 8


async def test_a_tournament_is_reproducible_from_its_seed(tmp_path: Path, db: str) -> None:
    await played(small(tmp_path), db)
    await played(small(tmp_path), tmp_path / "again.db")
    assert rows(db) == rows(str(tmp_path / "again.db"))
    await played(small(tmp_path, seed=4), tmp_path / "other.db")
    assert not seeds(db) & seeds(str(tmp_path / "other.db"))


def seeds(memory: str) -> set[int]:
    with Journal.open(memory) as journal:
        return {row.seed for row in journal.read(select(Turn.seed))}


async def test_the_standings_tell_what_the_rows_hold(tmp_path: Path, db: str) -> None:
    told: list[tuple[str, Any]] = []
    result = await played(small(tmp_path), db, told=lambda kind, numbers: told.append((kind, numbers)))
    standings = result.standings
    assert [row.player for row in standings.players] == ["strong", "even", "weak"]
    for row in standings.players:
        assert row.won + row.drawn + row.lost == row.games == 16 and sum(row.pairs) == 8 and row.void == 0
    matches, ratings = rows(db)
    points = Counter[str]()
    for _, players, found, *_ in matches:
        for seat, player in players.items():
            points[player] += found["scores"][seat]
    assert {row.player: row.won + row.drawn / 2 for row in standings.players} == points
    against = [row for row in standings.shares if row.player == "strong"]
    assert sum(8 * row.points.mean for row in against) == points["strong"]
    assert all(
        row.games == 8 and row.points.low <= row.points.mean <= row.points.high for row in standings.shares
    )
    final = {player: value for system, _, player, value, _ in ratings if system == "bradley_terry"}
    assert final == {row.player: row.rating.mean for row in standings.players if row.rating}
    assert sum(final.values()) == pytest.approx(4500)
    assert len([row for row in ratings if row[0] == "openskill"]) == 48
    assert Counter(kind for kind, _ in told) == {"round": 1, "game": 24, "pairing": 3}
    assert [numbers["games"] for kind, numbers in told if kind == "pairing"] == [8, 8, 8]
    [plot] = result.plots
    assert plot.read_bytes().startswith(b"\x89PNG") and plot.name == "ratings.png"
    errors = {(row.error, row.seat): row for row in standings.errors if row.player is None}
    assert set(errors) == {(error, seat) for error in ("slip", "swap") for seat in ("left", "right")}
    left = [found["scores"]["left"] for _, _, found, *_ in matches if found["error"] == "slip"]
    assert errors["slip", "left"].points.mean == pytest.approx(sum(left) / len(left)) and len(left) == 12
    assert errors["slip", "right"].points.mean == pytest.approx(1 - sum(left) / len(left))
    assert any("too few" in note for note in standings.notes)


async def test_half_a_pair_is_none_and_groups_that_never_met_are_named(tmp_path: Path, db: str) -> None:
    whole = (await played(small(tmp_path), db)).standings
    assert not any("no game between" in note for note in whole.notes)
    with Journal.open(db) as journal:
        journal.execute(delete(Match).where(Match.position >= 7))  # weak against even on t1 in one seat only
        half = read_standings(journal, "cup")
        assert {row.player: (row.games, sum(row.pairs)) for row in half.players} == {
            "weak": (5, 2),
            "even": (5, 2),
            "strong": (4, 2),
        }
    config = small(tmp_path, run="pairs", schedule={"name": "swiss", "rounds": 1})
    config["players"]["fourth"] = config["players"]["even"]
    apart = (await played(config, db)).standings
    assert any("2 groups with no game between" in note for note in apart.notes)


async def test_ratings_do_not_depend_on_the_order_in_which_games_were_written(
    tmp_path: Path, db: str
) -> None:
    before = (await played(small(tmp_path), db)).standings
    stored = rows(db)[1]
    with Journal.open(db) as journal:
        numbers = [row.id for row in journal.read(select(Match.id).where(Match.run_id == "cup"))]
        for number in numbers:  # out of the way, then mixed: row ids tell when a game was over
            journal.execute(update(Match).where(Match.id == number).values(id=number + 10**6))
        for number, other in zip(numbers, random.Random(0).sample(numbers, len(numbers)), strict=True):
            journal.execute(update(Match).where(Match.id == number + 10**6).values(id=other))
        journal.execute(Rating.__table__.delete())
        assert read_standings(journal, "cup") == before
    await played(small(tmp_path), db)
    assert rows(db)[1] == stored


async def test_tasks_of_a_pairing_are_drawn_by_the_seed_and_move_on(tmp_path: Path, db: str) -> None:
    schedule = {"name": "ladder", "rounds": 3}
    await played(small(tmp_path, tasks_per_pairing=2, schedule=schedule), db)
    by_round: dict[int, set[str]] = {}
    for _, _, found, *_ in rows(db)[0]:
        by_round.setdefault(found["round"], set()).add(found["task"])
    assert len(by_round[0]) == len(by_round[1]) == 2 and by_round[0] | by_round[1] == {
        f"t{n}" for n in range(4)
    }
    assert by_round[2] == by_round[0]


async def test_rounds_follow_from_the_rows_before_them(tmp_path: Path, db: str) -> None:
    result = await played(small(tmp_path, schedule={"name": "ladder", "rounds": 3}), db)
    matches = rows(db)[0]
    met = [frozenset(row[1].values()) for row in matches if row[2]["task"] == "t0"]
    assert [set(pair) for pair in met[::2]] == [{"weak", "even"}, {"weak", "strong"}, {"even", "strong"}]
    assert result.standings.ladder == ["strong", "even", "weak"]
    # The same pairing in another round is another iteration: other seeds on the same task.
    swiss = small(tmp_path, run="swiss", schedule={"name": "swiss", "rounds": 3})
    found = (await played(swiss, db)).standings
    assert found.ladder is None and {row.games for row in found.players} == {16}
    first, later = turns(db, "cup.games/1/weak vs even"), turns(db, "cup.games/2/weak vs strong")
    assert {row.iteration for row in first.values()} == {0} and {row.iteration for row in later.values()} == {
        1
    }
    assert not {row.seed for row in first.values()} & {row.seed for row in later.values()}


async def test_the_final_ratings_are_fitted_once_and_beside_the_event_loop(
    tmp_path: Path, db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, blocked = ratings.fit, list[bool]()

    def watched(*given: Any, **more: Any) -> Any:
        blocked.append(threading.current_thread() is threading.main_thread())
        return fit(*given, **more)

    monkeypatch.setattr(ratings, "fit", watched)
    result = await played(small(tmp_path), db)
    assert blocked == [False, False]  # the estimate and its resamples
    with Journal.open(db) as journal:
        assert read_standings(journal, "cup") == result.standings


# --- stopped and begun again -------------------------------------------------------------------------------


async def test_failed_games_are_played_when_the_command_is_given_again(tmp_path: Path, db: str) -> None:
    config = small(tmp_path, schedule={"name": "swiss", "rounds": 3})
    good = (tmp_path / "even.jsonl").read_text()
    away = json.dumps({"match": "t1|slip 1", "error": "timeout"})
    (tmp_path / "even.jsonl").write_text(away + "\n" + good)
    config["players"]["even"] = f"scripted:{tmp_path / 'even.jsonl'}?tries=1"
    broken = await played(config, db)
    assert broken.missing == 2 and broken.standings.status == "failed"
    kept = rows(db)[0]
    assert len(kept) == 6 and {row[2]["round"] for row in kept} == {0}  # the next round waits for them
    assert max(row[1] for row in rows(db)[1]) == 1 and {row[0] for row in rows(db)[1]} == {"openskill"}
    assert any("failed" in note for note in broken.standings.notes)
    (tmp_path / "even.jsonl").write_text(good)
    mended = await played(config, db)
    assert mended.missing == 0 and mended.standings.status == "done"
    assert [row[0] for row in rows(db)[0]] == list(range(24))
    assert [row for row in rows(db)[0] if row[0] in {row[0] for row in kept}] == kept
    curve = [row for row in rows(db)[1] if row[0] == "openskill"]
    assert sorted(row[1] for row in curve) == sorted([*range(24), *range(24)])
    with Journal.open(db) as journal:
        journal.execute(Rating.__table__.delete())
    await played(config, db)
    assert rows(db)[1][-len(curve) :] == curve  # as if written in one go


async def test_a_player_who_always_fails_is_given_up(tmp_path: Path, db: str) -> None:
    config = small(tmp_path, schedule={"name": "swiss", "rounds": 3}, void="loss")
    config["players"]["even"] = script(tmp_path, "away", error="engine_error")
    for _ in range(2):
        assert (await played(config, db)).missing == 8 and rows(db)[0] == []
    assert (await played({**config, "give_up": 4}, db)).missing == 8 and rows(db)[0] == []  # its third time
    assert (await played({**config, "give_up": 4}, db)).missing == 8  # the first time of its last round
    assert {row[2]["round"] for row in rows(db)[0]} == {0, 1}
    ended = await played({**config, "give_up": 1}, db)
    assert ended.missing == 0 and ended.standings.status == "done"
    matches, rated = rows(db)
    assert [row[0] for row in matches] == list(range(24)) and "bradley_terry" in {row[0] for row in rated}
    for _, players, found, status, *_ in matches:
        away = next((seat for seat, player in players.items() if player == "even"), None)
        assert (status, found["fault"]) == ("void" if away else "done", away)
    line = next(row for row in ended.standings.players if row.player == "even")
    assert (line.lost, line.void) == (16, 16)
    assert (await played(config, db)).standings == ended.standings and rows(db) == (matches, rated)


async def test_whose_fault_a_game_is_that_is_given_up(tmp_path: Path, db: str) -> None:
    """Both answer side by side in a duel; nobody is at fault where both failed as often."""
    away, other = (script(tmp_path, name, error="timeout") for name in ("away", "other"))
    well = script(tmp_path, "well", "Answer: 5")
    players = {"well": well, "one": away, "same": away, "other": other}
    given = small(tmp_path, protocol="duel", players=players, give_up=2, limit=1)
    assert (await played(given, db)).missing == 12
    with Journal.open(db) as journal:  # between `one` and `other` as if `one` alone had failed the first time
        among = select(Episode.number).where(Episode.run_id.contains("one vs other"))
        numbers = [row.number for row in journal.read(among)]
        of = select(PolicyVersion.id).where(PolicyVersion.policy == policy_name(other))
        [version] = {row.id for row in journal.read(of)}
        gone = Turn.episode_number.in_(numbers) & (Turn.policy_version_id == version)
        journal.execute(delete(Turn).where(gone))
    assert (await played(given, db)).missing == 0
    fault = {tuple(sat.values()): sat.get(found["fault"]) for _, sat, found, *_ in rows(db)[0]}
    assert len(fault) == 12 and all(name in pair for pair, name in fault.items() if "well" in pair)
    assert "well" not in fault.values() and fault["one", "other"] == "one"
    assert {fault[pair] for pair in (("other", "one"), ("one", "same"), ("same", "other"))} == {None}
    judged = {
        **given,
        "run": "judged",
        "options": {"decide": "judge"},
        "roles": {"judge": away},
        "give_up": 1,
    }
    judged["players"] = {"well": well, "sixer": script(tmp_path, "sixer", "Answer: 6")}
    standings = (await played({**judged, "void": "loss"}, db)).standings
    assert [(row.games, row.void) for row in standings.players] == [(0, 2), (0, 2)]


def count(memory: str) -> int:
    try:
        with closing(sqlite3.connect(memory)) as database:
            return int(database.execute("SELECT count(*) FROM matches").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


@pytest.mark.timeout(60)
def test_killed_at_any_instant_it_comes_to_the_same_end(tmp_path: Path, db: str) -> None:
    """Swiss, so that later rounds hang on earlier ones; SIGKILL after some rows and a random moment."""
    config = small(tmp_path, schedule={"name": "swiss", "rounds": 3}, concurrency=3)
    log = tmp_path / "calls.log"
    config["players"] = {
        name: f"{spec}?delay_s=0.02&call_log={log}" for name, spec in config["players"].items()
    }
    undisturbed = str(tmp_path / "undisturbed.db")
    live(config, undisturbed)
    calls = len(log.read_text().splitlines())
    log.write_text("")
    source, kills = random.Random(5), 0
    for wanted in (0, 3, 11, 17):
        process = START_CONTEXT.Process(target=live, args=(config, db))
        process.start()
        while process.is_alive() and count(db) < wanted:
            time.sleep(0.005)
        time.sleep(source.uniform(0, 0.1))
        process.kill()
        process.join()
        kills += process.exitcode == -9
    assert kills >= 3 and count(db) >= 11
    live(config, db)
    for one, other in zip(rows(db)[0], rows(undisturbed)[0], strict=True):
        assert one == other
    assert rows(db) == rows(undisturbed)
    again = len(log.read_text().splitlines())
    assert calls == 48 and calls <= again <= calls + kills * config["concurrency"]
    live(config, db)  # a finished tournament is told again and nothing is played
    assert len(log.read_text().splitlines()) == again and rows(db) == rows(undisturbed)


async def test_an_interrupted_tournament_lets_go_and_goes_on(tmp_path: Path, db: str) -> None:
    config = small(tmp_path, concurrency=2)
    await played(config, tmp_path / "whole.db")

    def stop(kind: str, numbers: Any) -> None:
        if kind == "game" and numbers["done"] == 5:
            task.cancel()

    task = asyncio.create_task(played(config, db, told=stop))
    with pytest.raises(asyncio.CancelledError):
        await task
    with Journal.open(db) as journal:
        assert journal.run_row("cup").status == "interrupted" and 5 <= count(db) < 24
    assert (await played(config, db)).standings.status == "done"
    assert rows(db) == rows(str(tmp_path / "whole.db"))


def begun(log: Path) -> list[float]:
    return sorted(json.loads(line)["time"] for line in log.read_text().splitlines())


async def test_games_of_all_pairings_are_played_side_by_side_within_the_limit(
    tmp_path: Path, db: str
) -> None:
    """An engine notes when each call begins and then takes its time: who begins meanwhile runs beside it."""
    log = tmp_path / "calls.log"
    for limit, delay in ((64, 0.5), (2, 0.05)):
        config = small(tmp_path, run=f"limit{limit}", concurrency=limit)
        slow = {name: f"{spec}?delay_s={delay}&call_log={log}" for name, spec in config["players"].items()}
        log.write_text("")
        await played({**config, "players": slow}, db)
        times = begun(log)
        beside = [sum(start <= other < start + delay for other in times) for start in times]
        assert len(times) == 48 and (beside[0] > 8 if limit == 64 else max(beside) == 2)


async def test_a_budget_stops_it_and_it_comes_to_the_same_end(tmp_path: Path, db: str) -> None:
    whole = str(tmp_path / "whole.db")
    await played(small(tmp_path), whole)
    with Journal.open(whole) as journal:
        _, tokens = spent(journal, "cup")
        calls = len(journal.read(select(Turn.id)))
    for part in (0.3, 0.6):
        with pytest.raises(BudgetSpent, match=f"of {int(part * tokens)} tokens"):
            await played(small(tmp_path), db, budget=Budget(tokens=int(part * tokens)))
        with Journal.open(db) as journal:
            used = spent(journal, "cup")[1]
            assert part * tokens - 1 <= used < tokens and journal.run_row("cup").status == "interrupted"
    await played(small(tmp_path), db)
    assert rows(db) == rows(whole)
    with Journal.open(db) as journal:
        assert spent(journal, "cup")[1] == tokens and len(journal.read(select(Turn.id))) == calls

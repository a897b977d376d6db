"""Who may compete in what: seats, versions, seeding, void games, games of two sides, mistakes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from league_support import played, rows, script, small, turns

from sparring.errors import SandboxUnavailable, UserError
from sparring.graphs.play import Play
from sparring.memory.journal import Journal
from sparring.memory.policies import register
from sparring.memory.schema import Match
from sparring.tools import programs
from sparring.training.league.config import load_tournament
from sparring.training.league.entry import prepare
from sparring.training.league.record import final_ratings
from sparring.training.league.standings import read_standings

EXAMPLES = Path(__file__).parents[2] / "examples" / "tournament"


@pytest.fixture
def db(tmp_path: Path) -> str:
    return str(tmp_path / "journal.db")


# --- who plays ----------------------------------------------------------------------------------------------


async def test_players_of_one_seat_each_and_what_cannot_be_told_of_them(tmp_path: Path, db: str) -> None:
    config = small(tmp_path)
    says = {name: script(tmp_path, name, number) for name, number in (("l1", "1"), ("l2", "9"), ("r1", "5"))}
    config["players"] = {
        name: {"seat": "left" if name[0] == "l" else "right", "engine": spec} for name, spec in says.items()
    }
    standings = (await played(config, db)).standings
    assert standings.advantage is None and standings.cycle is None
    assert any("no player sits on both seats" in note for note in standings.notes)
    met = Counter((row[1]["left"], row[1]["right"]) for row in rows(db)[0])
    assert met == {("l1", "r1"): 4, ("l2", "r1"): 4}
    assert [row.player for row in standings.players] == ["l2", "r1", "l1"]
    assert [row.pairs for row in standings.players] == [(4, 0, 0), (4, 0, 4), (0, 0, 4)]  # a game is a pair


async def test_a_player_with_a_policy_for_each_seat(tmp_path: Path, db: str) -> None:
    config = small(tmp_path)
    nine, one = script(tmp_path, "nine", "9"), script(tmp_path, "one", "1")
    config["players"] = {"split": {"roles": {"left": nine, "right": one}}, "even": config["players"]["even"]}
    standings = (await played(config, db)).standings
    assert all(found["scores"]["left"] == 1 for _, _, found, *_ in rows(db)[0])
    split = next(row for row in standings.players if row.player == "split")
    assert split.rating and split.rating.mean == pytest.approx(1500) and standings.advantage
    assert standings.advantage.mean > 0.85 and split.pairs == (0, 4, 0)


async def test_void_games_count_as_the_configuration_says(tmp_path: Path, db: str) -> None:
    config = small(tmp_path)
    config["players"]["weak"] = script(tmp_path, "spoiler", "void")
    del config["players"]["even"]
    skipped = (await played(config, db)).standings
    assert [row.games for row in skipped.players] == [0, 0] and skipped.players[0].rating is None
    assert {row.void for row in skipped.players} == {8} and "no game counts" in " ".join(skipped.notes)
    assert {row[3] for row in rows(db)[0]} == {"void"} and skipped.advantage is None
    lost = (await played({**config, "run": "strict", "void": "loss"}, db)).standings
    assert [(row.player, row.won, row.lost) for row in lost.players] == [("strong", 8, 0), ("weak", 0, 8)]
    assert "count as losses" in " ".join(lost.notes)


async def test_versions_of_a_policy_and_a_head_that_moves_meanwhile(tmp_path: Path, db: str) -> None:
    from sparring.agents.engines.registry import make_engine
    from sparring.memory.policies import move_head, versions

    config = small(tmp_path)
    with Journal.open(db) as journal:
        for spec in config["players"].values():
            base = make_engine(spec).capabilities().base
            register(journal, policy="solver", base_hash=base, base_spec=spec)
        journal_versions = versions(journal, "solver")
        move_head(journal, "solver", "live", journal_versions[2].id, by="hand", reason="test")
    config["players"] = {"first": "policy:solver@0", "head": "policy:solver"}
    before = (await played(config, db)).standings
    assert [row.player for row in before.players] == ["head", "first"]
    with Journal.open(db) as journal:
        move_head(journal, "solver", "live", journal_versions[0].id, by="hand", reason="test")
        journal.execute(Match.__table__.delete().where(Match.position >= 4))
    assert (await played(config, db)).standings.players == before.players  # it stays who it was
    played_by = {row.policy_version_id for row in turns(db, "cup.games/1/head vs first").values()}
    assert played_by == {journal_versions[0].id, journal_versions[2].id}
    with pytest.raises(UserError, match="solver"):
        await played({**config, "run": "next", "players": {**config["players"], "x": "policy:solver@9"}}, db)


async def test_seeding_by_the_ratings_of_an_earlier_run(tmp_path: Path, db: str) -> None:
    await played(small(tmp_path), db)
    with Journal.open(db) as journal:
        found = final_ratings(journal, "cup")
    assert sorted(found, key=lambda name: -found[name]) == ["strong", "even", "weak"]
    config = small(
        tmp_path, run="ladder", schedule={"name": "ladder", "rounds": 1}, seeding={"ratings": "cup"}
    )
    config["players"]["fresh"] = script(tmp_path, "fresh", "1")
    await played(config, db)
    met = {frozenset(row[1].values()) for row in rows(db, "ladder")[0]}
    assert met == {frozenset(("strong", "even")), frozenset(("weak", "fresh"))}
    for seeding, said in (({"ratings": "none"}, "unknown run `none`"), ({"ratings": "cup"}, "rated none of")):
        players = {"x": config["players"]["weak"], "y": config["players"]["even"]}
        with pytest.raises(UserError, match=said):
            await played({**config, "run": "new", "seeding": seeding, "players": players}, db)


def test_everybody_is_cast_once_a_seat_and_not_in_every_seating(
    tmp_path: Path, db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, cast, made = "abcdef", Play.cast, list[Play]()
    monkeypatch.setattr(Play, "cast", lambda play: made.append(play) or cast(play))
    config = small(tmp_path, players={name: script(tmp_path, name, "1") for name in names})
    with Journal.open(db) as journal:
        entry = prepare(load_tournament(config), journal)
    assert {(seat, spec) for play in made for seat, spec in play.roles.items()} == {
        (seat, entry.specs[name][seat]) for name in names for seat in ("left", "right")
    }
    assert len(made) == 10  # of 30 seatings


async def test_how_often_a_judge_says_the_same_in_both_orders(tmp_path: Path, db: str) -> None:
    tie, first = (json.dumps({"reason": "so", "better": better}) for better in ("tie", "A"))
    path = tmp_path / "referee.jsonl"
    rules = ({"match": "swap 0", "within": "conversation", "replies": [tie]}, {"replies": [first]})
    path.write_text("".join(json.dumps(rule) + "\n" for rule in rules))
    config = small(
        tmp_path, protocol="duel", options={"decide": "judge"}, roles={"judge": f"scripted:{path}"}
    )
    config["players"] = {
        name: script(tmp_path, name, f"Answer: {n}") for n, name in enumerate(("ann", "bob"))
    }
    told = "the judge said the same in both orders in"
    assert f"{told} 2 of 8 games" in (await played(config, db)).standings.notes
    config |= {"run": "silent", "players": {**config["players"], "bob": script(tmp_path, "hm", " ")}}
    assert not any(note.startswith(told) for note in (await played(config, db)).standings.notes)


# --- mistakes ----------------------------------------------------------------------------------------


def duel(folder: Path, judge: str, **changes: Any) -> dict[str, Any]:
    given = small(folder, protocol="duel", options={"decide": "judge"}, roles={"judge": judge})
    return {**given, **changes}


async def test_no_judge_is_one_of_the_players_unless_asked(tmp_path: Path, db: str) -> None:
    weak = small(tmp_path)["players"]["weak"]
    with pytest.raises(UserError, match="`judge` has the weights of player `weak`"):
        await played(duel(tmp_path, f"{weak}?timeout=5"), db)  # the same weights by another spec
    with Journal.open(db) as journal:
        assert not journal.has_run("cup")
    done = await played(duel(tmp_path, weak, judge_may_play=True), db)
    assert done.standings.status == "done"


async def test_whoever_decides_is_a_judge_whatever_its_role_is_called(tmp_path: Path, db: str) -> None:
    """A debate whose last answers are voted on by a selector: it picks the final answer, and so who wins."""
    given = small(tmp_path, protocol="mad", roles={"selector": script(tmp_path, "selector", "1")})
    given["options"] = {"referee": "none", "close": "vote", "aggregate": "usc", "rounds": 1}
    given["players"] = {name: script(tmp_path, name, f"Answer: {n}") for n, name in enumerate(("ann", "bob"))}
    assert (await played(given, db)).standings.status == "done"
    same = {**given, "run": "same", "roles": {"selector": given["players"]["bob"]}}
    with pytest.raises(UserError, match="`selector` has the weights of player `bob`"):
        await played(same, db)
    assert (await played({**same, "judge_may_play": True}, db)).standings.status == "done"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"protocol": "sample"}, "protocol `sample` is no game"),
        ({"protocol": "mad", "options": {"agents": 3}}, "protocol `mad` is no game"),
        ({"protocol": "chess"}, "unknown protocol `chess`"),
        ({"options": {"n": 1}}, "unknown option of protocol `numbers` `n`"),
        ({"tasks": "none.jsonl"}, "there is no such file"),
        ({"tasks_per_pairing": 5}, "holds 4 tasks"),
        (
            {"schedule": {"name": "swiss", "rounds": 4}},
            "4 swiss rounds: .* enough for 3 players .* choose at most 3",
        ),
        ({"schedule": "swiss"}, r"`schedule`: say how many rounds: \{name: swiss, rounds: N\}"),
        ({"schedule": {"name": "round_robin", "rounds": 2}}, "a round robin has no `rounds`"),
        ({"schedule": "knockout"}, "`schedule.name`"),
        ({"players": {"a": "scripted:hash"}}, "`players`: a tournament needs two players or more"),
        (
            {"players": {"a": {"engine": "x", "roles": {}}, "b": "x"}},
            "`players.a`: give either `engine: SPEC`",
        ),
        ({"players": {"a": {"seat": "left"}, "b": "x"}}, "`players.a`: give either"),
        (
            {"players": {"a": {"seat": "up", "engine": "x"}, "b": "x"}},
            "unknown seat of player `a` `up`; known: left",
        ),
        ({"players": {"a": {"roles": {"left": "x"}}, "b": "x"}}, "player `a`: `roles` names one seat"),
        ({"players": {"a": {"roles": {"lef": "x"}}, "b": "x"}}, "unknown seat of player `a` `lef`"),
        ({"players": {"a": {"seat": "left", "engine": "x"}, "b": "x"}}, "`a` has one seat and `b` both"),
        ({"players": {"a": "policy:nobody", "b": "scripted:hash"}}, "nobody"),
        ({"players": {"a": "scripted:nothing.jsonl", "b": "scripted:hash"}}, "nothing.jsonl"),
        ({"players": {"a\n": "x", "b": "x"}}, "`players`: player name"),
        ({"players": {"a vs b": "x", "c": "x"}}, "player name `a vs b`: ` vs ` stands between"),
        (
            {
                "protocol": "sneaky",
                "players": {
                    name: {"roles": {"sneaky": "scripted:hash", "critic": "scripted:hash"}} for name in "ab"
                },
                "roles": {"solver": "scripted:hash"},
            },
            "task `t0` has no `steps` to check",
        ),
        ({"roles": {"left": "scripted:hash"}}, "fills seat `left`, which is the players' own"),
        ({"roles": {"judge": "scripted:hash"}}, "unknown seat in `roles`"),
        (
            {"protocol": "duel", "options": {"decide": "judge"}},
            "seat `judge` has no engine: name it in `roles`",
        ),
        ({"sampling": {"heat": 1}}, "heat"),
        ({"protocol": "duel", "tasks": str(EXAMPLES / "throws.jsonl")}, "task `throw-1` has no `answer`"),
        ({"rounds": 3}, "`rounds`: there is no such field"),
    ],
)
async def test_a_tournament_that_cannot_be_played_is_one_line_and_no_run(
    tmp_path: Path, db: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        await played(small(tmp_path, **changes), db)
    assert "\n" not in str(caught.value)
    with Journal.open(db) as journal:
        assert journal.runs() == []


async def test_tasks_that_need_the_sandbox_are_refused_before_anything_is_played(
    tmp_path: Path, db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(tmp_path, protocol="duel")
    Path(config["tasks"]).write_text(json.dumps({"id": "t", "question": "q", "check": "code"}) + "\n")

    def none() -> None:
        raise SandboxUnavailable("none holds here")

    monkeypatch.setattr(programs, "box", none)
    with pytest.raises(SandboxUnavailable, match=r"check `code`.*none holds here"):
        await played(config, db)
    with Journal.open(db) as journal:
        assert journal.runs() == []


@pytest.mark.parametrize("wanted", ["protocol", "tasks"])
async def test_a_tournament_goes_on_with_the_game_and_the_tasks_it_was_begun_with(
    tmp_path: Path, db: str, wanted: str
) -> None:
    config = small(tmp_path, schedule={"name": "swiss", "rounds": 3})
    await played(config, db)
    with Journal.open(db) as journal:
        journal.execute(Match.__table__.delete().where(Match.position >= 8))
    kept = rows(db)
    if wanted == "protocol":
        config["protocol"] = "duel"  # its seats have other names
    else:
        path = Path(config["tasks"])
        path.write_text(path.read_text().replace("slip 3", "slip 33"))  # after a round was played
    with pytest.raises(UserError, match=rf"{wanted}.* it was begun with|{wanted} .* was begun with: restore"):
        await played(config, db)
    assert rows(db) == kept
    with Journal.open(db) as journal:
        assert journal.run_row("cup").status == "done"


async def test_one_group_alone_and_another_tournament_of_the_name(tmp_path: Path, db: str) -> None:
    config = small(tmp_path)
    alone = {name: {"seat": "left", "engine": spec} for name, spec in config["players"].items()}
    with pytest.raises(UserError, match="nobody plays seat `right`"):
        await played({**config, "players": alone}, db)
    mixed = {**alone, "weak": {"seat": "right", "engine": "scripted:hash"}}
    with pytest.raises(UserError, match="a ladder cannot rank"):
        await played({**config, "players": mixed, "schedule": {"name": "ladder", "rounds": 1}}, db)
    await played(config, db)
    with pytest.raises(UserError, match="run `cup` exists with another seed"):
        await played({**config, "seed": 9}, db)
    with Journal.open(db) as journal, pytest.raises(UserError, match="not a tournament"):
        read_standings(journal, "cup.games/1/weak vs even")


# --- any game of two sides --------------------------------------------------------------------------------


async def test_debaters_under_a_moderator_who_prefers_a_side(tmp_path: Path, db: str) -> None:
    """Where the affirmative side always wins, the side is worth everything and the players are equal."""
    yes = json.dumps({"preference": "Yes", "side": "affirmative", "reason": "r", "answer": "5"})
    referee = script(tmp_path, "referee", yes)
    ann, bob = script(tmp_path, "ann", "Answer: 5"), script(tmp_path, "bob", "Answer: 6")
    given = small(tmp_path, protocol="mad", roles={"moderator": referee, "judge": referee})
    standings = (await played({**given, "players": {"ann": ann, "bob": bob}}, db)).standings
    assert standings.rivals == ("affirmative", "negative") and standings.advantage
    assert standings.advantage.mean > 0.9 and {row.pairs for row in standings.players} == {(0, 4, 0)}
    assert [row.rating.mean for row in standings.players if row.rating] == pytest.approx([1500, 1500])
    assert {row[2]["scores"]["affirmative"] for row in rows(db)[0]} == {1.0}
    with pytest.raises(UserError, match="`moderator` has the weights of player `ann`"):
        await played({**given, "run": "b", "players": {"ann": referee, "bob": bob}}, db)


async def test_the_sneaky_game_by_type_of_error(tmp_path: Path, db: str) -> None:
    """Sharp attacks and sees through; dull neither: void attacks count as the configuration says."""
    task = {"id": "t", "question": "Start with 7. Add 5. Subtract 3.", "answer": "9", "check": "math"}
    (tmp_path / "steps.jsonl").write_text(json.dumps({**task, "steps": ["7 + 5 = 12", "12 - 3 = 9"]}) + "\n")

    def rules(name: str, *given: dict[str, Any]) -> str:
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(rule) + "\n" for rule in given))
        return f"scripted:{tmp_path / name}.jsonl"

    wrong, within = "= 13|= 8", {"within": "conversation"}
    attacks = [
        {
            "match": f"Correct Step\\n{step}",
            "replies": [f"Error Type 2: a slip.\nIncorrect Step: {changed}"],
            **within,
        }
        for step, changed in ((r"7 \+ 5 = 12", "7 + 5 = 13"), ("12 - 3 = 9", "12 - 3 = 8"))
    ]
    right, caught = {"replies": ["<Answer>Correct</Answer>"]}, {"replies": ["<Answer>Incorrect</Answer>"]}
    solver = rules("solver", {"match": wrong, "replies": ["Answer: 8"], **within}, {"replies": ["Answer: 9"]})
    sharp = {
        "sneaky": rules("attack", *attacks),
        "critic": rules("sees", {"match": wrong, **within, **caught}, right),
    }
    dull = {"sneaky": rules("refuse", {"replies": ["I will not."]}), "critic": rules("nods", right)}
    players = {"dull": {"roles": dull}, "sharp": {"roles": sharp}}
    config = small(tmp_path, protocol="sneaky", roles={"solver": solver}, void="loss", players=players)
    config["tasks"] = str(tmp_path / "steps.jsonl")
    standings = (await played(config, db)).standings
    assert [(row.player, row.won, row.lost, row.void) for row in standings.players] == [
        ("sharp", 2, 0, 1),
        ("dull", 0, 2, 1),
    ]
    shares = {(row.error, row.seat, row.player): row.points.mean for row in standings.errors}
    assert shares["calculation error", "sneaky", "sharp"] == 1 and len({error for error, *_ in shares}) == 1
    assert shares["calculation error", "critic", None] == 0

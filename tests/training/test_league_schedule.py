"""Who meets whom: round robin, Swiss and ladder, with players of both seats and of one."""

from __future__ import annotations

from itertools import combinations

import pytest

from sparring.errors import UserError
from sparring.training.league.config import ScheduleConfig
from sparring.training.league.schedule import (
    Entrants,
    Results,
    check_schedule,
    ladder,
    next_pairings,
    standing,
)

FIVE = Entrants(tuple("abcde"))
SIDES = Entrants(
    tuple("xaybz"),
    {"x": "sneaky", "y": "sneaky", "z": "sneaky", "a": "critic", "b": "critic"},
    ("sneaky", "critic"),
)


def schedule(name: str, rounds: int | None = None) -> ScheduleConfig:
    return ScheduleConfig(name=name, rounds=rounds)


def played_out(name: str, rounds: int, entrants: Entrants) -> list[Results]:
    """A schedule played to its end, the earlier letter winning."""
    played: list[Results] = []
    while pairings := next_pairings(schedule(name, rounds), entrants, played):
        played.append({(one, other): float(one < other) for one, other in pairings})
    return played


def test_a_round_robin_is_everybody_once_in_one_round() -> None:
    pairings = next_pairings(schedule("round_robin"), FIVE, [])
    assert pairings == list(combinations("abcde", 2))
    assert next_pairings(schedule("round_robin"), FIVE, [dict.fromkeys(pairings, 0.5)]) == []


def test_players_of_one_seat_meet_those_of_the_other() -> None:
    pairings = next_pairings(schedule("round_robin"), SIDES, [])
    assert pairings == [(one, other) for one in "xyz" for other in "ab"]


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 7, 8])
def test_swiss_never_repeats_and_everybody_sits_out_as_often_as_others(count: int) -> None:
    entrants = Entrants(tuple("abcdefgh"[:count]))
    rounds = count - 1 + count % 2
    check_schedule(schedule("swiss", rounds), entrants)
    played = played_out("swiss", rounds, entrants)
    met = [frozenset(pairing) for results in played for pairing in results]
    assert len(played) == rounds and len(met) == len(set(met))
    assert all(
        results and len({name for p in results for name in p}) == 2 * len(results) for results in played
    )
    games = [sum(name in pair for pair in met[: count // 2 * 2]) for name in entrants.order]
    assert max(games) - min(games) <= 1


def test_swiss_pairs_neighbours_in_the_standing() -> None:
    four = Entrants(tuple("abcd"))
    first = next_pairings(schedule("swiss", 3), four, [])
    assert first == [("a", "b"), ("c", "d")]
    played: list[Results] = [{("a", "b"): 0.0, ("c", "d"): 1.0}]
    assert standing(four, played) == ["b", "c", "a", "d"]
    assert {frozenset(pair) for pair in next_pairings(schedule("swiss", 3), four, played)} == {
        frozenset("bc"),
        frozenset("ad"),
    }
    even: list[Results] = [{("a", "b"): None, ("c", "d"): 0.5}]
    assert standing(four, even) == list("abcd")


def test_swiss_lets_the_last_one_out_who_has_not_been() -> None:
    three = Entrants(tuple("abc"))
    played = played_out("swiss", 3, three)
    out = [set("abc") - {name for pair in results for name in pair} for results in played]
    assert out[0] == {"c"} and sorted("".join(sorted(each)) for each in out) == ["a", "b", "c"]


def test_swiss_may_leave_a_pair_that_never_meets() -> None:
    """Five rounds are enough for five to meet all, but not by any results: the second named wins."""
    played: list[Results] = []
    while pairings := next_pairings(schedule("swiss", 5), FIVE, played):
        played.append(dict.fromkeys(pairings, 0.0))
    assert len(played) == 5 and len({frozenset(pair) for results in played for pair in results}) == 9


def test_swiss_between_two_groups() -> None:
    played = played_out("swiss", 3, SIDES)
    met = [pairing for results in played for pairing in results]
    assert [len(results) for results in played] == [2, 2, 2] and len(set(met)) == 6
    assert all(SIDES.seats[one] == "sneaky" and SIDES.seats[other] == "critic" for one, other in met)


def test_a_ladder_moves_winners_up_one_rung() -> None:
    four = Entrants(tuple("dcba"))
    played: list[Results] = []
    rungs = []
    for _ in range(4):
        pairings = next_pairings(schedule("ladder", 4), four, played)
        played.append({(one, other): float(one < other) for one, other in pairings})
        rungs.append("".join(ladder(four, played)))
    assert rungs == ["cdab", "cadb", "acbd", "abcd"]
    assert next_pairings(schedule("ladder", 4), four, played) == []
    assert ladder(Entrants(("a", "b")), [{("a", "b"): 0.5}, {("a", "b"): None}]) == ["a", "b"]
    assert ladder(Entrants(("a", "b")), [{("b", "a"): 1.0}]) == ["b", "a"]
    two = Entrants(("a", "b"))
    assert ladder(two, [{("a", "b"): 1.0}]) == ladder(two, [{("b", "a"): 0.0}]) == ["a", "b"]
    assert next_pairings(schedule("ladder", 2), two, [{("a", "b"): 0.0}]) == [("b", "a")]


@pytest.mark.parametrize(
    ("name", "rounds", "entrants", "said"),
    [
        (
            "swiss",
            4,
            Entrants(tuple("abcd")),
            "4 swiss rounds: nobody meets twice, and 3 rounds are enough for 4 players",
        ),
        ("swiss", 6, FIVE, "choose at most 5"),
        ("swiss", 4, SIDES, "choose at most 3"),
        ("ladder", 1, SIDES, "a ladder cannot rank players of different seats"),
        ("round_robin", None, Entrants(("x", "y"), dict.fromkeys("xy", "sneaky"), SIDES.rivals), "`critic`"),
        (
            "swiss",
            1,
            Entrants(("x", "y"), dict.fromkeys("xy", "critic"), SIDES.rivals),
            "plays seat `sneaky`",
        ),
    ],
)
def test_a_schedule_that_cannot_be_played_is_refused(
    name: str, rounds: int | None, entrants: Entrants, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        check_schedule(schedule(name, rounds), entrants)

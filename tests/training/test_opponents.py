"""Matchmaking: which pairings there are, what they came to, and which of them is played."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from evolve_support import save_tasks
from journal_support import drive, episode, says, version

from sparring.errors import UserError
from sparring.memory.journal import Journal
from sparring.training.config import OpponentsConfig, load_config
from sparring.training.opponents import Record, choose, games_of, pairings, records_of
from sparring.training.preflight import preflight

BAND = (0.2, 0.35)


def rates(**given: float) -> dict[tuple[int, int], Record]:
    """`n21=0.3`: version 2 of the first side won 30 % of 1000 games against version 1 of the second."""
    return {(int(k[1]), int(k[2])): Record(1000 * rate, 1000) for k, rate in given.items()}


def test_pairings_hold_a_newest_version_the_newest_first() -> None:
    assert pairings([0, 3, 5], [1, 2]) == [(5, 2), (5, 1), (3, 2), (0, 2)]
    assert pairings([0, 1, 2], [0, 1, 2]) == [(2, 2), (2, 1), (1, 2), (2, 0), (0, 2)]


def test_as_old_as_each_other_the_older_second_side_comes_first() -> None:
    """SPC plays its new generator against the old critic before it tries it the other way round."""
    assert pairings([0, 1], [0, 1]) == [(1, 1), (1, 0), (0, 1)]


def test_a_pool_of_one_has_one_pairing() -> None:
    assert pairings([4], [7]) == [(4, 7)]
    assert choose([(4, 7)], {}, BAND) == (4, 7)
    assert choose([(4, 7)], rates(n47=0.01), BAND) == (4, 7)


def test_spcs_own_numbers_choose_the_old_critic() -> None:
    """specs/spc.md 1.6: Sneaky-1 wins 13.2 % against Critic-1 and 32.5 % against Critic-0."""
    known = rates(n11=0.132, n10=0.325, n00=0.206, n01=0.121)
    assert choose(pairings([0, 1], [0, 1]), known, BAND) == (1, 0)


@pytest.mark.parametrize(
    ("known", "chosen"),
    [
        (rates(n11=0.25, n10=0.3, n01=0.3), (1, 1)),  # the newest where they are in it
        (rates(n11=0.75, n10=0.3, n01=0.3), (1, 1)),  # the weaker side is the second
        (rates(n11=0.2, n10=0.3, n01=0.3), (1, 1)),  # the band holds its ends
        (rates(n11=0.35, n10=0.3, n01=0.3), (1, 1)),
        (rates(n11=0.5, n10=0.1, n01=0.3), (0, 1)),
        (rates(n11=0.1, n10=0.15, n01=0.05), (1, 0)),  # none is: the nearest
        (rates(n11=0.45, n10=0.1, n01=0.42), (0, 1)),  # from above as from below
        (rates(n11=0.1, n10=0.1, n01=0.1), (1, 1)),  # ties go to the newest
        (rates(n11=0.1, n10=0.9, n01=0.1), (1, 1)),
        (rates(n10=0.01), (1, 0)),  # one without games is never taken for one that has some
        (rates(n00=0.3), (1, 1)),  # none of the candidates has any: the newest
        ({}, (1, 1)),
    ],
)
def test_choose(known: dict[Any, Record], chosen: tuple[int, int]) -> None:
    assert choose(pairings([0, 1], [0, 1]), known, BAND) == chosen


@pytest.mark.parametrize(
    ("points", "games", "rate"), [(0.0, 0, None), (3, 12, 0.25), (9, 12, 0.25), (6, 12, 0.5), (0.5, 1, 0.5)]
)
def test_the_rate_is_the_weaker_sides(points: float, games: int, rate: float | None) -> None:
    assert Record(points, games).rate == rate


SIDES = ("red", "blue")


async def game(
    journal: Journal, run: str, seats: tuple[int, int], scores: Any, copy: int, **more: Any
) -> None:
    """One closed game; `seats` are ids of versions."""
    with drive(journal, run, config={}) as handle:
        task = more.pop("task", None)
        outcome = {"answer": None, "scores": scores}
        given = {"outcome": outcome, "copy": copy, **more}
        pinned = {
            side: {"role": side, "version": at} for side, at in zip(SIDES, seats, strict=True)
        }  # fmt: skip
        inner = handle.episode

        def seated(*where: Any, seats: Any) -> Any:
            return inner(*where, seats=pinned)

        handle.episode = seated  # type: ignore[method-assign]  # the helper seats nobody
        versions = {side: at for side, at in zip(SIDES, seats, strict=True)}
        await episode(handle, {side: says() for side in SIDES}, versions=versions, **given)
        assert task is None


async def test_records_are_those_of_the_games_that_count(journal: Journal) -> None:
    red = [version(journal, "red", update) for update in (None, 1)]
    blue = [version(journal, "blue", update) for update in (None, 2)]
    won, lost, even = ({"red": points, "blue": 1 - points} for points in (1.0, 0.0, 0.5))
    copies = iter(range(99))
    for scores in (won, lost, even, won):
        await game(journal, "r", (red[1], blue[0]), scores, next(copies))
    await game(journal, "r", (red[0], blue[0]), lost, next(copies), iteration=1)
    await game(journal, "r", (red[0], blue[1]), None, next(copies))  # void
    await game(journal, "r", (red[1], blue[0]), lost, next(copies), status="failed")
    await game(journal, "r", (red[1], blue[0]), lost, next(copies), iteration=2)  # later
    await game(journal, "other", (red[1], blue[0]), lost, next(copies))
    assert len(games_of(journal, "r", SIDES, 0, (1, 0))) == 4
    assert len(games_of(journal, "r", SIDES, 0, (0, 1))) == 1, "the void one"
    assert len(games_of(journal, "r", SIDES, 2, (1, 0))) == 1
    assert games_of(journal, "r", SIDES, 1, (1, 0)) == []
    found = records_of(journal, "r", SIDES, range(2))
    assert found == {(1, 0): Record(2.5, 4), (0, 0): Record(0.0, 1)}
    assert records_of(journal, "r", ("blue", "red"), range(2))[0, 1] == Record(1.5, 4)
    assert records_of(journal, "r", SIDES, range(1)) == {(1, 0): Record(2.5, 4)}
    assert records_of(journal, "r", SIDES, range(0)) == {}


@pytest.mark.parametrize(
    ("tasks", "copies", "probe", "mode", "refused"),
    [
        (4, 1, 4, "band", True),
        (9, 1, 5, "band", True),  # the file has five
        (4, 1, 3, "band", False),
        (4, 2, 4, "band", False),
        (4, 1, 4, "latest", False),  # nothing is estimated
    ],
)
def test_some_games_are_left_for_the_pairing_that_is_chosen(
    tmp_path: Path, tasks: int, copies: int, probe: int, mode: str, refused: bool
) -> None:
    prompt = tmp_path / "prompt.md"
    prompt.write_text("{% block question %}{{ question }}{% endblock %}")
    config = {
        "run": "r",
        "protocol": "game_support:Shout",
        "options": {"prompts": dict.fromkeys(SIDES, str(prompt))},
        "engine": "a-model-that-nobody-has",  # asking for it would be the error
        "tasks": save_tasks(tmp_path / "five.jsonl", 0, 5),
        "steps": 1,
        "policies": {side: {"roles": [side]} for side in SIDES},
        "play": {"tasks": tasks, "copies": copies},
        "opponents": {"probe": probe, "mode": mode},
    }
    said = "`opponents.probe`: .* none is left for the pairing that is chosen"
    with pytest.raises(UserError, match=said) if refused else nullcontext():
        preflight(load_config(config))


@pytest.mark.parametrize("band", [(0.4, 0.2), (-0.1, 0.2), (0.2, 0.6)])
def test_a_band_out_of_order_is_refused(band: tuple[float, float]) -> None:
    config = {"run": "r", "tasks": "demo", "steps": 1, "policies": {"p": {"roles": ["a"]}}}
    with pytest.raises(UserError, match=r"`opponents\.band`: the weaker side's win rates lie between 0 and"):
        load_config({**config, "opponents": {"band": band}})
    assert OpponentsConfig().band == (0.2, 0.35)
    with pytest.raises(UserError, match="`opponents` are for a run that plays `tasks`"):
        load_config({**config, "tasks": None, "source": {}, "opponents": {}})

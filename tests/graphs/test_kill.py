"""The kill test of benchmarks/kill.py: a short one by default, the hundred kills when asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> object:
    """The benchmark as a module; the processes it starts find it the same way."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import kill

    return kill


SERVER = os.environ.get("SPARRING_TEST_DATABASE")
BETWEEN = ("before-commit", "after-commit", "between-episodes")


def problems(tally: object) -> list[str]:
    return [*tally.lost, *tally.doubled, *tally.wrong]  # type: ignore[attr-defined]  # a module loaded by path


def test_six_kills_lose_and_double_nothing(kill, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]  # as above
    tally = kill.campaign("play", SERVER, tmp_path, kills=6, seed=1, size=5)
    assert problems(tally) == []
    assert tally.kills == 6
    assert sum(tally.classes.values()) >= 6
    assert tally.undisturbed <= tally.calls


@pytest.mark.parametrize("work", ["tournament", "evolve", "swe"])
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_other_commands(kill, tmp_path: Path, work: str) -> None:  # type: ignore[no-untyped-def]  # as above
    tally = kill.campaign(work, SERVER, tmp_path, kills=6, seed=1)
    assert problems(tally) == [] and tally.kills == 6


@pytest.mark.skipif(SERVER is None, reason="about PostgreSQL: run with scripts/with_postgres.sh")
def test_cut_connections_are_not_noticed(kill, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]  # as above
    tally = kill.campaign("play", SERVER, tmp_path, kills=8, seed=1, size=8, cut=True)
    assert problems(tally) == [] and tally.kills == 8
    assert tally.calls == tally.undisturbed, "nobody was asked twice"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hundred_kills_hit_every_class(kill, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]  # as above
    tally = kill.campaign("play", SERVER, tmp_path, kills=100, seed=0)
    assert problems(tally) == []
    assert all(tally.classes[name] for name in BETWEEN)


@pytest.mark.parametrize(
    ("mutant", "kills"),
    [
        ("drops_an_event", 1),
        ("loses_the_token_ids", 1),
        ("asks_twice", 1),
        ("closes_before_the_verdict", 1),
        pytest.param("wakes_before_it_commits", 6, marks=pytest.mark.slow),
    ],
)
def test_a_journal_that_is_wrong_is_told(kill, tmp_path: Path, mutant: str, kills: int) -> None:  # type: ignore[no-untyped-def]  # as above
    import kill_mutants

    assert mutant in kill_mutants.MUTANTS
    (tmp_path / "mutant").write_text(mutant)
    assert problems(kill.campaign("mutant", SERVER, tmp_path, kills=kills, seed=3, size=3))


def test_the_checks_see_what_they_look_for(kill) -> None:  # type: ignore[no-untyped-def]  # as above
    """A journal that lost a turn, one that changed it, and a statement without the round before it."""
    import kill_reader as reader

    keys = [("r q/0/0", f"{number}/solver.{place}", 0) for number in range(2) for place in range(3)]
    turns = {key: reader.SeenTurn(order, 9, "ok", "x", {}) for order, key in enumerate(keys)}
    whole = reader.Snapshot(turns, {("r q/0/0", "vote", "0"): {"answer": "1"}}, {"r q/0/0": ("done", None)})
    needs = reader.dependencies("du", whole)
    assert list(whole.orphans(needs)) == []
    gone = ("r q/0/0", "0/solver.1", 0)
    without = reader.Snapshot({k: t for k, t in turns.items() if k != gone}, whole.events, whole.episodes)
    assert any("is missing" in what for what in reader.differences(whole, without))
    assert {item.split(" without")[0] for item in without.orphans(needs)} == {
        *(str(("turn", "r q/0/0", f"1/solver.{p}")) for p in range(3)),
        str(("event", "r q/0/0", "vote", "0")),
        str(("closed", "r q/0/0")),
    }
    changed = reader.Snapshot(
        {**turns, gone: turns[gone]._replace(content="y")}, whole.events, whole.episodes
    )
    assert [what for what in reader.differences(whole, changed)] == [
        f"turn {gone} was visible and is changed"
    ]
    reopened = reader.Snapshot(turns, whole.events, {"r q/0/0": ("open", None)})
    assert list(reader.differences(whole, reopened))
    for lost in ({"heard": ()}, {"tokens": None}):
        full = turns[gone]._replace(heard=("asked",), tokens=(1, b"x", b"y"))
        before = reader.Snapshot({gone: full})
        assert list(reader.differences(before, reader.Snapshot({gone: full._replace(**lost)})))
        assert before.results() != reader.Snapshot({gone: full._replace(**lost)}).results()
    assert not list(reader.differences(reopened, whole))

"""Credit over the rounds of a discussion (specs/comas.md 6.1 and 6.4), by hand."""

from __future__ import annotations

from typing import Any

import pytest

from sparring.errors import UserError
from sparring.training.rewards import make_reward
from sparring.training.rewards.base import EpisodeRow, EventRow, TurnRow

RIGHT, WRONG = "9", "8"


def debate(
    rounds: list[str], *, verdict: bool | None = None, status: dict[str, str] | None = None
) -> EpisodeRow:
    """A debate from one text a round: `+-` says that agent 1 was right and agent 2 wrong."""
    turns = []
    for number, said in enumerate(rounds):
        for agent, sign in enumerate(said, start=1):
            key = f"{number}/solver.{agent}"
            answer = {"answer": RIGHT if sign == "+" else WRONG}
            state = (status or {}).get(key, "ok")
            parsed = answer if state == "ok" else None
            turns.append(
                TurnRow(10 * number + agent, key, 0, True, "solver", "p", 1, state, "text", parsed, 3)
            )
    turns.append(TurnRow(99, "2/judge", 0, True, "judge", "p", 1, "ok", "text", {"answer": RIGHT}, 3))
    events = () if verdict is None else (EventRow(1, "verdict", "0", {"correct": verdict}),)
    outcome = None if verdict is None else {"answer": RIGHT}
    return EpisodeRow(
        "e", 1, "r", "du", "done", outcome, "t", "q", RIGHT, "math", None, tuple(turns), events, ()
    )


def paid(name: str, episode: EpisodeRow, **options: Any) -> dict[str, float | None]:
    keys = {turn.id: turn.key for turn in episode.turns}
    return {keys[reward.turn_id]: reward.value for reward in make_reward(name, options)(episode)}


# --- MARTI ------------------------------------------------------------------------------------------------

HISTORY = ["+-", "++", "-+"]
"""Means of the earlier rewards: none, 1/2, 3/4."""


@pytest.mark.parametrize(
    ("rule", "values"),
    [
        # R + 0.5 (R - Q): 1 + 0.25, 1 + 0.25; 0 - 0.375, 1 + 0.125
        ("margin", [1, 0, 1.25, 1.25, -0.375, 1.125]),
        # R + 0.5 [Q R - (1 - Q)(1 - R)]: 1 + 0.25, 1 + 0.25; 0 - 0.125, 1 + 0.375
        ("quality", [1, 0, 1.25, 1.25, -0.125, 1.375]),
    ],
)
def test_shaping_by_what_was_earned_before(rule: str, values: list[float]) -> None:
    found = paid("marti", debate(HISTORY), rule=rule)
    assert list(found.values()) == pytest.approx(values)
    assert "2/judge" not in found


@pytest.mark.parametrize(("verdict", "more"), [(True, 0.5), (False, 0.0), (None, 0.0)])
def test_shaping_with_the_outcome(verdict: bool | None, more: float) -> None:
    plain, found = (
        paid("marti", debate(HISTORY)),
        paid("marti", debate(HISTORY, verdict=verdict), outcome=0.5),
    )
    assert {key: value + more for key, value in plain.items() if value is not None} == pytest.approx(found)


def test_what_has_no_reward_gets_none_and_is_no_history() -> None:
    lost = debate(["+-", "++"], status={"0/solver.2": "timeout"})
    found = paid("marti", lost)
    assert found["0/solver.2"] is None
    assert found["1/solver.1"] == found["1/solver.2"] == 1.0  # Q is 1, of the one reward before


# --- MAPoRL -----------------------------------------------------------------------------------------------


def test_discounted_later_scores() -> None:
    """gamma 0.5, rounds +- then ++ then -+: means 1/2, 1, 1/2."""
    found = paid("maporl", debate(HISTORY), gamma=0.5)
    whole, half = 1 + 0.5 + 0.25, 1.5
    assert list(found.values()) == pytest.approx(
        [
            (1 + 0.5 * 1 + 0.25 * 0.5) / whole,
            (0 + 0.5 * 1 + 0.25 * 0.5) / whole,
            (1 + 0.5 * 0.5) / half,
            (1 + 0.5 * 0.5) / half,
            0.0,
            1.0,
        ]
    )
    own = paid("maporl", debate(HISTORY), gamma=0.5, share="own")
    assert own["0/solver.1"] == pytest.approx((1 + 0.5 * 1 + 0.25 * 0) / whole)
    assert own["0/solver.2"] == pytest.approx((0 + 0.5 * 1 + 0.25 * 1) / whole)


def test_without_a_discount_a_turn_earns_its_own() -> None:
    assert list(paid("maporl", debate(HISTORY), gamma=0.0).values()) == [1, 0, 1, 1, 0, 1]


@pytest.mark.parametrize(
    ("rounds", "key", "bonus"),
    [
        (["-++", "+++"], "1/solver.1", "heed"),
        (["---", "+--"], "1/solver.1", "insight"),
        (["+--", "---"], "1/solver.1", "-heed"),  # misled
        (["+++", "-++"], "1/solver.1", "-insight"),
        (["+--", "++-"], "0/solver.1", "persuade/2"),
        (["+--", "+++"], "0/solver.1", "persuade"),
        (["-++", "--+"], "0/solver.1", "-persuade/2"),  # led another one astray
        (["---", "-+-"], "0/solver.1", "despite/2"),
        (["+++", "+-+"], "0/solver.1", "-despite/2"),
        (["+--", "+--"], "0/solver.1", ""),
        (["-++", "-++"], "1/solver.1", ""),
    ],
)
def test_the_bonus_rewards_the_truth(rounds: list[str], key: str, bonus: str) -> None:
    """One case a row; the option it names, and no other one, changes the turn's pay."""
    plain = paid("maporl", debate(rounds))[key]
    assert plain is not None
    sign, name, share = -1 if bonus.startswith("-") else 1, bonus.strip("-/2"), 2 if "/" in bonus else 1
    for option in ("heed", "insight", "persuade", "despite"):
        found = paid("maporl", debate(rounds), **{option: 0.7})[key]
        assert found == pytest.approx(plain + (sign * 0.7 / share if option == name else 0.0)), option


def test_credit_over_comas_rewards() -> None:
    """The same functions over another reward: the solutions of a discussion, by their scores."""
    rows: list[TurnRow] = []
    for number, values in enumerate([(1, 3), (3, 3)]):
        for slot, score in enumerate(values):
            said: dict[str, Any] = {f"{number}/solve/{slot}": {"answer": "9"}}
            said[f"{number}/score/{slot}/0"] = {"score": score, "low": 1, "high": 3, "reason": ""}
            for key, parsed in said.items():
                role = "solver" if "solve" in key else "scorer"
                rows.append(TurnRow(len(rows), key, 0, True, role, "p", 1, "ok", "text", parsed, 3))
    episode = EpisodeRow(
        "e", 1, "r", "discuss", "done", None, "t", "q", None, "math", None, tuple(rows), (), ()
    )
    found = paid("marti", episode, of="comas")
    assert found == {"0/solve/0": 0.0, "0/solve/1": 1.0, "1/solve/0": 1.25, "1/solve/1": 1.25}


# --- whose turn it was --------------------------------------------------------------------------------------


def discussed(role: str, rosters: list[dict[str, Any]], scores: dict[str, int]) -> EpisodeRow:
    """Turns of a role, each with its score beside it; by default the first evaluation of its slot."""
    kind = {"solver": "solve", "evaluator": "evaluate"}[role]
    rows: list[TurnRow] = []
    for place, score in scores.items():
        number, *rest = place.split("/")
        key = f"{number}/{kind}/{'/'.join(rest)}"
        judged = f"{number}/score/{'/'.join(rest) if role == 'evaluator' else rest[0] + '/0'}"
        given = {"score": score, "low": 1, "high": 3, "reason": ""}
        for name, speaker, parsed in ((key, role, {"text": "?"}), (judged, "scorer", given)):
            rows.append(TurnRow(len(rows), name, 0, True, speaker, "p", 1, "ok", "text", parsed, 3))
    events = tuple(EventRow(n, "roster", str(n), roster) for n, roster in enumerate(rosters))
    return EpisodeRow(
        "e", 1, "r", "discuss", "done", None, "t", "q", None, "math", None, tuple(rows), events, ()
    )


def test_credit_goes_by_agents_and_not_by_slots() -> None:
    """One solver a round: agent 1 is right where agent 0 was wrong, and nobody changed its mind."""
    rosters = [{"solvers": [n], "evaluators": [[0]], "scorers": [[0]]} for n in (0, 1)]
    episode = discussed("solver", rosters, {"0/0": 1, "1/0": 3})
    assert paid("maporl", episode, of="comas", gamma=0.0, insight=1.0) == {"0/solve/0": 0, "1/solve/0": 1}
    own = paid("maporl", episode, of="comas", gamma=0.5, share="own")
    assert own == {"0/solve/0": 0, "1/solve/0": 1}


def test_reviewers_change_their_slots_and_may_have_several() -> None:
    """Agent 1 always gets 1, agent 0 always 0, wherever they sit; no bonus is due."""
    rosters = [
        {"solvers": [0, 1], "evaluators": evaluators, "scorers": [[0], [0]]}
        for evaluators in ([[1], [0]], [[0], [1]], [[1], [1]])
    ]
    scores = {"0/0/0": 1, "0/1/0": 3, "1/0/0": 3, "1/1/0": 1, "2/0/0": 1, "2/1/0": 3}
    two = discussed("evaluator", rosters, dict(list(scores.items())[:4]))
    found = paid("maporl", two, of="comas", role="evaluator", gamma=0.0, insight=1.0, persuade=1.0)
    assert list(found.values()) == [1, 0, 0, 1]
    episode = discussed("evaluator", rosters, scores)
    own = paid("maporl", episode, of="comas", role="evaluator", gamma=1.0, share="own")
    assert own["1/evaluate/1/0"] == pytest.approx((1 + 0.5) / 2)  # of its two later ones the mean
    assert (own["2/evaluate/0/0"], own["2/evaluate/1/0"]) == (1, 0)  # and each of those its own


def test_where_there_are_no_rounds_nobody_is_credited() -> None:
    row = TurnRow(1, "sample/0", 0, True, "solver", "p", 1, "ok", "text", {"answer": RIGHT}, 3)
    episode = EpisodeRow("e", 1, "r", "sample", "done", None, "t", "q", RIGHT, "math", None, (row,), (), ())
    for name in ("marti", "maporl"):
        [reward] = make_reward(name, {})(episode)
        assert (reward.value, reward.reason) == (None, "said in no round")


@pytest.mark.parametrize(
    ("options", "said"), [({"of": "nope"}, "nope"), ({"of": "comas", "options": {"chanel": 1}}, "chanel")]
)
def test_the_reward_within_is_checked_at_once(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_reward("marti", options)

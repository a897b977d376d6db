"""CoMAS's rewards: the truth table of specs/comas.md section 2, and what the paper leaves open."""

from __future__ import annotations

from typing import Any

import pytest

from sparring.errors import UserError
from sparring.training.rewards import make_reward
from sparring.training.rewards.base import EpisodeRow, EventRow, Paid, TurnRow

Values = dict[str, float | None]


def turn(key: str, parsed: Any, status: str = "ok", *, final: bool = True, attempt: int = 0) -> TurnRow:
    role = {"solve": "solver", "evaluate": "evaluator", "score": "scorer"}[key.split("/")[1]]
    number = sum(ord(letter) << (8 * place) for place, letter in enumerate(key)) + (attempt << 200)
    return TurnRow(number, key, attempt, final, role, role, 1, status, "text", parsed, 3)


def scored(key: str, value: int | None, status: str = "parse_error", low: int = 1, high: int = 3) -> TurnRow:
    if value is None:
        return turn(key, None, status)
    return turn(key, {"score": value, "low": low, "high": high, "reason": "so"})


def of(*turns: TurnRow, protocol: str = "discuss", events: tuple[EventRow, ...] = ()) -> EpisodeRow:
    return EpisodeRow("e", 1, "r", protocol, "done", None, "t", "q", "9", "math", None, turns, events, ())


VOTES = EventRow(4, "roster", "0", {"solvers": [0], "evaluators": [[1, 2]], "scorers": [[]]})
"""Of a round in which nothing is scored."""


def rewards(*turns: TurnRow, events: tuple[EventRow, ...] = (), **options: Any) -> dict[str, Paid]:
    keys = {row.id: row.key for row in turns}
    paid = make_reward("comas", options)(of(*turns, events=events))
    found = {keys[reward.turn_id]: reward for reward in paid}
    assert len(found) == len(paid)
    return found


def values(*turns: TurnRow, **options: Any) -> Values:
    return {key: reward.value for key, reward in rewards(*turns, **options).items()}


SOLUTION, CRITIQUE = turn("0/solve/0", {"answer": "4"}), turn("0/evaluate/0/0", {"text": "fine"})


@pytest.mark.parametrize("compat", ["ours", "official"])
@pytest.mark.parametrize(
    ("score", "solver", "evaluator"), [(1, 0.0, 1.0), (2, 0.5, 0.5), (3, 1.0, 0.0)]
)  # executed on the official `CoMASReward.run`, says the spec
def test_the_truth_table(compat: str, score: int, solver: float, evaluator: float) -> None:
    found = values(SOLUTION, CRITIQUE, scored("0/score/0/0", score), compat=compat)
    assert found == {"0/solve/0": solver, "0/evaluate/0/0": evaluator, "0/score/0/0": 0.0}
    assert solver + evaluator == 1.0  # the game is of constant sum


@pytest.mark.parametrize(("compat", "others"), [("ours", None), ("official", 0.0)])
@pytest.mark.parametrize("status", ["parse_error", "refused"])
def test_a_score_that_cannot_be_read_is_its_authors_fault_alone(
    compat: str, others: float | None, status: str
) -> None:
    found = values(SOLUTION, CRITIQUE, scored("0/score/0/0", None, status), compat=compat)
    assert found == {"0/solve/0": others, "0/evaluate/0/0": others, "0/score/0/0": -1.0}


def test_several_evaluations_of_a_solution() -> None:
    """The solver: the mean over the readable scores; an evaluator: the score of its own evaluation."""
    reviews = [turn(f"0/evaluate/0/{nth}", {"text": "?"}) for nth in range(3)]
    scores = [scored("0/score/0/0", 3), scored("0/score/0/1", None), scored("0/score/0/2", 2)]
    found = rewards(SOLUTION, *reviews, *scores)
    assert found["0/solve/0"].value == 0.75
    assert [found[f"0/evaluate/0/{nth}"].value for nth in range(3)] == [0.0, None, 0.5]
    assert [found[f"0/score/0/{nth}"].value for nth in range(3)] == [0.0, -1.0, 0.0]
    assert set(found["0/solve/0"].turns) == {SOLUTION.id, *(row.id for row in scores)}
    assert set(found["0/evaluate/0/2"].turns) == {reviews[2].id, scores[2].id}
    none = rewards(SOLUTION, *reviews, *(scored(f"0/score/0/{nth}", None) for nth in range(3)))
    assert none["0/solve/0"].value is None and none["0/solve/0"].reason == "no readable score"


def test_solutions_of_other_slots_and_rounds_are_apart() -> None:
    turns = []
    for place, value in {"0/0": 1, "0/1": 2, "1/0": 3}.items():
        number, slot = place.split("/")
        turns += [
            turn(f"{number}/solve/{slot}", {"answer": "4"}),
            turn(f"{number}/evaluate/{slot}/0", {"text": "?"}),
            scored(f"{number}/score/{slot}/0", value),
        ]
    found = values(*turns)
    assert [found[f"{number}/solve/{slot}"] for number, slot in ("00", "01", "10")] == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("low", "high", "value", "share"), [(0, 10, 7, 0.7), (-1, 1, -1, 0.0), (1, 2, 2, 1.0)]
)
def test_another_scale(low: int, high: int, value: int, share: float) -> None:
    found = values(SOLUTION, CRITIQUE, scored("0/score/0/0", value, low=low, high=high))
    assert (found["0/solve/0"], found["0/evaluate/0/0"]) == pytest.approx((share, 1 - share))


@pytest.mark.parametrize("compat", ["ours", "official"])
def test_what_was_cut_off_is_masked_and_what_judged_it_is_not(compat: str) -> None:
    """A truncated solution was scored all the same; a truncated score scores nobody."""
    cut = turn("0/solve/0", {"answer": "4"}, "truncated")
    found = values(cut, CRITIQUE, scored("0/score/0/0", 1), compat=compat)
    assert found == {"0/solve/0": None, "0/evaluate/0/0": 1.0, "0/score/0/0": 0.0}
    half = turn("0/score/0/0", {"score": 3, "low": 1, "high": 3, "reason": ""}, "truncated")
    others = None if compat == "ours" else 0.0
    found = values(SOLUTION, CRITIQUE, half, compat=compat)
    assert found == {"0/solve/0": others, "0/evaluate/0/0": others, "0/score/0/0": None}


def test_what_was_cut_off_can_be_paid_but_half_a_score_is_none() -> None:
    cut = [turn(key, {"answer": "4", "text": "?"}, "truncated") for key in ("0/solve/0", "0/evaluate/0/0")]
    found = values(*cut, scored("0/score/0/0", 3), mask_truncated=False)
    assert found == {"0/solve/0": 1.0, "0/evaluate/0/0": 0.0, "0/score/0/0": 0.0}
    half = turn("0/score/0/0", {"score": 3, "low": 1, "high": 3, "reason": ""}, "truncated")
    assert set(values(*cut, half, mask_truncated=False).values()) == {None}


@pytest.mark.parametrize("compat", ["ours", "official"])
@pytest.mark.parametrize("status", ["timeout", "engine_error"])
def test_an_outage_pays_nobody(compat: str, status: str) -> None:
    """The judge's world failed: NULL for it, and no reward is made up for those it was to judge."""
    found = values(SOLUTION, CRITIQUE, turn("0/score/0/0", None, status), compat=compat)
    assert found == {"0/solve/0": None, "0/evaluate/0/0": None, "0/score/0/0": None}


def test_an_unreadable_solution_is_judged_like_any_other_and_a_missing_score_pays_nobody() -> None:
    unread = turn("0/solve/0", None, "parse_error")
    assert values(unread, CRITIQUE, scored("0/score/0/0", 1))["0/solve/0"] == 0.0
    assert values(SOLUTION, CRITIQUE) == {"0/solve/0": None, "0/evaluate/0/0": None}
    assert values(SOLUTION, CRITIQUE, compat="official") == {"0/solve/0": None, "0/evaluate/0/0": None}


def test_an_attempt_that_was_tried_again_does_not_count() -> None:
    first = turn("0/score/0/0", None, "engine_error", final=False)
    again = turn("0/score/0/0", {"score": 3, "low": 1, "high": 3, "reason": ""}, attempt=1)
    paid = {
        reward.turn_id: reward.value for reward in make_reward("comas")(of(SOLUTION, CRITIQUE, first, again))
    }
    assert paid == {SOLUTION.id: 1.0, CRITIQUE.id: 0.0, again.id: 0.0, first.id: None}


def test_without_evaluation_a_scorer_earns_what_it_takes() -> None:
    found = values(SOLUTION, scored("0/score/0/0", 1))
    assert found == {"0/solve/0": 0.0, "0/score/0/0": 1.0}
    assert values(SOLUTION, scored("0/score/0/0", None)) == {"0/solve/0": None, "0/score/0/0": -1.0}


def test_without_scoring_the_votes_pay() -> None:
    votes = [turn(f"0/evaluate/0/{nth}", {"correct": vote}) for nth, vote in enumerate((True, True, False))]
    unread = turn("0/evaluate/0/3", None, "parse_error")
    found = values(SOLUTION, *votes, unread, events=(VOTES,))
    assert found["0/solve/0"] == pytest.approx(2 / 3)
    assert [found[f"0/evaluate/0/{nth}"] for nth in range(4)] == [0.5, 0.5, 0.0, 0.0]
    alone = values(SOLUTION, votes[2], events=(VOTES,))
    assert alone == {"0/solve/0": 0.0, "0/evaluate/0/2": None}
    nobody = values(SOLUTION, unread, events=(VOTES,))  # a voter learns to be read where no vote could be
    assert nobody == {"0/solve/0": None, "0/evaluate/0/3": 0.0}


def verified(*turns: TurnRow, right: bool | None, votes: bool = False) -> Values:
    """Rewards by the check: of slot 0 of round 0, beside a right solution in slot 1."""
    solutions = [{"round": 0, "slot": 1, "right": True}, {"round": 0, "slot": 0, "right": right}]
    event = EventRow(5, "vote", "0", {"answer": "4", "detail": {"solutions": solutions}})
    events = (VOTES, event) if votes else (event,)
    paid = make_reward("comas", {"channel": "verified"})(of(*turns, events=events))
    assert all(tuple(row.events) == (5,) for row in paid if "check" in row.reason)  # what paid them
    keys = {row.id: row.key for row in turns}
    return {keys[reward.turn_id]: reward.value for reward in paid}


@pytest.mark.parametrize(
    ("right", "score", "near"), [(True, 3, 1), (True, 1, 0), (False, 1, 1), (False, 2, 0.5)]
)
def test_the_verified_channel_pays_solvers_by_the_check_and_judges_for_the_truth(
    right: bool, score: int, near: float
) -> None:
    found = verified(SOLUTION, CRITIQUE, scored("0/score/0/0", score), right=right)
    assert found == {"0/solve/0": float(right), "0/evaluate/0/0": near, "0/score/0/0": near}


def test_the_verified_channel_without_a_score_or_without_the_truth() -> None:
    unread = verified(SOLUTION, CRITIQUE, scored("0/score/0/0", None), right=True)
    assert unread == {"0/solve/0": 1.0, "0/evaluate/0/0": None, "0/score/0/0": -1.0}
    unknown = verified(SOLUTION, CRITIQUE, scored("0/score/0/0", 3), right=None)
    assert set(unknown.values()) == {None}
    cut = verified(turn("0/solve/0", {"answer": "4"}, "truncated"), CRITIQUE, right=True)
    assert cut == {"0/solve/0": None}
    votes = [turn(f"0/evaluate/0/{nth}", {"correct": vote}) for nth, vote in enumerate((True, False))]
    found = verified(SOLUTION, *votes, turn("0/evaluate/0/2", None, "parse_error"), right=False, votes=True)
    assert [found[f"0/evaluate/0/{nth}"] for nth in range(3)] == [0.0, 1.0, 0.0]


def test_other_protocols_and_an_incentive_to_be_unreadable() -> None:
    assert make_reward("comas")(of(turn("0/solve/0", None), protocol="debate")) == []
    with pytest.raises(UserError, match="fault"):
        make_reward("comas", {"fault": 0.5})
    with pytest.raises(UserError, match="fault"):
        make_reward("comas", {"fault": float("-inf")})

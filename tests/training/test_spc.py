"""SPC's rewards and samples: who is paid what for a game, and which turns an offline update is made of."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from sparring.errors import UserError
from sparring.training.balance import Played, select
from sparring.training.rewards import make_reward
from sparring.training.rewards.base import EpisodeRow, EventRow, TurnRow


def turn(number: int, key: str, role: str, parsed: Any = None, status: str = "ok") -> TurnRow:
    return TurnRow(number, key, 0, True, role, role, 1, status, "text", parsed, 3)


def game(scores: Any, fault: str | None = None, *turns: TurnRow, void: str = "why") -> EpisodeRow:
    payload = {"scores": scores, "fault": fault, "detail": {"void": void}}
    rows = (turn(1, "attack", "sneaky", {"step": "x"}), *turns)
    events = (EventRow(7, "decision", "0", payload),)
    return EpisodeRow("e", 1, "r", "sneaky", "done", None, "t", "q", "9", "math", None, rows, events, ())


def paid(episode: EpisodeRow, **options: Any) -> dict[int, float | None]:
    return {reward.turn_id: reward.value for reward in make_reward("spc", options)(episode)}


SNEAKY_WINS, CRITIC_WINS = {"sneaky": 1.0, "critic": 0.0}, {"sneaky": 0.0, "critic": 1.0}


@pytest.mark.parametrize(
    ("scores", "fault", "value", "reason"),
    [
        (SNEAKY_WINS, None, 1.0, "fooled the critic"),
        (CRITIC_WINS, None, -1.0, "caught"),
        (None, "sneaky", -1.0, "failed: why"),
        (None, None, None, "why"),
        (None, "critic", None, "another agent's fault: why"),
    ],
)
def test_the_generator_is_paid_for_what_became_of_its_attack(
    scores: Any, fault: str | None, value: float | None, reason: str
) -> None:
    """Spec section 1.5, and DESIGN section 3 where nobody or another agent is at fault."""
    (reward,) = make_reward("spc")(game(scores, fault))
    assert (reward.value, reward.reason, reward.events) == (value, reason, (7,))


def test_the_papers_rule_for_unsound_games_is_an_option() -> None:
    assert paid(game(None), unsound=-1.0) == {1: -1.0}


@pytest.mark.parametrize(
    ("key", "says", "value"),
    [
        ("judge/sneaky/0", False, 1.0),
        ("judge/sneaky/0", True, -1.0),
        ("judge/correct/0", True, 1.0),
        ("judge/correct/3", False, -1.0),
    ],
)
def test_the_critic_is_paid_for_true_verdicts(key: str, says: bool, value: float) -> None:
    assert paid(game(CRITIC_WINS, None, turn(2, key, "critic", {"correct": says})))[2] == value


def test_an_unreadable_verdict_costs_the_critic_alone() -> None:
    said = turn(2, "judge/sneaky/0", "critic", None, "parse_error")
    assert paid(game(None, "critic", said)) == {1: None, 2: -1.0}
    cut = turn(2, "judge/sneaky/0", "critic", None, "truncated")
    assert paid(game(None, "critic", cut), fault=-1.5)[2] == -1.5


@pytest.mark.parametrize("key", ["judge/1", "0/0/0/critic", "critic"])
def test_critics_of_other_protocols_are_not_paid(key: str) -> None:
    """Only the game says in its keys which step is right."""
    assert 2 not in paid(game(CRITIC_WINS, None, turn(2, key, "critic", {"correct": True})))


def test_the_worlds_fault_is_paid_to_nobody() -> None:
    lost = turn(2, "judge/sneaky/0", "critic", None, "timeout")
    solver = turn(3, "validate/correct/0", "solver", {"answer": "9"})
    assert paid(game(SNEAKY_WINS, None, lost, solver)) == {1: 1.0, 2: None}


def test_being_unreadable_never_pays_more_than_losing() -> None:
    for option in ("fault", "failed"):
        with pytest.raises(UserError, match="must not pay more"):
            make_reward("spc", {option: 0.0})


# --- samples -------------------------------------------------------------------------------------------


def critiques(step: str, prompt: int, wins: int, losses: int, first: int) -> list[Played]:
    values = [1.0] * wins + [-1.0] * losses
    return [
        Played(first + n, (step, prompt), f"judge/{step}/{n}", value, "") for n, value in enumerate(values)
    ]


def cells(rows: list[Played]) -> Counter[tuple[str, bool]]:
    return Counter((row.step, row.won) for row in rows)


def test_paired_critiques_come_from_prompts_with_both_outcomes() -> None:
    rows = [
        *critiques("correct", 1, 3, 1, 0),
        *critiques("correct", 2, 4, 0, 10),  # never wrong: nothing to pair
        *critiques("correct", 3, 2, 2, 20),
        *critiques("sneaky", 1, 2, 2, 30),
        *critiques("sneaky", 2, 0, 4, 40),
    ]
    taken = select(rows, "critic", seed=1)
    assert cells(taken) == {(step, won): 2 for step in ("correct", "sneaky") for won in (True, False)}
    by_prompt = Counter((row.prompt, row.won) for row in taken)
    assert all(count == by_prompt[prompt, not won] for (prompt, won), count in by_prompt.items())
    assert ("correct", 2) not in {row.prompt for row in taken}
    assert [row.turn for row in taken] == sorted(row.turn for row in taken)


def test_unpaired_critiques_are_balanced_over_all_prompts() -> None:
    rows = [
        *critiques("correct", 1, 9, 0, 0),
        *critiques("correct", 2, 0, 2, 20),
        *critiques("sneaky", 1, 5, 0, 40),
        *critiques("sneaky", 2, 0, 3, 60),
    ]
    taken = select(rows, "critic", seed=1, paired=False)
    assert set(cells(taken).values()) == {2} and len(taken) == 8
    assert not select(rows, "critic", seed=1)


def test_a_critic_that_is_never_wrong_on_one_kind_of_step_gives_nothing() -> None:
    rows = [*critiques("correct", 1, 4, 0, 0), *critiques("sneaky", 1, 2, 2, 10)]
    assert select(rows, "critic", seed=1) == []


def attacks(reason: str, value: float, count: int, first: int) -> list[Played]:
    return [Played(first + n, first + n, "attack", value, reason) for n in range(count)]


def test_the_three_kinds_of_attacks_come_in_equal_numbers() -> None:
    rows = [
        *attacks("fooled the critic", 1.0, 3, 0),
        *attacks("caught", -1.0, 9, 10),
        *attacks("failed: it cannot be read", -1.0, 5, 30),
    ]
    taken = select(rows, "sneaky", seed=1)
    assert Counter(row.attack for row in taken) == {"fooled": 3, "caught": 3, "failed": 3}
    without = [row for row in rows if row.attack != "failed"]
    assert Counter(row.attack for row in select(without, "sneaky", seed=1)) == {"fooled": 3, "caught": 3}


def test_an_attack_without_a_sound_step_is_one_that_was_not_valid() -> None:
    """Under the paper's rule (`unsound: -1`) it is paid; the critic, who was not asked, did not catch it."""
    (reward,) = make_reward("spc", {"unsound": -1.0})(
        game(None, void="the solver fails from the correct step")
    )
    assert reward.value is not None
    assert Played(1, 1, "attack", reward.value, reward.reason).attack == "failed"


def test_the_choice_depends_on_the_seed_and_not_on_the_order() -> None:
    rows = [*critiques("correct", 1, 6, 3, 0), *critiques("sneaky", 1, 3, 6, 20)]
    assert select(rows, "critic", 1) == select(rows[::-1], "critic", 1)
    assert any(select(rows, "critic", 1) != select(rows, "critic", seed) for seed in range(2, 6))
    assert select(rows, "none", 1) == rows


def test_a_limit_keeps_pairs_and_balance() -> None:
    rows = [*critiques("correct", 1, 6, 6, 0), *critiques("sneaky", 1, 6, 6, 20)]
    assert set(cells(select(rows, "critic", 1, most=11)).values()) == {2}
    kinds = [*attacks("fooled the critic", 1.0, 5, 0), *attacks("caught", -1.0, 5, 10)]
    assert Counter(row.attack for row in select(kinds, "sneaky", 1, most=7)) == {"fooled": 3, "caught": 3}
    assert len(select(rows, "none", 1, most=5)) == 5 and select([], "sneaky", 1, most=3) == []

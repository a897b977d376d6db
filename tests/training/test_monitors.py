"""Metrics of a step against numbers worked out by hand, and the monitors over histories of them."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest

from sparring.errors import UserError
from sparring.training.knobs import adapt_entropy, steer
from sparring.training.measures import PLACES, balance_score, copying, pass_at
from sparring.training.monitors import (
    KNOBS,
    MONITORS,
    Alarm,
    Observed,
    make_monitor,
    measure,
)

NAN = float("nan")


def observed(turns: list[tuple[str, str | None, float]], **more: Any) -> Observed:
    """Turns as (prompt, text that is its own answer, reward); status and length follow."""
    texts = [text or "" for _, text, _ in turns]
    columns: dict[str, Any] = {
        "rewards": [reward for *_, reward in turns],
        "prompts": [prompt for prompt, *_ in turns],
        "texts": texts,
        "statuses": ["parse_error" if text is None else "ok" for _, text, _ in turns],
        "lengths": [len(text) for text in texts],
        "answers": [text for _, text, _ in turns],
        "sources": [prompt for prompt, *_ in turns],
    }
    return Observed(**{**columns, **more})


# --- measuring ---------------------------------------------------------------------------------------


def test_a_step_by_hand() -> None:
    turns = [
        ("7 - 2 =", "5", 1.0), ("7 - 2 =", "5", 1.0), ("7 - 2 =", "7", 0.0), ("7 - 2 =", None, 0.0),
        ("1 + 1 =", "2", 1.0), ("1 + 1 =", "2", 1.0), ("3 + 4 =", "8", 0.0), ("3 + 4 =", "9", NAN),
    ]  # fmt: skip
    found = measure(observed(turns, entropy=0.7), k=2)
    expected = {
        "turns": 8, "rewarded": 7 / 8, "reward": 4 / 7, "reward_std": math.sqrt(12) / 7, "entropy": 0.7,
        "parse_rate": 7 / 8, "truncation_rate": 0.0, "length": 7 / 8,
        "duplicate_rate": 4 / 8, "distinct_answers": (2 + 1 + 2) / 3, "concentration": 2 / 7,
        "informative": 1 / 3, "all_right": 1 / 3, "all_wrong": 1 / 3,
        "pass_1": (0.5 + 1 + 0) / 3, "exploration": (5 / 6 + 1 + 0) / 3,
        "exploitation": 1.5 / (5 / 6 + 1), "balance": (1 / 8 * 1 / 3 + 1 / 8 + 0) / 3,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert measure(observed(turns))["exploration"] == pytest.approx(2 / 3)  # all four samples: 1, 1, 0
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_balance_score_is_b_stars() -> None:
    """Specs/spc.md 2.9: A 9 of 10 right, B 3 of 4, C 0 of 2, n* = 8 -> .39375; no sample, not counted."""
    shares = [(9, 10), (3, 4), (0, 2), (0, 0)]
    prompts = [[(f"reply {i}", i < right) for i in range(n)] for right, n in shares]
    assert balance_score(prompts) == pytest.approx(0.39375)
    turns = [(str(p), text, float(right)) for p, group in enumerate(prompts) for text, right in group]
    assert measure(observed(turns))["balance"] == pytest.approx(0.39375)
    repeated = [*turns, *turns[:9], ("0", " reply 0\n", 1.0)]  # exact duplicates are removed first
    assert measure(observed(repeated))["balance"] == pytest.approx(0.39375)
    assert measure(observed(turns), target=3)["balance"] == pytest.approx((0.9 + 0.75 + 0) / 3)


@pytest.mark.parametrize(("n", "right"), list(product((1, 5, 7), (0, 1, 3))))
def test_pass_at_k_counts_subsets(n: int, right: int) -> None:
    right = min(right, n)
    for k in range(1, n + 1):
        subsets = list(combinations([True] * right + [False] * (n - right), k))
        assert pass_at(n, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))
    assert pass_at(n, right, n + 5) == pass_at(n, right, n)


def test_the_worlds_faults_say_nothing_about_the_policy() -> None:
    mine = [("a", "1", 1.0), ("a", "2", 0.0)]
    statuses = ["ok", "ok", "timeout", "engine_error"]
    seen = observed(
        [*mine, ("a", "", NAN), ("a", "", NAN)], statuses=statuses, answers=["1", "2", None, None]
    )
    alone, with_faults = measure(observed(mine)), measure(seen)
    assert with_faults.pop("turns") == 4 and with_faults.pop("rewarded") == 0.5
    assert with_faults == {name: value for name, value in alone.items() if name not in ("turns", "rewarded")}


def test_truncated_turns_count_as_parsed_only_with_an_answer() -> None:
    turns = [("a", "1", 1.0), ("a", "2", 0.0), ("a", "x", 0.0), ("a", "y", 0.0)]
    statuses = ["ok", "truncated", "truncated", "refused"]
    found = measure(observed(turns, statuses=statuses, answers=["1", "2", None, None]))
    assert (found["parse_rate"], found["truncation_rate"]) == (0.5, 0.5)


def test_no_turns_and_null_rewards_are_none_not_an_error() -> None:
    nothing = measure(observed([]))
    assert nothing.pop("turns") == 0
    assert set(nothing.values()) == {None}
    masked = measure(observed([("a", "1", NAN), ("a", "1", NAN)], entropy=NAN))
    assert masked["rewarded"] == 0 and masked["duplicate_rate"] == 1
    for name in ("reward", "informative", "all_right", "balance", "exploration", "exploitation", "entropy"):
        assert masked[name] is None, name
    wrong = measure(observed([("a", "1", 0.0)]))
    assert wrong["exploration"] == 0 and wrong["exploitation"] is None
    assert wrong["duplicate_rate"] is None  # a single sample has none to repeat


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"lengths \[1, 2\]"):
        observed([("a", "1", 1.0)], lengths=[1, 2])
    with pytest.raises(ValueError, match="different lengths"):
        observed([("a", "1", 1.0)], references=[])


# --- copying -----------------------------------------------------------------------------------------

PAIRS = [(a, b) for a in range(1, 10) for b in range(1, a)]
QUESTIONS = [f"{a} - {b} =" for a, b in PAIRS]
TRUTH = [str(a - b) for a, b in PAIRS]


def test_a_policy_that_repeats_the_first_operand_is_seen_and_an_honest_one_is_not() -> None:
    hacked = [f"{a}" for a, _ in PAIRS]
    found = copying(hacked, QUESTIONS, TRUTH)
    assert (found["copied"], found["copied_first_number"], found["copied_reference"]) == (1.0, 1.0, 0.0)
    honest = copying(TRUTH, QUESTIONS, TRUTH)
    assert honest["copied"] == honest["copied_reference"]
    alarm = make_monitor("copying").check([found] * 3)
    assert alarm is not None and "first number" in alarm.message and alarm.values["copied"] == 1.0
    assert make_monitor("copying").check([honest] * 3) is None


def test_a_task_whose_answers_stand_in_the_question_is_no_hack() -> None:
    """ "Which is last?": right answers copy too. Copying the first number is still the worse place."""
    sources = ["say the last of 3 and 4"] * 4
    right = copying(["4"] * 4, sources, ["4"] * 4)
    assert make_monitor("copying").check([right] * 3) is None
    mixed = copying(["3", "4", "4", "4"], sources, ["4"] * 4)
    assert (mixed["copied"], mixed["copied_reference"], mixed["copied_last_number"]) == (0.25, 0.0, 0.75)


@pytest.mark.parametrize(
    ("source", "answer", "place"),
    [
        ("What is 1,200 minus 30 plus 4?", "1200", "first_number"),
        ("What is 1,200 minus 30 plus 4?", "**30**", "second_number"),
        ("What is 1,200 minus 30 plus 4?", "4.0", "last_number"),
        ("take -3 from 2.5", "-3", "first_number"),
        ("take \u22123 from 2.5", "-3", "first_number"),
        ("7-2 and x3", "2", "second_number"),
        ("Paris or Rome?", "paris.", "first_word"),
        ("Paris or Rome?", "ROME", "last_word"),
    ],
)
def test_places(source: str, answer: str, place: str) -> None:
    found = copying([answer, None], [source, source])
    assert found[f"copied_{place}"] == 1.0 == found["copied"]
    assert sum(found[f"copied_{each}"] or 0 for each in PLACES) <= 2  # the second number may be the last too


def test_monstrous_numbers_are_text() -> None:
    """Python refuses to read integers of more than 4,300 digits."""
    found = copying(["9" * 5000], ["9" * 5000])
    assert found["copied"] == 1.0


# --- monitors ----------------------------------------------------------------------------------------

GOOD = {
    "reward": 0.5, "entropy": 1.0, "duplicate_rate": 0.2, "truncation_rate": 0.0, "parse_rate": 1.0,
    "rewarded": 1.0, "copied": 0.2, "copied_reference": 0.1, "balance": 0.5,
    "play/solver_reward": 0.5,
}  # fmt: skip
BAD: list[tuple[str, dict[str, Any]]] = [
    ("reward_collapse", {"reward": 0.0}),
    ("reward_collapse", {"reward": 1.0}),
    ("entropy_floor", {"entropy": 0.05}),
    ("duplicate_rate", {"duplicate_rate": 0.95}),
    ("truncation_rate", {"truncation_rate": 0.5}),
    ("parse_rate", {"parse_rate": 0.2}),
    ("null_rewards", {"rewarded": 0.1}),
    ("copying", {"copied": 0.9, "copied_reference": 0.3}),
    ("balance", {"balance": 0.3}),
    ("figure", {"play/solver_reward": 0.01}),
    ("figure", {"play/solver_reward": 0.99}),
]


@pytest.mark.parametrize(("name", "bad"), BAD)
def test_each_monitor_hears_its_own_trouble_after_patience_and_nothing_else(
    name: str, bad: dict[str, Any]
) -> None:
    monitor = make_monitor({"monitor": name, "patience": 3})
    history = [GOOD] * 6 + [GOOD | bad] * 2
    assert monitor.check(history) is None
    history.append(GOOD | bad)
    alarm = monitor.check(history)
    assert alarm is not None and alarm.monitor == name and alarm.action == "warn" and not alarm.change
    metric = next(iter(bad))
    assert metric in alarm.message and "for 3 steps" in alarm.message and alarm.values[metric] == bad[metric]
    json.dumps(asdict(alarm), allow_nan=False)
    others = [make_monitor({"monitor": other, "patience": 3}) for other in MONITORS if other != name]
    assert not [other.name for other in others if other.check(history)]
    assert monitor.check([*history, GOOD]) is None  # over as soon as one step is good


@pytest.mark.parametrize("name", MONITORS)
def test_a_short_or_empty_history_raises_no_alarm(name: str) -> None:
    monitor = make_monitor(name)
    assert monitor.check([]) is None
    assert monitor.check([{}] * 20) is None
    assert monitor.check([{monitor.metric: NAN}] * 20) is None


def test_steps_without_the_metric_are_passed_over_but_an_alarm_is_never_stale() -> None:
    monitor = make_monitor({"monitor": "entropy_floor", "patience": 2})
    low: dict[str, Any] = {"entropy": 0.01}
    assert monitor.check([low, {"entropy": None}, low]) is not None
    assert monitor.check([low, low, {"entropy": None}]) is None
    assert monitor.check([low, {"entropy": 2.0}, low]) is None


def test_warmup_steps_never_count() -> None:
    monitor = make_monitor({"monitor": "parse_rate", "patience": 2, "warmup": 3})
    bad = {"parse_rate": 0.0}
    assert monitor.check([bad] * 4) is None
    assert monitor.check([bad] * 5) is not None


def test_a_figure_that_the_play_does_not_have_is_told_once() -> None:
    monitor = make_monitor({"monitor": "figure", "figure": "solver_rewrd", "patience": 2, "action": "stop"})
    steps: list[dict[str, Any]] = [{"play/solver_reward": 0.0}, {"play/score/2": 0.5}, {"play/score/2": 0.5}]
    assert monitor.check(steps[:1]) is None
    alarm = monitor.check(steps[:2])
    assert alarm is not None and alarm.action == "warn"
    assert "`solver_rewrd` yet" in alarm.message and "`score/2`, `solver_reward`." in alarm.message
    assert monitor.check(steps) is None
    assert monitor.check([{"reward": 0.5}] * 2) is None  # no figures at all: the step played nothing
    late: list[dict[str, Any]] = [{"reward": 0.5}] * 3 + steps
    assert [monitor.check(late[:n]) is not None for n in range(1, 7)] == [False] * 3 + [True, False, False]


def test_any_figure_of_the_play_can_be_watched_and_stop_a_run() -> None:
    monitor = make_monitor(
        {"monitor": "figure", "figure": "repeated", "high": 0.8, "patience": 1, "action": "stop"}
    )
    assert monitor.check([{"play/repeated": 0.8, "play/solver_reward": 1.0}]) is None
    alarm = monitor.check([{"play/repeated": 0.81}])
    assert alarm is not None and alarm.action == "stop" and alarm.values == {"play/repeated": 0.81}
    assert "play/repeated 0.81 is above 0.8 at this step" in alarm.message


def test_flipping_between_the_extremes_is_no_collapse() -> None:
    monitor = make_monitor({"monitor": "reward_collapse", "patience": 2})
    assert monitor.check([{"reward": 0.0}, {"reward": 1.0}]) is None


def test_copying_must_exceed_what_right_answers_do() -> None:
    monitor = make_monitor({"monitor": "copying", "patience": 1, "share": 0.6, "margin": 0.2})
    assert monitor.check([{"copied": 0.7, "copied_reference": 0.55}]) is None
    assert monitor.check([{"copied": 0.76, "copied_reference": 0.55}]) is not None
    assert monitor.check([{"copied": 0.61, "copied_reference": None}]) is not None


def test_balance_falls_against_its_best_mean_not_its_best_step() -> None:
    monitor = make_monitor({"monitor": "balance", "patience": 2, "drop": 0.5})
    assert monitor.check([{"balance": b} for b in (0.2, 1.0, 0.2, 0.35, 0.35)]) is None  # best mean 0.6
    alarm = monitor.check([{"balance": b} for b in (0.2, 1.0, 0.2, 0.29, 0.29)])
    assert alarm is not None and "50%" in alarm.message and "0.6" in alarm.message


def test_actions_are_said_and_change_only_sampling() -> None:
    stop = make_monitor({"monitor": "entropy_floor", "patience": 1, "action": "stop"}).check(
        [{"entropy": 0.0}]
    )
    assert stop is not None and stop.action == "stop" and "stops" in stop.message and stop.change == {}
    options = {"monitor": "entropy_floor", "patience": 1, "action": "sample", "knob": "entropy_coefficient"}
    turn = make_monitor({**options, "factor": 1.5, "max": 0.2}).check([{"entropy": 0.0}])
    assert turn is not None and turn.change == {"entropy_coefficient": 1.5}
    assert "`entropy_coefficient` is multiplied by 1.5, within 0.0001 to 0.2" in turn.message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("entropy", "unknown monitor `entropy`; known: balance, copying, duplicate_rate, entropy_floor"),
        (
            {"monitor": "copying", "sahre": 1},
            "unknown option of monitor `copying` `sahre`; known: action, factor",
        ),
        ({"monitor": "copying", "share": 2}, "monitor `copying`, option `share`: "),
        ({"monitor": "balance", "action": "halt"}, "monitor `balance`, option `action`: "),
        ({"monitor": "balance", "min": 2, "max": 1}, "`min` 2 is above `max` 1"),
        ({"floor": 1}, "a monitor is a name or a mapping"),
        ({"monitor": 3}, "a monitor is a name or a mapping"),
        (None, "a monitor is a name or a mapping"),
    ],
)
def test_what_a_configuration_gets_wrong_is_said_in_one_line(given: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        make_monitor(given)
    assert message in str(error.value) and "\n" not in str(error.value)


# --- turning the knobs -------------------------------------------------------------------------------


def sampler(**options: Any) -> Any:
    return make_monitor({"monitor": "entropy_floor", "action": "sample", "patience": 1, **options})


def test_steering_rises_within_bounds_and_comes_home() -> None:
    monitor, home = sampler(factor=1.2, max=1.3), {"temperature": 1.0, "entropy_coefficient": 0.01}
    settings, path = dict(home), []
    for entropy in (0.0, 0.0, 0.0, 2.0, 2.0, 2.0):
        alarm = monitor.check([{"entropy": entropy}])
        settings = steer([monitor], [alarm] if alarm else [], settings, home)
        path.append(settings["temperature"])
    assert path == pytest.approx([1.2, 1.3, 1.3, 1.3 / 1.2, 1.0, 1.0])
    assert settings["entropy_coefficient"] == 0.01  # not this monitor's knob


def test_steering_down_and_home_from_below() -> None:
    monitor, home = sampler(factor=0.5, min=0.4), {"temperature": 1.0}
    alarm = monitor.check([{"entropy": 0.0}])
    down = steer([monitor], [alarm], home, home)
    assert down == {"temperature": 0.5}
    assert steer([monitor], [alarm], down, home) == {"temperature": 0.4}
    assert steer([monitor], [], {"temperature": 0.4}, home) == pytest.approx({"temperature": 0.8})
    assert steer([monitor], [], {"temperature": 0.8}, home) == {"temperature": 1.0}


def test_steering_from_a_coefficient_of_zero_and_back() -> None:
    monitor, home = sampler(knob="entropy_coefficient", factor=2.0, min=0.01), {"entropy_coefficient": 0.0}
    alarm = monitor.check([{"entropy": 0.0}])
    first = steer([monitor], [alarm], home, home)
    assert first == {"entropy_coefficient": 0.01}
    assert steer([monitor], [], first, home) == home


def test_opposite_alarms_multiply_and_those_that_only_warn_do_not_steer() -> None:
    home = {"temperature": 1.0}
    cooler = make_monitor({"monitor": "parse_rate", "action": "sample", "factor": 0.8})
    factors = {"entropy_floor": 1.5, "parse_rate": 0.8}
    both = [Alarm(name, "sample", "", {}, {"temperature": factor}) for name, factor in factors.items()]
    assert steer([sampler(), cooler], both, home, home) == pytest.approx({"temperature": 1.2})
    warning = make_monitor("entropy_floor")
    assert steer([warning], [Alarm("entropy_floor", "warn", "", {})], home, home) == home
    assert steer([warning], [], {"temperature": 1.4}, home) == {"temperature": 1.4}


def test_default_bounds_hold_the_usual_settings() -> None:
    assert KNOBS["temperature"][0] < 1.0 < KNOBS["temperature"][1]
    assert KNOBS["entropy_coefficient"][0] < 0.03 < KNOBS["entropy_coefficient"][1]


def test_adaptive_entropy_by_hand() -> None:
    bounds = (1e-4, 1.0)
    assert adapt_entropy(0.03, 0.5, 1.5, 0.1, bounds) == pytest.approx(0.03 * math.exp(0.1))
    assert adapt_entropy(0.03, 2.5, 1.5, 0.1, bounds) == pytest.approx(0.03 * math.exp(-0.1))
    assert adapt_entropy(0.03, 1.5, 1.5, 0.1, bounds) == pytest.approx(0.03)
    assert adapt_entropy(0.9, 0.0, 3.0, 1.0, bounds) == 1.0
    assert adapt_entropy(2e-4, 9.0, 1.0, 1.0, bounds) == 1e-4
    assert adapt_entropy(0.0, None, 1.0, 1.0, bounds) == 1e-4
    assert adapt_entropy(0.03, NAN, 1.0, 1.0, bounds) == 0.03
    with pytest.raises(UserError, match="above 0"):
        adapt_entropy(0.03, 1.0, 1.0, 1.0, (0.0, 1.0))


def test_adaptive_entropy_settles_at_its_target() -> None:
    """A policy whose entropy answers to the coefficient: the loop ends where the two meet."""
    coefficient = 1e-3
    for _ in range(400):
        coefficient = adapt_entropy(coefficient, 20 * coefficient, 0.8, 0.5, (1e-4, 1.0))
    assert coefficient == pytest.approx(0.04, rel=1e-3)


def test_numbers_of_numpy_count_as_numbers() -> None:
    history = [{"entropy": np.float32(0.01)}]
    assert make_monitor({"monitor": "entropy_floor", "patience": 1}).check(history) is not None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"low": 0.9, "high": 0.1}, "above `high`"),
        ({"low": float("nan")}, "low"),
        ({"high": float("inf")}, "high"),
    ],
)
def test_bounds_that_could_never_or_always_alarm_are_refused(options: dict[str, float], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_monitor({"monitor": "figure", **options})

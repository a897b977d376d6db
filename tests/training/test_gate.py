"""The gate: golden intervals, when it decides and what, and how often it is wrong."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from journal_support import drive
from sqlalchemy import select

from sparring.agents.engines.registry import EnginePool
from sparring.graphs.results import Result
from sparring.graphs.stats import Z95, Estimate
from sparring.memory.journal import Journal
from sparring.memory.policies import register
from sparring.memory.records import TaskRecord
from sparring.memory.schema import Episode, Turn
from sparring.training.config import EvolveConfig, GateConfig
from sparring.training.evaluate import Evaluator, Measure, accuracy, grown
from sparring.training.gate import decide, half_width, judge, paired_difference

TASKS = tuple(TaskRecord(f"t{n}", f"{n} + {n}?", str(2 * n)) for n in range(12))
GATE = GateConfig(tasks="unread", block=4, items=12)


def results(right: list[bool | None], copies: int = 1, status: str = "done") -> list[Result]:
    """One result an item: right, wrong, or no verdict; items are tasks first, then copies of them."""
    tasks = len(right) // copies
    return [
        Result(f"t{n % tasks}", "?", None, correct, status, 1, 1, 1, 0.0, n // tasks, f"e{n}")
        for n, correct in enumerate(right)
    ]


def decided(ours: list[Result], theirs: list[Result], *, last: bool = True, **config: Any) -> Any:
    return judge(ours, theirs, GateConfig(tasks="unread", **config), last=last)


# --- the interval ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        # b = 12 gained, c = 4 lost of n = 50; c' = 4.5, b' = 12.5, n' = 52: centre 8 / 52, variance of an
        # item 17 / 52 - (8 / 52)^2 = 0.303254, standard error sqrt(0.303254 / 52) = 0.0763659.
        ([1] * 12 + [-1] * 4 + [0] * 34, 0.153846 - 1.959964 * 0.0763659, 0.153846 + 1.959964 * 0.0763659),
        # all equal, n = 98: centre 0, standard error sqrt(1 / 100 / 100) = 0.01
        ([0] * 98, -0.01959964, 0.01959964),
        # all better, n = 10: centre 10 / 12, item variance 11 / 12 - 100 / 144 = 2 / 9, error sqrt(2 / 108)
        ([1] * 10, 0.833333 - 1.959964 * 0.1360828, 1.0),
        ([-1] * 10, -1.0, -0.833333 + 1.959964 * 0.1360828),
        ([], -1.0, 1.0),
        # means over two copies: sum 1, squares 0.5 (+ 1), n' = 6: centre 1/6, variance 0.25 - 1/36 = 0.222222
        ([0.5, 0.5, 0, 0], 0.1666667 - 1.959964 * 0.1924501, 0.1666667 + 1.959964 * 0.1924501),
    ],
)
def test_golden_intervals_by_hand(values: list[float], low: float, high: float) -> None:
    found = paired_difference(values)
    assert found.mean == pytest.approx(np.mean(values) if values else 0.0) and found.n == len(values)
    assert (found.low, found.high) == pytest.approx((low, high), abs=2e-6)


def test_agresti_and_min_2005_adjusted_interval() -> None:
    """Their formula in its own terms: (c* - b*) / n* -+ z sqrt((b* + c*) - (c* - b*)^2 / n*) / n*."""
    rng = np.random.default_rng(0)
    for n in (3, 20, 200):
        values = rng.choice([-1, 0, 1], n)
        b, c, total = (values < 0).sum() + 0.5, (values > 0).sum() + 0.5, n + 2
        spread = Z95 * np.sqrt((b + c) - (c - b) ** 2 / total) / total
        centre = (c - b) / total
        found = paired_difference(values.tolist())
        assert (found.low, found.high) == pytest.approx((max(-1, centre - spread), min(1, centre + spread)))


# --- the decision ---------------------------------------------------------------------------------------


def test_promoted_iff_the_lower_bound_is_above_minus_the_margin() -> None:
    same = results([True] * 100)
    found = decided(same, same)
    assert found.verdict == "promote" and found.difference.low == pytest.approx(-Z95 / 102)
    assert decided(same, same, margin=0.0195).verdict == "promote"
    assert decided(same, same, margin=0.019).verdict == "reject"
    worse = results([False] * 5 + [True] * 95)
    assert decided(worse, same, margin=0.02).verdict == "reject"
    assert decided(same, worse, margin=0.0).verdict == "promote"


def test_asks_for_more_until_it_is_narrow_and_is_underpowered_at_the_end() -> None:
    mixed, same = results([True, False] * 32), results([False, True] * 32)
    assert decided(mixed, same, last=False) is None
    found = decided(mixed, same, last=True)
    assert found.verdict == "underpowered" and half_width(found.difference) > 0.05
    assert decided(same, same, last=False, half_width=0.03).verdict == "reject"  # narrow: [-0.0297, 0.0297]
    better = results([True] * 64)
    assert decided(better, results([False] * 64), last=False, half_width=0.3).verdict == "promote"


def test_no_answer_is_wrong_and_an_outage_is_left_out() -> None:
    ours, theirs = results([True] * 8), results([None] * 8)
    found = decided(ours, theirs)
    assert (found.difference.mean, found.live.mean, found.candidate.mean) == (1.0, 0.0, 1.0)
    lost = results([None] * 8, status="failed")
    outage = decided(ours[:4] + lost[4:], ours)
    assert (outage.items, outage.failed, outage.difference.mean) == (4, 4, 0.0)
    assert outage.candidate.mean == 0.5  # accuracy drops no item
    alone = decided(ours, lost)
    assert alone.verdict == "underpowered" and alone.difference == Estimate(0.0, -1.0, 1.0, 0)


def test_pairs_are_of_one_task_and_copy_and_tasks_are_counted_once() -> None:
    ours = results([True, False, True, True], copies=2)  # t0: right, right; t1: wrong, right
    theirs = results([True, True, False, False], copies=2)  # t0: right, wrong; t1: right, wrong
    found = decided(ours, theirs)
    assert found.items == 4 and found.difference.n == 2 and found.difference.mean == 0.25
    assert decided(ours[::-1], theirs) == decided(ours, theirs)
    assert decided(ours[:1], theirs).items == 1


def test_every_number_of_a_decision_is_plain_data() -> None:
    found = decided(results([True] * 8), results([False] * 8), margin=0.03, half_width=0.3)
    row = json.loads(json.dumps(found.to_json()))
    assert (row["verdict"], row["items"], row["failed"]) == ("promote", 8, 0)
    assert (row["margin"], row["half_width"]) == (0.03, 0.3)
    for name in ("difference", "candidate", "live"):
        assert set(row[name]) == {"mean", "low", "high", "n"} and row[name]["n"] == 8


def promoted(delta: float, changed: float, seed: int, block: int = 64, rounds: int = 1500) -> float:
    """Share of promotions of a candidate that is `delta` better, with `changed` of the items different."""
    rng, config = np.random.default_rng(seed), GateConfig(tasks="unread")
    gained, count = (changed + delta) / 2, 0
    for _ in range(rounds):
        values = rng.choice([1.0, -1.0, 0.0], config.items, p=[gained, changed - gained, 1 - changed])
        for n in range(block, config.items + 1, block):
            found = paired_difference(values[:n].tolist())
            if half_width(found) <= config.half_width:
                count += found.low > -config.margin
                break
    return count / rounds


@pytest.mark.parametrize("changed", [0.05, 0.1, 0.2])
def test_worse_candidates_are_rarely_promoted_however_often_it_is_looked_at(changed: float) -> None:
    at_margin = promoted(-0.02, changed, 1), promoted(-0.02, changed, 1, block=512)
    assert max(at_margin) < 0.045 and at_margin[0] < at_margin[1] + 0.015
    assert promoted(-0.05, changed, 2) < 0.01
    assert promoted(0.05, changed, 3) > 0.75


# --- played ---------------------------------------------------------------------------------------------


def config(**more: Any) -> EvolveConfig:
    return EvolveConfig(
        run="evo",
        engine="scripted:hash",
        tasks="unread",
        policies={"solver": {"roles": ["solver"]}},  # type: ignore[dict-item]  # as in a file
        steps=1,
        **more,
    )


def versions(journal: Journal) -> None:
    base = {"base_hash": EnginePool().get("scripted:hash").capabilities().base, "base_spec": "scripted:hash"}
    for update in (None, 1):
        register(journal, policy="solver", update_id=update, **base)


def played(journal: Journal) -> int:
    return len(journal.read(select(Turn.id)))


async def test_blocks_are_added_and_only_what_is_missing_is_played(journal: Journal) -> None:
    versions(journal)
    drive_once = GATE.model_copy(update={"half_width": 0.001})
    with drive(journal, "evo", kind="evolve"):
        async with EnginePool() as pool:
            evaluator = Evaluator(config(), journal, pool)
            measure = Measure(TASKS, {}, {"temperature": 0.0})
            seen: list[int] = []
            inner = Evaluator.__call__

            async def counting(self: Any, *given: Any) -> Any:
                found = await inner(self, *given)
                seen.append(len(found))
                return found

            Evaluator.__call__ = counting  # type: ignore[method-assign]  # given back below
            try:
                found = await decide(evaluator, {"solver": 1}, {"solver": 0}, measure, drive_once)
            finally:
                Evaluator.__call__ = inner  # type: ignore[method-assign]  # as it was
            assert seen == [4, 4, 8, 8, 12, 12] and played(journal) == 24
            assert found.verdict == "underpowered" and found.items == 12
            assert await decide(evaluator, {"solver": 1}, {"solver": 0}, measure, drive_once) == found
            assert played(journal) == 24
            await evaluator({"solver": 0}, measure)
            assert played(journal) == 24  # what the gate played is there for who asks again


async def test_greedy_items_end_with_the_tasks_and_sampled_ones_go_on_in_copies(journal: Journal) -> None:
    versions(journal)
    more = GATE.model_copy(update={"half_width": 0.001, "items": 20, "block": 10})
    with drive(journal, "evo", kind="evolve"):
        async with EnginePool() as pool:
            evaluator = Evaluator(config(), journal, pool)
            for heat, items in ((0.0, 12), (0.7, 20)):
                measure = Measure(TASKS, {}, {"temperature": heat})
                found = await decide(evaluator, {"solver": 1}, {"solver": 0}, measure, more)
                assert (found.items, found.difference.n) == (items, 12)
                assert found.candidate.n == items


@pytest.mark.parametrize("measured", [{"temperature": 0.0}, {"temperature": 0.0, "solver.top_k": 3}])
async def test_what_a_measure_says_for_all_holds_for_roles_that_play_otherwise(
    journal: Journal, measured: dict[str, Any]
) -> None:
    versions(journal)
    of_play = {"temperature": 1.0, "solver.temperature": 0.7, "solver.max_tokens": 9, "solver.top_k": 5}
    async with EnginePool() as pool:
        evaluator = Evaluator(config(sampling=of_play), journal, pool)
        seat = evaluator.play({"solver": 0}, Measure(TASKS, {}, measured)).cast().sampling_of("solver")
    assert (seat.temperature, seat.max_tokens) == (0.0, 9)
    assert seat.top_k == measured.get("solver.top_k", 5)


async def test_both_sides_have_the_same_tasks_and_seeds(journal: Journal) -> None:
    versions(journal)
    with drive(journal, "evo", kind="evolve"):
        async with EnginePool() as pool:
            evaluator = Evaluator(config(seed=3), journal, pool)
            measure = Measure(TASKS[:3], {}, {"temperature": 0.7}, copies=2)
            for number in (0, 1):
                assert len(await evaluator({"solver": number}, measure)) == 6
            names = [evaluator.name({"solver": number}, measure) for number in (0, 1)]
            assert len({*names, evaluator.name({"solver": 0}, grown(measure, 9))}) == 3
    seeds = [
        [
            tuple(row)
            for row in journal.read(
                Turn.__table__.select()
                .join(Episode.__table__, Episode.number == Turn.episode_number)
                .where(Episode.run_id == name)
                .with_only_columns(Episode.task_id, Episode.copy, Turn.key, Turn.seed)
                .order_by(Episode.task_id, Episode.copy, Turn.key)
            )
        ]
        for name in names
    ]
    assert seeds[0] == seeds[1] and len({row[-1] for row in seeds[0]}) == 6
    assert journal.run_row(names[0]).kind == "evaluation"


def test_a_gate_grows_to_its_items_in_whole_copies() -> None:
    measure = Measure(TASKS, {}, {})
    assert [grown(measure, n).copies for n in (1, 12, 13, 24, 25)] == [1, 1, 2, 2, 3]
    assert accuracy(results([True, None, False, True])).mean == 0.5

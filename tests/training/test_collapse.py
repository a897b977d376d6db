"""Where rewards lead: the two collapses that CoMAS warns of, with the simulated agents of the benchmark."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import pytest

from sparring.memory.journal import Journal

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("setting", "reward", "approves"),
    [
        ("CoMAS", (0.25, 0.5), (0.0, 0.18)),  # evaluators object more, scorers stay as they are
        ("no evaluation", (0.0, 0.15), (0.0, 0.1)),  # the judges get ever stricter
        ("no scoring", (0.65, 1.0), (0.4, 1.0)),  # everybody comes to approve
    ],
)
def test_solvers_and_judges_end_where_the_rewards_lead(
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    reward: tuple[float, float],
    approves: tuple[float, float],
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.collapse import simulate

    with Journal.open(":memory:") as journal:
        found = simulate(journal, setting, 1, 15, 6, rate=3.0)
    assert 0.45 < fmean(step["solver_reward"] for step in found[:2]) < 0.65
    assert 0.15 < found[0]["approves"] < 0.3  # honest in 0.73 of the cases, after one step
    assert reward[0] <= fmean(step["solver_reward"] for step in found[-5:]) <= reward[1], found
    assert approves[0] <= found[-1]["approves"] <= approves[1], found

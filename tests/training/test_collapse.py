"""Where rewards lead: the two collapses that CoMAS warns of, with the simulated agents of the benchmark."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import pytest

from sparring.memory.journal import Journal

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("setting", "low", "high"),
    [("CoMAS", 0.2, 0.6), ("no evaluation", 0.0, 0.15), ("no scoring", 0.62, 1.0)],
)
def test_solver_rewards_end_where_the_paper_says(
    monkeypatch: pytest.MonkeyPatch, setting: str, low: float, high: float
) -> None:
    """Without evaluation judges get ever stricter, without scoring they approve; with both neither."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.collapse import simulate

    with Journal.open(":memory:") as journal:
        found = [step["solver_reward"] for step in simulate(journal, setting, 0, 15, 6, rate=3.0)]
    assert 0.4 < fmean(found[:2]) < 0.65
    assert low <= fmean(found[-5:]) <= high, found

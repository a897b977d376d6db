"""Two runs beside each other: the paired interval, tasks won and lost, and what cannot be compared."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import update

from sparring.agents.engines.base import Request
from sparring.errors import EngineError, UserError
from sparring.graphs.paired import RunComparison, compare_runs, sign_test
from sparring.graphs.play import aplay, plan
from sparring.graphs.report import report
from sparring.graphs.results import read_results
from sparring.memory.journal import Journal
from sparring.memory.schema import Run

N = 24
TASKS = [
    {"id": f"t{i}", "question": f"What is {i} + 1?", "answer": str(i + 1), "check": "math"} for i in range(N)
]


def knows(which: set[int], seeds: int = 1, broken: int | None = None) -> Any:
    """An engine that is right on some questions; of several copies on every `seeds`th of them."""

    def reply(request: Request, seed: int) -> str:
        text = " ".join(str(message["content"]) for message in request.messages)
        number = int(text.split("What is ")[1].split(" ")[0])
        if number == broken:
            raise EngineError("gone")
        return f"Answer: {number + 1 if number in which and seed % seeds == 0 else -7}"

    return reply


def both(path: Path, one: Any, other: Any, **options: Any) -> RunComparison:
    for name, reply in (("a", one), ("b", other)):
        tasks = options.get(f"tasks_{name}", TASKS)
        asyncio.run(
            aplay(plan("sample", tasks, engine=reply, copies=options.get("copies", 1)), path, run=name)
        )
    with Journal.open(path) as journal:
        return compare_runs(journal, "a", "b")


def independent(gaps: list[float]) -> tuple[float, float]:
    """The percentile bootstrap once more, with another generator and no vectors in common."""
    rng = np.random.default_rng(12345)
    means = [np.mean(rng.choice(gaps, len(gaps))) for _ in range(20_000)]
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def test_the_interval_is_that_of_an_independent_bootstrap(tmp_path: Path) -> None:
    found = both(tmp_path / "j.db", knows(set(range(8))), knows(set(range(4, 20))))
    assert (found.tasks, found.wins, found.ties, found.losses) == (N, 12, 8, 4)
    assert found.accuracy_first == pytest.approx(8 / N) and found.accuracy_second == pytest.approx(16 / N)
    gaps = [1.0] * 12 + [0.0] * 8 + [-1.0] * 4
    low, high = independent(gaps)
    assert found.difference.mean == pytest.approx(8 / N)
    assert (found.difference.low, found.difference.high) == pytest.approx((low, high), abs=1 / N + 1e-9)
    assert found.sign_test == pytest.approx(2 * (1 + 16 + 120 + 560 + 1820) / 2**16)
    # The spread of a paired difference by hand: sqrt of the variance of the gaps over n.
    error = np.std(gaps) / np.sqrt(N)
    assert found.difference.high - found.difference.low == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert found.difference.verdict == "better" and "is better than `a`" in found.conclusion


def test_the_other_way_round_it_says_the_opposite(tmp_path: Path) -> None:
    there = both(tmp_path / "j.db", knows(set(range(8))), knows(set(range(4, 20))))
    with Journal.open(tmp_path / "j.db") as journal:
        back = compare_runs(journal, "b", "a")
        same = compare_runs(journal, "a", "a")
    assert (back.wins, back.ties, back.losses) == (there.losses, there.ties, there.wins)
    assert back.difference.mean == -there.difference.mean and back.sign_test == there.sign_test
    assert (back.difference.low, back.difference.high) == pytest.approx(
        (-there.difference.high, -there.difference.low), abs=1e-9
    )
    for one, other in zip(there.spending, back.spending, strict=True):
        assert (one.first, one.second) == (other.second, other.first)
    assert same.difference.mean == same.difference.low == same.difference.high == 0 and same.ties == N
    assert same.sign_test == 1 and same.difference.verdict == "open"


def test_copies_make_a_task_no_heavier(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    found = both(path, knows(set(range(6)), seeds=2), knows(set(range(12)), seeds=2), copies=4)
    with Journal.open(path) as journal:
        shares = []
        for run in ("a", "b"):
            by_task: dict[str, list[bool]] = {}
            for row in read_results(journal, run):
                by_task.setdefault(row.task_id, []).append(bool(row.correct))
            assert all(len(right) == 4 for right in by_task.values())
            shares.append({task: np.mean(right) for task, right in by_task.items()})
    gaps = [shares[1][task] - shares[0][task] for task in shares[0]]
    assert found.tasks == N and found.difference.n == N
    assert found.difference.mean == pytest.approx(np.mean(gaps))
    assert found.wins == sum(gap > 0 for gap in gaps) and found.losses == sum(gap < 0 for gap in gaps)


def test_a_failed_episode_is_wrong_and_tasks_of_one_run_alone_are_said(tmp_path: Path) -> None:
    everything = set(range(N))
    found = both(
        tmp_path / "j.db",
        knows(everything, broken=3),
        knows(everything),
        tasks_a=TASKS[:14],
        tasks_b=[*TASKS[2:13], {**TASKS[13], "question": "What is 13 + 1, exactly?"}, TASKS[20]],
    )
    assert found.only_first == ("t0", "t1") and found.only_second == ("t20",) and found.differs == ("t13",)
    assert (found.tasks, found.wins, found.losses) == (11, 1, 0)
    calls = next(one for one in found.spending if one.unit == "calls")
    assert calls.ratio == 1.0
    assert found.to_json()["spending"]["cost"] == {"first": None, "second": None, "ratio": None}


def test_runs_without_a_common_task_are_refused(tmp_path: Path) -> None:
    everything = set(range(N))
    path = tmp_path / "j.db"
    with pytest.raises(UserError, match=r"`a` and `b` share no task: the first has `t0`, .*the second `t12`"):
        both(path, knows(everything), knows(everything), tasks_a=TASKS[:12], tasks_b=TASKS[12:])
    unanswered = [{"id": "t0", "question": "What is 0 + 1?"}]
    asyncio.run(aplay(plan("sample", unanswered, engine=knows(everything)), path, run="c"))
    with Journal.open(path) as journal:
        with pytest.raises(UserError, match="run `c` has no task with a reference"):
            compare_runs(journal, "a", "c")
        with pytest.raises(UserError, match="unknown run `nope`; known: a, b, c"):
            compare_runs(journal, "a", "nope")


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [(0, 0, 1), (1, 0, 1), (5, 5, 1), (9, 1, 22 / 1024), (3, 14, 1668 / 2**17), (60, 40, 0.05688793)],
)
def test_the_sign_test_is_the_exact_binomial_one(wins: int, losses: int, p: float) -> None:
    """The last as R's `binom.test(60, 100)` has it."""
    assert sign_test(wins, losses) == pytest.approx(p, rel=1e-6) == sign_test(losses, wins)


def test_what_is_not_over_is_named_and_what_is_made_of_runs_is_refused(tmp_path: Path) -> None:
    everything = set(range(N))
    found = both(tmp_path / "j.db", knows(everything), knows(everything))
    assert found.unfinished == ()
    with Journal.open(tmp_path / "j.db") as journal:
        journal.execute(update(Run).where(Run.id == "b").values(status="interrupted"))
        assert compare_runs(journal, "a", "b").unfinished == ("b",)
        assert compare_runs(journal, "b", "b").unfinished == ("b",)
        made = {"kind": "evolve", "protocol": "sample", "config": {"tasks": "digits.jsonl"}, "seed": 0}
        with journal.drive("e", **made).driven():
            pass
        assert read_results(journal, "e") == []
        with pytest.raises(UserError, match=r"`e` is of kind `evolve`.*none yet"):
            compare_runs(journal, "a", "e")
        journal.execute(update(Run).where(Run.id == "b").values(parent_id="e"))
        with pytest.raises(UserError, match=r"runs that belong to it: `b`$"):
            compare_runs(journal, "e", "a")
        with pytest.raises(UserError, match=r"`e` is of kind `evolve`.*: `b`$"):
            report(journal, "e")

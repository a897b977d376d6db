"""The report is a read of the journal, and its numbers are those of what was played."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from sparring.agents.engines.base import Request
from sparring.errors import EngineError, UserError
from sparring.graphs.play import aplay, plan
from sparring.graphs.pool import Baseline, Column
from sparring.graphs.report import Report, conclude, report
from sparring.graphs.stats import Estimate
from sparring.memory.journal import Journal

N = 12
TASKS = [
    {"id": f"t{i}", "question": f"What is {i} + 1?", "answer": str(i + 1), "check": "math"} for i in range(N)
]


def right_answer(request: Request) -> int:
    text = " ".join(str(message["content"]) for message in request.messages)
    return int(text.split("What is ")[1].split(" ")[0]) + 1


def rounds_said(request: Request) -> int:
    return sum(message["role"] == "assistant" for message in request.messages)


def read(tmp_path: Path, reply: Any, protocol: str = "debate", tasks: Any = TASKS, **options: Any) -> Report:
    path = tmp_path / "j.db"
    asyncio.run(aplay(plan(protocol, tasks, engine=reply, **options), path, run="r"))
    with Journal.open(path) as journal:
        return report(journal, "r")


def talked_out_of_it(request: Request, seed: int) -> str:
    """Right at first, wrong after reading the others."""
    return f"Answer: {right_answer(request) if rounds_said(request) == 0 else -7}"


def learns(request: Request, seed: int) -> str:
    return f"Answer: {-7 if rounds_said(request) == 0 else right_answer(request)}"


def test_a_debate_that_ruins_right_answers_is_called_worse(tmp_path: Path) -> None:
    found = read(tmp_path, talked_out_of_it, baseline=True)
    assert found.accuracy is not None and found.accuracy.mean == 0.0
    assert found.baseline is not None
    for column in found.baseline.columns:
        assert column.accuracy == 1.0
        assert column.difference == Estimate(-1.0, -1.0, -1.0, N)
    assert "`debate` is worse than a single answer" in found.conclusion
    assert "does not beat" in found.conclusion
    assert found.changes is not None
    assert (found.changes.speakers, found.changes.changed) == (3 * N, 3 * N)
    assert (found.changes.bullied_by_other, found.changes.relied_on_other) == (3 * N, 0)


def test_a_debate_that_mends_wrong_answers_is_called_better(tmp_path: Path) -> None:
    found = read(tmp_path, learns, baseline=True)
    assert found.right == N and found.baseline is not None
    assert all(column.difference.verdict == "better" for column in found.baseline.columns)
    assert "is better than" in found.conclusion and "does not beat" not in found.conclusion
    assert found.changes is not None and found.changes.relied_on_other == 3 * N


def test_budgets_are_the_methods_own(tmp_path: Path) -> None:
    found = read(tmp_path, lambda request, seed: f"Answer: {seed % 4}", baseline=True)
    assert found.baseline is not None
    by_name = {column.budget: column for column in found.baseline.columns}
    usage = found.usage
    assert by_name["calls"].given == by_name["calls"].spent == 6 == usage.calls / N
    assert by_name["completion_tokens"].given == pytest.approx(usage.completion_tokens / N)
    assert by_name["total_tokens"].given == pytest.approx((usage.prompt_tokens + usage.completion_tokens) / N)
    for column in found.baseline.columns:
        assert column.spent == pytest.approx(column.given, rel=0.03)
    assert found.baseline.short == 0


def test_a_pool_that_is_too_small_says_so(tmp_path: Path) -> None:
    found = read(tmp_path, lambda request, seed: f"Answer: {seed % 4}", **{"baseline.most": 3})
    assert found.baseline is not None and found.baseline.short == N


def test_without_a_pool_there_is_no_baseline(tmp_path: Path) -> None:
    found = read(tmp_path, learns)
    assert found.baseline is None and found.conclusion == "no baseline"


def test_no_answer_is_wrong_and_counted_on_both_sides(tmp_path: Path) -> None:
    def mute_about_some(request: Request, seed: int) -> str:
        right = right_answer(request)
        return "I cannot say." if right <= 3 else f"Answer: {right}"

    found = read(tmp_path, mute_about_some, baseline=True)
    assert (found.no_answer, found.right, found.failed) == (3, N - 3, 0)
    assert found.accuracy is not None and found.accuracy.mean == (N - 3) / N and found.accuracy.n == N
    assert found.statuses == {"solver": {"ok": 6 * (N - 3), "parse_error": 18}}
    assert found.baseline is not None and found.baseline.no_answer == found.baseline.samples // N * 3


def test_a_failed_episode_is_wrong_and_has_its_column(tmp_path: Path) -> None:
    def away_for_one(request: Request, seed: int) -> str:
        if right_answer(request) == 1:
            raise EngineError("the backend is away")
        return f"Answer: {right_answer(request)}"

    found = read(tmp_path, away_for_one, baseline=True)
    assert found.episodes == {"failed": 1, "done": N - 1}
    assert (found.failed, found.no_answer, found.right) == (1, 0, N - 1)
    assert found.accuracy is not None and found.accuracy.n == N
    assert found.baseline is not None and found.baseline.columns[0].difference.n == N - 1


def test_several_copies_are_one_task(tmp_path: Path) -> None:
    found = read(tmp_path, lambda request, seed: f"Answer: {seed % 2 + 1}", copies=4, baseline=True)
    assert found.tasks == N and found.episodes == {"done": 4 * N}
    assert found.accuracy is not None and found.accuracy.n == N
    assert found.baseline is not None and found.baseline.columns[1].difference.n == N


def test_tasks_without_a_reference_have_no_accuracy(tmp_path: Path) -> None:
    tasks = [{"id": "a", "question": "What is 1 + 1?"}]
    found = read(tmp_path, learns, tasks=tasks, baseline=True)
    assert found.accuracy is None and found.without_reference == 1 and found.baseline is None


def test_answers_are_compared_by_the_tasks_own_check(tmp_path: Path) -> None:
    forms = ["0.5", "1/2", r"\frac{1}{2}", "3"]
    tasks = [{"id": "a", "question": "What is 0 + 1?", "answer": "0.50", "check": "math"}]
    wanted = {"n": 8, "baseline.margin": 4}
    found = read(tmp_path, lambda request, seed: f"Answer: {forms[seed % 4]}", "sample", tasks, **wanted)
    assert found.baseline is not None
    single, calls = found.baseline.columns[0].accuracy, found.baseline.columns[1].accuracy
    assert 0.5 < single < 1 and calls > single, "three spellings of one number vote together"


def test_usage_sums_what_the_turns_took(tmp_path: Path) -> None:
    found = read(tmp_path, learns, agents=2, rounds=1)
    usage = found.usage
    assert usage.calls == 2 * N and usage.completion_tokens > usage.calls and usage.retries == 0
    assert usage.latency_p95 >= usage.latency_median > 0
    assert found.changes is None, "nobody spoke twice"


def test_a_report_is_plain_json(tmp_path: Path) -> None:
    found = read(tmp_path, learns, baseline=True).to_json()
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(found))
    assert found["baseline"]["columns"][1]["difference"]["n"] == N


def test_an_unknown_run_lists_those_that_exist(tmp_path: Path) -> None:
    read(tmp_path, learns)
    with (
        Journal.open(tmp_path / "j.db") as journal,
        pytest.raises(UserError, match="unknown run `x`; known: r"),
    ):
        report(journal, "x")


def test_the_sentence_names_each_verdict_once() -> None:
    def column(name: str, low: float, high: float, budget: str | None) -> Column:
        return Column(name, 0.5, Estimate((low + high) / 2, low, high, 40), budget, 1.0, 1.0)

    columns = (
        column("a", 0.01, 0.1, None), column("b", -0.1, -0.01, "calls"),
        column("c", -0.1, 0.1, "completion_tokens"), column("d", -0.1, 0.1, "total_tokens"),
    )  # fmt: skip
    assert conclude("mad", Baseline("r.baseline", 1, 0, 0, columns)) == (
        "By these 40 questions, `mad` is better than a single answer; it is worse than self-consistency at "
        "equal calls; it cannot be told from self-consistency at equal completion tokens and total tokens; "
        "it does not beat self-consistency at any equal budget."
    )

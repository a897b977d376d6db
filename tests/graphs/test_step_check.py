"""StepCheck: what the critic is shown, how verdicts become an index, what is refused before any call."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from sparring.agents.engines.base import Request
from sparring.agents.engines.scripted import ScriptedEngine
from sparring.cli import app
from sparring.errors import EngineError, UserError
from sparring.graphs.catalogue import make_protocol
from sparring.graphs.play import play
from sparring.graphs.protocols.step_check import StepCheck
from sparring.graphs.report import report
from sparring.graphs.step_errors import figures, step_errors
from sparring.memory.journal import Journal
from sparring.memory.schema import Episode

PROBLEM = "Start with 7. Add 5. Subtract 3. Add 2."
STEPS = ["7 + 5 = 12", "12 - 3 = 8", "8 + 2 = 10"]
RIGHT, WRONG = "<Answer>Correct</Answer>", "<Answer>Incorrect</Answer>"


def task(label: Any = 1, steps: Any = STEPS, name: str = "t", **more: Any) -> dict[str, Any]:
    return {"id": name, "question": PROBLEM, "answer": label, "steps": steps} | more


def last_step(prompt: str) -> str:
    return prompt.split("## Last Step\n\n")[1].split("\n")[0]


class Critic:
    """Says of each last step what `verdicts` holds for it, and keeps the prompts."""

    def __init__(self, verdicts: dict[str, str | Exception]) -> None:
        self.verdicts, self.prompts = verdicts, list[str]()
        self.waiting = 0

    async def __call__(self, request: Request, seed: int) -> str | Exception:
        prompt = str(request.messages[-1]["content"])
        self.prompts.append(prompt)
        self.waiting += 1
        await asyncio.sleep(0)
        return self.verdicts.get(last_step(prompt), RIGHT)


def check(
    memory: Path, tasks: list[dict[str, Any]], said: dict[str, Any] | None = None, **options: Any
) -> tuple[list[Any], Critic]:
    critic = Critic(said or {})
    played = play("step_check", tasks, memory=memory, run="r", engine=ScriptedEngine(critic), **options)
    return list(played), critic


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "journal.db"


def test_the_first_step_judged_wrong_is_the_answer(memory: Path) -> None:
    (result,), critic = check(memory, [task()], {STEPS[1]: WRONG, STEPS[2]: WRONG})
    assert (result.answer, result.correct, result.calls) == ("1", True, 3)
    assert result.outcome["detail"] == {"verdicts": [True, False, False]}
    assert len(critic.prompts) == 3
    for place, step in enumerate(STEPS):
        (prompt,) = (p for p in critic.prompts if last_step(p) == step)
        assert PROBLEM in prompt
        assert [other in prompt for other in STEPS] == [n <= place for n in range(3)]


@pytest.mark.parametrize(
    ("label", "said", "answer", "correct"),
    [
        (-1, {}, "-1", True),
        ("-1", {}, "-1", True),
        (1, {}, "-1", False),
        (1, {STEPS[0]: WRONG}, "0", False),
        (0, {STEPS[0]: WRONG}, "0", True),
        (1, {STEPS[0]: "hm", STEPS[1]: WRONG}, None, False),  # whether step 1 is the first hangs on step 0
        (1, {STEPS[1]: WRONG, STEPS[2]: "hm"}, "1", True),  # what comes after it does not matter
        (-1, {STEPS[2]: "hm"}, None, False),
    ],
)
def test_verdicts_become_an_index(
    memory: Path, label: Any, said: dict[str, str], answer: str | None, correct: bool
) -> None:
    (result,), _ = check(memory, [task(label)], said)
    assert (result.answer, result.correct) == (answer, correct)


def test_the_label_is_where_judging_may_end(memory: Path) -> None:
    tasks = [task(1, name="a"), task(-1, name="b"), task(0, name="c")]
    results, _ = check(memory, tasks, {STEPS[1]: WRONG}, upto="label")
    assert [result.calls for result in results] == [2, 3, 1]
    assert [len(result.outcome["detail"]["verdicts"]) for result in results] == [2, 3, 1]
    assert [result.answer for result in results] == ["1", "1", "-1"]


def test_options_of_the_official_contract(memory: Path) -> None:
    loose = {STEPS[1]: "<Answer> Incorrect </Answer>"}
    official = {"verdict": "verdict/official", "opening": "Let's solve this problem."}
    (result,), critic = check(memory, [task()], loose, **official)
    assert result.outcome["detail"]["verdicts"] == [True, None, True]
    (first,) = (prompt for prompt in critic.prompts if last_step(prompt) == STEPS[0])
    assert "## Partial Solution\n\nLet's solve this problem.\n\n## Last Step" in first
    assert sum("Let's solve" in prompt for prompt in critic.prompts) == 1
    (result,), _ = check(memory.with_name("other.db"), [task()], loose)
    assert result.outcome["detail"]["verdicts"] == [True, False, True]


def test_all_steps_are_asked_about_at_once(memory: Path) -> None:
    peak = 0

    async def critic(request: Request, seed: int) -> str:
        nonlocal peak
        waiting.append(seed)
        for _ in range(200):
            if len(waiting) == 3:
                break
            await asyncio.sleep(0.005)
        peak = max(peak, len(waiting))
        return RIGHT

    waiting: list[int] = []
    play("step_check", [task()], memory=memory, run="r", engine=ScriptedEngine(critic))
    assert peak == 3 and len(set(waiting)) == 3


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"id": "t", "question": PROBLEM, "answer": 0}, "has no `steps`"),
        (task(-1, steps=[]), "has no `steps`"),
        (task(-1, steps="7 + 5 = 12"), "has no `steps`"),
        (task(-1, steps=["7 + 5 = 12", " "]), "step 1 is no text"),
        (task(-1, steps=["7 + 5 = 12", 3]), "step 1 is no text"),
        (task(3), "answer `3` is no label.*0 to 2, or -1"),
        (task(-2), "is no label"),
        (task("first"), "is no label"),
        (task(1.5), "is no label"),
        (task(-1, steps=["a"] * 5), "has 5 steps; `max_steps` is 4"),
    ],
)
def test_tasks_that_cannot_be_checked_are_refused_before_any_call(memory: Path, bad: Any, said: str) -> None:
    critic = Critic({})
    tasks = [task(name="good"), bad]
    with pytest.raises(UserError, match=f"task `t`.*{said}"):
        play("step_check", tasks, memory=memory, run="r", engine=ScriptedEngine(critic), max_steps=4)
    assert not critic.prompts


def test_without_a_label_all_steps_can_be_judged_but_not_up_to_it(memory: Path) -> None:
    bare = {"id": "t", "question": PROBLEM, "steps": STEPS}
    (result,), _ = check(memory, [bare], {STEPS[2]: WRONG})
    assert (result.answer, result.correct) == ("2", None)
    with pytest.raises(UserError, match="task `t` has no label"):
        check(memory.with_name("other.db"), [bare], upto="label")


def test_the_limits_and_the_options() -> None:
    assert StepCheck(max_steps=9).max_calls == 9
    assert set(make_protocol("step_check").seats()) == {"critic"}
    with pytest.raises(UserError, match="verdict"):
        make_protocol("step_check", {"verdict": "line"})


PROCESSBENCH = [
    {"id": "p-0", "generator": "m", "problem": PROBLEM, "steps": STEPS, "label": 1, "kind": "slip"},
    {"id": "p-1", "problem": PROBLEM, "steps": ["7 + 5 = 12"], "label": -1, "final_answer_correct": False},
    {"id": "p-2", "problem": PROBLEM, "steps": ["7 + 5 = 1", "1 + 1 = 2"], "label": 0, "kind": "carry"},
]


def shown(memory: Path) -> dict[str, list[str]]:
    """Line -> cells of the printed report's table of steps."""
    printed = CliRunner().invoke(app, ["report", "r", "--memory", str(memory)])
    assert printed.exit_code == 0, printed.output
    lines = printed.stdout.split("all steps")[1].splitlines()[1:]
    return {line[:26].strip(): line[26:].split() for line in lines}


def test_the_report_shows_both_recalls(memory: Path) -> None:
    said: dict[str, Any] = {STEPS[1]: WRONG, "7 + 5 = 1": "hm"}
    tasks = [json.loads(json.dumps(row)) for row in PROCESSBENCH]
    check(memory, tasks, said)
    with Journal.open(memory) as journal:
        found = report(journal, "r").step_errors
        assert found is not None
        row = make_protocol("step_check").figures(journal, "r")
    # items: p-0 right (hit), wrong (hit); p-1 right (hit); p-2 wrong (unreadable)
    assert (found.items, found.unreadable, found.solutions) == (4, 1, 3)
    assert (found.counted.correct.mean, found.counted.error.mean) == (1.0, 0.5)
    assert (found.valid.error.mean, found.valid.error.n) == (1.0, 1)
    assert {kind: share.mean for kind, share in found.counted.kinds.items()} == {"slip": 1.0, "carry": 0.0}
    assert found.f1 == pytest.approx(2 * 1 * 0.5 / 1.5)
    assert next(iter(row.items())) == ("balanced_accuracy", 0.75)
    assert row["error_recall/slip"] == 1.0 and row["unreadable"] == 0.25
    shown = CliRunner().invoke(app, ["report", "r", "--memory", str(memory)])
    assert shown.exit_code == 0, shown.output
    lines = {line[:26].strip(): line[26:].split() for line in shown.stdout.splitlines()}
    assert lines["right steps judged right"][0] == "1.000"
    assert lines["wrong steps judged wrong"][0] == "0.500" and lines["wrong steps judged wrong"][3] == "1.000"
    assert lines["mean of the two"] == ["0.750", "1.000"]
    assert lines["error `carry` found"][0] == "0.000"
    assert "4 labelled steps of 3 solutions, no readable verdict on 1; first-error F1 0.667" in shown.stdout
    as_json = CliRunner().invoke(app, ["report", "r", "--memory", str(memory), "--json"])
    assert json.loads(as_json.stdout)["step_errors"]["counted"]["error"]["mean"] == 0.5


def test_processbench_rows_are_apart_by_their_subset(memory: Path) -> None:
    """Its rows name it in their ids alone; accuracy is averaged inside each, then over them."""
    row = {"problem": PROBLEM, "steps": ["7 + 5 = 12"], "label": -1}
    names = ["gsm8k-0", "gsm8k-1", "gsm8k-2", "math-0"]
    tasks: list[dict[str, Any]] = [{**row, "id": name, "problem": f"{PROBLEM} {name}"} for name in names]
    tasks[3]["steps"] = ["7 + 5 = 1"]
    check(memory, tasks, {"7 + 5 = 1": WRONG})
    with Journal.open(memory) as journal:
        found = step_errors(journal, "r")
        numbers = [row.number for row in journal.read(select(Episode.number).order_by(Episode.number))]
        assert figures(step_errors(journal, "r", numbers)) == figures(found)
        assert step_errors(journal, "r", numbers[3:]).items == 1, "of some episodes, their steps alone"
        assert make_protocol("step_check").figures(journal, "r", []) == {}
    assert {name: share.mean for name, share in found.counted.accuracy.items()} == {"gsm8k": 1.0, "math": 0.0}
    assert found.counted.macro == 0.5 and set(found.first) == {"gsm8k", "math"}
    lines = shown(memory)
    assert lines["accuracy in `gsm8k`"][0] == "1.000" and lines["accuracy in `math`"][0] == "0.000"
    assert lines["accuracy, mean of subsets"] == ["0.500", "0.500"]
    assert lines["right steps judged right"][0] == "0.750"
    assert lines["wrong steps judged wrong"] == ["-", "-"], "a class without items has no recall"
    assert lines["mean of the two"] == ["-", "-"]


def test_a_subset_that_nothing_readable_was_said_of(memory: Path) -> None:
    names = ["gsm8k-0", "math-0"]
    tasks = [{"id": n, "problem": f"{PROBLEM} {n}", "steps": [f"{n} = 1"], "label": -1} for n in names]
    check(memory, tasks, {"math-0 = 1": "hm"})
    lines = shown(memory)
    assert lines["accuracy in `math`"][0] == "0.000" and lines["accuracy in `math`"][3:] == ["-"]
    assert lines["accuracy, mean of subsets"] == ["0.500", "1.000"]


def test_without_subsets_none_are_shown(memory: Path) -> None:
    check(memory, [task()], {STEPS[1]: WRONG})
    assert not any(name.startswith("accuracy") for name in shown(memory))


def test_a_failed_episode_counts_as_unreadable(memory: Path) -> None:
    tasks = [task(1, name="a"), task(-1, name="b", steps=["1 + 1 = 2"])]
    results, _ = check(memory, tasks, {STEPS[1]: EngineError("gone")})
    assert [result.status for result in results] == ["failed", "done"]
    with Journal.open(memory) as journal:
        found = report(journal, "r").step_errors
    assert found is not None and (found.items, found.unreadable) == (3, 2)
    assert (found.counted.correct.mean, found.valid.correct.mean) == (0.5, 1.0)


def test_other_runs_have_no_step_errors(memory: Path) -> None:
    play("sample", [task()], memory=memory, run="r", engine=ScriptedEngine(lambda request, seed: "Answer: 1"))
    with Journal.open(memory) as journal:
        assert report(journal, "r").step_errors is None

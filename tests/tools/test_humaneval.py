"""HumanEval's tests judge: our solutions of all 164 tasks pass, a body that does nothing fails in each."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from sparring.errors import SandboxUnavailable
from sparring.memory.tasks import load_tasks
from sparring.tools import programs
from sparring.tools.checks import CHECKS, Verdict, acheck

ROWS = Path(__file__).parents[3] / "shared" / "data" / "humaneval.jsonl"
SOLUTIONS = Path(__file__).parents[1] / "data" / "humaneval_solutions.txt"
"""The rows come here without the published solutions; these were written for this test."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not ROWS.is_file(), reason="the folder of shared data, with HumanEval's rows, is absent"
    ),
]


def solutions() -> dict[str, str]:
    """Task id -> a body that goes on from the prompt, or a whole definition."""
    _, *parts = re.split(r"^# (\d+)\n", SOLUTIONS.read_text(), flags=re.MULTILINE)
    return {f"HumanEval/{number}": code for number, code in zip(parts[::2], parts[1::2], strict=True)}


async def judged(answers: dict[str, str]) -> dict[str, Verdict]:
    try:
        programs.box()
    except SandboxUnavailable as error:
        pytest.skip(f"no sandbox holds here: {error}")
    tasks = {task.id: task for task in load_tasks(ROWS, checks=CHECKS)}
    assert len(tasks) == 164
    found = await asyncio.gather(
        *(acheck("code", text, tasks[name].answer) for name, text in answers.items())
    )
    return dict(zip(answers, found, strict=True))


async def test_solutions_pass() -> None:
    answers = solutions()
    assert len(answers) == 164
    found = await judged(answers)
    wrong: dict[str, Any] = {name: one.reason for name, one in found.items() if not one.correct}
    assert not wrong, json.dumps(wrong, indent=1)


async def test_a_body_that_does_nothing_fails() -> None:
    found = await judged({f"HumanEval/{number}": "    pass\n" for number in range(164)})
    right = [name for name, one in found.items() if one.correct]
    assert not right
    assert {one.reason.partition(":")[0] for one in found.values()} == {"failed"}

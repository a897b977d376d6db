"""Tasks with check `code`, played: verdicts, what held the programs, no verdict without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from sparring.agents.engines.base import Request
from sparring.agents.engines.scripted import ScriptedEngine
from sparring.errors import SandboxUnavailable, UserError
from sparring.graphs.play import PlayResult, play
from sparring.graphs.sandboxed import SANDBOX
from sparring.memory.journal import Journal
from sparring.memory.schema import Event
from sparring.memory.tasks import load_tasks
from sparring.tools import programs
from sparring.tools.checks import CHECKS
from sparring.tools.sandbox import Sandbox, SandboxFailed
from sparring.training.rewards.base import EpisodeRow, TurnRow
from sparring.training.rewards.verifier import Verifier

ROWS: list[dict[str, Any]] = [
    {
        "id": "HumanEval-like",
        "question": 'def double(x):\n    """Twice x."""\n',
        "entry_point": "double",
        "test": "METADATA = {}\n\n\ndef check(candidate):\n    assert candidate(4) == 8\n",
        "check": "code",
        "source": "our own",
    },
    {
        "id": "MBPP-like",
        "question": "Write a function `double` that doubles a number.",
        "test_list": ["assert double(4) == 8", "assert double(math.inf) == math.inf"],
        "test_setup_code": "import math",
        "check": "code",
    },
    {
        "id": "too hard",
        "question": "Write a function `halts` that tells whether a program halts.",
        "test_list": ["assert halts('pass') is True"],
        "check": "code",
    },
]
REPLY = "Here it is.\n```python\ndef double(x):\n    return 2 * x\n```\nIt doubles."


@pytest.fixture(autouse=True)
def _held() -> None:
    try:
        programs.box()
    except SandboxUnavailable as error:
        pytest.skip(f"no sandbox holds here: {error}")


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def engine(reply: str = REPLY) -> ScriptedEngine:
    async def say(request: Request, seed: int) -> str:
        return reply

    return ScriptedEngine(say)


def played(tasks: Path, memory: Path, said: str = REPLY) -> PlayResult:
    return play("sample", str(tasks), engine=engine(said), memory=memory, run="r", answer="code")


def test_rows_of_the_two_benchmarks_are_tasks(tasks: Path) -> None:
    first, second, _ = load_tasks(tasks, checks=CHECKS)
    assert set(first.answer) == {"prompt", "test", "entry_point"} and first.meta == {"source": "our own"}
    assert first.answer["prompt"] == first.question
    assert second.answer == {"asserts": ROWS[1]["test_list"], "setup": "import math"}


def test_answers_are_run_and_the_journal_tells_in_what(tasks: Path, tmp_path: Path) -> None:
    memory = tmp_path / "m.db"
    result = played(tasks, memory)
    assert [(line.task_id, line.correct) for line in result] == [
        ("HumanEval-like", True), ("MBPP-like", True), ("too hard", False),
    ]  # fmt: skip
    assert noted(memory) == [programs.describe().to_json()]


def noted(memory: Path) -> list[Any]:
    """What the journal says of sandboxes."""
    with Journal.open(memory) as journal:
        return [row.payload for row in journal.read(select(Event.payload).where(Event.kind == SANDBOX))]


def test_a_failed_sandbox_leaves_no_verdict_and_is_tried_again_on_resume(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "m.db"

    async def fails(*_: object, **__: object) -> None:
        raise SandboxFailed("it did not come about")

    with monkeypatch.context() as broken:
        broken.setattr(Sandbox, "arun", fails)
        result = played(tasks, memory)
    assert {(line.status, line.correct) for line in result} == {("failed", None)}
    again = played(tasks, memory, said="not asked again")
    assert [line.correct for line in again] == [True, True, False]
    assert len(noted(memory)) == 1


def test_references_are_looked_at_before_anything_is_played(tmp_path: Path) -> None:
    task = {"id": "a", "question": "q", "answer": "18", "check": "code"}
    with pytest.raises(UserError, match="reference of a `code` task"):
        play("sample", [task], engine=engine(), memory=tmp_path / "m.db")
    assert not (tmp_path / "m.db").exists()


def test_a_reward_is_masked_where_the_sandbox_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ["def double(x): return 2 * x", "def double(x): return 3 * x"]
    turns = tuple(
        TurnRow(n, f"sample/{n}", 0, True, "solver", "p", 1, "ok", text, {"answer": text}, 9)
        for n, text in enumerate(answers)
    )
    tests = {"asserts": ["assert double(4) == 8"]}
    episode = EpisodeRow("e", 1, "r", "sample", "done", None, "t", "q", tests, "code", None, turns, (), ())
    assert [paid.value for paid in Verifier().rewards(episode)] == [1.0, 0.0]

    async def fails(*_: object, **__: object) -> None:
        raise SandboxFailed("it did not come about")

    monkeypatch.setattr(Sandbox, "arun", fails)
    assert [paid.value for paid in Verifier().rewards(episode)] == [None, None]

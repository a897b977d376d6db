"""Reward statistics and signs of collapse of a run, read from its journal."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from sparring.agents.engines.base import Request
from sparring.graphs.play import aplay, plan
from sparring.memory.journal import Journal
from sparring.memory.schema import Reward
from sparring.training.health import Health, health, reward_statistics
from sparring.training.rewards import make_reward
from sparring.training.rewards.derive import derive

TASKS = [{"id": f"t{i}", "question": f"{i} + 1?", "answer": str(i + 1), "check": "math"} for i in range(12)]


def played(path: Path, reply: Any, tasks: Any = TASKS, n: int = 4) -> Health:
    asyncio.run(aplay(plan("sample", tasks, engine=reply, n=n), path, run="r"))
    with Journal.open(path) as journal:
        return health(journal, "r")


def signs(found: Health) -> dict[str, bool]:
    """Monitor -> whether it found something wrong."""
    assert {sign.role for sign in found.signs} == {"solver"}
    return {sign.monitor: sign.message is not None for sign in found.signs}


def varied(request: Request, seed: int) -> str:
    return f"I think that number {seed} is lucky.\nAnswer: {seed % 100}"


def test_a_sound_run_has_no_sign(tmp_path: Path) -> None:
    found = played(tmp_path / "j.db", varied)
    assert signs(found) == {
        "parse_rate": False, "truncation_rate": False, "duplicate_rate": False, "one_answer": False,
    }  # fmt: skip
    assert found.rewards == [] and found.read == found.ended == 12


@pytest.mark.parametrize(
    ("reply", "wrong"),
    [
        (lambda request, seed: f"no idea, {seed}", {"parse_rate"}),
        (lambda request, seed: (f"let me see, {seed}", "length"), {"parse_rate", "truncation_rate"}),
        (lambda request, seed: "Answer: 7", {"duplicate_rate", "one_answer"}),
        (lambda request, seed: f"{seed}\nAnswer: 7", {"one_answer"}),
    ],
)
def test_each_collapse_is_seen(tmp_path: Path, reply: Any, wrong: set[str]) -> None:
    found = played(tmp_path / "j.db", reply)
    assert {name for name, bad in signs(found).items() if bad} == wrong
    assert all(sign.message and sign.value >= 0 for sign in found.signs if sign.monitor in wrong)


def test_one_answer_to_one_question_is_no_sign(tmp_path: Path) -> None:
    found = played(tmp_path / "j.db", lambda request, seed: f"{seed}\nAnswer: 1", TASKS[:1])
    assert "one_answer" not in signs(found)


def test_reward_statistics_are_those_of_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    asyncio.run(
        aplay(plan("sample", TASKS, engine=lambda q, seed: f"Answer: {seed % 3}", n=5), path, run="r")
    )
    with Journal.open(path) as journal:
        derive(journal, make_reward("verifier", {}), run="r")
        [found] = reward_statistics(journal, "r")
        values = np.array([row.value for row in journal.read(select(Reward.value))], float)
    known = values[~np.isnan(values)]
    assert (found.function, found.role, found.of) == ("verifier", "solver", "turn")
    assert (found.n, found.masked) == (len(known), int(np.isnan(values).sum())) and found.n
    assert found.mean == pytest.approx(known.mean()) and found.std == pytest.approx(known.std())
    assert found.nonzero == pytest.approx((known != 0).mean())
    assert (found.min, found.max) == (known.min(), known.max())

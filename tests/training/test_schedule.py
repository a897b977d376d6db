"""Which tasks a step plays, and its learning rate."""

from __future__ import annotations

from collections import Counter

import pytest

from sparring.memory.records import TaskRecord
from sparring.training.config import PlayConfig
from sparring.training.schedule import choose, learning_rate

TASKS = [TaskRecord(f"t{n}", "?", "1") for n in range(10)]
UNSOLVED = PlayConfig(tasks=1, select="unsolved", floor=0.1, copies=2, copies_unsolved=6)


def test_a_choice_is_a_function_of_seed_and_step() -> None:
    config = PlayConfig(tasks=4)
    first = choose(TASKS, {}, config, 1, 0)
    assert choose(TASKS, {}, config, 1, 0) == first and len({task for task, _ in first}) == 4
    assert choose(TASKS, {}, config, 1, 1) != first != choose(TASKS, {}, config, 2, 0)
    assert choose(TASKS, {}, config, -1, 0) and len(choose(TASKS, {}, PlayConfig(tasks=99), 1, 0)) == 10


def test_unsolved_tasks_come_as_often_as_their_weights_say() -> None:
    """Weights 1 (unplayed), 0.5, and the floor 0.1 for a solved one and one paid more than 1."""
    known = {"t0": 0.5, "t1": 1.0, "t2": 2.0}
    drawn = Counter(choose(TASKS[:4], known, UNSOLVED, 0, step)[0][0] for step in range(4000))
    expected = {"t0": 0.5, "t1": 0.1, "t2": 0.1, "t3": 1.0}
    for task, weight in expected.items():
        assert drawn[task] / 4000 == pytest.approx(weight / 1.7, abs=0.03)
    uniform = Counter(choose(TASKS[:4], known, PlayConfig(tasks=1), 0, step)[0][0] for step in range(4000))
    assert all(count / 4000 == pytest.approx(0.25, abs=0.03) for count in uniform.values())


def test_a_task_that_nobody_solved_gets_more_copies() -> None:
    config = UNSOLVED.model_copy(update={"tasks": 4})
    copies = dict(choose(TASKS[:4], {"t0": 0.0, "t1": 0.2, "t2": -1.0}, config, 0, 0))
    assert copies == {"t0": 6, "t1": 2, "t2": 6, "t3": 2}
    fewer = config.model_copy(update={"copies_unsolved": 1})
    assert set(dict(choose(TASKS[:4], {"t0": 0.0}, fewer, 0, 0)).values()) == {2}


def test_learning_rates() -> None:
    assert [learning_rate(1.0, "linear", step, 4) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert [learning_rate(2.0, "constant", step, 4) for step in range(4)] == [2.0] * 4

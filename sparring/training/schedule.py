"""Which tasks a step plays: a pure function of what is known of them, the seed and the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp

import numpy as np

from sparring.memory.records import TaskRecord
from sparring.training.config import ExploreConfig, PlayConfig

Known = Mapping[str, float]
"""Task id -> mean reward, in 0..1, when it was last played."""


def choose(
    tasks: Sequence[TaskRecord], known: Known, config: PlayConfig, seed: int, step: int
) -> list[tuple[str, int]]:
    """(task id, copies) of a step, without a task twice.

    `unsolved` draws with weight max(floor, 1 - last mean reward); a task that was not played yet has
    weight 1, so every task comes up before solved ones come again. With `advance`, tasks of a later `stage`
    (a field of the task file, 0 where it is missing) wait until the stage before is learned.
    """
    if config.advance is not None:
        last = open_stages(tasks, known, config.advance)
        tasks = [task for task in tasks if stage(task) <= last]
    rng = np.random.default_rng([abs(seed), step])
    count = min(config.tasks, len(tasks))
    weights = np.ones(len(tasks))
    if config.select == "unsolved":
        weights = np.array([max(config.floor, 1 - known.get(task.id, 0.0)) for task in tasks])
    chosen = rng.choice(len(tasks), size=count, replace=False, p=weights / weights.sum())
    return [(tasks[i].id, _copies(known.get(tasks[i].id), config)) for i in chosen]


def stage(task: TaskRecord) -> int:
    """Of a curriculum, from 0."""
    return int((task.meta or {}).get("stage", 0))


def open_stages(tasks: Sequence[TaskRecord], known: Known, advance: float) -> int:
    """The last stage that may be played: each stage before it was played on at least half of its tasks,
    with a mean last reward of at least `advance`."""
    stages = sorted({stage(task) for task in tasks})
    for number in stages:
        mine = [task.id for task in tasks if stage(task) == number]
        seen = [known[task] for task in mine if task in known]
        if 2 * len(seen) < len(mine) or sum(seen) / len(seen) < advance:
            return number
    return stages[-1]


def _copies(reward: float | None, config: PlayConfig) -> int:
    return config.copies if reward is None or reward > 0 else max(config.copies, config.copies_unsolved)


def learning_rate(base: float, decay: str, step: int, steps: int) -> float:
    """Of a step, counted from 0; `linear` falls to base / steps in the last one."""
    return base if decay == "constant" else base * (1 - step / steps)


def adapt_temperature(
    temperature: float, metrics: Mapping[str, float | None], config: ExploreConfig
) -> float:
    """The temperature of the next step, from the `informative` share and the `entropy` of this one.

    ln T moves by rate * (wanted share - share), as in `adapt_entropy`; upwards only where the policy is sure
    of itself, and within the bounds.
    """
    share, entropy = metrics.get("informative"), metrics.get("entropy")
    if share is None:
        return temperature
    wanted = temperature * exp(config.rate * (config.informative - share))
    random = config.entropy is not None and entropy is not None and entropy > config.entropy
    if wanted > temperature and random:
        return temperature
    return max(config.low, min(wanted, config.high))

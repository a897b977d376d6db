"""What a policy gradient compares: samples of one prompt, or of one episode."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
from journal_support import drive, episode, says

from sparring.memory.journal import Journal
from sparring.training.config import PolicyConfig
from sparring.training.experience import Source
from sparring.training.losses import make_loss
from sparring.training.measures import measure
from sparring.training.monitors import make_monitor
from sparring.training.objectives import Asked, PolicyGradient
from sparring.training.observing import observe
from sparring.training.rewards.base import RewardRef
from sparring.training.rewards.derive import derive, read_episodes
from sparring.training.rewards.verifier import Verifier
from sparring.training.trainer import TrainSettings


def learner(name: str) -> Any:
    return SimpleNamespace(name=name, settings=TrainSettings())


@pytest.mark.parametrize(
    ("compare", "expected"),
    [
        ("prompt", [0.5, -0.5, -0.5, -0.5, 0.5, 0.5]),
        ("episode", [2 / 3, -1 / 3, -1 / 3, -2 / 3, 1 / 3, 1 / 3]),
    ],
)
async def test_the_baseline_is_that_of_the_prompt_or_of_the_episode(
    journal: Journal, compare: Literal["prompt", "episode"], expected: list[float]
) -> None:
    """Two episodes of one task have one prompt: 1 of 3 and 2 of 3 samples are right."""
    with drive(journal) as run:
        for copy, answers in enumerate((["4", "5", "6"], ["7", "4", "4"])):
            await episode(run, {f"solver/{n}": says(a) for n, a in enumerate(answers)}, copy=copy)
    reward = Verifier()
    derive(journal, reward, run="r")
    config = PolicyConfig(roles=("solver",), advantage="group", compare=compare)  # type: ignore[arg-type]  # a name is read as one
    config = config.model_copy(update={"advantage": config.advantage.model_copy(update={"scale": "none"})})
    (version,) = {row.id for row in _versions(journal)}
    made = PolicyGradient(journal, config, learner("base"), make_loss("grpo"), RewardRef.of(reward)).gather(
        Asked({version: 0}, Source(runs=("r",)))
    )
    assert [float(s.advantages[0]) for s in made.data] == pytest.approx(expected)
    assert all(len(set(np.round(s.advantages, 6))) == 1 for s in made.data)


def _versions(journal: Journal) -> list[Any]:
    from sqlalchemy import select

    from sparring.memory.schema import PolicyVersion

    return journal.read(select(PolicyVersion.id))


async def test_a_critic_that_always_says_the_same_is_heard(journal: Journal) -> None:
    """The verdicts of a critic count as its answers."""
    with drive(journal) as run:
        said = {f"critic/{n}": says(parsed={"correct": n > 0, "critique": f"{n}"}) for n in range(30)}
        number = await episode(run, said)
    seen = observe(journal, read_episodes(journal, [number]), "base", RewardRef.of(Verifier()), None)
    metrics = measure(seen)
    assert metrics["concentration"] == pytest.approx(29 / 30)
    alarm = make_monitor({"monitor": "one_answer", "patience": 2}).check([metrics, metrics])
    assert alarm is not None and "without looking" in alarm.message
    assert make_monitor({"monitor": "one_answer", "ceiling": 0.97, "patience": 1}).check([metrics]) is None

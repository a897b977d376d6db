"""A control: the rewards of another function, dealt out anew among the turns of an episode.

Everything that a reward brings besides what it says of a turn stays the same (how much is paid in an
episode, which prompts are asked again, the updates, the seeds). A policy that improves under it does not
learn from its reward.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

from pydantic import Field

from sparring.training.rewards.base import EpisodeRow, Paid, RewardFunction


class Shuffled(RewardFunction):
    """Rewards of `of`, permuted among the paid turns of each episode; the seed is the episode's id."""

    name: ClassVar[str] = "shuffled"
    version: ClassVar[str] = "1"

    of: str = "verifier"
    options: dict[str, Any] = Field(default_factory=dict)

    @cached_property
    def _inner(self) -> RewardFunction:
        from sparring.training.rewards import make_reward

        return make_reward(self.of, self.options)

    def rewards(self, episode: EpisodeRow) -> Iterable[Paid]:
        paid = list(self._inner(episode))
        places = [number for number, reward in enumerate(paid) if reward.value is not None]
        values = [paid[number].value for number in places]
        random.Random(episode.id).shuffle(values)
        for number, value in zip(places, values, strict=True):
            paid[number] = replace(
                paid[number], value=value, reason="shuffled among the turns of the episode"
            )
        return paid

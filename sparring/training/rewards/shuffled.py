"""A control: the rewards of another function, dealt out anew among the turns of an episode.

Everything that a reward brings besides what it says of a turn stays the same (how much is paid in an
episode, which prompts are asked again, the updates, the seeds). A policy that improves under it does not
learn from its reward.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar

from sparring.training.rewards.base import EpisodeRow, Paid
from sparring.training.rewards.upon import Upon


class Shuffled(Upon):
    """Rewards of `of`, permuted among the paid turns of each episode; the seed is the episode's id."""

    name: ClassVar[str] = "shuffled"
    version: ClassVar[str] = "1"

    def rewards(self, episode: EpisodeRow) -> Iterable[Paid]:
        paid = list(self.inner(episode))
        places = [number for number, reward in enumerate(paid) if reward.value is not None]
        values = [paid[number].value for number in places]
        random.Random(episode.id).shuffle(values)
        for number, value in zip(places, values, strict=True):
            paid[number] = replace(
                paid[number], value=value, reason="shuffled among the turns of the episode"
            )
        return paid

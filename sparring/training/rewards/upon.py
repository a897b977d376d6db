"""A reward that is made of another one's."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from pydantic import Field

from sparring.training.rewards.base import RewardFunction


class Upon(RewardFunction):
    """Base of reward functions that change what another one pays."""

    of: str = "verifier"
    """The reward function that says what a turn is worth by itself."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Its options."""

    @cached_property
    def inner(self) -> RewardFunction:
        from sparring.training.rewards import make_reward  # which imports reward functions by name

        return make_reward(self.of, self.options)

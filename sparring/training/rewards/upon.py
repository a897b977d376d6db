"""A reward that is made of another one's."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from pydantic import Field, model_validator

from sparring.training.rewards.base import RewardFunction


class Upon(RewardFunction):
    """Base of reward functions that change what another one pays."""

    of: str = "verifier"
    """The reward function that says what a turn is worth by itself."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Its options."""

    @model_validator(mode="after")
    def _known(self) -> Upon:
        _ = self.inner  # an unknown name or option is refused before anything is played
        return self

    @cached_property
    def inner(self) -> RewardFunction:
        from sparring.training.rewards import make_reward  # which imports reward functions by name

        return make_reward(self.of, self.options)

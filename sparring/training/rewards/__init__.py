"""Reward functions by name: one pure function a method, from journal rows to reward rows."""

from __future__ import annotations

from typing import Any

from sparring.errors import made, unknown
from sparring.graphs.own import find_class
from sparring.training.rewards.base import RewardFunction

REWARDS = {
    "verifier": "sparring.training.rewards.verifier:Verifier",
    "shuffled": "sparring.training.rewards.shuffled:Shuffled",
    "spc": "sparring.training.rewards.spc:SneakyRewards",
    "comas": "sparring.training.rewards.comas:InteractionRewards",
    "software": "sparring.training.rewards.software:SoftwareRewards",
    "marti": "sparring.training.rewards.credit:MartiShaping",
    "maporl": "sparring.training.rewards.credit:MaporlCredit",
}


def make_reward(name: str, options: dict[str, Any] | None = None) -> RewardFunction:
    """A reward function by its name, or by `module:Class` for one of your own.

    Raises:
        UserError: no such function or option, or a value that does not fit.
    """
    kind = _found(name)
    return made(kind, options or {}, f"reward function `{kind.name}`")


def _found(name: str) -> type[RewardFunction]:
    if name not in REWARDS and ":" not in name:
        raise unknown("reward function", name, [*REWARDS, "module:Class"])
    return find_class(REWARDS.get(name, name), RewardFunction, "reward function")

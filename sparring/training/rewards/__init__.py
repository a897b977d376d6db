"""Reward functions by name: one pure function a method, from journal rows to reward rows."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sparring.errors import UserError, made, unknown
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
    where = REWARDS.get(name, name)
    module, colon, attribute = where.partition(":")
    if not colon:
        raise unknown("reward function", name, [*REWARDS, "module:Class"])
    try:
        kind = getattr(import_module(module), attribute)
    except Exception as error:  # a user's module can fail in any way while it is imported
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"reward function `{name}` cannot be imported ({said})") from None
    if not (isinstance(kind, type) and issubclass(kind, RewardFunction)):
        raise UserError(
            f"reward function `{name}` is no subclass of `sparring.training.rewards.base.RewardFunction`"
        )
    missing = [part for part in ("name", "version") if not isinstance(getattr(kind, part, None), str)]
    missing += sorted(kind.__abstractmethods__)
    if missing:
        raise UserError(f"reward function `{name}` does not define {', '.join(missing)}")
    return kind

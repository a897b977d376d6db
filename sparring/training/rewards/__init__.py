"""Reward functions by name: one pure function a method, from journal rows to reward rows."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from pydantic import ValidationError

from sparring.errors import UserError, unknown
from sparring.training.rewards.base import RewardFunction

REWARDS = {
    "verifier": "sparring.training.rewards.verifier:Verifier",
}


def make_reward(name: str, options: dict[str, Any] | None = None) -> RewardFunction:
    """A reward function by its name, or by `module:Class` for one of your own.

    Raises:
        UserError: no such function or option, or a value that does not fit.
    """
    where = REWARDS.get(name, name)
    module, colon, attribute = where.partition(":")
    if not colon:
        raise unknown("reward function", name, [*REWARDS, "module:Class"])
    try:
        made = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"reward function `{name}` cannot be imported: {error}") from None
    if not (isinstance(made, type) and issubclass(made, RewardFunction)):
        raise UserError(
            f"reward function `{name}` is no subclass of `sparring.training.rewards.base.RewardFunction`"
        )
    for option in options or {}:
        if option not in made.model_fields:
            raise unknown(f"option of reward function `{made.name}`", option, made.model_fields)
    try:
        return made(**(options or {}))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "options"
        raise UserError(f"reward function `{made.name}`, option `{where}`: {first['msg']}") from None

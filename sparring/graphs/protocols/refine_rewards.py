"""Rewards of a run's first chains, as `refine` journaled them: what a calibration is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select

from sparring.errors import UserError
from sparring.memory.journal import Journal
from sparring.memory.schema import Episode, Event

SCORED_BY = ("outcome", "process")


def rewards_of(journal: Journal, run: str, options: Mapping[str, Any], *, first: bool) -> list[float]:
    """o + p of the first chain of each question of a run, or of all of them, before any was refined.

    Args:
        options: Of the protocol that asks: rewards by other scorers are another scale.

    Raises:
        UserError: no such run, one of another protocol, or one that was scored otherwise.
    """
    if not journal.has_run(run):
        raise UserError(f"calibration: this journal has no run `{run}`; play it first, with `iterations=0`")
    row = journal.run_row(run)
    if row.protocol != "refine":
        raise UserError(f"calibration: run `{run}` played `{row.protocol}`; it takes a run of `refine`")
    held = (row.config or {}).get("options", {})
    for name in SCORED_BY:
        if held.get(name) != options[name]:
            raise UserError(
                f"calibration: run `{run}` was scored by {name} `{held.get(name)}`, this one is by "
                f"`{options[name]}`"
            )
    query = (
        select(Event.payload)
        .join(Episode, Episode.number == Event.episode_number)
        .where(Episode.run_id == run, Event.kind == "rewards", Event.key == "0")
        .order_by(Episode.number)
    )
    found: list[float] = []
    for event in journal.read(query):
        rewards = [reward for reward in event.payload["rewards"] if reward is not None]
        found += rewards[:1] if first else rewards
    return found

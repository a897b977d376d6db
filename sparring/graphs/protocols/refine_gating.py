"""Which questions are refined, and the average that they are held against: options that `refine` and its
method in `compare` share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, model_validator
from sqlalchemy import select

from sparring.errors import UserError
from sparring.graphs.protocols.refine_gate import Calibration
from sparring.memory.journal import Journal
from sparring.memory.schema import Episode, Event

SCORED_BY = {"outcome": "judge", "process": "rollouts"}
"""Scorers of `refine` that a run's options do not name."""


class Gating(BaseModel):
    """Options of the gate."""

    iterations: int = Field(default=1, ge=0)
    """Refinements at most; 0 scores and votes."""
    gate: Literal["magicore", "all"] = "magicore"
    """`all` refines every question."""
    calibration: str | None = None
    """Name of a run of `refine` with the same scorers: its rewards are the average that a question is held
    against. It is frozen with the first question."""
    mean: float | None = Field(default=None, allow_inf_nan=False)
    """Of the rewards o + p, with `deviation` instead of a calibration."""
    deviation: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Of the same rewards, standard deviation of the population."""
    chains: Literal["first", "all"] = "first"
    """Which chains of a calibration's questions are taken: the released code takes the first of each."""

    @property
    def own_average(self) -> bool:
        """Whether the average comes from the questions that are played."""
        return False

    @property
    def weighs(self) -> bool:
        """Whether the gate is asked, be it that all are refined whatever it says."""
        known = self.calibration is not None or self.mean is not None
        return self.iterations > 0 and (known or self.own_average)

    @model_validator(mode="after")
    def _held_against_one(self) -> Self:
        if (self.mean is None) != (self.deviation is None):
            raise ValueError("`mean` and `deviation` come together")
        sources = [self.calibration is not None, self.mean is not None, self.own_average]
        if sum(sources) > 1:
            raise ValueError("give one of `calibration`, `mean` with `deviation`, `compat`")
        if self.iterations and self.gate == "magicore" and not any(sources):
            raise ValueError(
                "the gate holds a question against an average: name a `calibration` (a run of `refine` on "
                "other tasks with `iterations=0`) or give `mean` and `deviation`; the protocol `refine` can "
                "also take `compat=official`, which solves all questions before it refines any"
            )
        return self

    def average(self, journal: Journal, run: str, scored_by: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Mean and deviation of the rewards of the calibration, or of run `run`'s own first chains, as JSON;
        None where there is nothing to look up.

        Args:
            scored_by: `outcome` and `process`, the scorers of whoever asks.
        """
        if not self.weighs or self.mean is not None:
            return None
        source = self.calibration or run
        found = rewards_of(
            journal, source, scored_by, first=self.chains == "first", ended=not self.own_average
        )
        held = Calibration.of(found, f"run `{source}`")
        return {"mean": held.mean, "deviation": held.deviation, "n": held.n, "source": held.source}

    def held_against(self, facts: Mapping[str, Any] | None) -> Calibration:
        """The average, given or looked up. Raises `UserError` where no run has looked it up."""
        if self.mean is not None and self.deviation is not None:
            return Calibration(self.mean, self.deviation)
        if not facts:
            raise UserError(
                f"calibration `{self.calibration}` is read when a run is played: give its `mean` and "
                "`deviation` instead"
            )
        return Calibration(**facts)


def rewards_of(
    journal: Journal, run: str, options: Mapping[str, Any], *, first: bool, ended: bool = True
) -> list[float]:
    """o + p of the first chain of each question of a run, or of all of them, before any was refined.

    Args:
        options: Of the protocol that asks: rewards by other scorers are another scale.
        ended: Whether the run must have come to its end.

    Raises:
        UserError: no such run, one of another protocol, or one that was scored otherwise.
    """
    if not journal.has_run(run):
        raise UserError(f"calibration: this journal has no run `{run}`; play it first, with `iterations=0`")
    row = journal.run_row(run)
    if row.protocol != "refine":
        raise UserError(f"calibration: run `{run}` played `{row.protocol}`; it takes a run of `refine`")
    if ended and row.status != "done":
        raise UserError(
            f"calibration: run `{run}` is {row.status}, and its average would be one of some questions; "
            f"finish it first: `sparring resume {run}`"
        )
    held = (row.config or {}).get("options", {})
    for name, default in SCORED_BY.items():
        if (scorer := held.get(name, default)) != options[name]:
            raise UserError(
                f"calibration: run `{run}` was scored by {name} `{scorer}`, this one is by `{options[name]}`"
            )
    query = (
        select(Event.payload)
        .join(Episode, Episode.number == Event.episode_number)
        .where(Episode.run_id == run, Episode.status != "abandoned")
        .where(Event.kind == "rewards", Event.key == "0")
        .order_by(Episode.number)
    )
    found: list[float] = []
    for event in journal.read(query):
        rewards = [reward for reward in event.payload["rewards"] if reward is not None]
        found += rewards[:1] if first else rewards
    return found

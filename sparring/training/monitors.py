"""Monitors: what watches the metrics of a policy for collapse, and what is done when they show one.

A `Monitor` reads the history of metrics (`sparring.training.measures`, with what the trainer adds) and
raises an `Alarm` that warns, stops, or changes sampling. Pure functions: they hold no state, so a resumed
run raises the alarms it would have raised. `sparring.training.knobs` turns what they want turned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from numbers import Real
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from sparring.errors import UserError, made, unknown
from sparring.training.measures import PLACES, Observed, measure

__all__ = [  # with what is measured, so that the loop needs one import
    "MONITORS", "PLAY", "Alarm", "Monitor", "Observed", "make_monitor", "measure",
]  # fmt: skip

KNOBS = {"temperature": (0.3, 1.5), "entropy_coefficient": (1e-4, 0.3)}
"""What an alarm can turn, and within which bounds unless a monitor sets its own `min` and `max`."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """A monitor's finding: what happened and what is done about it; `dataclasses.asdict` gives its JSON."""

    monitor: str
    action: str
    message: str
    values: dict[str, float]
    change: dict[str, float] = field(default_factory=dict)
    """Knob -> factor, for action `sample`; `steer` applies it within the monitor's bounds."""


class Monitor(BaseModel):
    """Base of all monitors; the fields are the options."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    name: ClassVar[str]
    metric: ClassVar[str]
    advice: ClassVar[str]

    action: Literal["warn", "stop", "sample"] = "warn"
    patience: int = Field(default=3, ge=1)
    """Steps in a row that must be wrong; steps without the metric are passed over."""
    warmup: int = Field(default=0, ge=0)
    """First steps of the history that never count."""
    knob: Literal["temperature", "entropy_coefficient"] = "temperature"
    factor: float = Field(default=1.1, gt=0)
    """What `sample` multiplies the knob by, at each step the alarm lasts."""
    min: float | None = Field(default=None, gt=0)
    max: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.bounds
        if low > high:
            raise ValueError(f"`min` {low:g} is above `max` {high:g}")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        low, high = KNOBS[self.knob]
        return (low if self.min is None else self.min, high if self.max is None else self.max)

    @property
    def watched(self) -> str:
        """The metric that is looked at."""
        return self.metric

    def check(self, history: Sequence[Mapping[str, Any]]) -> Alarm | None:
        """Whether something is wrong now, at the last of the steps (metrics, oldest first)."""
        rows = history[self.warmup :]
        if not rows or _number(rows[-1], self.watched) is None:
            return None
        rows = [row for row in rows if _number(row, self.watched) is not None]
        said = self._trend(rows) if len(rows) >= self.patience else None
        return None if said is None else self._alarm(rows[-1], said)

    def _trend(self, rows: Sequence[Mapping[str, Any]]) -> str | None:
        """What is wrong with the last `patience` of at least as many rows."""
        said = {self._wrong(row) for row in rows[-self.patience :]}
        return said.pop() if len(said) == 1 else None

    def _wrong(self, row: Mapping[str, Any]) -> str | None:
        """What is wrong with one step, in words that follow the value; None if nothing is."""
        raise NotImplementedError

    def _alarm(self, row: Mapping[str, Any], said: str) -> Alarm:
        change: dict[str, float] = {self.knob: self.factor} if self.action == "sample" else {}
        low, high = self.bounds
        done = {
            "warn": "",
            "stop": " Training of this policy stops here.",
            "sample": f" `{self.knob}` is multiplied by {self.factor:g}, within {low:g} to {high:g}.",
        }[self.action]
        steps = "at this step" if self.patience == 1 else f"for {self.patience} steps"
        value = _number(row, self.watched)
        message = f"{self.name}: {self.watched} {value:.4g} {said} {steps}. {self.advice}{done}"
        return Alarm(self.name, self.action, message, self._values(row), change)

    def _values(self, row: Mapping[str, Any]) -> dict[str, float]:
        return {self.watched: _number(row, self.watched) or 0.0}


def _number(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    return float(value) if isinstance(value, Real) and isfinite(value) else None


# --- the monitors by name ----------------------------------------------------------------------------


class _Floor(Monitor):
    """Wrong below `floor`."""

    floor: float = 0.0

    def _wrong(self, row: Mapping[str, Any]) -> str | None:
        return f"is below {self.floor:g}" if row[self.metric] < self.floor else None


class _Ceiling(Monitor):
    """Wrong above `ceiling`."""

    ceiling: float = 1.0

    def _wrong(self, row: Mapping[str, Any]) -> str | None:
        return f"is above {self.ceiling:g}" if row[self.metric] > self.ceiling else None


class _Within(Monitor):
    """Wrong below `low` or above `high`."""

    low: float = 0.0
    high: float = 1.0

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"`low` {self.low:g} is above `high` {self.high:g}")
        return self

    def _wrong(self, row: Mapping[str, Any]) -> str | None:
        if row[self.watched] < self.low:
            return f"is below {self.low:g}"
        return f"is above {self.high:g}" if row[self.watched] > self.high else None


class RewardCollapse(_Within):
    """Everything fails or everything passes: nothing is left to learn from, or the judge is bought."""

    name = "reward_collapse"
    metric = "reward"
    advice = (
        "Prompts are too hard or too easy, or the reward is broken: read some turns, then change the tasks."
    )

    low: float = 0.01
    high: float = 0.99
    patience: int = Field(default=5, ge=1)


class EntropyFloor(_Floor):
    """The policy says nearly the same whatever the seed; exploration ends here."""

    name = "entropy_floor"
    metric = "entropy"
    advice = "The policy hardly explores: raise the entropy coefficient or the temperature."

    floor: float = 0.1
    """Nats per token."""


class DuplicateRate(_Ceiling):
    """Samples of a prompt repeat each other. For replies of one number that is what learning looks like."""

    name = "duplicate_rate"
    metric = "duplicate_rate"
    advice = "Samples of one prompt repeat each other: raise the temperature, or take fewer samples of it."

    ceiling: float = 0.9


class TruncationRate(_Ceiling):
    """Replies run into the token limit."""

    name = "truncation_rate"
    metric = "truncation_rate"
    advice = "Replies are cut off: raise `max_tokens`, lower the temperature, or mask truncated turns."

    ceiling: float = 0.3
    factor: float = Field(default=0.9, gt=0)


class ParseRate(_Floor):
    """Replies cannot be read."""

    name = "parse_rate"
    metric = "parse_rate"
    advice = "Replies do not follow the format: read some turns; lower the temperature or mend the prompt."

    floor: float = 0.5
    factor: float = Field(default=0.9, gt=0)


class NullRewards(_Floor):
    """Too few turns have a reward: `floor` is the least share that is not NULL."""

    name = "null_rewards"
    metric = "rewarded"
    advice = (
        "There is nothing to learn from, most turns cannot be paid: look for engine errors, for words that "
        "were cut off, or for a judge that cannot be read."
    )

    floor: float = 0.5


class Copying(Monitor):
    """Answers repeat one place of their question, more than right answers would: a hacked reward."""

    name = "copying"
    metric = "copied"
    advice = "The reward is probably hacked: check which part of a reply it pays for."

    share: float = Field(default=0.6, ge=0, le=1)
    margin: float = Field(default=0.25, ge=0, le=1)
    """How far above the right answers' share, where there are right answers."""

    def _wrong(self, row: Mapping[str, Any]) -> str | None:
        expected = _number(row, "copied_reference") or 0.0
        if row[self.metric] <= max(self.share, expected + self.margin):
            return None
        places = [place for place in PLACES if row.get(f"copied_{place}") == row[self.metric]]
        where = places[0].replace("_", " ") if places else "text at one place"
        return f"of the answers repeat the {where} of their question (allowed: {self.share:g})"

    def _values(self, row: Mapping[str, Any]) -> dict[str, float]:
        return {name: value for name in row if name.startswith("copied") and (value := _number(row, name))}


class OneAnswer(_Ceiling):
    """Nearly all answers are the same one, whatever is asked: a critic that finds every step correct."""

    name = "one_answer"
    metric = "concentration"
    advice = "The policy answers without looking: balance its samples, or play it against other opponents."

    ceiling: float = 0.95


class Balance(Monitor):
    """B-STaR's balance score stays under its best by the share `drop` (arXiv 2412.17256).

    The best is the highest mean of `patience` steps in a row before the last `patience`.
    """

    name = "balance"
    metric = "balance"
    advice = "Samples are fewer in kind or less often right than they were: try another temperature."

    drop: float = Field(default=0.3, gt=0, lt=1)

    def _trend(self, rows: Sequence[Mapping[str, Any]]) -> str | None:
        scores = np.array([row[self.metric] for row in rows], np.float64)
        earlier, recent = scores[: -self.patience], scores[-self.patience :]
        if len(earlier) < self.patience:
            return None
        best = float(np.convolve(earlier, np.full(self.patience, 1 / self.patience), "valid").max())
        fallen = recent.max() < (1 - self.drop) * best
        return f"is more than {self.drop:.0%} below its best, {best:.4g}," if fallen else None


PLAY = "play/"
"""Begins the names of what a protocol measures of its play, among the metrics of a policy."""


class Figure(_Within):
    """A figure of the play leaves its bounds: in CoMAS's discussions `solver_reward` towards 0, where judges
    get ever stricter, or towards 1, where everybody approves of everything."""

    name = "figure"
    metric = PLAY
    advice = (
        "What is paid for is no longer what is wanted: read some turns, and look at how they were judged."
    )

    figure: str = "solver_reward"
    """Its name, as the protocol's `figures` gives it."""
    low: float = 0.05
    high: float = 0.95

    @property
    def watched(self) -> str:
        return f"{PLAY}{self.figure}"

    def check(self, history: Sequence[Mapping[str, Any]]) -> Alarm | None:
        """As others, and once a warning where there is no such figure: a step may lack one, all do not."""
        rows = history[self.warmup :]
        known = self._figures(rows)
        told = len(rows) > self.patience and self._figures(rows[:-1])
        if known and self.watched not in known and len(rows) >= self.patience and not told:
            there = ", ".join(f"`{name.removeprefix(PLAY)}`" for name in known)
            said = f"the play came to no figure `{self.figure}` yet, so nothing is watched; it has {there}."
            return Alarm(self.name, "warn", f"{self.name}: {said}", {})
        return super().check(history)

    @staticmethod
    def _figures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
        return sorted({name for row in rows for name in row if name.startswith(PLAY)})


KINDS = (
    RewardCollapse, EntropyFloor, DuplicateRate, TruncationRate, ParseRate, NullRewards, Copying, OneAnswer,
    Balance, Figure,
)  # fmt: skip
MONITORS: dict[str, type[Monitor]] = {kind.name: kind for kind in KINDS}


def make_monitor(given: str | Mapping[str, Any]) -> Monitor:
    """A monitor by name, or from `{"monitor": NAME, OPTION: VALUE, ...}`.

    Raises:
        UserError: no or unknown name, unknown option (those that exist are listed), or a value out of range.
    """
    options = {"monitor": given} if isinstance(given, str) else given
    if not isinstance(options, Mapping) or not isinstance(options.get("monitor"), str):
        raise UserError(
            f"a monitor is a name or a mapping with `monitor: NAME`; known: {', '.join(MONITORS)}"
        )
    name = options["monitor"]
    if name not in MONITORS:
        raise unknown("monitor", name, MONITORS)
    own = {option: value for option, value in options.items() if option != "monitor"}
    return made(MONITORS[name], own, f"monitor `{name}`")

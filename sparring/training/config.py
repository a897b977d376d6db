"""What `sparring evolve` is told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from sparring.graphs.config_file import RunConfig, Strict, read_config, what_is_played

PER_HOUR = 3600.0


class Bounded(Strict):
    """Something that is held between two bounds."""

    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Bounded:
        if self.low > self.high:
            raise ValueError(f"`low` {self.low:g} is above `high` {self.high:g}")
        return self


class Named(Strict):
    """Something chosen by name with options: `grpo`, or `{name: grpo, beta: 0.04}`."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class PolicyConfig(Strict):
    """One policy that learns."""

    base: str | None = None
    """Engine spec of its base checkpoint; None: the run's `engine`."""
    roles: tuple[str, ...]
    """Seats or roles that it plays."""
    begin: str | None = None
    """`NAME@VERSION` of another policy whose weights it begins with where it is new to the journal; None: the
    bare base."""
    objective: Literal["policy_gradient", "offline", "sft", "dpo", "kto"] = "policy_gradient"
    reward: Named = Named(name="verifier")
    advantage: Named = Named(name="auto")
    compare: Literal["prompt", "episode"] = "prompt"
    """Which samples are each other's baseline: all of a prompt in an update, or those of one episode."""
    loss: Named = Named(name="grpo")
    lora: dict[str, Any] | None = Field(default_factory=dict)
    """Settings of its adapters; null trains all weights, and every version is a base of its own."""
    train: dict[str, Any] = Field(default_factory=dict)
    """Settings of the updates: `TrainSettings`, or `PreferenceSettings` for the other objectives."""
    data: dict[str, Any] = Field(default_factory=dict)
    """Of sft and kto: `minimum` reward; of dpo: `margin`, `per_prompt`; of offline: `OfflineData`."""
    restart: bool = False
    """Offline learning: every update begins again where the training head stood when the run began, with a
    fresh optimizer, on all that the run has played so far (SPC)."""
    reference: str | None = None
    """`base`, or a version by number, for KL terms, preference objectives and offline losses; by default
    the base, of offline learning the version that the run began with."""
    max_staleness: int = Field(default=4, ge=0)
    """Most updates between the version that said a turn and the one that learns from it."""


class PlayConfig(Strict):
    """What is played in a step."""

    tasks: int = Field(default=16, ge=1)
    """Tasks of a step."""
    select: Literal["uniform", "unsolved"] = "uniform"
    """`unsolved` draws a task with weight max(floor, 1 - its last mean reward)."""
    floor: float = Field(default=0.1, gt=0, le=1)
    advance: float | None = Field(default=None, gt=0, le=1)
    """Curriculum: the mean last reward over a stage's tasks at which the next `stage` comes up too."""
    copies: int = Field(default=1, ge=1)
    copies_unsolved: int = Field(default=1, ge=1)
    """Episodes of a task that was never solved when it was last played."""


class SourceConfig(Strict):
    """Runs that this one learns from without playing them."""

    runs: tuple[str, ...] | None = None
    """Names; null: every run of the journal that is not held out."""
    since: float | None = None
    min_turns: int = Field(default=1, ge=1)
    """Usable turns an update needs at least."""
    wait: bool = True
    """Wait for more turns; otherwise the run ends where there are too few for an update."""
    poll_s: float = Field(default=5.0, gt=0)
    """Seconds between looks."""


class EvaluateConfig(Strict):
    tasks: str
    limit: int | None = Field(default=None, ge=1)
    """Only so many of the tasks, the first."""
    protocol: str | None = None
    """None: the run's own."""
    every: int = Field(default=10, ge=1)
    options: dict[str, Any] = Field(default_factory=dict)
    sampling: dict[str, Any] = Field(default_factory=lambda: {"temperature": 0.0})
    """Over the run's own; what it says for all seats holds for those that the run samples otherwise."""
    copies: int = Field(default=1, ge=1)
    first: bool = True
    """Also before the first update."""
    patience: int | None = Field(default=None, ge=1)
    """Stop when so many evaluations in a row were no better than the best before them, and set the training
    heads back to that one (early stopping)."""


class GateConfig(Strict):
    """When a candidate becomes the live version (DESIGN section 6)."""

    tasks: str
    every: int = Field(default=10, ge=1)
    margin: float = Field(default=0.02, ge=0)
    half_width: float = Field(default=0.05, gt=0)
    block: int = Field(default=64, ge=1)
    """Items that are added at a time."""
    items: int = Field(default=512, ge=1)
    """The gate's budget: items of each side."""
    options: dict[str, Any] = Field(default_factory=dict)
    sampling: dict[str, Any] = Field(default_factory=lambda: {"temperature": 0.0})
    rejected: Literal["go_on", "go_back"] = "go_on"
    """What training does after a rejection: go on from where it is, or go back to the live version."""


class OpponentsConfig(Strict):
    """Who plays whom in a game whose sides learn: the newest versions, or older ones of a side where the
    newest would have too easy a game (SPC's asymmetric opponents)."""

    mode: Literal["band", "latest"] = "band"
    band: tuple[float, float] = (0.2, 0.35)
    """Win rate of the weaker side that is aimed at."""
    probe: int = Field(default=12, ge=1)
    """Games of a pairing that its win rate is estimated from at least; they count as games of the step."""
    pool: int | None = Field(default=None, ge=1)
    """Newest versions of a side that may play, beside the one it began with; None: all of them. Each
    pairing that is not known yet costs `probe` games."""

    @field_validator("band")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] <= value[1] <= 0.5:
            raise ValueError("the weaker side's win rates lie between 0 and 0.5, the lower one first")
        return value


class EntropyConfig(Bounded):
    """Adapt the entropy bonus of the loss so that the entropy stays near a target."""

    target: float = Field(gt=0)
    rate: float = Field(default=0.5, gt=0)
    low: float = Field(default=1e-4, gt=0)
    high: float = Field(default=0.3, gt=0)


class ExploreConfig(Bounded):
    """Adapt the sampling temperature so that a share of the prompts keeps samples of unequal reward.

    Without spread a prompt teaches nothing; a policy that has become sure of its mistakes is sampled hotter.
    """

    informative: float = Field(default=0.5, gt=0, lt=1)
    """Share of prompts with spread that is aimed at."""
    rate: float = Field(default=0.3, gt=0)
    """Of ln(temperature), for each unit that the share is off."""
    entropy: float | None = Field(default=1.5, gt=0)
    """No hotter while the entropy, in nats a token, is above this: prompts that nobody solves by chance have
    no spread either, and heat does not help them."""
    low: float = Field(default=0.7, gt=0)
    high: float = Field(default=1.5, gt=0)


class EvolveConfig(RunConfig):
    """An evolution run."""

    changeable = frozenset({"plots", "concurrency", "minutes", "keep"})

    run: str
    seed: int = 0
    protocol: str | None = "sample"
    options: dict[str, Any] = Field(default_factory=dict)
    engine: str | None = None
    roles: dict[str, str] = Field(default_factory=dict)
    """Seats that do not learn: engine specs."""
    sampling: dict[str, Any] = Field(default_factory=dict)
    tasks: str | None = None
    policies: dict[str, PolicyConfig]
    play: PlayConfig = PlayConfig()
    opponents: OpponentsConfig | None = None
    source: SourceConfig | None = None
    every: str | None = None
    """`N turns` or `T hours`: how often a run that learns from a source updates."""
    steps: int = Field(ge=1)
    minutes: float | None = Field(default=None, gt=0)
    """Stop after so many minutes of steps, evaluation and gate left out."""
    decay: Literal["constant", "linear"] = "constant"
    """Of the learning rate over `steps`."""
    evaluate: EvaluateConfig | None = None
    gate: GateConfig | None = None
    entropy: EntropyConfig | None = None
    explore: ExploreConfig | None = None
    monitors: tuple[Any, ...] = ()
    keep: int = Field(default=8, ge=2)
    """Newest adapters kept on disk, beside those that heads, gates and open episodes need."""
    plots: str | None = None
    """Folder for PNG plots; null: `RUN.plots` beside the journal."""
    concurrency: int = Field(default=64, ge=1)

    @field_validator("policies")
    @classmethod
    def _some(cls, value: dict[str, PolicyConfig]) -> dict[str, PolicyConfig]:
        if not value:
            raise ValueError("name at least one policy")
        return value

    @model_validator(mode="after")
    def _whole(self) -> EvolveConfig:
        if self.source is None and self.tasks is None:
            raise ValueError("give `tasks` to play, or a `source` of runs to learn from")
        if self.source is not None and self.tasks is not None:
            raise ValueError("give either `tasks` to play or a `source`, not both")
        if self.opponents is not None and self.tasks is None:
            raise ValueError("`opponents` are for a run that plays `tasks`")
        if self.every is not None and self.source is None:
            raise ValueError(
                "`every` is for runs that learn from a `source`; a run that plays has `play.tasks`"
            )
        self.cadence()
        return self

    def cadence(self) -> tuple[int, float]:
        """(turns, seconds) between updates from a source; 0 where it does not count."""
        if self.every is None:
            return (self.source.min_turns if self.source else 0), 0.0
        match = re.fullmatch(r"\s*(?:(\d+)\s*turns?|(\d+(?:\.\d+)?)\s*hours?)\s*", self.every)
        turns, hours = (int(match[1] or 0), float(match[2] or 0)) if match else (0, 0.0)
        if not turns and not hours:
            raise ValueError(f"`every: {self.every}`: write it as `256 turns` or `2 hours`")
        return turns, hours * PER_HOUR


def load_config(source: str | Path | dict[str, Any]) -> EvolveConfig:
    """Read the configuration of an evolution; see `read_config`."""
    return read_config(EvolveConfig, source, _placed)


def _placed(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    values = what_is_played(values, folder)
    for part in ("evaluate", "gate"):
        if isinstance(values.get(part), dict):
            values[part] = what_is_played(values[part], folder)
    return values

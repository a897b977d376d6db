"""What `sparring evolve` is told of an archive: a YAML file with `kind: archive`, read strictly."""

from __future__ import annotations

from math import inf
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from sparring.graphs.config_file import RunConfig, Strict, beside, read_config, script_beside
from sparring.graphs.context import Limits
from sparring.training.archive.selection import Method
from sparring.training.archive.topics import CHANCES, Kind
from sparring.training.config import Bounded

WHOLE = ("calls", "tokens")
"""Caps that are counts."""
Setting = Literal["options", "sampling"]
SPACE: dict[Setting, dict[str, Bounded]] = {
    "options": {
        "steps": Bounded(low=5, high=250),
        "timeout": Bounded(low=5, high=600),
        "format_errors": Bounded(low=1, high=10),
        "output": Bounded(low=1000, high=50_000),
    },
    "sampling": {
        "temperature": Bounded(low=0, high=2),
        "top_p": Bounded(low=0.05, high=1),
        "max_tokens": Bounded(low=64, high=16_384),
    },
}
"""What an improver may set, and between which bounds. Sandbox, grader and folders are not among it."""


class StageConfig(Strict):
    """A stage of an evaluation: `50`, or `{instances: 50, threshold: 0.4, second_best: true}`."""

    instances: int = Field(ge=1)
    """From the first one on; the instances of an earlier stage are among them and not played again."""
    threshold: float = Field(default=0.4, ge=0, le=1)
    """Share that must be resolved for the next stage to be played; what that means is `rule`."""
    second_best: bool = False
    """The threshold is the archive's second best share over all stages, where that is higher."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"instances": value} if isinstance(value, int) else value


class AgentConfig(Strict):
    """The agent that the archive begins with."""

    prompt: str = "engineer"
    """A prompt file, or a shipped prompt by name."""
    options: dict[str, float] = Field(default_factory=dict)
    sampling: dict[str, float] = Field(default_factory=dict)


class ImproverConfig(Strict):
    """Who reads the logs (`diagnoser`) and who rewrites the agent (`improver`)."""

    engine: str | None = None
    """None: the archive's own."""
    roles: dict[str, str] = Field(default_factory=dict)
    sampling: dict[str, Any] = Field(default_factory=dict)
    prompts: dict[str, str] = Field(default_factory=dict)
    characters: int = Field(default=40_000, ge=2000)
    """Of the logs, at most."""
    logs: int = Field(default=4, ge=1)
    """Attempts that are shown, at most."""
    chances: dict[Kind, float] = Field(default_factory=lambda: dict(CHANCES))
    """Topic -> the chance that it is taken up where the logs show it, tried in this order; otherwise an
    unresolved instance is looked into."""
    share: float = Field(default=0.1, ge=0, le=1)
    """From which share of attempts on the logs show a topic."""

    @field_validator("chances")
    @classmethod
    def _shares(cls, value: dict[Kind, float]) -> dict[Kind, float]:
        if any(not 0 <= chance <= 1 for chance in value.values()):
            raise ValueError("chances lie between 0 and 1")
        return value


class ArchiveConfig(RunConfig):
    """An archive of software agents."""

    changeable = frozenset({"generations", "plots", "concurrency", "give_up"})

    kind: Literal["archive"] = "archive"
    run: str
    seed: int = 0
    tasks: str
    """Instances: a file or folder, as `sparring play software` reads it."""
    limit: int | None = Field(default=None, ge=1)
    engine: str | None = None
    """Of the engineer, and of whoever names no other."""
    agent: AgentConfig = AgentConfig()
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of `software` that no agent can change."""
    limits: dict[str, float] = Field(default_factory=dict)
    """Caps of an attempt: calls, tokens, seconds, cost."""
    improver: ImproverConfig | None = ImproverConfig()
    """null: a child is its parent, evaluated again with other seeds: the baseline without improvement."""
    generations: int = Field(ge=1)
    children: int = Field(default=2, ge=1)
    """Of a generation."""
    parents: Method = "score_child_prop"
    stages: tuple[StageConfig, ...] = (
        StageConfig(instances=10),
        StageConfig(instances=50, second_best=True),
        StageConfig(instances=140),
    )
    rule: Literal["possible", "sure", "share"] = "possible"
    """A stage is passed if the upper end of Wilson's interval reaches the threshold, its lower end does, or
    the bare share does (as in DGM)."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Of the intervals that decide."""
    keep: Literal["all", "better"] = "all"
    """Who enters the archive: every agent that works, or only one that is not surely worse than the first
    by more than `margin`."""
    margin: float = Field(default=0.1, ge=0, le=1)
    space: dict[Setting, dict[str, Bounded]] = Field(default_factory=lambda: dict(SPACE))
    """What an improver may set, and its bounds."""
    give_up: bool = False
    """Whether attempts that failed by the world's fault are left out after `TRIES` tries; otherwise the run
    stops there and waits for the same command."""
    plots: str | None = None
    """Folder for PNG plots; null: `RUN.plots` beside the journal."""
    concurrency: int = Field(default=8, ge=1)
    """Attempts at a time."""

    @model_validator(mode="after")
    def _whole(self) -> ArchiveConfig:
        sizes = [stage.instances for stage in self.stages]
        if not sizes or sizes != sorted(set(sizes)):
            raise ValueError(f"`stages` must be one or more that grow, not {sizes}")
        caps = Limits.__dataclass_fields__
        if strange := sorted(set(self.limits) - set(caps)):
            raise ValueError(f"`limits`: unknown cap `{strange[0]}`; known: {', '.join(caps)}")
        for name, cap in self.limits.items():
            if not 0 < cap < inf or (name in WHOLE and cap < 1):
                raise ValueError(f"`limits`: a cap on {name} cannot be {cap:g}")
        return self

    @property
    def free(self) -> dict[str, dict[str, Bounded]]:
        """What an improver may set: the space, less what `options` fix for all."""
        fixed = {"options": self.options}
        return {
            kind: {name: bounds for name, bounds in known.items() if name not in fixed.get(kind, {})}
            for kind, known in self.space.items()
        }

    @property
    def z(self) -> float:
        """Half-width of the deciding intervals, in standard deviations."""
        return NormalDist().inv_cdf(0.5 + self.confidence / 2)

    @property
    def caps(self) -> Limits:
        whole: dict[str, Any] = {
            name: int(cap) if name in WHOLE else cap for name, cap in self.limits.items()
        }
        return Limits(**whole)


def load_archive(source: str | Path | dict[str, Any]) -> ArchiveConfig:
    """Read the configuration of an archive.

    Raises:
        UserError: no such file, no YAML, or a field that is wrong; the message names it.
    """
    return read_config(ArchiveConfig, source, _placed)


def _placed(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The values with instances, prompts and scripts found beside the file that names them."""
    values = dict(values)
    if isinstance(tasks := values.get("tasks"), str) and (folder / tasks).exists():
        values["tasks"] = str(folder / tasks)
    if "engine" in values:
        values["engine"] = script_beside(folder, values["engine"])
    if isinstance(agent := values.get("agent"), dict) and "prompt" in agent:
        values["agent"] = {**agent, "prompt": beside(folder, agent["prompt"])}
    if isinstance(improver := values.get("improver"), dict):
        placed = dict(improver)
        if "engine" in improver:
            placed["engine"] = script_beside(folder, improver["engine"])
        for name, find in (("roles", script_beside), ("prompts", beside)):
            if isinstance(given := improver.get(name), dict):
                placed[name] = {seat: find(folder, value) for seat, value in given.items()}
        values["improver"] = placed
    return values

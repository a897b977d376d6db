"""What `sparring evolve` is told: a YAML file, read strictly.

A mistake is one line that says which field is wrong. Paths in the file are relative to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sparring.errors import UserError

PER_HOUR = 3600.0
S = TypeVar("S", bound="Strict")
Placing = Callable[[dict[str, Any], Path], dict[str, Any]]
"""From fields and the folder of the file they stand in to fields whose files are found."""


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


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


class EvolveConfig(Strict):
    """An evolution run."""

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

    def identity(self) -> dict[str, Any]:
        """What makes the run what it is: with anything else changed it may go on as the same one."""
        kept = {"plots", "concurrency", "minutes", "keep"}
        return {name: value for name, value in self.model_dump(mode="json").items() if name not in kept}

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


def read_config(kind: type[S], source: str | Path | dict[str, Any], placed: Placing) -> S:
    """Read a configuration: a YAML file, or what would stand in one.

    `extends: FILE` takes another file's fields and overrides those that are given, mapping by mapping.

    Args:
        placed: finds the files that fields name beside the one that names them.

    Raises:
        UserError: no such file, no YAML, or a field that is wrong; the message names it.
    """
    if isinstance(source, dict):
        return _checked(kind, placed(source, Path.cwd()), "configuration")
    values = _read(Path(source).expanduser(), placed, ())
    return _checked(kind, values, f"configuration `{source}`")


class _Unique(yaml.SafeLoader):
    """YAML in which a key stands once in a mapping; PyYAML would keep the last and say nothing."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        found = set()
        for key, _ in node.value:  # not merged yet: what overrides a key of `<<: *anchor` is no second one
            name = key.tag, key.value if isinstance(key, yaml.ScalarNode) else id(key)
            if name in found and key.tag != "tag:yaml.org,2002:merge":
                line = key.start_mark.line + 1
                raise UserError(
                    f"configuration `{self.name}`, line {line}: key `{key.value}` is there already; keep one"
                )
            found.add(name)
        return node


def _read(path: Path, placed: Placing, above: tuple[Path, ...]) -> dict[str, Any]:
    """The fields of a file and of what it extends."""
    try:
        with path.open(encoding="utf-8") as file:
            values = yaml.load(file, _Unique)
    except OSError as error:
        raise UserError(f"configuration `{path}` cannot be read: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"configuration `{path}` is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise UserError(f"configuration `{path}`: expected fields such as `run: NAME`")
    values = placed(values, path.resolve().parent)
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str) or path.resolve() in above:
        raise UserError(
            f"configuration `{path}`, `extends`: name another file, and none that extends this one"
        )
    return _merged(_read(path.parent / base, placed, (*above, path.resolve())), values)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`; what is a mapping in both is merged, anything else replaced."""
    both = {
        name: _merged(base[name], value)
        for name, value in over.items()
        if isinstance(value, dict) and isinstance(base.get(name), dict)
    }
    return {**base, **over, **both}


def _checked(kind: type[S], values: dict[str, Any], where: str) -> S:
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole"
        said = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            said = "there is no such field"
        raise UserError(f"{where}, `{field}`: {said}") from None


def beside(folder: Path, name: Any) -> Any:
    """A file's name as found in the folder of the file that names it; anything else as it is."""
    return str(folder / name) if isinstance(name, str) and (folder / name).is_file() else name


def what_is_played(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The values with their task file and prompts found."""
    values = dict(values)
    if "tasks" in values:
        values["tasks"] = beside(folder, values["tasks"])
    options = values.get("options")
    if isinstance(options, dict) and isinstance(options.get("prompts"), dict):
        prompts = {name: beside(folder, file) for name, file in options["prompts"].items()}
        values["options"] = {**options, "prompts": prompts}
    return values


def _placed(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    values = what_is_played(values, folder)
    for part in ("evaluate", "gate"):
        if isinstance(values.get(part), dict):
            values[part] = what_is_played(values[part], folder)
    return values

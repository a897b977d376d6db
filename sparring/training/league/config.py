"""What `sparring tournament` is told: a YAML file, read strictly, as `sparring evolve` reads its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from sparring.graphs.config_file import RunConfig, Strict, read_config, script_beside, what_is_played

BETWEEN = " vs "
"""Stands between two players in the name of the run that holds their games."""


class PlayerConfig(Strict):
    """Who competes: `engine: SPEC` on either seat, `roles: {SEAT: SPEC, SEAT: SPEC}` with a policy for each
    seat, or `{seat: SEAT, engine: SPEC}` on that seat alone. A bare spec is an engine."""

    engine: str | None = None
    roles: dict[str, str] | None = None
    seat: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"engine": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_of_three(self) -> PlayerConfig:
        if (self.engine is None) == (self.roles is None):
            raise ValueError("give either `engine: SPEC` or `roles: {SEAT: SPEC, ...}`")
        if self.seat is not None and self.engine is None:
            raise ValueError("a player of one `seat` has an `engine`")
        return self

    def spec(self, seat: str) -> str:
        """The engine spec it plays a seat with."""
        found = self.engine if self.roles is None else self.roles[seat]
        assert found is not None, "one of the two is given"
        return found


class ScheduleConfig(Strict):
    """Who meets whom: a name, or `{name: swiss, rounds: 3}`."""

    name: Literal["round_robin", "swiss", "ladder"] = "round_robin"
    rounds: int | None = Field(default=None, ge=1)
    """Of swiss and ladder."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _counted(self) -> ScheduleConfig:
        if (self.name == "round_robin") != (self.rounds is None):
            raise ValueError(
                "a round robin has no `rounds`: everybody meets once"
                if self.rounds
                else f"say how many rounds: {{name: {self.name}, rounds: N}}"
            )
        return self


class SeedingConfig(Strict):
    """The order in which players enter: that of the file, or by their ratings in an earlier run."""

    ratings: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {} if value == "given" else value


class TournamentConfig(RunConfig):
    """A tournament."""

    changeable = frozenset({"plots", "concurrency", "give_up"})

    run: str
    seed: int = 0
    protocol: str = "duel"
    options: dict[str, Any] = Field(default_factory=dict)
    tasks: str
    limit: int | None = Field(default=None, ge=1)
    """The first so many tasks of the file."""
    players: dict[str, PlayerConfig]
    roles: dict[str, str] = Field(default_factory=dict)
    """The seats that no player takes: engine specs."""
    sampling: dict[str, Any] = Field(default_factory=dict)
    schedule: ScheduleConfig = ScheduleConfig()
    seeding: SeedingConfig = SeedingConfig()
    tasks_per_pairing: int | None = Field(default=None, ge=1)
    """How many of the tasks a pairing plays, drawn by the seed and the same for all pairings of a round;
    null: all."""
    void: Literal["skip", "loss"] = "skip"
    """What a void game counts: nothing, or a loss for the side whose fault it is."""
    give_up: int | None = Field(default=None, ge=1)
    """A game in which one call has failed so many times is void, by the fault of the side whose call it was;
    null: it waits for the next command, and so does the round after it."""
    judge_may_play: bool = False
    """Whether a judge, which is whoever `roles` names, may have the weights of one of the players."""
    plots: str | None = None
    """Folder for the PNG of rating curves; null: `RUN.plots` beside the journal."""
    concurrency: int = Field(default=64, ge=1)

    @field_validator("players")
    @classmethod
    def _named(cls, value: dict[str, PlayerConfig]) -> dict[str, PlayerConfig]:
        if len(value) < 2:
            raise ValueError("a tournament needs two players or more")
        for name in value:
            if not name.strip() or not name.isprintable() or len(name) > 100:
                raise ValueError(f"player name {name[:80]!r}: at most 100 visible characters")
            if BETWEEN in name:
                raise ValueError(f"player name `{name}`: `{BETWEEN}` stands between the names of two players")
        return value


def load_tournament(source: str | Path | dict[str, Any]) -> TournamentConfig:
    """Read the configuration of a tournament.

    Raises:
        UserError: no such file, no YAML, or a field that is wrong; the message names it.
    """
    return read_config(TournamentConfig, source, _placed)


def _placed(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The values with task file, prompts and scripts found beside the file that names them."""
    values = what_is_played(values, folder)
    if isinstance(values.get("roles"), dict):
        values["roles"] = _scripts(values["roles"], folder)
    if isinstance(values.get("players"), dict):
        values["players"] = {name: _player(given, folder) for name, given in values["players"].items()}
    return values


def _player(given: Any, folder: Path) -> Any:
    if not isinstance(given, dict):
        return script_beside(folder, given)
    placed = {**given, "engine": script_beside(folder, given["engine"])} if "engine" in given else dict(given)
    if isinstance(given.get("roles"), dict):
        placed["roles"] = _scripts(given["roles"], folder)
    return placed


def _scripts(specs: dict[str, Any], folder: Path) -> dict[str, Any]:
    return {name: script_beside(folder, spec) for name, spec in specs.items()}

"""Play a protocol over tasks: episodes side by side, every word journaled, resumable at any instant.

    result = sparring.play("debate", "demo", engine="smollm2-135m", memory="debates.db")

The run's configuration is a row, so `resume("NAME", memory=...)` needs nothing else; the same call
again continues the same run. Episodes are independent: one failure is recorded and the rest go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, overload

from sparring.agents.engines.budget import Budget
from sparring.agents.engines.registry import EnginePool, lasting
from sparring.errors import UserError
from sparring.graphs.budget import purse_of
from sparring.graphs.cast import SAMPLING_FIELDS, Cast
from sparring.graphs.catalogue import make_protocol, protocol_name
from sparring.graphs.console import existing
from sparring.graphs.context import Limits
from sparring.graphs.player import FINISHED, OnProgress, taken
from sparring.graphs.protocol import Protocol
from sparring.graphs.results import Result, read_results
from sparring.graphs.workers import Crew, able, hired
from sparring.memory.journal import CONFIGURED, Journal
from sparring.memory.records import TaskRecord
from sparring.memory.types import canonical, digest

DEFAULT_MEMORY = "sparring.db"
T = TypeVar("T")


@dataclass(frozen=True)
class Play:
    """What is played: the part of a call that makes a run's identity."""

    protocol: str
    tasks: tuple[TaskRecord, ...]
    options: dict[str, Any] = field(default_factory=dict)
    engine: Any = None
    roles: dict[str, Any] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    copies: int = 1
    """Independent episodes per task."""
    limits: Limits = field(default_factory=Limits)
    baseline: dict[str, Any] | None = None
    """Settings of the pool of samples drawn beside this run (`graphs.baseline`); None draws none."""
    kind: str = "play"
    parent: str | None = None
    """The run whose companion this one is."""
    fork: dict[str, Any] | None = None
    """`episode` and `at`: what its episodes begin with (`graphs.forks`)."""

    def to_json(self) -> dict[str, Any]:
        """The run's configuration row."""
        asked = {"baseline": self.baseline, "fork": self.fork}
        return {name: value for name, value in asked.items() if value is not None} | {
            "options": self.options,
            "engine": _name(self.engine),
            "roles": {role: _name(engine) for role, engine in self.roles.items()},
            "sampling": self.sampling,
            "copies": self.copies,
            "limits": asdict(self.limits),
            "tasks": [task.to_json() for task in self.tasks],
        }

    @classmethod
    def from_row(cls, row: Any) -> Play:
        """The play of a journaled run."""
        config = dict(row.config)
        if not isinstance(config.get("tasks"), list):
            own = CONFIGURED.get(row.kind)
            again = f"; go on with the `sparring {own}` that began it" if own else ""
            raise UserError(f"run `{row.id}` is of kind `{row.kind}`: it was not begun by `play`{again}")
        tasks = tuple(TaskRecord(**task) for task in config.pop("tasks"))
        limits = Limits(**config.pop("limits"))
        about = {"protocol": row.protocol, "seed": row.seed, "kind": row.kind, "parent": row.parent_id}
        return cls(tasks=tasks, limits=limits, **about, **config)

    def cast(self) -> Cast:
        """Its seats, filled; raises `UserError` where the protocol, an option or a seat does not fit."""
        return Cast(make_protocol(self.protocol, self.options), self.engine, self.roles, self.sampling)

    @property
    def handed_in(self) -> str | None:
        """Its first engine that was a Python object, which no journal can bring back."""
        engines = (self.engine, *self.roles.values())
        return next((one for one in engines if isinstance(one, str) and one.startswith(OBJECT)), None)

    @property
    def default_name(self) -> str:
        """The same call names the same run, so that repeating it continues it."""
        config = replace(self, baseline=None).to_json()
        config["engine"] = _lasting(config["engine"])
        config["roles"] = {role: _lasting(engine) for role, engine in config["roles"].items()}
        identity = canonical([self.protocol, self.seed, config])
        return f"{self.protocol}-{digest(identity, size=4).hex()}"


def _lasting(engine: str | None) -> str | None:
    return None if engine is None else lasting(engine)


OBJECT = "object:"
"""Marks an engine that was handed in as a Python object: only the same call can continue such a run."""


def _name(engine: Any) -> Any:
    if engine is None or isinstance(engine, str):
        return engine
    name = getattr(engine, "spec", None) or getattr(engine, "__qualname__", type(engine).__name__)
    return f"{OBJECT}{name}"


@dataclass(frozen=True)
class PlayResult(Sequence[Result]):
    """The results of a run, in task order, as the journal holds them."""

    run: str
    results: tuple[Result, ...]
    expected: int
    baseline_failed: int = 0
    """Episodes of the pool of samples that failed."""

    @overload
    def __getitem__(self, place: int) -> Result: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[Result, ...]: ...

    def __getitem__(self, place: int | slice) -> Result | tuple[Result, ...]:
        return self.results[place]

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[Result]:
        return iter(self.results)

    @property
    def complete(self) -> bool:
        """Whether every episode was played to its end."""
        return sum(result.status in FINISHED for result in self.results) >= self.expected


def plan(
    protocol: str | type[Protocol],
    tasks: str | Path | Iterable[TaskRecord | dict[str, Any]],
    *,
    limit: int | None = None,
    **options: Any,
) -> Play:
    """A `Play` from what a user gives, everything checked that can be checked without an engine.

    Options are fields of `Play`, options of the protocol, a prompt by its role (`prompts.solver`), sampling
    fields (`temperature`, `judge.max_tokens`), and those of the baseline (`baseline=True`,
    `baseline.temperature`).
    """
    from sparring.graphs.baseline import settings, suits  # not on top: the pool is played by this module

    asked = settings(options)
    _expect(options if limit is None else {**options, "limit": limit})
    known, sampling = split(options)
    prompts = {n.removeprefix(PROMPTS): options.pop(n) for n in list(options) if n.startswith(PROMPTS)}
    if prompts:
        options["prompts"] = {**options.get("prompts", {}), **prompts}
    protocol = protocol_name(protocol)
    chosen = make_protocol(protocol, options)
    if asked is not None:
        suits(chosen)
    rows = chosen.tasks(tasks, limit)
    for task in rows:
        chosen.accepts(task)
    play = Play(protocol, rows, options=chosen.named(options), sampling=sampling, baseline=asked, **known)
    if play.copies < 1:
        raise UserError(f"copies must be at least 1, not {play.copies}")
    for cap, value in asdict(play.limits).items():
        if value is not None and value <= 0:
            raise UserError(f"an episode's cap on {cap} must be above 0, not {value:g}")
    play.cast()
    return play


def split(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of a `Play` and the sampling, both taken out of what a user gives."""
    fields = ("engine", "roles", "seed", "copies", "limits")
    known = {name: options.pop(name) for name in fields if name in options}
    return known, {n: options.pop(n) for n in list(options) if n.rsplit(".", 1)[-1] in SAMPLING_FIELDS}


PROMPTS = "prompts."
_KINDS: dict[str, type] = {
    "seed": int,
    "copies": int,
    "limit": int,
    "concurrency": int,
    "run": str,
    "roles": Mapping,
    "limits": Limits,
    "prompts": Mapping,
}


def _expect(options: Mapping[str, Any]) -> None:
    for name, kind in _KINDS.items():
        value = options.get(name)
        if name in options and (not isinstance(value, kind) or isinstance(value, bool)):
            wanted = "sparring.Limits(...)" if kind is Limits else kind.__name__.lower()
            raise UserError(f"`{name}={value!r}`: give it as {wanted}")


async def aplay(  # noqa: PLR0913 - what a caller may say
    play: Play,
    memory: str | Path | Journal = DEFAULT_MEMORY,
    *,
    run: str | None = None,
    concurrency: int = 64,
    durability: Any = None,
    budget: Budget | None = None,
    on_progress: OnProgress | None = None,
    workers: str | None = None,
) -> PlayResult:
    """Play, or continue, a run; see `play`."""
    from sparring.graphs.baseline import SUFFIX  # not on top, as above

    _expect({"concurrency": concurrency} if run is None else {"concurrency": concurrency, "run": run})
    able(workers, memory)
    with Journal.at(memory, durability) as journal:
        name = run or play.default_name
        if name.endswith(SUFFIX):
            raise UserError(f"run name `{name}`: names that end in `{SUFFIX}` belong to the pools of runs")
        async with hired(workers, journal, concurrency, play) as crew:
            return await drive(journal, name, play, concurrency, on_progress, crew, budget)


async def aresume(  # noqa: PLR0913 - what a caller may say
    run: str,
    memory: str | Path | Journal = DEFAULT_MEMORY,
    *,
    baseline: Mapping[str, Any] | None = None,
    concurrency: int = 64,
    durability: Any = None,
    budget: Budget | None = None,
    on_progress: OnProgress | None = None,
    workers: str | None = None,
) -> PlayResult:
    """Continue a run from the journal alone; with `baseline`, settings of a pool it was begun without."""
    from sparring.graphs.baseline import suits  # not on top, as above

    able(workers, memory)
    if not isinstance(memory, Journal):
        existing(str(memory))
    with Journal.at(memory, durability) as journal:
        stored = Play.from_row(journal.run_row(run))
        if baseline is not None:
            suits(make_protocol(stored.protocol, stored.options))
        if (engine := stored.handed_in) is not None:
            raise UserError(
                f"run `{run}` was begun with a Python object as engine "
                f"(`{engine.removeprefix(OBJECT)}`): continue it with the same call of `sparring.play`"
            )
        if baseline is not None and stored.baseline is None:
            stored = replace(stored, baseline=dict(baseline))
        async with hired(workers, journal, concurrency, stored) as crew:
            return await drive(journal, run, stored, concurrency, on_progress, crew, budget)


async def drive(
    journal: Journal,
    name: str,
    play: Play,
    concurrency: int,
    on_progress: OnProgress | None = None,
    crew: Crew | None = None,
    budget: Budget | None = None,
) -> PlayResult:
    """Play a run, and then the pool of samples where one was asked for, on the same engines."""
    from sparring.graphs.baseline import draw  # not on top: it plays the pool by `taken`

    async with EnginePool(purse=purse_of(journal, name, budget)) as pool:
        play = remembered(journal, name, play)
        async with taken(journal, name, play, pool, concurrency, crew) as player:
            await player(on_progress)
        lost = 0
        if play.baseline is not None:
            lost = await draw(journal, name, play, pool, concurrency, on_progress, crew)
        return PlayResult(name, tuple(read_results(journal, name)), player.total, lost)


def remembered(journal: Journal, name: str, play: Play) -> Play:
    """The play, with the pool that its run was asked for before: a run never loses its baseline."""
    if play.baseline is None and journal.has_run(name):
        return replace(play, baseline=(journal.run_row(name).config or {}).get("baseline"))
    return play


def play(  # noqa: PLR0913 - what a caller may say
    protocol: str | type[Protocol],
    tasks: str | Path | Iterable[TaskRecord | dict[str, Any]],
    *,
    memory: str | Path | Journal = DEFAULT_MEMORY,
    run: str | None = None,
    concurrency: int = 64,
    durability: Any = None,
    workers: str | None = None,
    budget: Budget | None = None,
    **options: Any,
) -> PlayResult:
    """Play a protocol over tasks and return the results; called again, it continues the run.

    Args:
        protocol: Its name (`debate`), its class, or `module:Class`.
        tasks: A task file, a shipped set (`demo`), or tasks.
        memory: Journal file, `postgresql://` URL, or an open journal.
        run: Name of the run; by default derived from everything that makes the run what it is.
        concurrency: Episodes at a time.
        durability: `full`, the default, survives a power cut, `normal` a killed process (SQLite); of an open
            journal it is what it was opened with.
        workers: `ray` or `ray:N`, to have N processes of a Ray cluster play (`graphs.workers`); then `memory`
            is PostgreSQL and every engine a spec. None: this process.
        budget: what the whole run may spend, in all its lives, the pool of its baseline too.
        options: `engine`, `roles`, `seed`, `copies`, `limits`, `limit`, options of the protocol, sampling.

    Raises:
        UserError: anything in the call that cannot work, before work starts.
        BudgetSpent: the budget was reached; the run is `interrupted` and goes on under a larger one.
    """
    planned = plan(protocol, tasks, **options)
    how: dict[str, Any] = {"concurrency": concurrency, "durability": durability, "workers": workers}
    return run_now(aplay(planned, memory, run=run, budget=budget, **how))


def resume(
    run: str,
    memory: str | Path | Journal = DEFAULT_MEMORY,
    *,
    concurrency: int = 64,
    on_progress: OnProgress | None = None,
    workers: str | None = None,
    budget: Budget | None = None,
) -> PlayResult:
    """Continue a run from the journal alone; `budget` as in `play`."""
    how: dict[str, Any] = {"concurrency": concurrency, "on_progress": on_progress, "workers": workers}
    return run_now(aresume(run, memory, budget=budget, **how))


USE = (
    "`await sparring.aplay(sparring.plan(PROTOCOL, TASKS, engine=..., **OPTIONS), memory=..., run=...)`, "
    "or `await sparring.aresume(RUN, memory)`"
)


def run_now(playing: Coroutine[Any, Any, T], use: str = USE) -> T:
    """The result of a coroutine, where no event loop is running.

    Raises:
        UserError: one is; `use` says what to write instead.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(playing)
    playing.close()
    raise UserError(f"an event loop is running here: use {use}")

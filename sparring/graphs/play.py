"""Play a protocol over tasks: episodes side by side, every word journaled, resumable at any instant.

    result = sparring.play("debate", "demo", engine="smollm2-135m", memory="debates.db")

The run's configuration is a row, so `resume("NAME", memory=...)` needs nothing else; the same call
again continues the same run. Episodes are independent: one failure is recorded and the rest go on.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sparring.agents.engines.registry import EnginePool
from sparring.agents.roles import Agent
from sparring.errors import BudgetExceeded, EngineError, SandboxUnavailable, SparringError, UserError
from sparring.graphs.cast import SAMPLING_FIELDS, Cast, pinned
from sparring.graphs.catalogue import make_protocol
from sparring.graphs.context import Context, Limits, Meter
from sparring.graphs.protocol import Protocol
from sparring.graphs.results import Result, read_results
from sparring.memory.episode import EpisodeHandle
from sparring.memory.journal import Journal
from sparring.memory.records import TaskRecord
from sparring.memory.run import RunHandle
from sparring.memory.tasks import load_tasks
from sparring.memory.types import canonical, digest
from sparring.tools.checks import CHECKS, acheck
from sparring.tools.equality import equality

log = logging.getLogger("sparring")
DEFAULT_MEMORY = "sparring.db"
FINISHED = ("done", "capped")


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

    def to_json(self) -> dict[str, Any]:
        """The run's configuration row."""
        return {
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
        tasks = tuple(TaskRecord(**task) for task in config.pop("tasks"))
        limits = Limits(**config.pop("limits"))
        return cls(protocol=row.protocol, seed=row.seed, tasks=tasks, limits=limits, **config)

    @property
    def default_name(self) -> str:
        """The same call names the same run, so that repeating it continues it."""
        identity = canonical([self.protocol, self.seed, self.to_json()])
        return f"{self.protocol}-{digest(identity, size=4).hex()}"


def _name(engine: Any) -> Any:
    return (
        engine
        if engine is None or isinstance(engine, str)
        else getattr(engine, "spec", type(engine).__name__)
    )


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    run: str
    done: int
    total: int
    failed: int
    completion_tokens: int


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class PlayResult(Sequence[Result]):
    """The results of a run, in task order, as the journal holds them."""

    run: str
    results: tuple[Result, ...]
    expected: int

    def __getitem__(self, place: Any) -> Any:
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
    protocol: str,
    tasks: str | Path | Iterable[TaskRecord | dict[str, Any]],
    *,
    limit: int | None = None,
    **options: Any,
) -> Play:
    """A `Play` from what a user gives, everything checked that can be checked without an engine.

    Options are fields of `Play`, options of the protocol, and sampling fields (`temperature`,
    `judge.max_tokens`).
    """
    known = {
        name: options.pop(name) for name in ("engine", "roles", "seed", "copies", "limits") if name in options
    }
    sampling = {n: options.pop(n) for n in list(options) if n.rsplit(".", 1)[-1] in SAMPLING_FIELDS}
    if isinstance(tasks, str | Path):
        rows = load_tasks(tasks, limit, checks=CHECKS)
    else:
        rows = [TaskRecord(**task) if isinstance(task, dict) else task for task in tasks][:limit]
    if not rows:
        raise UserError("there are no tasks to play")
    if any(task.check == "code" for task in rows):
        raise SandboxUnavailable(
            "check `code` runs model-written code and needs the sandbox, which this version lacks"
        )
    play = Play(protocol, tuple(rows), options=options, sampling=sampling, **known)
    if play.copies < 1:
        raise UserError(f"copies must be at least 1, not {play.copies}")
    Cast(make_protocol(protocol, options), play.engine, play.roles, sampling)
    return play


class Player:
    """Plays a run's episodes. Open engines and journal are handed in, so that runs can share them."""

    def __init__(self, play: Play, run: RunHandle, pool: EnginePool, concurrency: int = 64) -> None:
        if concurrency < 1:
            raise UserError(f"concurrency must be at least 1, not {concurrency}")
        self.play, self.run, self.pool, self.concurrency = play, run, pool, concurrency
        self.protocol: Protocol = make_protocol(play.protocol, play.options)
        self.protocol.compile()  # a graph that does not hold together fails here and not in each episode
        self._agents: dict[str, Agent] = {}
        self.done = self.failed = self.tokens = 0

    @property
    def total(self) -> int:
        return len(self.play.tasks) * self.play.copies

    async def __call__(self, on_progress: OnProgress | None = None) -> None:
        """Play what is not finished yet, `concurrency` episodes at a time."""
        cast = Cast(self.protocol, self.play.engine, self.play.roles, self.play.sampling)
        self._agents = await cast.agents(self.pool, self.run.journal)
        waiting = iter([(task, copy) for copy in range(self.play.copies) for task in self.play.tasks])

        async def work() -> None:
            for task, copy in waiting:
                await self._episode(task, copy)
                if on_progress is not None:
                    on_progress(self.progress())

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.concurrency, self.total)):
                group.create_task(work())

    def progress(self) -> Progress:
        return Progress(self.run.id, self.done, self.total, self.failed, self.tokens)

    async def _episode(self, task: TaskRecord, copy: int) -> None:
        handle = self._open(task, copy)
        if handle is None:
            self.done += 1
            return
        context = Context(handle, self._seated(handle) or {}, equality(task.check), Meter(self.play.limits))
        status, outcome, error = "done", None, None
        try:
            outcome = await self.protocol.run(task.question, context)
        except BudgetExceeded as reached:
            status, error = "capped", str(reached)
        except EngineError as failure:
            status, error = "failed", str(failure)
        except SparringError:
            raise  # the user's fault, or the run is no longer ours: stop, nothing is lost
        except Exception as bug:  # a failed episode is data: recorded, and the rest go on
            log.warning("episode %s of task `%s` failed: %r", handle.id, task.id, bug)
            log.debug("where it failed", exc_info=True)
            status, error = "failed", f"{type(bug).__name__}: {bug}"
        self.done += 1
        self.failed += status == "failed"
        self.tokens += context.meter.completion_tokens
        await self._close(handle, task, status, outcome, error)

    async def _close(
        self, handle: EpisodeHandle, task: TaskRecord, status: str, outcome: Any, error: str | None
    ) -> None:
        verdict = None
        if status in FINISHED and task.answer is not None:
            answer = outcome["answer"] if outcome else None
            verdict = asdict(await acheck(task.check, answer, task.answer))
        await handle.close(status, outcome, error, verdict)

    def _open(self, task: TaskRecord, copy: int) -> EpisodeHandle | None:
        """The episode to be played; None where it is finished. An episode whose policy version is gone
        is abandoned, and the next free copy is played in its place."""
        while True:
            state = self.run.state(task, 0, copy)
            if state is not None and state.status in FINISHED:
                return None
            if state is None or (state.status != "abandoned" and self._seats_hold(state.seats)):
                return self.run.episode(task, 0, copy, seats=self._seats())
            if state.status != "abandoned":
                self.run.abandon(task, 0, copy, "a policy version it began with is gone")
            copy += self.play.copies

    def _seats(self) -> dict[str, dict[str, Any]]:
        return {seat: {"role": a.role.name, "version": a.version_id} for seat, a in self._agents.items()}

    def _seats_hold(self, seats: dict[str, Any]) -> bool:
        return all(
            seat in seats and pinned(agent, seats[seat]["version"], self.run.journal)
            for seat, agent in self._agents.items()
        )

    def _seated(self, handle: EpisodeHandle) -> dict[str, Agent]:
        seated = {}
        for seat, agent in self._agents.items():
            found = pinned(agent, handle.seats[seat]["version"], self.run.journal)
            assert found is not None, "checked when the episode was opened"
            seated[seat] = found
        return seated


async def aplay(
    play: Play,
    memory: str | Path = DEFAULT_MEMORY,
    *,
    run: str | None = None,
    concurrency: int = 64,
    durability: Any = "full",
    on_progress: OnProgress | None = None,
) -> PlayResult:
    """Play, or continue, a run; see `play`."""
    with Journal.open(memory, durability) as journal:
        name = run or play.default_name
        return await drive(journal, name, play, concurrency, on_progress)


async def drive(
    journal: Journal, name: str, play: Play, concurrency: int, on_progress: OnProgress | None = None
) -> PlayResult:
    """Take the run's lock, play it, and note how it ended."""
    config = json.loads(json.dumps(play.to_json()))
    handle = journal.drive(name, kind="play", protocol=play.protocol, config=config, seed=play.seed)
    status = "failed"
    try:
        async with EnginePool() as pool:
            player = Player(play, handle, pool, concurrency)
            await player(on_progress)
        results = read_results(journal, name)
        result = PlayResult(name, tuple(results), player.total)
        status = "done" if result.complete else "failed"
        return result
    except asyncio.CancelledError:
        status = "interrupted"
        raise
    except BaseExceptionGroup as group:
        raise _first(group) from None
    finally:
        handle.finish(status)
        handle.release()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """One error of a group: the first of ours, else the first."""
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves.append(_first(error) if isinstance(error, BaseExceptionGroup) else error)
    return next((error for error in leaves if isinstance(error, SparringError)), leaves[0])


def play(
    protocol: str,
    tasks: str | Path | Iterable[TaskRecord | dict[str, Any]],
    *,
    memory: str | Path = DEFAULT_MEMORY,
    run: str | None = None,
    concurrency: int = 64,
    **options: Any,
) -> PlayResult:
    """Play a protocol over tasks and return the results; called again, it continues the run.

    Args:
        protocol: `sample`, `debate`, `du`, `mad`, `reconcile`.
        tasks: A task file, a shipped set (`demo`), or tasks.
        memory: Journal file or `postgresql://` URL.
        run: Name of the run; by default derived from everything that makes the run what it is.
        concurrency: Episodes at a time.
        options: `engine`, `roles`, `seed`, `copies`, `limits`, `limit`, options of the protocol, sampling.

    Raises:
        UserError: anything in the call that cannot work, before work starts.
    """
    return asyncio.run(aplay(plan(protocol, tasks, **options), memory, run=run, concurrency=concurrency))


def resume(
    run: str,
    memory: str | Path = DEFAULT_MEMORY,
    *,
    concurrency: int = 64,
    on_progress: OnProgress | None = None,
) -> PlayResult:
    """Continue a run from the journal alone."""

    async def continued() -> PlayResult:
        with Journal.open(memory) as journal:
            stored = Play.from_row(journal.run_row(run))
            return await drive(journal, run, stored, concurrency, on_progress)

    return asyncio.run(continued())

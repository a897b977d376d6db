"""The player of one run: its episodes side by side, each closed with its verdict, and how far it is.

Episodes are independent: one failure is recorded and the rest go on. The user's faults and a lost run
stop everything; what was said until then is in the journal.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import update

from sparring.agents.engines.registry import EnginePool, lasting, priced
from sparring.agents.roles import Agent
from sparring.errors import (
    BudgetExceeded,
    BudgetSpent,
    EngineError,
    Pending,
    SparringError,
    ToolFailed,
    UserError,
    place_of,
)
from sparring.graphs.budget import affordable
from sparring.graphs.cast import pinned, policy_spec
from sparring.graphs.catalogue import make_protocol
from sparring.graphs.context import Context, Meter
from sparring.graphs.protocol import Outcome, Protocol
from sparring.graphs.sandboxed import note_sandbox
from sparring.memory.episode import EpisodeHandle
from sparring.memory.journal import Journal
from sparring.memory.policies import find
from sparring.memory.records import Fork, TaskRecord
from sparring.memory.replay import fork_at
from sparring.memory.run import RunHandle
from sparring.memory.schema import Run
from sparring.tools.equality import equality
from sparring.tools.programs import describe

if TYPE_CHECKING:
    from sparring.graphs.play import Play
    from sparring.graphs.workers import Crew

log = logging.getLogger("sparring")
FINISHED = ("done", "capped")
REPLAYED, HELD, STOPPED = "replayed", "held", "stopped"
"""What becomes of an episode that was finished before, of one that waits for the rest of its run, and of one
that the run's budget does not reach for."""
FACTS = "facts"
"""Kind of the event that keeps what a run knows."""
TICK_S = 0.5

Booking = tuple[TaskRecord, int]
"""A task and the copy of it that an episode plays, in the iteration that is played."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    run: str
    done: int
    total: int
    failed: int
    completion_tokens: int
    """Generated for it in this process, by the engines' own count."""
    calls: int = 0
    share: float = 0.0
    """How much of what was left to do at the start is done, in 0..1: by episodes or, earlier, by calls."""


OnProgress = Callable[[Progress], None]


class Player:
    """Plays a run's episodes. Open engines and journal are handed in, so that runs can share them."""

    def __init__(
        self,
        play: Play,
        run: RunHandle,
        pool: EnginePool,
        concurrency: int = 64,
        agents: dict[str, Agent] | None = None,
    ) -> None:
        if concurrency < 1:
            raise UserError(f"concurrency must be at least 1, not {concurrency}")
        self.play, self.run, self.pool, self.concurrency = play, run, pool, concurrency
        self.protocol: Protocol = make_protocol(play.protocol, play.options)
        self.protocol.compile()  # a graph that does not hold together fails here and not in each episode
        for task in play.tasks:
            self.protocol.accepts(task)
        self._cast = play.cast()
        self._agents: dict[str, Agent] = agents or {}
        self.done = self.failed = self.stopped = self.total = 0
        self._replayed = 0
        self._facts: Mapping[str, Any] = {}
        self._equipment: Any = None
        self._held: list[Booking] = []
        """Episodes that wait for what the rest of the run has to show."""
        self._spent = self._usage()  # the pool may have served other runs before

    async def __call__(
        self,
        on_progress: OnProgress | None = None,
        episodes: Sequence[Booking] | None = None,
        iteration: int = 0,
    ) -> None:
        """Play what is not finished yet of `episodes` (by default all), `concurrency` at a time.

        Raises:
            BudgetSpent: the run's budget did not reach for all of them; what was said is journaled.
        """
        if episodes is None:
            episodes = [(task, copy) for copy in range(self.play.copies) for task in self.play.tasks]
        self.total += len(episodes)
        async with self.at_work():
            await self._over(episodes, iteration, on_progress)
            if self._held and not self.stopped:
                self._facts = await self._known(ask=True)
                await self._over(self._held, iteration, on_progress)
        if self.stopped and self.pool.purse is not None:
            raise BudgetSpent(self.pool.purse.said)

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """With all that its episodes need at hand."""
        if not self._agents:
            self._agents = await self._cast.agents(self.pool, self.run.journal)
        if self.protocol.runs_programs or any(task.check == "code" for task in self.play.tasks):
            await note_sandbox(self.run, await asyncio.to_thread(describe))
        # Facts of this very run are asked for once it has come as far: what a run that was cut off had
        # until then is not all of it.
        self._facts = await self._known(ask=not self.protocol.waits)
        async with self.protocol.equipment(self.run) as self._equipment:
            yield

    async def _known(self, *, ask: bool) -> Mapping[str, Any]:
        """What the run knows; the first answer of its protocol, asked where there is none, is kept."""
        kept: Mapping[str, Any] | None = self.run.decided(FACTS, "0")
        if kept is None and ask:
            kept = await asyncio.to_thread(self.protocol.facts, self.run.journal, self.run.id)
            if kept is not None:
                await self.run.event(FACTS, "0", dict(kept))
        return kept or {}

    async def _over(
        self, episodes: Sequence[Booking], iteration: int, on_progress: OnProgress | None
    ) -> None:
        """Once over some episodes, side by side; those that have to wait for the rest are held."""
        self._held = []
        waiting = iter(episodes)

        async def work() -> None:
            for task, copy in waiting:
                await self._episode(task, iteration, copy)

        def tell() -> None:
            if on_progress is not None:
                on_progress(self.progress())

        async with _ticking(tell), asyncio.TaskGroup() as group:
            for _ in range(min(self.concurrency, len(episodes))):
                group.create_task(work())

    def progress(self) -> Progress:
        """Where it stands now, open episodes included."""
        calls, tokens = (now - then for now, then in zip(self._usage(), self._spent, strict=True))
        left = max(1, self.total - self._replayed)
        share = max((self.done - self._replayed) / left, min(0.99, calls / (left * self.protocol.max_calls)))
        return Progress(self.run.id, self.done, self.total, self.failed, tokens, calls, share)

    def _usage(self) -> tuple[int, int]:
        """Samples and completion tokens that the pool's engines gave so far."""
        totals = [snapshot["total"] for snapshot in self.pool.ledgers().values()]
        return sum(int(t["samples"]) for t in totals), sum(int(t["completion_tokens"]) for t in totals)

    async def _episode(self, task: TaskRecord, iteration: int, copy: int) -> None:
        status = STOPPED if self._beyond(task, iteration, copy) else await self.one(task, iteration, copy)
        if status == STOPPED:
            self.stopped += 1
            return
        if status == HELD:
            self._held.append((task, copy))
            return
        self.done += 1
        self._replayed += status == REPLAYED
        self.failed += status == "failed"

    def _beyond(self, task: TaskRecord, iteration: int, copy: int) -> bool:
        """Whether an episode is not finished and there is nothing left to play it with."""
        if self.pool.purse is None or not self.pool.purse.empty:
            return False
        state = self.run.state(task, iteration, copy)
        return state is None or state.status not in FINISHED

    async def one(self, task: TaskRecord, iteration: int, copy: int) -> str:
        """Play an episode to its end; its status, `REPLAYED`, `HELD` or `STOPPED`."""
        handle = await self._open(task, iteration, copy)
        if handle is None:
            return REPLAYED
        context = Context(
            handle, self._seated(handle) or {}, equality(task.check), Meter(self.play.limits), task
        )
        context.facts, context.equipment = self._facts, self._equipment
        outcome: Outcome | None = None
        error: str | None = None
        status = "done"
        try:
            async with handle:  # calls beside one that fails are paid for: they finish and are journaled
                outcome = await self.protocol.run(task.question, context)
            if error := outcome.get("capped"):
                status = "capped"
        except Pending:
            return HELD
        except BudgetSpent:  # those beside it are told too, each at its next call
            return STOPPED
        except BudgetExceeded as reached:
            status, error = "capped", str(reached)
        except (EngineError, ToolFailed) as failure:
            status, error = "failed", str(failure)
        except SparringError:
            raise  # the user's fault, or the run is no longer ours: stop, nothing is lost
        except Exception as bug:  # a failed episode is data: recorded, and the rest go on
            said = f"{type(bug).__name__}: {bug} ({place_of(bug, self.protocol.__module__)})"
            log.warning("episode %s of task `%s` failed: %s", handle.id, task.id, said)
            log.debug("where it failed", exc_info=True)
            status, error = "failed", said
        return await self._close(handle, context, (status, error), outcome)

    async def _close(
        self,
        handle: EpisodeHandle,
        context: Context,
        ended: tuple[str, str | None],
        outcome: Outcome | None,
    ) -> str:
        """End an episode with its verdict; returns its status. Where a tool failed in judging it is `failed`:
        no verdict, and tried again when the run is resumed."""
        status, error = ended
        verdict = None
        if status in FINISHED and self.protocol.answers:
            try:
                verdict = await self.protocol.judgement(context, outcome)
            except ToolFailed as failure:
                status, error = "failed", str(failure)
        await handle.close(status, outcome, error, verdict)
        return status

    async def _open(self, task: TaskRecord, iteration: int, copy: int) -> EpisodeHandle | None:
        """The episode to be played; None where it is finished. A new one gets the versions that the heads
        point at now. One whose policy version is gone is abandoned, and the next free copy is played in
        its place."""
        while True:
            state = self.run.state(task, iteration, copy)
            if state is not None and state.status in FINISHED:
                return None
            if state is None and self._cast.moved(self._agents, self.run.journal):
                self._agents = await self._cast.agents(self.pool, self.run.journal)
            if state is None or (state.status != "abandoned" and self._seats_hold(state.seats)):
                fork = self._fork() if state is None else None
                return self.run.episode(task, iteration, copy, seats=self._seats(), fork=fork)
            if state.status != "abandoned":
                self.run.abandon(task, iteration, copy, "a policy version it began with is gone")
            copy += self.play.copies

    def _fork(self) -> Fork | None:
        """What a new episode begins with."""
        asked = self.play.fork
        if asked is None:
            return None
        return fork_at(self.run.journal, asked["episode"], *self.protocol.beginning(asked["at"]))

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


@asynccontextmanager
async def _ticking(tell: Callable[[], object]) -> AsyncIterator[None]:
    """Call `tell` now and then and once at the end: episodes are long, and who watches wants to see life."""

    async def tick() -> None:
        while True:
            await asyncio.sleep(TICK_S)
            tell()

    ticker = asyncio.create_task(tick())
    try:
        yield
    finally:
        ticker.cancel()
        tell()


@asynccontextmanager
async def taken(
    journal: Journal,
    name: str,
    play: Play,
    pool: EnginePool,
    concurrency: int,
    crew: Crew | None = None,
) -> AsyncIterator[Player]:
    """A player with the run's lock; how it ended is noted when it is let go.

    The engines are asked first: one that is not there fails before the run has a row.

    Args:
        crew: who plays the episodes instead of this process, on engines of their own.
    """
    if concurrency < 1:
        raise UserError(f"concurrency must be at least 1, not {concurrency}")
    if crew is None:
        agents = await play.cast().agents(pool, journal)
        affordable(pool.purse, name, pool.priced, pool.unpriced)
        await asyncio.to_thread(make_protocol(play.protocol, play.options).ready)
    else:
        prices = {spec: priced(spec) for spec in _specs(play, journal)}
        unpriced = [spec for spec, known in prices.items() if known is None]
        affordable(pool.purse, name, any(prices.values()), unpriced)
        await crew.prepare(name, play)
    config = json.loads(json.dumps(play.to_json()))
    if journal.has_run(name) and "baseline" not in (journal.run_row(name).config or {}):
        config.pop("baseline", None)  # asked for later, the run stays the same one
    protocol = make_protocol(play.protocol, play.options)
    if not journal.has_run(name) and not protocol.waits:  # what cannot be known leaves no run in the way
        await asyncio.to_thread(protocol.facts, journal, name)
    handle = journal.drive(
        name,
        kind=play.kind,
        protocol=play.protocol,
        config=config,
        seed=play.seed,
        parent=play.parent,
        reread=partial(_as_given, config),
    )
    try:
        with handle.driven() as ending:
            if play.baseline is not None and "baseline" not in config:
                asked = update(Run).where(Run.id == name, Run.epoch == handle.epoch)
                journal.execute(asked.values(config={**config, "baseline": play.baseline}))
            if crew is None:
                player = Player(play, handle, pool, concurrency, agents)
            else:
                player = crew.player(play, handle, pool, concurrency)
            yield player
            ended = "failed" if player.failed else "done"
            ending.status = "interrupted" if player.stopped else ended
    except BaseExceptionGroup as group:
        raise first_of(group) from None


def _specs(play: Play, journal: Journal) -> Iterator[str]:
    """The engines of a play, those beneath policies too."""
    for engine in (play.engine, *play.roles.values()):
        if engine is not None:
            named = policy_spec(engine)
            yield str(engine) if named is None else find(journal, *named).base_spec


def _as_given(config: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    """A journaled configuration, its engines spelt as in `config` where they are the same ones."""

    def spelt(now: Any, then: Any) -> Any:
        if isinstance(now, dict) and isinstance(then, dict):
            return {name: spelt(now.get(name), engine) for name, engine in then.items()}
        both = isinstance(now, str) and isinstance(then, str)
        return now if both and lasting(now) == lasting(then) else then

    return {**old, **{name: spelt(config[name], old[name]) for name in ("engine", "roles") if name in old}}


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """One error of a group: the first of ours, else the first."""
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves.append(first_of(error) if isinstance(error, BaseExceptionGroup) else error)
    return next((error for error in leaves if isinstance(error, SparringError)), leaves[0])

"""Episodes on a Ray cluster: a driver hands them out, worker processes play them, all into one PostgreSQL.

    sparring play debate --tasks FILE --engine SPEC --memory postgresql://USER@HOST/NAME --workers ray:8

The driver has the run's lock and books each episode by task, iteration and copy; a worker has engines of its
own and writes under the driver's epoch. What a worker was at when it was lost is played again once all else
is over, and under the next epoch: one that was cut off and lives on is refused from then on, as a driver
is that was taken over, so no two processes ever write one episode.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparring.agents.engines.registry import EnginePool
from sparring.errors import SparringError, StaleEpoch, UserError
from sparring.graphs.budget import emptied
from sparring.graphs.cluster import connected
from sparring.graphs.player import TICK_S, Booking, OnProgress, Player, log
from sparring.graphs.worker import Usage, Worker, code
from sparring.memory.database import parse_url
from sparring.memory.journal import Journal
from sparring.memory.records import TaskRecord
from sparring.memory.run import RunHandle

if TYPE_CHECKING:
    from sparring.graphs.play import Play

TRIES = 3
"""How often an episode may lose its worker, or a worker fail to start, before it is given up."""
START_S = 300.0
"""How long a worker may take to open the journal; its engines may take longer."""
STOP_S = 15.0
LOGS = "Ray's logs say more (/tmp/ray/session_latest/logs on the machines)"
HANDED_ON = ("SPARRING_STORE", "SPARRING_DEBUG")
"""Variables of the environment that a worker has from the driver."""


class WorkerLost(SparringError):
    """A worker died, or cannot be reached any more."""

    fault = "world"


def able(workers: str | None, memory: str | Path | Journal) -> int | None:
    """How many workers are asked for; None: as many as the cluster has GPUs, or else machines.

    Raises:
        UserError: not of the form `ray[:N]`, Ray is not installed, or the journal is a SQLite file.
    """
    if workers is None:
        return None
    match = re.fullmatch(r"ray(?::([1-9][0-9]{0,5}))?", str(workers))
    if match is None:
        raise UserError(f"workers `{workers}`: write `ray` or `ray:N`, N being how many processes play")
    url = memory.engine.url if isinstance(memory, Journal) else parse_url(memory)
    if url.get_backend_name() != "postgresql":
        raise UserError(
            f"workers `{workers}` write one journal from several processes, which needs PostgreSQL: give "
            "`--memory postgresql://USER@HOST/NAME` (`sparring memory export` and `import` carry a journal "
            "there)"
        )
    if find_spec("ray") is None:
        raise UserError(f"workers `{workers}` need Ray: pip install 'sparring[ray]'")
    return int(match[1]) if match[1] else None


# --- the driver's side ----------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Place:
    """Where a worker is; after a loss another one."""

    actor: Any = None
    busy: int = 0
    misses: int = 0
    """Workers in a row that did not start here."""
    prepared: set[str] = field(default_factory=set)
    begun: Any = None
    used: Usage = (0, 0)
    before: Usage = (0, 0)
    """What the workers gave that were lost here."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Crew:
    """The workers of a driver."""

    def __init__(self, ray: Any, count: int, journal: Journal, options: dict[str, Any]) -> None:
        self._ray, self._worker, self._options = ray, ray.remote(Worker), options
        url = journal.engine.url.render_as_string(hide_password=False)
        self._opening = (url, journal.durability, os.getcwd(), count, code())
        self._rows: dict[str, dict[str, Any]] = {}
        self._run: tuple[str, int, object] | None = None
        self._why = ""
        """Why the last one did not start."""
        self.places = [Place() for _ in range(count)]

    @property
    def used(self) -> Usage:
        """Samples and completion tokens of all workers, by what they last told."""
        told = [pair for place in self.places for pair in (place.used, place.before)]
        return sum(samples for samples, _ in told), sum(tokens for _, tokens in told)

    async def prepare(self, name: str, play: Play) -> None:
        """Every worker has the engines of a play.

        Raises:
            UserError: an engine is a Python object, or does not work where a worker is.
            NoWorkers: none of them could be started.
        """
        refuse_objects(play)
        about = {"protocol": play.protocol, "seed": play.seed, "kind": play.kind, "parent_id": play.parent}
        self._rows[name] = {"id": name, "config": play.to_json(), **about}
        manned = (self._man(place) for place in self.places)
        found = await asyncio.gather(*manned, return_exceptions=True)
        wrong = [error for error in found if isinstance(error, BaseException)]
        for error in wrong:
            if not isinstance(error, WorkerLost):
                raise error
        if len(wrong) == len(self.places):
            raise NoWorkers(f"{wrong[0]}; {LOGS}")

    def player(self, play: Play, run: RunHandle, pool: EnginePool, concurrency: int) -> Player:
        """Who hands out the episodes of a run."""
        return Foreman(self, play, run, pool, concurrency)

    def begin(self, run: RunHandle) -> None:
        """From here on workers play for this run at its epoch, knowing what it knows by now."""
        self._run = (run.id, run.epoch, object())

    async def play(self, place: int, iteration: int, copy: int) -> str:
        """Have an episode played by the worker that has least to do; its status.

        Raises:
            WorkerLost: the worker was lost in the midst of it, or none can be had any more.
        """
        while True:
            chosen = self._idlest()
            chosen.busy += 1
            try:
                try:
                    await self._man(chosen)
                except StaleEpoch:
                    raise
                except SparringError as error:
                    log.warning("%s", error)
                    continue  # nothing was begun: another worker can have it at once
                return str(await self._ask(chosen, "play", place, iteration, copy))
            finally:
                chosen.busy -= 1

    def _idlest(self) -> Place:
        open_ = [place for place in self.places if place.misses < TRIES]
        if not open_:
            raise NoWorkers(
                f"workers did not start, {TRIES} times in a row each (the last: {self._why}); {LOGS}; "
                "what was said is in the journal"
            )
        return min(open_, key=lambda place: place.busy)

    async def _man(self, place: Place) -> None:
        """A worker there, who has the engines and has begun what is played now."""
        async with place.lock:
            if place.misses >= TRIES:
                raise WorkerLost("its place was closed meanwhile")
            try:
                if place.actor is None:
                    place.actor = self._hire(self.places.index(place), again=place.misses > 0)
                    await asyncio.wait_for(self._ask(place, "open", *self._opening), START_S)
                for name in self._rows.keys() - place.prepared:
                    await self._ask(place, "prepare", self._rows[name])
                    place.prepared.add(name)
                if self._run is not None and place.begun is not self._run:
                    await self._ask(place, "begin", *self._run[:2])
                    place.begun = self._run
            except (SparringError, TimeoutError) as error:
                place.misses += 1
                self._leave(place, place.actor)
                self._why = str(error) or f"no answer in {START_S:g} s"
                if isinstance(error, SparringError) and not isinstance(error, WorkerLost):
                    raise
                raise WorkerLost(f"a worker did not start: {self._why}") from None
            place.misses = 0

    def _hire(self, number: int, *, again: bool) -> Any:
        """A new worker. Without a GPU the machines take turns; one that failed to start may go anywhere."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        where: Any = "SPREAD"
        if not self._options["num_gpus"] and not again:
            alive = sorted(node["NodeID"] for node in self._ray.nodes() if node["Alive"])
            # Not `soft`: Ray takes that for a wish, and may put all workers on one machine.
            where = NodeAffinitySchedulingStrategy(alive[number % len(alive)], soft=False)
        return self._worker.options(**self._options, scheduling_strategy=where).remote()

    async def _ask(self, place: Place, verb: str, *given: Any) -> Any:
        """The answer of the worker at a place.

        Raises:
            WorkerLost: there was none; the place is free for another worker.
            SparringError: what the worker raised.
        """
        actor, errors = place.actor, self._ray.exceptions
        if actor is None:
            raise WorkerLost("the worker is gone")
        try:
            return await getattr(actor, verb).remote(*given)
        except errors.RayTaskError as raised:
            cause = raised.cause
            if isinstance(cause, SparringError):
                raise cause from None
            raise SparringError(f"a worker failed: {cause!r}") from None
        except errors.RayError as gone:
            why = (str(gone).strip().splitlines() or [type(gone).__name__])[0]
            log.warning("a worker was lost: %s", why)
            self._leave(place, actor)
            raise WorkerLost(why) from None

    def _leave(self, place: Place, actor: Any) -> None:
        """Give a worker up; one that lives on is ended where it can be reached."""
        if actor is None or place.actor is not actor:
            return
        place.before = (place.before[0] + place.used[0], place.before[1] + place.used[1])
        place.actor, place.begun, place.used, place.prepared = None, None, (0, 0), set()
        with suppress(Exception):
            self._ray.kill(actor)

    async def look(self) -> None:
        """Ask the workers now and then how far they are."""
        while True:
            await asyncio.sleep(TICK_S)
            for place in self.places:
                if place.actor is not None and place.busy:
                    with suppress(SparringError):
                        place.used = await self._ask(place, "usage")

    async def tell(self, verb: str) -> None:
        """Tell all workers, and wait for those who answer in time."""
        told = [self._ask(place, verb) for place in self.places if place.actor is not None]
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*told, return_exceptions=True), STOP_S)

    async def close(self) -> None:
        """End the workers."""
        await self.tell("close")
        for place in self.places:
            self._leave(place, place.actor)


class NoWorkers(SparringError):
    """No worker can be started any more."""

    fault = "world"


class Foreman(Player):
    """Plays a run by handing its episodes out."""

    def __init__(self, crew: Crew, play: Play, run: RunHandle, pool: EnginePool, concurrency: int) -> None:
        self._crew = crew
        self._numbers = {task.key: number for number, task in enumerate(play.tasks)}
        self._lost: list[Booking] = []
        self._losses = Counter[tuple[str, int, int]]()
        super().__init__(play, run, pool, concurrency)

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        self._facts = await self._known(ask=not self.protocol.waits)
        beside = [asyncio.create_task(work()) for work in (self._crew.look, self._keep, self._count)]
        try:
            yield
        except BaseException:
            await self._crew.tell("rest")
            raise
        finally:
            for task in beside:
                task.cancel()

    async def _keep(self) -> None:
        """Look after the lock, which a journal does after its own commits: here the workers commit."""
        while True:
            await asyncio.sleep(TICK_S)
            await asyncio.to_thread(self.run.keep)

    async def _count(self) -> None:
        """Stop all workers at the run's budget."""
        if self.pool.purse is not None:
            await emptied(self.run.journal, self.pool.purse, TICK_S)
            await self._crew.tell("stop")

    def _usage(self) -> Usage:
        return self._crew.used

    async def one(self, task: TaskRecord, iteration: int, copy: int) -> str:
        return await self._crew.play(self._numbers[task.key], iteration, copy)

    async def _episode(self, task: TaskRecord, iteration: int, copy: int) -> None:
        try:
            await super()._episode(task, iteration, copy)
        except WorkerLost:
            self._lost.append((task, copy))

    async def _over(
        self, episodes: Sequence[Booking], iteration: int, on_progress: OnProgress | None
    ) -> None:
        """Once over the episodes, and again over those that lost their worker, each time at a new epoch."""
        held: list[Booking] = []
        while episodes:
            self._lost = []
            self._crew.begin(self.run)
            for some in self._together(episodes, iteration):
                await super()._over(some, iteration, on_progress)
                held += self._held
            if self._lost:
                await asyncio.to_thread(self.run.renew)
            episodes = [booking for booking in self._lost if self._again(booking, iteration)]
        self._held = held

    def _together(self, episodes: Sequence[Booking], iteration: int) -> list[Sequence[Booking]]:
        """What is played side by side: an episode's last try alone, or one that kills whoever plays it would
        take with it those that it is always played beside."""
        last = [one for one in episodes if self._losses[self._name(one, iteration)] == TRIES - 1]
        return [[one for one in episodes if one not in last], *([one] for one in last)]

    @staticmethod
    def _name(booking: Booking, iteration: int) -> tuple[str, int, int]:
        return booking[0].key, iteration, booking[1]

    def _again(self, booking: Booking, iteration: int) -> bool:
        """Whether an episode is tried once more; one that loses every worker has failed."""
        task, copy = booking
        name = self._name(booking, iteration)
        self._losses[name] += 1
        if self._losses[name] < TRIES:
            return True
        why = f"the worker that played it was lost, {TRIES} times"
        log.warning("an episode of task `%s` failed: %s", task.id, why)
        status = self.run.fail(task, iteration, copy, why)
        self.done, self.failed = self.done + 1, self.failed + (status == "failed")
        return False


# --- the cluster ----------------------------------------------------------------------------------------


@asynccontextmanager
async def hired(
    workers: str | None, journal: Journal, concurrency: int, play: Play
) -> AsyncIterator[Crew | None]:
    """The workers that were asked for, let go at the end; None where none were.

    A cluster is joined where this process is in one already or `RAY_ADDRESS` names one; otherwise one is
    started on this machine, for this process alone.

    Raises:
        UserError: they cannot be had.
    """
    if workers is None:
        yield None
        return
    count = able(workers, journal)
    refuse_objects(play)
    with connected(count or 1) as ray:
        machines = sum(node["Alive"] for node in ray.nodes())
        gpus = int(ray.cluster_resources().get("GPU", 0))
        count = count or gpus or machines
        options: dict[str, Any] = {
            "num_cpus": 0,
            "num_gpus": 1 if gpus >= count else 0,
            "max_restarts": 0,
            "max_concurrency": max(1000, 2 * concurrency),
        }
        if environment := {name: os.environ[name] for name in HANDED_ON if name in os.environ}:
            options["runtime_env"] = {"env_vars": environment}
        crew = Crew(ray, count, journal, options)
        try:
            yield crew
        finally:
            await crew.close()


def refuse_objects(play: Play) -> None:
    """Raise `UserError` where a seat's engine is no spec: nothing but specs reaches another process."""
    named = (engine for engine in (play.engine, *play.roles.values()) if engine is not None)
    if (thing := next((engine for engine in named if not isinstance(engine, str)), None)) is not None:
        raise UserError(
            f"engine `{type(thing).__name__}` was handed in as a Python object, which workers in other "
            "processes cannot have: give a spec, such as `scripted:FILE` or `http://HOST:PORT/v1#MODEL`"
        )

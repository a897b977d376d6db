"""An archive of software agents that is bred from: choose parents, improve them, evaluate, take in, again.

    result = sparring.archive("archive.yaml", memory="agents.db")

The form is that of the Darwin Goedel Machine (2505.22954); what evolves is words and settings of protocol
`software`, and no code. Every decision is an event of the archive's run (`record`) and every evaluation and
improvement a run of its own, a child of it, so an archive that was killed goes on from its journal: what is
decided is read, what is not is done. A generation hangs on earlier ones alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sparring.agents.engines.budget import Budget
from sparring.agents.engines.registry import EnginePool
from sparring.agents.improvements import Improvement
from sparring.agents.objects import ParseError
from sparring.errors import UserError
from sparring.graphs.budget import affordable, purse_of
from sparring.graphs.play import Play, run_now
from sparring.graphs.player import FINISHED, Progress
from sparring.graphs.results import Result
from sparring.memory.journal import Journal
from sparring.memory.run import RunHandle
from sparring.training.archive.agents import PROTOCOL, Software, changed, changes
from sparring.training.archive.config import ArchiveConfig, ImproverConfig, load_archive
from sparring.training.archive.logs import read_attempts
from sparring.training.archive.plays import Plan, admit, evaluation_of, improvement_task, played, prepare
from sparring.training.archive.plots import draw
from sparring.training.archive.record import (
    AGENT,
    CHILD,
    ENTRY,
    EVALUATION,
    FIRST_CHILD,
    KIND,
    PARENTS,
    Archive,
    Evaluation,
    Member,
    candidates,
    read_archive,
)
from sparring.training.archive.selection import choose_parents
from sparring.training.archive.stages import entry, passes, threshold_of
from sparring.training.archive.topics import Topic, choose_topic, topic_rng

Told = Callable[[str, Mapping[str, Any]], None]
"""Called with what happened (`playing`, `stage`, `child`, `entry`) and its numbers."""
INSTANCES = "instances"
"""Event with what the agents are evaluated on."""
AGAIN = "again"
"""Topic of a child that is its parent, evaluated once more."""


class Unfinished(Exception):
    """Attempts failed by the world's fault; the same command tries them again."""

    def __init__(self, run: str, failed: int) -> None:
        super().__init__(f"{failed} attempts of run `{run}` failed")
        self.failed = failed


class Breeding:
    """One archive that this process drives."""

    def __init__(self, plan: Plan, run: RunHandle, pool: EnginePool, told: Told | None = None) -> None:
        self.plan, self.config, self.run, self.pool = plan, plan.config, run, pool
        self.told: Told = told or (lambda kind, numbers: None)

    async def __call__(self) -> None:
        """Breed to the last generation.

        Raises:
            Unfinished: what failed has to be tried again first.
        """
        known = await self._once(INSTANCES, "0", _ready(self.plan.instances))
        if known != self.plan.instances:
            raise UserError(
                f"the instances in `{self.config.tasks}` are not those that run `{self.run.id}` was begun "
                "with: restore them, or choose another `run`"
            )
        await self._once(CHILD, FIRST_CHILD, self._first)
        await self._examine(0)
        for generation in range(1, self.config.generations + 1):
            chosen = await self._once(PARENTS, str(generation), self._choose, generation)
            results = await self._improved(generation, chosen)
            for place, pick in enumerate(chosen):
                key = f"{generation}.{place}"
                child = await self._once(CHILD, key, self._child, generation, place, pick, results.get(key))
                self.told("child", child)
            await self._examine(generation)

    async def _once(self, kind: str, key: str, make: Callable[..., Awaitable[Any]], *given: Any) -> Any:
        """A decision: as it is journaled, or made now."""
        kept = self.run.decided(kind, key)
        if kept is None:
            await self.run.event(kind, key, await make(*given))
            kept = self.run.decided(kind, key)
        return kept

    def _archive(self) -> Archive:
        return read_archive(self.run.journal, self.run.id)

    # --- children ----------------------------------------------------------------------------------------

    async def _first(self) -> dict[str, Any]:
        agent = await self._agent(self.plan.first)
        blank: dict[str, Any] = {
            "topic": "",
            "instances": [],
            "why": "the first",
            "changes": [],
            "failure": None,
        }
        return {"generation": 0, "parent": None, "agent": agent, "member": agent, **blank}

    async def _agent(self, agent: Software) -> str:
        """A configuration's name, once it is journaled."""
        await self._once(AGENT, agent.id, _ready(agent.to_json()))
        return agent.id

    async def _choose(self, generation: int) -> list[dict[str, Any]]:
        """Who has children in a generation, and what of them is to be improved."""
        config = self.config
        members = self._archive().before(generation)
        parents = choose_parents(
            candidates(members), config.children, config.parents, config.seed, generation
        )
        known = {member.id: member for member in members}
        topics = [self._topic(known[name], generation, place) for place, name in enumerate(parents)]
        return [{"parent": name, **asdict(topic)} for name, topic in zip(parents, topics, strict=True)]

    def _topic(self, parent: Member, generation: int, place: int) -> Topic:
        improver = self.config.improver
        if improver is None:
            return Topic(AGAIN)
        attempts = read_attempts(self.run.journal, parent.runs)
        rng = topic_rng(self.config.seed, generation, place)
        return choose_topic(attempts, improver.chances, improver.share, improver.logs, rng)

    async def _improved(self, generation: int, chosen: list[dict[str, Any]]) -> dict[str, Result]:
        """What the improver says of each parent, by the child's key; nothing where it has been heard."""
        improver = self.config.improver
        keys = [f"{generation}.{place}" for place in range(len(chosen))]
        if improver is None or all(self.run.decided(CHILD, key) is not None for key in keys):
            return {}
        known = {member.id: member for member in self._archive().members}
        tasks = [self._task(key, known, pick, improver) for key, pick in zip(keys, chosen, strict=True)]
        name = f"{self.run.id}.improve/{generation}"
        results = await self._play(name, self.plan.improvement(improver, tasks))
        return {result.task_id: result for result in results}

    def _task(self, key: str, known: Mapping[str, Member], pick: Any, improver: ImproverConfig) -> Any:
        topic = Topic(pick["name"], tuple(pick["instances"]))
        return improvement_task(key, known[pick["parent"]], topic, self.config, improver, self.run.journal)

    async def _child(self, generation: int, place: int, pick: Any, result: Result | None) -> dict[str, Any]:
        """What became of a parent's improvement: an agent of its own, or why there is none."""
        archive = self._archive()
        parent = next(member for member in archive.members if member.id == pick["parent"])
        made: dict[str, Any] = {
            "generation": generation,
            "parent": parent.id,
            "topic": pick["name"],
            "instances": pick["instances"],
            "agent": None,
            "member": None,
            "why": "",
            "changes": [],
            "failure": None,
        }
        if self.config.improver is None:
            number = (generation - 1) * self.config.children + place + 1
            return made | {
                "agent": parent.agent.id,
                "member": f"{self.plan.first.id}.{number}",
                "why": "again",
            }
        assert result is not None, "it was just played"
        try:
            why, agent = self._changed(parent, result)
        except ParseError as error:
            return made | {"failure": str(error)}
        if any(agent.id == other.agent.id for other in archive.made):
            return made | {"failure": f"duplicate: configuration {agent.id} is there already", "why": why}
        name = await self._agent(agent)
        return made | {"agent": name, "member": name, "why": why, "changes": changes(parent.agent, agent)}

    def _changed(self, parent: Member, result: Result) -> tuple[str, Software]:
        """The parent as an improver wants it; raises `ParseError` where that cannot be."""
        if result.status not in FINISHED:
            raise ParseError("no_improver", result.error or result.status)
        detail = (result.outcome or {}).get("detail") or {"failure": result.error or result.status}
        if detail["failure"] is not None:
            raise ParseError("unreadable", detail["failure"])
        change = Improvement.model_validate(detail["change"])
        return change.why, changed(parent.agent, change, self.config.free, self.config.options)

    # --- evaluation --------------------------------------------------------------------------------------

    async def _examine(self, generation: int) -> None:
        """Evaluate the agents of a generation, stage by stage, and take in those that are to be."""
        for member in [each for each in self._archive().made if each.generation == generation]:
            for stage in range(len(self.plan.stages)):
                kept = await self._once(EVALUATION, f"{member.id}.{stage}", self._stage, member, stage)
                found = Evaluation.from_json(kept)
                member = replace(member, evaluations=(*member.evaluations[:stage], found))
                if not found.passed:
                    break
            kept = await self._once(ENTRY, member.id, self._entry, member)
            self.told("entry", {"member": member.id, "accuracy": member.accuracy, **kept})

    async def _stage(self, member: Member, stage: int) -> dict[str, Any]:
        name = f"{self.run.id}.agents/{member.id}/{stage + 1}"
        found = evaluation_of(name, await self._play(name, self.plan.evaluation(member, stage)))
        so_far = replace(member, evaluations=(*member.evaluations, found)).accuracy
        hits = round(so_far.mean * so_far.n)
        threshold = threshold_of(self.config, stage, self._archive().before(member.generation))
        passed = passes(hits, so_far.n, threshold, self.config)
        self.told("stage", {"member": member.id, "stage": stage, "accuracy": so_far, "passed": passed})
        return asdict(replace(found, passed=passed, threshold=threshold))

    async def _entry(self, member: Member) -> dict[str, Any]:
        archive = self._archive()
        first = archive.made[0] if member.generation else None
        entered, reason = entry(member, first, self.config)
        return {"entered": entered, "reason": reason}

    async def _play(self, name: str, play: Play) -> list[Result]:
        """The results of a child run.

        Raises:
            Unfinished: some of it failed by the world's fault, and `give_up` is not set.
        """

        def tell(progress: Progress) -> None:
            self.told("playing", {"run": name, "done": progress.done, "total": progress.total})

        journal, concurrency = self.run.journal, self.config.concurrency
        results = await played(journal, name, play, self.pool, concurrency, tell)
        failed = sum(result.status not in FINISHED for result in results)
        if failed and not self.config.give_up:
            raise Unfinished(name, failed)
        return results


def _ready(value: Any) -> Callable[[], Awaitable[Any]]:
    async def make() -> Any:
        return value

    return make


@dataclass(frozen=True, slots=True)
class ArchiveResult:
    """What an archive came to, as the journal holds it."""

    archive: Archive
    plots: list[Path]
    unfinished: str | None
    """What failed and has to be tried again, if anything."""


async def aarchive(
    config: str | Path | dict[str, Any] | ArchiveConfig,
    memory: str | Path | Journal = "sparring.db",
    *,
    told: Told | None = None,
    budget: Budget | None = None,
) -> ArchiveResult:
    """Breed an archive, or go on with the one of its name; see `archive`."""
    settings = config if isinstance(config, ArchiveConfig) else load_archive(config)
    plan, unfinished = prepare(settings), None
    with Journal.at(memory) as journal:
        async with EnginePool(purse=purse_of(journal, settings.run, budget)) as pool:
            await admit(plan, journal, pool)  # what is refused here leaves the run's name free
            affordable(pool.purse, settings.run, pool.priced, pool.unpriced)
            run = journal.drive(
                settings.run,
                kind=KIND,
                protocol=PROTOCOL,
                config=settings.identity(),
                seed=settings.seed,
                reread=settings.reread,
            )
            with run.driven() as ending:
                try:
                    await Breeding(plan, run, pool, told)()
                    ending.status = "done"
                except Unfinished as stopped:
                    unfinished = str(stopped)
        found = await asyncio.to_thread(read_archive, journal, settings.run)
        plots = await asyncio.to_thread(draw, journal, found, settings.plots)
        return ArchiveResult(found, plots, unfinished)


def archive(
    config: str | Path | dict[str, Any] | ArchiveConfig,
    memory: str | Path | Journal = "sparring.db",
    *,
    told: Told | None = None,
    budget: Budget | None = None,
) -> ArchiveResult:
    """Breed an archive of software agents; called again, it goes on where the journal is.

    Args:
        config: a YAML file, what would stand in one, or an `ArchiveConfig`.
        memory: the journal, or where it is.
        told: called with what happens, as it happens.
        budget: what the whole run may spend, in all its lives, with every run that belongs to it.

    Raises:
        UserError: anything in the configuration that cannot work, before work starts.
        BudgetSpent: the budget was reached; the run is `interrupted` and goes on under a larger one.
    """
    return run_now(aarchive(config, memory, told=told, budget=budget), "`await sparring.aarchive(...)`")

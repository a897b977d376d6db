"""The loop: play, reward, experience, update, gate, publish, again; all state in the journal.

    result = sparring.evolve("digits.yaml", memory="digits.db")

Every stage of a step can be done again without harm, so a run that was killed goes on from its journal:
episodes that were finished are not played again, an update is opened with its turns before it trains, and
the version, the end of the update and the training head are one transaction.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sparring.agents.engines.budget import Budget
from sparring.agents.engines.registry import EnginePool
from sparring.graphs.budget import affordable, purse_of
from sparring.graphs.catalogue import make_protocol
from sparring.graphs.play import run_now
from sparring.graphs.protocol import Protocol
from sparring.memory import policies
from sparring.memory.journal import Journal
from sparring.memory.queries import decisions
from sparring.memory.updates import DONE, EMPTY, OPEN, STOPPED
from sparring.training.config import EvolveConfig, load_config
from sparring.training.feed import Fed, episodes_of, make_feed
from sparring.training.judging import Judge
from sparring.training.knobs import adapt_entropy, steer
from sparring.training.measures import measure
from sparring.training.monitors import PLAY, Alarm
from sparring.training.observing import observe
from sparring.training.opponents import games_of
from sparring.training.preflight import Plan, preflight, present, sides
from sparring.training.rewards.derive import read_episodes
from sparring.training.schedule import adapt_temperature
from sparring.training.story import Story, draw, head_numbers, plots_folder, read_story
from sparring.training.team import Job, Member, Team, assemble
from sparring.training.trainer import UpdateInterrupted, UpdateStopped

Told = Callable[[str, Mapping[str, Any]], None]
"""Called with what happened (`step`, `evaluation`, `gate`, `alarm`, `play`) and its numbers."""


@dataclass(slots=True)
class State:
    """What the loop carries from step to step; read back from the step events."""

    step: int = 0
    seconds: float = 0.0
    history: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Policy -> metrics of its steps."""
    knobs: dict[str, dict[str, float]] = field(default_factory=dict)
    """Policy -> temperature and entropy coefficient of the next step."""
    stopped: dict[str, str] = field(default_factory=dict)
    """Policies whose training a monitor or a diverged update has stopped, and why."""


class Evolution:
    """One evolution run that this process drives."""

    def __init__(self, plan: Plan, team: Team, pool: EnginePool, told: Told | None = None) -> None:
        self.config, self.run, self.team = team.config, team.run, team
        self.pool = pool
        self.told: Told = told or (lambda kind, numbers: None)
        self.feed = make_feed(plan, team, pool, self.told)
        self.monitors, self._heat = plan.monitors, plan.temperatures
        played = self.config.protocol if self.config.tasks else None
        self._protocol = None if played is None else make_protocol(played, self.config.options)
        self.judge = Judge(self.config, self.run, pool, plan.measures, self.told)
        self.state = self._restore()
        self._trainer = ThreadPoolExecutor(1, "sparring-trainer")

    @property
    def journal(self) -> Journal:
        return self.run.journal

    async def __call__(self) -> None:
        """Go on from where the journal is to the last step, or to where nothing is left to learn from."""
        config, state = self.config, self.state
        if state.step:
            await self._between()  # what was due when the run was stopped
        elif config.evaluate is not None and config.evaluate.first:
            await self.judge.evaluate(0, self.team.members, 0.0)
        while state.step < config.steps and not self._over():
            if not await self.step(state.step):
                if state.step:
                    await self._between(last=True)
                break
            state.step += 1
            await self._between()

    def _over(self) -> bool:
        minutes = self.config.minutes
        spent = minutes is not None and self.state.seconds >= 60 * minutes
        return spent or self.judge.exhausted or len(self.state.stopped) == len(self.team.members)

    async def _between(self, *, last: bool = False) -> None:
        step = self.state.step
        last = last or step >= self.config.steps or self._over()
        await self.judge(step, self.team.members, self.state.seconds, last=last)

    # --- one step --------------------------------------------------------------------------------------

    async def step(self, step: int) -> bool:
        """Play, pay, update every policy, observe; False where there is nothing more to learn from."""
        heat = {name: knobs["temperature"] for name, knobs in self.state.knobs.items()}
        clock = _Clock()
        learning = [m for name, m in self.team.members.items() if name not in self.state.stopped]
        fed = await self.feed(step, heat, learning)
        if fed is None:
            return False
        clock.lap("play")
        figures, turns = await self._update(step, fed)
        clock.lap("update")
        await self._close(step, turns, figures, clock.seconds)
        return True

    async def _update(self, step: int, fed: Fed) -> tuple[dict[str, dict[str, Any]], list[int]]:
        """One update of each policy that is fed; figures by policy, and the turns they took."""
        jobs = [await asyncio.to_thread(self.team.open, m, step, fed.source, fed.limit) for m in fed.members]
        figures: dict[str, dict[str, Any]] = {}
        pending: list[Job] = []
        for job in jobs:
            if job.row.status == OPEN and not job.material.teaches:
                self.team.skip(job, "no sample has an advantage")
                figures[job.member.name] = {"entropy": job.row.config.get("entropy")}
            elif job.row.status == OPEN:
                figures[job.member.name] = await self._thread(self.team.prepare, job)
                pending.append(job)
            elif job.row.status == DONE:
                figures[job.member.name] = dict(job.row.metrics or {})
            elif job.row.status == EMPTY:
                figures[job.member.name] = {"entropy": job.row.config.get("entropy")}
            elif job.row.status == STOPPED:  # and then the run was killed
                await self._stop(step, job.member.name, job.row.metrics["why"])
        for job in pending:
            name = job.member.name
            try:
                bonus = self.state.knobs[name]["entropy_coefficient"]
                figures[name] |= await self._thread(self.team.train, job, bonus)
            except UpdateStopped as stop:
                await self._stop(step, name, str(stop))
            await self._forget(job)
        return figures, [turn for job in jobs for turn in job.material.turns]

    async def _forget(self, job: Job) -> None:
        """Let go of the model of a base that no head of the policy stands on any more."""
        heads = policies.heads(self.journal, job.member.name).values()
        used = {version.base_spec for version in heads if version} | {job.member.engine.spec}
        if job.member.learner.full and job.head.base_spec not in used:
            await self.pool.discard(job.head.base_spec)

    async def _thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Work in a thread; who interrupts the run ends it at the next micro-batch."""
        # One thread for all of it: each thread that computes keeps memory of its own.
        task = asyncio.get_running_loop().run_in_executor(self._trainer, work, *arguments)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self.team.interrupt()
            with suppress(UpdateInterrupted, UpdateStopped):  # the journal has it
                await task
            raise

    async def _close(
        self, step: int, turns: list[int], figures: Mapping[str, dict[str, Any]], seconds: dict[str, float]
    ) -> None:
        """Observe the step, ask the monitors, journal all of it, set the knobs of the next step."""
        numbers = episodes_of(self.run, step, turns)
        episodes = await asyncio.to_thread(read_episodes, self.journal, numbers)
        self.state.seconds += sum(seconds.values())
        record: dict[str, Any] = {"seconds": seconds, "elapsed": self.state.seconds, "policies": {}}
        if self._protocol is not None:
            record |= await asyncio.to_thread(self._played, self._protocol, step)
        alarms: dict[str, list[Alarm]] = {}
        for name, member in self.team.members.items():
            made = dict(figures.get(name, {}))
            seen = observe(self.journal, episodes, name, member.ref, made.get("entropy"))
            metrics = {**made, **measure(seen), **self.state.knobs[name]}
            self.state.history.setdefault(name, []).append(_watched(metrics, record))
            record["policies"][name] = metrics
            alarms[name] = self._alarms(name)
            self._steer(member, metrics, alarms[name])
        record["alarms"] = {name: [asdict(alarm) for alarm in found] for name, found in alarms.items()}
        record["knobs"] = self.state.knobs
        record["stopped"] = self.state.stopped
        await self.run.event("step", str(step), record)
        self.told("step", {"step": step, **record})

    def _played(self, protocol: Protocol, step: int) -> dict[str, Any]:
        """What a protocol measures of its play; with opponents, of the chosen pairing's, which is named."""
        chosen = self.run.decided("opponents", str(step))
        if chosen is None:
            games, named = episodes_of(self.run, step, []), {}
        else:
            (first, second), (ours, theirs) = sides(self.config), chosen["versions"]
            games = games_of(self.journal, self.run.id, (first, second), step, (ours, theirs))
            named = {"versions": chosen["versions"]}
        return {**named, "figures": protocol.figures(self.journal, self.run.id, games)}

    def _alarms(self, name: str) -> list[Alarm]:
        found = [monitor.check(self.state.history[name]) for monitor in self.monitors]
        alarms = [alarm for alarm in found if alarm is not None]
        for alarm in alarms:
            self.told("alarm", {"policy": name, **asdict(alarm)})
            if alarm.action == "stop":
                self.state.stopped.setdefault(name, alarm.message)
        return alarms

    def _steer(self, member: Member, metrics: Mapping[str, Any], alarms: Sequence[Alarm]) -> None:
        knobs = steer(self.monitors, alarms, self.state.knobs[member.name], self._home(member))
        if (adaptive := self.config.entropy) is not None:
            knobs["entropy_coefficient"] = adapt_entropy(
                knobs["entropy_coefficient"],
                metrics.get("entropy"),
                adaptive.target,
                adaptive.rate,
                (adaptive.low, adaptive.high),
            )
        if self.config.explore is not None:
            heat = adapt_temperature(knobs["temperature"], metrics, self.config.explore)
            knobs["temperature"] = heat
        self.state.knobs[member.name] = knobs

    async def _stop(self, step: int, name: str, why: str) -> None:
        why = f"the update of step {step + 1} was stopped: {why}"
        self.state.stopped[name] = why
        await self.run.event("stopped", f"{name}/{step}", {"why": why})
        self.told("stopped", {"policy": name, "why": why})

    # --- what the journal knows ------------------------------------------------------------------------

    def _home(self, member: Member) -> dict[str, float]:
        return {
            "temperature": self._heat[member.name],
            "entropy_coefficient": member.loss.entropy_bonus,
        }

    def _restore(self) -> State:
        state = State(knobs={name: self._home(member) for name, member in self.team.members.items()})
        records = decisions(self.journal, self.run.id, "step")
        for _, record in sorted((int(key), record) for key, record in records.items()):
            state.step += 1
            state.seconds = record["elapsed"]
            state.knobs, state.stopped = record["knobs"], record["stopped"]
            for name, metrics in record["policies"].items():
                state.history.setdefault(name, []).append(_watched(metrics, record))
        return state


def _watched(metrics: dict[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """What monitors read of a policy's step: its metrics, and what the protocol measured of the play."""
    return metrics | {f"{PLAY}{name}": value for name, value in record.get("figures", {}).items()}


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self._last = now - self._last, now


@dataclass(frozen=True, slots=True)
class EvolveResult:
    """What a run came to, as the journal holds it."""

    story: Story
    heads: dict[str, dict[str, int]]
    """Policy -> numbers of the versions its heads point at."""
    plots: list[Path]

    def to_json(self) -> dict[str, Any]:
        story = self.story
        return {
            "run": story.run,
            "status": story.status,
            "steps": max((row["step"] for row in story.series), default=0),
            "before": story.before,
            "after": story.after,
            "gate": story.decisions,
            "stopped": story.stopped,
            "heads": self.heads,
            "plots": [str(path) for path in self.plots],
        }


async def aevolve(
    config: str | Path | dict[str, Any] | EvolveConfig,
    memory: str | Path | Journal = "sparring.db",
    *,
    told: Told | None = None,
    budget: Budget | None = None,
) -> EvolveResult:
    """Run an evolution to its end, or go on with the one of its name; see `evolve`."""
    settings = config if isinstance(config, EvolveConfig) else load_config(config)
    with Journal.at(memory) as journal:
        return await _drive(settings, journal, told, budget)


async def _drive(
    config: EvolveConfig, journal: Journal, told: Told | None, budget: Budget | None
) -> EvolveResult:
    plan = preflight(config)
    present(config, journal)
    async with EnginePool(purse=purse_of(journal, config.run, budget)) as pool:
        members = await assemble(config, journal, pool)  # what is refused here leaves the run's name free
        affordable(pool.purse, config.run, pool.priced, pool.unpriced)
        run = journal.drive(
            config.run,
            kind="evolve",
            protocol=config.protocol or "none",
            config=config.identity(),
            seed=config.seed,
            reread=config.reread,
        )
        with run.driven() as ending:
            evolution = Evolution(plan, Team(config, run, members), pool, told)
            await evolution()
            ending.status = "stopped" if evolution.state.stopped else "done"
    story = read_story(journal, config.run)
    heads = head_numbers(journal, config.policies)
    plots = await asyncio.to_thread(draw, journal, story, plots_folder(journal, config.run, config.plots))
    return EvolveResult(story, heads, plots)


def evolve(
    config: str | Path | dict[str, Any] | EvolveConfig,
    memory: str | Path | Journal = "sparring.db",
    *,
    told: Told | None = None,
    budget: Budget | None = None,
) -> EvolveResult:
    """Play, reward, train, gate, publish, again; called again, it goes on where the journal is.

    Args:
        config: a YAML file, what would stand in one, or an `EvolveConfig`.
        memory: the journal, or where it is.
        told: called with what happens, as it happens.
        budget: what the whole run may spend, in all its lives, with every run that belongs to it.

    Raises:
        UserError: anything in the configuration that cannot work, before work starts.
        BudgetSpent: the budget was reached; the run is `interrupted` and goes on under a larger one.
    """
    return run_now(aevolve(config, memory, told=told, budget=budget), "`await sparring.aevolve(...)`")

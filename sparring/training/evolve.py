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
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from math import exp
from pathlib import Path
from typing import Any

from sqlalchemy import select

from sparring.agents.engines.registry import EnginePool
from sparring.errors import UserError
from sparring.memory import policies
from sparring.memory.journal import Journal
from sparring.memory.policies import find, move_head
from sparring.memory.records import TaskRecord
from sparring.memory.run import RunHandle
from sparring.memory.schema import Event
from sparring.memory.tasks import load_tasks
from sparring.memory.updates import DONE, OPEN
from sparring.tools.checks import CHECKS
from sparring.training.config import EvolveConfig, load_config
from sparring.training.evaluate import Evaluator, Measure, accuracy
from sparring.training.feed import Fed, episodes_of, make_feed
from sparring.training.gate import decide
from sparring.training.measures import measure
from sparring.training.monitors import Alarm, Monitor, adapt_entropy, make_monitor, steer
from sparring.training.observing import observe
from sparring.training.rewards.derive import read_episodes
from sparring.training.story import Story, draw, plots_folder, read_story
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

    def __init__(
        self, config: EvolveConfig, run: RunHandle, pool: EnginePool, team: Team, told: Told | None = None
    ) -> None:
        self.config, self.run, self.pool, self.team = config, run, pool, team
        self.told: Told = told or (lambda kind, numbers: None)
        self.feed = make_feed(config, run, pool, team, self.told)
        self.monitors: list[Monitor] = [make_monitor(given) for given in config.monitors]
        self.evaluator = Evaluator(config, run.journal, pool)
        self.measures = {
            name: Measure(tuple(_tasks(part.tasks)), part.options, part.sampling, getattr(part, "copies", 1))
            for name, part in (("evaluate", config.evaluate), ("gate", config.gate))
            if part is not None
        }
        self.state = self._restore()

    @property
    def journal(self) -> Journal:
        return self.run.journal

    async def __call__(self) -> None:
        """Go on from where the journal is to the last step."""
        config, state = self.config, self.state
        if config.evaluate is not None and config.evaluate.first and state.step == 0:
            await self.evaluate(0)
        while state.step < config.steps and not self._over():
            if not await self.step(state.step):
                break
            state.step += 1
            await self._between(state.step)

    def _over(self) -> bool:
        minutes = self.config.minutes
        spent = minutes is not None and self.state.seconds >= 60 * minutes
        return spent or len(self.state.stopped) == len(self.team.members)

    async def _between(self, step: int) -> None:
        last = step >= self.config.steps or self._over()
        if (part := self.config.evaluate) is not None and (last or step % part.every == 0):
            await self.evaluate(step)
        if (gate := self.config.gate) is not None and (last or step % gate.every == 0):
            for name in self.team.members:
                await self.gate(name, step)

    # --- one step --------------------------------------------------------------------------------------

    async def step(self, step: int) -> bool:
        """Play, pay, update every policy, observe; False where there is nothing more to learn from."""
        heat = {name: knobs["temperature"] for name, knobs in self.state.knobs.items()}
        clock = _Clock()
        fed = await self.feed(step, heat)
        if fed is None:
            return False
        clock.lap("play")
        figures, turns = await self._update(step, fed)
        clock.lap("update")
        await self._close(step, turns, figures, clock.seconds)
        return True

    async def _update(self, step: int, fed: Fed) -> tuple[dict[str, dict[str, float]], list[int]]:
        """One update of each policy that still learns; figures by policy, and the turns they took."""
        members = [m for name, m in self.team.members.items() if name not in self.state.stopped]
        jobs = [await asyncio.to_thread(self.team.open, m, step, fed.source, fed.limit) for m in members]
        figures: dict[str, dict[str, float]] = {}
        pending: list[Job] = []
        for job in jobs:
            if job.row.status == OPEN and not job.material.teaches:
                self.team.skip(job, "no sample has an advantage")
            elif job.row.status == OPEN:
                figures[job.member.name] = await self._thread(self.team.prepare, job)
                pending.append(job)
            elif job.row.status == DONE:
                figures[job.member.name] = dict(job.row.metrics or {})
        for job in pending:
            name = job.member.name
            try:
                bonus = self.state.knobs[name]["entropy_coefficient"]
                figures[name] |= await self._thread(self.team.train, job, bonus)
            except UpdateStopped as stop:
                await self._stop(step, name, f"the update of step {step} was stopped: {stop}")
        return figures, [turn for job in jobs for turn in job.material.turns]

    async def _thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Work in a thread; who interrupts the run ends it at the next micro-batch."""
        task = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self.team.interrupt()
            with suppress(UpdateInterrupted):
                await task
            raise

    async def _close(
        self, step: int, turns: list[int], figures: Mapping[str, dict[str, float]], seconds: dict[str, float]
    ) -> None:
        """Observe the step, ask the monitors, journal all of it, set the knobs of the next step."""
        numbers = episodes_of(self.run, step, turns)
        episodes = await asyncio.to_thread(read_episodes, self.journal, numbers)
        self.state.seconds += sum(seconds.values())
        record: dict[str, Any] = {"seconds": seconds, "elapsed": self.state.seconds, "policies": {}}
        alarms: dict[str, list[Alarm]] = {}
        for name, member in self.team.members.items():
            made = dict(figures.get(name, {}))
            seen = observe(self.journal, episodes, name, member.ref, made.get("entropy"))
            metrics = {**made, **measure(seen), **self.state.knobs[name]}
            self.state.history.setdefault(name, []).append(metrics)
            record["policies"][name] = metrics
            alarms[name] = self._alarms(name)
            self._steer(member, metrics, alarms[name])
        record["alarms"] = {name: [asdict(alarm) for alarm in found] for name, found in alarms.items()}
        record["knobs"] = self.state.knobs
        record["stopped"] = self.state.stopped
        await self.run.event("step", str(step), record)
        self.told("step", {"step": step, **record})

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
        share = metrics.get("informative")
        if (explore := self.config.explore) is not None and share is not None:
            wanted = knobs["temperature"] * exp(explore.rate * (explore.informative - share))
            knobs["temperature"] = max(explore.low, min(wanted, explore.high))
        self.state.knobs[member.name] = knobs

    async def _stop(self, step: int, name: str, why: str) -> None:
        self.state.stopped[name] = why
        await self.run.event("stopped", f"{name}/{step}", {"why": why})
        self.told("stopped", {"policy": name, "why": why})

    # --- between steps ---------------------------------------------------------------------------------

    async def evaluate(self, step: int) -> None:
        """Accuracy of the training heads; journaled."""
        if self._event("evaluation", str(step)) is not None:
            return
        lineup = {name: find(self.journal, name, "training").number for name in self.team.members}
        results = await self.evaluator(lineup, self.measures["evaluate"])
        found = accuracy(results)
        record = {
            "step": step,
            "lineup": lineup,
            "accuracy": asdict(found),
            "run": self.evaluator.name(lineup, self.measures["evaluate"]),
            "elapsed": self.state.seconds,
        }
        await self.run.event("evaluation", str(step), record)
        self.told("evaluation", record)

    async def gate(self, name: str, step: int) -> None:
        """Promote the training head of a policy, or not; journaled with its numbers."""
        assert self.config.gate is not None
        key = f"{name}/{step}"
        live = {policy: find(self.journal, policy, "live") for policy in self.team.members}
        candidate = find(self.journal, name, "training")
        record = self._event("gate", key)
        if record is None:
            if candidate.id == live[name].id:
                return
            ours = {policy: version.number for policy, version in live.items()}
            decision = await decide(
                self.evaluator,
                {**ours, name: candidate.number},
                ours,
                self.measures["gate"],
                self.config.gate,
            )
            record = {"step": step, "policy": name, "candidate": candidate.number, "live": ours[name]}
            record |= decision.to_json()
            await self.run.event("gate", key, record)
            self.told("gate", record)
        await asyncio.to_thread(self._move, name, record)

    def _move(self, name: str, record: Mapping[str, Any]) -> None:
        """Carry out a decision; doing it again changes nothing."""
        assert self.config.gate is not None
        reason = f"gate after step {record['step']}: {record['verdict']}"
        if record["verdict"] == "promote":
            target = find(self.journal, name, int(record["candidate"]))
            move_head(self.journal, name, "live", target.id, by="gate", reason=reason, run=self.run)
        elif record["verdict"] == "reject" and self.config.gate.rejected == "go_back":
            target = find(self.journal, name, int(record["live"]))
            move_head(self.journal, name, "training", target.id, by="gate", reason=reason, run=self.run)

    # --- what the journal knows ------------------------------------------------------------------------

    def _event(self, kind: str, key: str) -> Any:
        query = select(Event.payload).where(Event.run_id == self.run.id, Event.kind == kind, Event.key == key)
        return next((row.payload for row in self.journal.read(query)), None)

    def _home(self, member: Member) -> dict[str, float]:
        heat = float(self.config.sampling.get("temperature", 1.0))
        return {"temperature": heat, "entropy_coefficient": member.loss.entropy_bonus}

    def _restore(self) -> State:
        state = State(knobs={name: self._home(member) for name, member in self.team.members.items()})
        query = select(Event.key, Event.payload).where(Event.run_id == self.run.id, Event.kind == "step")
        for _, record in sorted((int(row.key), row.payload) for row in self.journal.read(query)):
            state.step += 1
            state.seconds = record["elapsed"]
            state.knobs, state.stopped = record["knobs"], record["stopped"]
            for name, metrics in record["policies"].items():
                state.history.setdefault(name, []).append(metrics)
        return state


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self._last = now - self._last, now


def _tasks(source: str) -> list[TaskRecord]:
    return load_tasks(source, checks=CHECKS)


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
            "updates": len(story.series),
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
) -> EvolveResult:
    """Run an evolution to its end, or go on with the one of its name; see `evolve`."""
    settings = config if isinstance(config, EvolveConfig) else load_config(config)
    if isinstance(memory, Journal):
        return await _drive(settings, memory, told)
    with Journal.open(memory) as journal:
        return await _drive(settings, journal, told)


async def _drive(config: EvolveConfig, journal: Journal, told: Told | None) -> EvolveResult:
    async with EnginePool() as pool:
        run = journal.drive(
            config.run,
            kind="evolve",
            protocol=config.protocol or "none",
            config=config.identity(),
            seed=config.seed,
        )
        status = "failed"
        try:
            team = await assemble(config, run, pool)
            evolution = Evolution(config, run, pool, team, told)
            await evolution()
            status = "stopped" if evolution.state.stopped else "done"
        except asyncio.CancelledError:
            status = "interrupted"
            raise
        finally:
            run.finish(status)
            run.release()
    story = read_story(journal, config.run)
    heads = {name: _numbers(journal, name) for name in config.policies}
    plots = await asyncio.to_thread(draw, journal, story, plots_folder(journal, config.run, config.plots))
    return EvolveResult(story, heads, plots)


def _numbers(journal: Journal, policy: str) -> dict[str, int]:
    """Numbers of the versions a policy's heads point at."""
    return {str(head): at.number for head, at in policies.heads(journal, policy).items() if at}


def evolve(
    config: str | Path | dict[str, Any] | EvolveConfig,
    memory: str | Path | Journal = "sparring.db",
    *,
    told: Told | None = None,
) -> EvolveResult:
    """Play, reward, train, gate, publish, again; called again, it goes on where the journal is.

    Args:
        config: a YAML file, what would stand in one, or an `EvolveConfig`.
        memory: the journal, or where it is.
        told: called with what happens, as it happens.

    Raises:
        UserError: anything in the configuration that cannot work, before work starts.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(aevolve(config, memory, told=told))
    raise UserError("an event loop is running here: use `await sparring.aevolve(...)`")

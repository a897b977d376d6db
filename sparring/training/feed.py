"""Where the turns of a step come from: played by this run, or said in runs that it only learns from."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import select

from sparring.agents.engines.registry import EnginePool
from sparring.graphs.play import Play
from sparring.graphs.player import Player
from sparring.memory.policies import find
from sparring.memory.records import TaskRecord
from sparring.memory.run import RunHandle
from sparring.memory.schema import Episode, Event
from sparring.memory.tasks import load_tasks
from sparring.memory.updates import find_update, updates_of
from sparring.tools.checks import CHECKS
from sparring.training.config import EvolveConfig
from sparring.training.experience import Source, unpaid, usable
from sparring.training.observing import task_history
from sparring.training.rewards.derive import derive
from sparring.training.schedule import choose
from sparring.training.team import Member, Team, nearby

Tell = Callable[[str, Mapping[str, Any]], None]
Temperatures = Mapping[str, float]
"""Policy -> sampling temperature of this step."""


@dataclass(frozen=True, slots=True)
class Fed:
    """What a step learns from."""

    source: Source
    limit: int | None = None
    """Turns of an update, the oldest."""


class Feed(Protocol):
    async def __call__(self, step: int, temperatures: Temperatures) -> Fed | None:
        """Have the turns of a step in the journal, paid; None: there will be no more."""
        ...


class PlayFeed:
    """Plays tasks with every learning policy at its training head."""

    def __init__(
        self, config: EvolveConfig, run: RunHandle, pool: EnginePool, team: Team, tell: Tell
    ) -> None:
        assert config.tasks is not None
        self.config, self.run, self.pool, self.team, self.tell = config, run, pool, team, tell
        self.tasks = load_tasks(config.tasks, checks=CHECKS)

    async def __call__(self, step: int, temperatures: Temperatures) -> Fed:
        player = Player(self._lineup(temperatures), self.run, self.pool, self.config.concurrency)
        bookings = await self._bookings(step)
        await player(lambda p: self.tell("play", {"step": step, "share": p.share}), bookings, iteration=step)
        for member in self.team.members.values():
            await asyncio.to_thread(derive, self.run.journal, member.reward, run=self.run.id, iteration=step)
        return Fed(Source(runs=(self.run.id,), iteration=step))

    async def _bookings(self, step: int) -> list[tuple[TaskRecord, int]]:
        """Which tasks this step plays: chosen once, and then read from the journal."""
        journal, run = self.run.journal, self.run.id
        query = select(Event.payload).where(
            Event.run_id == run, Event.kind == "tasks", Event.key == str(step)
        )
        known = next((row.payload for row in journal.read(query)), None)
        if known is None:
            reward = next(iter(self.team.members.values())).ref
            history = await asyncio.to_thread(task_history, journal, run, reward, step)
            means = {task: mean for task, (_, mean) in history.items()}
            known = choose(self.tasks, means, self.config.play, self.config.seed, step)
            await self.run.event("tasks", str(step), [list(pair) for pair in known])
        by_id = {task.id: task for task in self.tasks}
        return [(by_id[task], copy) for task, copies in known for copy in range(copies)]

    def _lineup(self, temperatures: Temperatures) -> Play:
        config = self.config
        roles, sampling = dict(config.roles), dict(config.sampling)
        for name, policy in config.policies.items():
            roles |= dict.fromkeys(policy.roles, f"policy:{name}@training")
            sampling |= {f"{role}.temperature": temperatures[name] for role in policy.roles}
        assert config.protocol is not None
        return Play(
            protocol=config.protocol,
            tasks=tuple(self.tasks),
            options=config.options,
            engine=config.engine,
            roles=roles,
            sampling=sampling,
            seed=config.seed,
        )


class SourceFeed:
    """Waits for turns of runs that others play, and pays them.

    An update takes the oldest `every` turns, so a journal that grew by three times as many while nobody
    looked gives three updates, whenever it was killed.
    """

    def __init__(self, config: EvolveConfig, run: RunHandle, team: Team, tell: Tell) -> None:
        assert config.source is not None
        self.config, self.asked, self.run, self.team, self.tell = config, config.source, run, team, tell
        self.source = Source(runs=self.asked.runs, since=self.asked.since, but=run.id)
        self._paid: set[int] = set()

    async def __call__(self, step: int, temperatures: Temperatures) -> Fed | None:
        turns, seconds = self.config.cadence()
        need = max(turns, self.asked.min_turns)
        while not self._opened(step):
            have = {m.name: await asyncio.to_thread(self._usable, m) for m in self.team.members.values()}
            self.tell("waiting", {"step": step, "turns": have, "needed": need})
            if max(have.values()) >= need and self._due(seconds):
                break
            if not self.asked.wait:
                return None
            await asyncio.sleep(self.asked.poll_s)
        return Fed(self.source, turns or None)

    def _opened(self, step: int) -> bool:
        """Whether an update of this step was begun, by whoever was killed."""
        return any(find_update(self.run.journal, self.run.id, name, step) for name in self.team.members)

    def _due(self, seconds: float) -> bool:
        last = [row.created_at for row in updates_of(self.run.journal, self.run.id)]
        return not last or time.time() - max(last) >= seconds

    def _usable(self, member: Member) -> int:
        journal = self.run.journal
        head = find(journal, member.name, "training")
        near = sorted(nearby(journal, member.name, head.id, member.config.max_staleness))
        fresh = set(unpaid(journal, member.name, member.ref, near, self.source)) - self._paid
        if fresh:
            derive(journal, member.reward, episodes=fresh)
            self._paid |= fresh
        return usable(journal, member.name, member.ref, near, self.source)


def make_feed(config: EvolveConfig, run: RunHandle, pool: EnginePool, team: Team, tell: Tell) -> Feed:
    """The feed that a configuration asks for."""
    if config.source is not None:
        return SourceFeed(config, run, team, tell)
    return PlayFeed(config, run, pool, team, tell)


def episodes_of(run: RunHandle, step: int, turns: list[int]) -> list[int]:
    """Numbers of the episodes that a step played or took turns from."""
    from sparring.memory.schema import Turn

    played = select(Episode.number).where(Episode.run_id == run.id, Episode.iteration == step)
    found = {row.number for row in run.journal.read(played)}
    for start in range(0, len(turns), 10_000):
        query = select(Turn.episode_number).where(Turn.id.in_(turns[start : start + 10_000])).distinct()
        found |= {row.episode_number for row in run.journal.read(query)}
    return sorted(found)

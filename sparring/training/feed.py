"""Where the turns of a step come from: played by this run, or said in runs that it only learns from."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import select

from sparring.agents.engines.registry import EnginePool
from sparring.errors import UserError
from sparring.graphs.play import Play
from sparring.graphs.player import Booking, Player, first_of
from sparring.memory.policies import find
from sparring.memory.run import RunHandle
from sparring.memory.schema import Episode, Task
from sparring.memory.updates import find_update, updates_of
from sparring.training.experience import Source, unpaid, usable
from sparring.training.observing import task_history
from sparring.training.preflight import Plan
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
    members: Sequence[Member]
    """Those that have something to learn from."""
    limit: int | None = None
    """Turns of an update, the oldest."""


class Feed(Protocol):
    async def __call__(self, step: int, temperatures: Temperatures, learning: Sequence[Member]) -> Fed | None:
        """Have the turns of a step in the journal, paid, for those that learn; None: there are no more."""
        ...


class PlayFeed:
    """Plays tasks with every learning policy at its training head."""

    def __init__(self, plan: Plan, team: Team, pool: EnginePool, tell: Tell) -> None:
        self.config, self.run, self.pool, self.team, self.tell = team.config, team.run, pool, team, tell
        self.tasks = plan.tasks

    async def __call__(self, step: int, temperatures: Temperatures, learning: Sequence[Member]) -> Fed:
        await self._play(step, temperatures, await self._bookings(step))
        for member in self.team.members.values():
            await asyncio.to_thread(derive, self.run.journal, member.reward, run=self.run.id, iteration=step)
        return Fed(Source(runs=(self.run.id,), iteration=step), learning)

    async def _play(self, step: int, temperatures: Temperatures, bookings: list[Booking]) -> None:
        await self._games(step, self._lineup(temperatures, {}), bookings)

    async def _games(self, step: int, lineup: Play, bookings: list[Booking]) -> None:
        player = Player(lineup, self.run, self.pool, self.config.concurrency)
        try:
            await player(
                lambda p: self.tell("play", {"step": step, "share": p.share}), bookings, iteration=step
            )
        except BaseExceptionGroup as failed:
            raise first_of(failed) from None

    async def _bookings(self, step: int) -> list[Booking]:
        """Which tasks this step plays: chosen once, and then read from the journal."""
        journal, run = self.run.journal, self.run.id
        known = self.run.decided("tasks", str(step))
        if known is None:
            reward = next(iter(self.team.members.values())).ref
            history = await asyncio.to_thread(task_history, journal, run, reward, step)
            means = {task: mean for task, (_, mean) in history.items()}
            known = choose(self.tasks, means, self.config.play, self.config.seed, step)
            await self.run.event("tasks", str(step), [list(pair) for pair in known])
        by_id = {task.id: task for task in self.tasks}
        if gone := [task for task, _ in known if task not in by_id]:
            raise UserError(f"run `{run}` has chosen task `{gone[0]}`, which `tasks` does not hold any more")
        return [(by_id[task], copy) for task, copies in known for copy in range(copies)]

    def _lineup(self, temperatures: Temperatures, versions: Mapping[str, int], copies: int = 1) -> Play:
        """The seats of a step: each policy at its training head, or at the version that is named.

        Args:
            copies: times as many episodes of a task as the configuration asks for.
        """
        config = self.config
        roles, sampling = dict(config.roles), dict(config.sampling)
        for name, policy in config.policies.items():
            roles |= dict.fromkeys(policy.roles, f"policy:{name}@{versions.get(name, 'training')}")
            sampling |= {f"{role}.temperature": temperatures[name] for role in policy.roles}
        assert config.protocol is not None
        return Play(
            protocol=config.protocol,
            tasks=self.tasks,
            options=config.options,
            engine=config.engine,
            roles=roles,
            sampling=sampling,
            seed=config.seed,
            copies=max(config.play.copies, config.play.copies_unsolved) * copies,
        )


class SourceFeed:
    """Waits for turns of runs that others play, and pays them.

    An update takes the oldest `every` turns, so a journal that grew by three times as many while nobody
    looked gives three updates, whenever it was killed.
    """

    def __init__(self, plan: Plan, team: Team, tell: Tell) -> None:
        assert team.config.source is not None
        self.config, self.asked, self.run, self.tell = team.config, team.config.source, team.run, tell
        gate = plan.measures.get("gate")
        self._gate = [] if gate is None else [task.question for task in gate.tasks]
        self._paid: set[int] = set()

    async def __call__(self, step: int, temperatures: Temperatures, learning: Sequence[Member]) -> Fed | None:
        turns, seconds = self.config.cadence()
        need = max(turns, self.asked.min_turns)
        # A step that was begun and killed goes on with those who had begun it; others join the next.
        begun = [m for m in learning if find_update(self.run.journal, self.run.id, m.name, step)]
        if begun:
            return Fed(self.source, begun, turns or None)
        while True:
            have = {m.name: await asyncio.to_thread(self._usable, m) for m in learning}
            ready = [m for m in learning if have[m.name] >= need]
            if ready and self._due(seconds):
                return Fed(self.source, ready, turns or None)
            self.tell("waiting", {"step": step, "turns": have, "needed": need})
            if not self.asked.wait:
                return None
            await asyncio.sleep(self.asked.poll_s)

    def _due(self, seconds: float) -> bool:
        last = [row.created_at for row in updates_of(self.run.journal, self.run.id)]
        if not last:
            return True
        since = time.time() - max(last)
        return not 0 <= since < seconds  # a clock that was set back would otherwise make it wait for long

    @property
    def source(self) -> Source:
        """What may be learned from now; a question of the gate is not, whoever asked it."""
        same = self.run.journal.read(select(Task.id).where(Task.question.in_(self._gate)))
        return Source(
            runs=self.asked.runs,
            since=self.asked.since,
            but=self.run.id,
            without=tuple(row.id for row in same),
        )

    def _usable(self, member: Member) -> int:
        journal, source = self.run.journal, self.source
        head = find(journal, member.name, "training")
        near = sorted(nearby(journal, member.name, head.id, member.config.max_staleness))
        fresh = set(unpaid(journal, member.name, member.ref, near, source)) - self._paid
        if fresh:
            derive(journal, member.reward, episodes=fresh)
            self._paid |= fresh
        return usable(journal, member.name, member.ref, near, source)


def make_feed(plan: Plan, team: Team, pool: EnginePool, tell: Tell) -> Feed:
    """The feed that a configuration asks for."""
    if team.config.source is not None:
        return SourceFeed(plan, team, tell)
    if team.config.opponents is not None:
        from sparring.training.game_feed import GameFeed  # not on top: it builds on this module

        return GameFeed(plan, team, pool, tell)
    return PlayFeed(plan, team, pool, tell)


def episodes_of(run: RunHandle, step: int, turns: list[int]) -> list[int]:
    """Numbers of the episodes that a step played or took turns from."""
    from sparring.memory.schema import Turn

    played = select(Episode.number).where(Episode.run_id == run.id, Episode.iteration == step)
    found = {row.number for row in run.journal.read(played)}
    for start in range(0, len(turns), 10_000):
        query = select(Turn.episode_number).where(Turn.id.in_(turns[start : start + 10_000])).distinct()
        found |= {row.episode_number for row in run.journal.read(query)}
    return sorted(found)

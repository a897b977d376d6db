"""Games for learning: each step plays the pairing of versions that matchmaking chose (`opponents`)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from sparring.agents.engines.registry import EnginePool
from sparring.graphs.player import Booking, first_of
from sparring.memory.policies import by_id, find, history
from sparring.memory.updates import updates_of
from sparring.training.config import OpponentsConfig
from sparring.training.feed import PlayFeed, Tell, Temperatures
from sparring.training.opponents import Pairing, Record, choose, pairings, records_of
from sparring.training.preflight import Plan, sides
from sparring.training.team import Team


class GameFeed(PlayFeed):
    """Plays a game between learning policies. A step's first tasks go to pairings whose win rate is not
    known yet, each on the same ones; the rest go to the pairing that is chosen then."""

    def __init__(self, plan: Plan, team: Team, pool: EnginePool, tell: Tell) -> None:
        super().__init__(plan, team, pool, tell)
        assert team.config.opponents is not None
        self.asked: OpponentsConfig = team.config.opponents
        first, second = sides(team.config).items()
        self.rivals, self.policies = (first[0], second[0]), (first[1], second[1])

    async def _play(self, step: int, temperatures: Temperatures, bookings: list[Booking]) -> None:
        candidates = pairings(*(self._pool(policy, step) for policy in self.policies))
        known: dict[Pairing, Record] = {}
        left = list(bookings)
        if self.asked.mode == "band" and len(candidates) > 1:
            known = records_of(self.run.journal, self.run.id, self.rivals, range(step))
            few = [pair for pair in candidates if known.get(pair, Record()).games < self.asked.probe]
            probes, left = left[: self.asked.probe], left[self.asked.probe :] if few else left
            try:
                async with asyncio.TaskGroup() as group:
                    for pair in few:
                        group.create_task(self._pairing(step, temperatures, pair, probes, candidates))
            except BaseExceptionGroup as failed:
                raise first_of(failed) from None
            known = records_of(self.run.journal, self.run.id, self.rivals, range(step + 1))
        chosen = await self._chosen(step, candidates, known)
        await self._pairing(step, temperatures, chosen, left, candidates)

    async def _pairing(
        self,
        step: int,
        temperatures: Temperatures,
        pair: Pairing,
        bookings: Sequence[Booking],
        candidates: Sequence[Pairing],
    ) -> None:
        """Games of one pairing. Its place among the candidates sets its episodes apart, on the same tasks."""
        place = candidates.index(pair)
        lineup = self._lineup(temperatures, dict(zip(self.policies, pair, strict=True)), len(candidates))
        booked = [(task, copy * len(candidates) + place) for task, copy in bookings]
        await self._games(step, lineup, booked)

    def _pool(self, policy: str, step: int) -> list[int]:
        """Numbers of the versions that a policy has had since the run began, up to a step, oldest first; the
        last is its training head, which a gate may have set back to an older one."""
        journal, start = self.run.journal, self.team.start(self.team.members[policy])
        done = [row for row in updates_of(journal, self.run.id, policy) if row.step < step]
        made = [by_id(journal, row.to_version_id).number for row in done if row.to_version_id is not None]
        head = self._head(policy, step)
        older = [start.number, *(made if self.asked.pool is None else made[-self.asked.pool :])]
        return [*(number for number in older if number != head), head]

    def _head(self, policy: str, step: int) -> int:
        """Number of the version that the training head stood at when a step was played, whenever asked."""
        for move in history(self.run.journal, policy, "training"):
            if move.run == self.run.id and move.reason == f"update {step}" and move.origin is not None:
                return by_id(self.run.journal, move.origin).number
        return find(self.run.journal, policy, "training").number

    async def _chosen(
        self, step: int, candidates: Sequence[Pairing], known: dict[Pairing, Record]
    ) -> Pairing:
        """The pairing of a step: chosen once, and then read from the journal."""
        held = self.run.decided("opponents", str(step))
        if held is not None:
            first, second = held["versions"]
            return first, second
        chosen = choose(candidates, known, self.asked.band) if known else candidates[0]
        record: dict[str, Any] = {
            "policies": list(self.policies),
            "versions": list(chosen),
            "band": list(self.asked.band),
            "mode": self.asked.mode,
            "candidates": [
                {"versions": list(pair), "points": known[pair].points, "games": known[pair].games}
                for pair in candidates
                if pair in known
            ],
        }
        await self.run.event("opponents", str(step), record)
        self.tell("opponents", {"step": step, **record})
        return chosen

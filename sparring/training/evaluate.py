"""Measuring versions: played on tasks that nobody trains on, once for each version, and read again after.

A line-up (policy -> version number) has one evaluation run for its tasks and settings, so a version that
is compared again, or a loop that was killed, plays only what is missing. Runs of two line-ups share the
seed, task by task: their differences are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sparring.agents.engines.registry import EnginePool
from sparring.graphs.catalogue import make_protocol
from sparring.graphs.play import Play
from sparring.graphs.player import taken
from sparring.graphs.protocol import Protocol
from sparring.graphs.results import Result, read_results
from sparring.graphs.stats import Estimate, wilson
from sparring.memory.journal import Journal
from sparring.memory.records import TaskRecord
from sparring.memory.types import canonical, digest
from sparring.training.config import EvolveConfig

Lineup = Mapping[str, int]
"""Policy -> version number."""


@dataclass(frozen=True, slots=True)
class Measure:
    """How versions are measured: tasks and everything that is the same for all of them."""

    tasks: tuple[TaskRecord, ...]
    options: dict[str, Any]
    sampling: dict[str, Any]
    copies: int = 1
    protocol: str | None = None
    """None: what the run itself plays."""

    def played(self, config: EvolveConfig) -> tuple[str, dict[str, Any]]:
        """A protocol and its options: the run's with other options, or another one."""
        if self.protocol is not None:
            return self.protocol, self.options
        assert config.protocol is not None
        return config.protocol, {**config.options, **self.options}


class Evaluator:
    """Plays evaluation runs for one evolution run."""

    def __init__(self, config: EvolveConfig, journal: Journal, pool: EnginePool) -> None:
        self.config, self.journal, self.pool = config, journal, pool

    async def __call__(self, lineup: Lineup, measure: Measure, items: int | None = None) -> list[Result]:
        """The results of a line-up on the first `items` (task, copy) pairs, in that order."""
        play = self.play(lineup, measure)
        bookings = [(task, copy) for copy in range(measure.copies) for task in measure.tasks][:items]
        name = self.name(lineup, measure)
        async with taken(self.journal, name, play, self.pool, self.config.concurrency) as player:
            await player(episodes=bookings)
        found = {(row.task_id, row.copy): row for row in read_results(self.journal, name)}
        return [found[key] for key in ((task.id, copy) for task, copy in bookings) if key in found]

    def name(self, lineup: Lineup, measure: Measure) -> str:
        """The run that holds a line-up's results."""
        lineup = self._seated(lineup, measure)
        about = [sorted(lineup.items()), measure.options, measure.sampling, measure.copies]
        about += [measure.protocol] if measure.protocol else []
        about.append([task.key for task in measure.tasks])
        shown = "+".join(f"{policy}@{number}" for policy, number in sorted(lineup.items()))
        return f"{self.config.run}.evaluation/{shown}/{digest(canonical(about), size=4).hex()}"

    def protocol(self, measure: Measure) -> Protocol:
        return make_protocol(*measure.played(self.config))

    def _seated(self, lineup: Lineup, measure: Measure) -> Lineup:
        """The policies that play in a measure; what becomes of the others does not change it."""
        known = self.protocol(measure).names
        return {name: n for name, n in lineup.items() if known & set(self.config.policies[name].roles)}

    def play(self, lineup: Lineup, measure: Measure) -> Play:
        config, known = self.config, self.protocol(measure).names
        protocol, options = measure.played(config)
        roles = {role: spec for role, spec in config.roles.items() if role in known}
        for policy, number in self._seated(lineup, measure).items():
            mine = (role for role in config.policies[policy].roles if role in known)
            roles |= dict.fromkeys(mine, f"policy:{policy}@{number}")
        # What a measure says for all holds for all: a role's own temperature in play does not make it warmer.
        of_play = {k: v for k, v in config.sampling.items() if k.rpartition(".")[2] not in measure.sampling}
        sampling = {
            name: value
            for name, value in {**of_play, **measure.sampling}.items()
            if "." not in name or name.rsplit(".", 1)[0] in known
        }
        return Play(
            protocol=protocol,
            tasks=measure.tasks,
            options=options,
            engine=config.engine,
            roles=roles,
            sampling=sampling,
            seed=config.seed,
            copies=measure.copies,
            kind="evaluation",
            parent=config.run,
        )


def accuracy(results: Sequence[Result]) -> Estimate:
    """Share of right answers with Wilson's interval; no answer counts as wrong, what nobody could judge not
    at all."""
    counted = [row for row in results if not unjudged(row)]
    return wilson(sum(bool(row.correct) for row in counted), len(counted))


def unjudged(row: Result) -> bool:
    """Whether there is an answer that nobody could judge: its judge failed, or it has no reference."""
    return row.correct is None and row.answer is not None


def grown(measure: Measure, items: int) -> Measure:
    """The measure with enough copies for so many items."""
    return replace(measure, copies=max(measure.copies, -(-items // len(measure.tasks))))

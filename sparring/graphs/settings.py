"""Agents in the four settings in which CoMAS (2510.08529, section 4.1) evaluates them, before and after.

    single         one answer of one agent, the mean over agents
    consistency    majority of `votes` answers of one agent (Wang et al. 2203.11171), the mean over agents
    conversation   all agents in one conversation: they speak in turn and read all that was said before
    debate         all agents at once, each round reading the others' round before (Du et al. 2305.14325)

A pool of samples of each agent serves the first two, and as the baseline of the others: the majority of as
many samples of all agents together as the discussion had calls. The paper's consistency lets a sixth call
write the answer, and its conversation is AutoGen's; neither is imitated here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sparring.agents.engines.registry import EnginePool
from sparring.errors import UserError
from sparring.graphs.play import Play, plan
from sparring.graphs.player import OnProgress, taken
from sparring.graphs.pool import pools_of, share
from sparring.graphs.protocol import task_rows
from sparring.graphs.results import read_results
from sparring.graphs.stats import Estimate, bootstrap, single_answer, vote_at
from sparring.memory.journal import Journal
from sparring.memory.policies import find, parse
from sparring.memory.records import TaskRecord
from sparring.memory.seeds import derive_seed
from sparring.memory.types import canonical, digest

SINGLE, CONSISTENCY, CONVERSATION, DEBATE = NAMES = ("single", "consistency", "conversation", "debate")
TOGETHER = {CONVERSATION: "conversation", DEBATE: "du"}
"""Setting in which all agents take part -> its protocol."""


@dataclass(frozen=True)
class Asked:
    """What the agents are asked, the same before and after."""

    tasks: str | Path | Sequence[TaskRecord | dict[str, Any]]
    answer: str = "line"
    """Answer format."""
    votes: int = 5
    rounds: int = 2
    """Of a conversation and of a debate."""
    limit: int | None = None
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    """Sampling fields and `prompts.ROLE`."""

    def __post_init__(self) -> None:
        if self.votes < 1 or self.rounds < 1:
            raise UserError("`votes` and `rounds` are at least 1")


@dataclass(frozen=True)
class Lineup:
    """What some agents came to in one setting; the accuracies are by task."""

    setting: str
    calls: float
    """Of one question."""
    accuracy: Mapping[str, float]
    baseline: Mapping[str, float] | None
    """Majority of as many samples of all agents; None for the settings that are samples."""


@dataclass(frozen=True)
class Row:
    """A setting before and after."""

    setting: str
    calls: float
    before: Estimate
    after: Estimate
    error_before: float | None
    """Standard error over tasks; None of one task."""
    error_after: float | None
    difference: Estimate
    """After minus before, paired by task."""
    against_before: Estimate | None
    """Minus the baseline at equal calls, before."""
    against_after: Estimate | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def plays(agents: Sequence[str], asked: Asked) -> dict[str, Play]:
    """The runs that a line-up needs, by what they are: `pool.0`, ..., `conversation`, `debate`.

    Args:
        agents: engine specs.
    """
    size = max(2 * asked.votes, 2 * asked.rounds)
    tasks = task_rows(asked.tasks, asked.limit)
    common: dict[str, Any] = {"answer": asked.answer, **asked.options}
    found = {}
    for number, agent in enumerate(agents):  # equal weights with equal seeds would say the same
        seed = derive_seed(asked.seed, "settings", 0, number, "pool")
        found[f"pool.{number}"] = plan("sample", tasks, n=size, engine=agent, seed=seed, **common)
    seats = {f"solver.{number}": agent for number, agent in enumerate(agents)}
    common |= {"agents": len(agents), "rounds": asked.rounds, "seed": asked.seed}
    for name, protocol in TOGETHER.items():
        found[name] = plan(protocol, tasks, roles=seats, **common)
    return found


async def lineup(
    agents: Sequence[str],
    asked: Asked,
    journal: Journal,
    pool: EnginePool,
    *,
    name: str,
    concurrency: int = 64,
    on_progress: OnProgress | None = None,
) -> list[Lineup]:
    """Play, or play on, some agents in all settings; the runs are called NAME.pool.0 and so on.

    Raises:
        UserError: an agent, a task or an option that cannot work; a task without a reference.
    """
    if not agents:
        raise UserError("name at least one agent")
    todo = plays(agents, asked)
    for task in next(iter(todo.values())).tasks:
        if task.answer is None:
            raise UserError(f"task `{task.id}` has no `answer`: settings are compared by accuracy")
    for kind, play in todo.items():
        booked = replace(play, kind="evaluation")
        async with taken(journal, f"{name}.{kind}", booked, pool, concurrency) as player:
            await player(on_progress)
    return _read(journal, name, len(agents), asked)


def _read(journal: Journal, name: str, agents: int, asked: Asked) -> list[Lineup]:
    runs = [f"{name}.pool.{number}" for number in range(agents)]
    pools = [pools_of(journal, [run])[0] for run in runs]
    together, _ = pools_of(journal, runs)
    places = {task: place for place, task in enumerate(together)}

    def voted(pool: Mapping[str, Any], budget: float) -> dict[str, float]:
        return {task: vote_at(pool[task], "calls", budget, seed=places[task])[0] for task in pool}

    singles = [{task: single_answer(samples) for task, samples in pool.items()} for pool in pools]
    votes = [voted(pool, asked.votes) for pool in pools]
    found = [
        Lineup(SINGLE, 1, _mean(singles), None),
        Lineup(CONSISTENCY, asked.votes, _mean(votes), None),
    ]
    calls = agents * asked.rounds
    for setting in TOGETHER:
        right = {row.task_id: share([row]) for row in read_results(journal, f"{name}.{setting}")}
        found.append(Lineup(setting, calls, right, voted(together, calls)))
    return found


def _mean(columns: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Task -> mean over the agents that have samples of it."""
    tasks = {task for column in columns for task in column}
    return {
        task: float(np.mean([column[task] for column in columns if task in column])) for task in sorted(tasks)
    }


def compare(before: Sequence[Lineup], after: Sequence[Lineup]) -> list[Row]:
    """Setting by setting, on the tasks that both have."""
    rows = []
    for old, new in zip(before, after, strict=True):
        tasks = sorted(set(old.accuracy) & set(new.accuracy))
        was, now = ([one.accuracy[task] for task in tasks] for one in (old, new))
        rows.append(
            Row(
                setting=old.setting,
                calls=old.calls,
                before=bootstrap(was),
                after=bootstrap(now),
                error_before=_error(was),
                error_after=_error(now),
                difference=bootstrap(np.subtract(now, was)),
                against_before=_against(old),
                against_after=_against(new),
            )
        )
    return rows


def _against(one: Lineup) -> Estimate | None:
    if one.baseline is None:
        return None
    tasks = sorted(set(one.accuracy) & set(one.baseline))
    return bootstrap([one.accuracy[task] - one.baseline[task] for task in tasks])


async def measured(
    memory: str,
    names: Sequence[str],
    asked: Asked,
    before: str,
    after: str,
    *,
    concurrency: int = 64,
    on_progress: OnProgress | None = None,
) -> list[Row]:
    """Policies of a journal at two of their versions each.

    Args:
        before: version of each policy: a number, `live` or `training`; `after` likewise.

    Raises:
        UserError: no such policy or version, or what `lineup` raises.
    """
    tasks = task_rows(asked.tasks, asked.limit)
    asked = replace(asked, tasks=tasks)
    rest = [asked.answer, asked.votes, asked.rounds, asked.seed, dict(asked.options)]
    mark = digest(canonical([[task.to_json() for task in tasks], rest]), size=4).hex()
    found = []
    with Journal.open(memory) as journal:
        async with EnginePool() as pool:
            for which in (before, after):
                labels = [find(journal, *parse(f"{name}@{which}")).label for name in names]
                specs = [f"policy:{label}" for label in labels]
                name = f"settings/{'+'.join(labels)}/{mark}"
                how: dict[str, Any] = {"concurrency": concurrency, "on_progress": on_progress}
                found.append(await lineup(specs, asked, journal, pool, name=name, **how))
    return compare(*found)


def _error(values: Sequence[float]) -> float | None:
    """Standard error of a mean over tasks."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None

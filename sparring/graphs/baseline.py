"""The pool that every method is measured against: single samples of each task, beside the run.

    sparring play debate --tasks demo --engine smollm2-135m --baseline

The pool of run `NAME` is the run `NAME.baseline`: episodes of `sample`, a few samples a request, as many
copies of each task as it takes to pay for the dearest episode twice over, in calls, in completion tokens
and in all tokens, so that random subsets of the pool at the method's budget really differ. Drawing it
again draws what is missing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from math import ceil
from statistics import median
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sparring.agents.engines.registry import EnginePool
from sparring.errors import UserError, unknown
from sparring.graphs.cast import SAMPLING_FIELDS
from sparring.graphs.catalogue import make_protocol
from sparring.graphs.play import Play
from sparring.graphs.player import FINISHED, OnProgress, taken
from sparring.graphs.protocol import Protocol
from sparring.graphs.results import read_results
from sparring.graphs.workers import Crew
from sparring.memory.journal import Journal
from sparring.memory.seeds import derive_seed

log = logging.getLogger("sparring")
SUFFIX = ".baseline"
Spent = tuple[int, int, int]
"""Calls, completion tokens, all tokens."""


class Pool(BaseModel):
    """Settings of a pool, `baseline.NAME` on the command line; sampling fields go beside them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    margin: float = Field(default=2.0, ge=1.0)
    """How many times the dearest episode of a task its samples cost."""
    most: int = Field(default=128, ge=1)
    """The most samples of one task, whatever the margin asks for."""
    engine: str | None = None
    prompt: str | None = None
    answer: str | None = None


def settings(options: dict[str, Any]) -> dict[str, Any] | None:
    """Take `baseline` and every `baseline.NAME` out of `options`: the pool's settings, None for no pool.

    Raises:
        UserError: unknown setting (those that exist are listed) or a value that does not fit.
    """
    asked = options.pop("baseline", False)
    given = dict(asked) if isinstance(asked, Mapping) else {}
    for name in [name for name in options if name.startswith("baseline.")]:
        given[name.removeprefix("baseline.")] = options.pop(name)
    if not asked and not given:
        return None
    for name in given:
        if name not in Pool.model_fields and name not in SAMPLING_FIELDS:
            raise unknown("option of the baseline", name, {*Pool.model_fields, *SAMPLING_FIELDS})
    _pool(given)
    return given


def suits(protocol: Protocol) -> None:
    """Raise `UserError` where no single sample is comparable with what a protocol plays."""
    if not protocol.sampled:
        raise UserError(
            f"protocol `{protocol.name}` has no baseline of single samples: no reply alone answers its tasks"
        )


def _pool(given: Mapping[str, Any]) -> Pool:
    try:
        return Pool(**{name: value for name, value in given.items() if name in Pool.model_fields})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"baseline.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _prompts(protocol: Protocol) -> dict[str, str]:
    """The prompts of a method whose solvers are asked as the pool's are."""
    return protocol.prompts if protocol.name == "sample" else {}


def companion(name: str, play: Play, needs: Mapping[str, Spent]) -> Play:
    """The pool of run `name` as a play of its own: `sample` by the method's solver, on the same tasks, in the
    same answer format."""
    given = play.baseline or {}
    pool = _pool(given)
    protocol = make_protocol(play.protocol, play.options)
    answer = pool.answer or getattr(protocol, "answer", None)
    size = min(pool.most, max(1, ceil(median(calls for calls, _, _ in needs.values()))))
    options: dict[str, Any] = {"n": size} | ({"answer": answer} if answer else {})
    if prompt := pool.prompt or _prompts(protocol).get("solver"):
        options["prompts"] = {"solver": prompt}
    same = {key.removeprefix("solver."): value for key, value in play.sampling.items()}
    sampling = {key: value for key, value in same.items() if key in SAMPLING_FIELDS}
    sampling |= {key: value for key, value in given.items() if key in SAMPLING_FIELDS}
    others = next(iter(play.roles.values()), None)
    engine = pool.engine or play.roles.get("solver") or play.engine or others
    return Play(
        protocol="sample",
        tasks=play.tasks,
        options=options,
        engine=engine,
        sampling=sampling,
        seed=derive_seed(play.seed, "baseline", 0, 0, "pool"),  # a `sample` run must not be its own baseline
        copies=max(1, pool.most // size),
        kind="baseline",
        parent=name,
    )


async def draw(
    journal: Journal,
    name: str,
    play: Play,
    pool: EnginePool,
    concurrency: int,
    on_progress: OnProgress | None = None,
    crew: Crew | None = None,
) -> int:
    """Draw what the pool of run `name` still lacks; how many of its episodes failed."""
    needs = {task: _dearest(rows) for task, rows in _spent(journal, name).items()}
    if not needs:
        return 0
    beside = name + SUFFIX
    sampler = companion(name, play, needs)
    if journal.has_run(beside):  # drawn before, perhaps when fewer episodes were finished
        stored = Play.from_row(journal.run_row(beside))
        sampler = replace(
            stored, engine=sampler.engine if not isinstance(sampler.engine, str) else stored.engine
        )
    margin = _pool(play.baseline or {}).margin
    wanted = {task: _times(margin, spent) for task, spent in needs.items()}
    more = _more(journal, beside, wanted, sampler)
    if not more:
        return 0
    _announce(journal, name, margin, set(more))
    async with taken(journal, beside, sampler, pool, concurrency, crew) as player:
        drawn = dict.fromkeys(wanted, 0)
        while more and not player.failed:
            upto = {task: min(sampler.copies, drawn[task] + count) for task, count in more.items()}
            bookings = [
                (t, copy) for t in sampler.tasks if t.id in upto for copy in range(drawn[t.id], upto[t.id])
            ]
            if not bookings:
                log.info("baseline: %d tasks stay below the margin, at `baseline.most` samples", len(more))
                break
            await player(on_progress, bookings)
            drawn |= upto
            more = _more(journal, beside, wanted, sampler)
        return player.failed


def _announce(journal: Journal, name: str, margin: float, lacking: set[str]) -> None:
    """Say what the pool will cost, before it does."""
    spent = [row for row in read_results(journal, name) if row.task_id in lacking]
    calls, cost = sum(row.calls for row in spent), sum(row.cost or 0.0 for row in spent)
    tokens = sum(row.prompt_tokens + row.completion_tokens for row in spent)
    money = f", cost about {margin * cost:.4g}" if cost else ""
    log.info(
        "baseline: drawing samples of %d tasks, at least %d calls and %d tokens (%g times the run's)%s",
        len(lacking), ceil(margin * calls), ceil(margin * tokens), margin, money,
    )  # fmt: skip


def _dearest(rows: list[Spent]) -> Spent:
    calls, completion, total = (max(column) for column in zip(*rows, strict=True))
    return (calls, completion, total)


def _times(margin: float, spent: Spent) -> Spent:
    return (ceil(margin * spent[0]), ceil(margin * spent[1]), ceil(margin * spent[2]))


def _spent(journal: Journal, run: str) -> dict[str, list[Spent]]:
    """Task -> what each of its finished episodes took."""
    found: dict[str, list[Spent]] = {}
    if journal.has_run(run):
        for row in read_results(journal, run):
            if row.status in FINISHED:
                tokens = row.prompt_tokens + row.completion_tokens
                found.setdefault(row.task_id, []).append((row.calls, row.completion_tokens, tokens))
    return found


def _more(journal: Journal, beside: str, wanted: Mapping[str, Spent], sampler: Play) -> dict[str, int]:
    """Task -> copies it still lacks to pay for what is wanted, judged by those it has."""
    have, size = _spent(journal, beside), sampler.options["n"]
    lacking: dict[str, int] = {}
    for task, least in wanted.items():
        rows = have.get(task) or [(size, 0, 0)]
        drawn = len(have.get(task, ()))
        rates = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        missing = [need - drawn * rate for need, rate in zip(least, rates, strict=True)]
        copies = max(ceil(gap / rate) if rate else 0 for gap, rate in zip(missing, rates, strict=True))
        if copies > 0:
            lacking[task] = copies
    return lacking

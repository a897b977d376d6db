"""What a run amounts to, as reads of the journal: accuracy, cost, and the comparison with its pool.

    with Journal.open("debates.db") as journal:
        print(report(journal, "first").conclusion)

Accuracy never drops an item: no answer counts as wrong, a failed episode too, and both have a column of
their own. The baselines are what single samples of the same tasks give at the method's own budget, task
by task (`graphs.baseline`); tokens of a prompt count for every call, whether a backend had them cached.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from sqlalchemy import Integer, cast, func, select

from sparring.errors import UserError
from sparring.graphs.budget import spent
from sparring.graphs.catalogue import make_protocol
from sparring.graphs.judge_report import Judge
from sparring.graphs.judges import figures as judge_figures
from sparring.graphs.judges import judges
from sparring.graphs.player import FINISHED
from sparring.graphs.pool import Baseline, answer_of, compare, share
from sparring.graphs.protocol import Protocol
from sparring.graphs.results import Result, money, played_row, read_results
from sparring.graphs.software_report import SoftwareRun, scripted, software_run
from sparring.graphs.stats import Estimate, bootstrap, wilson
from sparring.graphs.step_errors import StepErrors, step_errors
from sparring.memory.journal import Journal
from sparring.memory.queries import Totals, usage
from sparring.memory.schema import Agent, Episode, Task, Turn
from sparring.tools.checks import check
from sparring.tools.equality import equality

ENDED = (*FINISHED, "failed")
SPEAKERS = ("solver", "panelist", "affirmative", "negative")


@dataclass(frozen=True)
class Usage:
    """What the model calls of a run took; latencies in seconds, per call."""

    calls: int
    """Attempts, failed ones included."""
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cost: float | None
    """None where no engine said a price."""
    latency_mean: float
    latency_median: float
    latency_p95: float
    retries: int
    cache_hits: int


@dataclass(frozen=True)
class Bill:
    """What one engine's part of a run took. Money is what its prices made of the tokens, call by call, when
    the call was made (`?price_in=`, `?price_cached=`, `?price_out=`, a million tokens); None without."""

    engine: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cache_hits: int
    """Answers of the response cache, which cost nothing."""
    cost: float | None


@dataclass(frozen=True)
class Spent:
    """What was paid for, without what the response cache gave."""

    cost: float | None
    """None where no engine said a price."""
    tokens: int


@dataclass(frozen=True)
class Changes:
    """How speakers' answers moved from their first round to their last, over all speakers."""

    speakers: int
    changed: int
    relied_on_other: int
    """Wrong in the first round, right at the end."""
    bullied_by_other: int
    """Right in the first round, wrong at the end."""


@dataclass(frozen=True)
class Report:
    """Everything `sparring report` shows."""

    run: str
    protocol: str
    kind: str
    status: str
    seed: int
    engines: list[str]
    episodes: dict[str, int]
    """Status -> episodes; `unplayed` are those the run has not come to."""
    tasks: int
    """Tasks with a reference and an episode that ended."""
    accuracy: Estimate | None
    """None where no task has a reference, or what is played is no answer to one."""
    right: int
    no_answer: int
    failed: int
    without_reference: int
    statuses: dict[str, dict[str, int]]
    """Role -> status -> turns."""
    usage: Usage
    baseline: Baseline | None
    changes: Changes | None
    conclusion: str
    step_errors: StepErrors | None = None
    """Of a run of `step_check`."""
    judges: list[Judge] = field(default_factory=list)
    """Of a run of `pairwise`."""
    figures: dict[str, float] = field(default_factory=dict)
    """What the protocol measures of its own play."""
    answers: bool = True
    """`Protocol.answers`."""
    software: SoftwareRun | None = None
    """Of a run of `software`."""
    scripted: bool = False
    """A software engineer took part, and was a script."""
    bills: list[Bill] = field(default_factory=list)
    """What each engine took."""
    spent: Spent | None = None
    """Money and tokens of the run and of all that belong to it: its baseline, games, evaluations."""
    masked: int = 0
    """Finished episodes of tasks with a reference that nobody could judge (a grader's world failed)."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def report(journal: Journal, run: str) -> Report:
    """The report of a run.

    Raises:
        UserError: there is no such run, or it is made of others, as an evolution is; the message lists those
            that exist.
    """
    row = played_row(journal, run)
    config = row.config or {}
    protocol = _protocol(row)
    results = read_results(journal, run)
    used = usage(journal, run)
    known = references(journal, run)
    ended = [r for r in results if r.status in ENDED]
    referred = [r for r in ended if known.get(r.task_id, NOWHERE).answer is not None]
    answers = protocol is None or protocol.answers
    scored = [r for r in referred if _counts(r)] if answers else []
    counts: dict[str, int] = defaultdict(int)
    for result in results:
        counts[result.status] += 1
    if unplayed := len(config.get("tasks", ())) * config.get("copies", 1) - len(results):
        counts["unplayed"] = max(0, unplayed) if row.kind == "play" else 0
    by_task = _by_task(scored)
    baseline = compare(journal, run, by_task)
    judged = judges(journal, run) if row.protocol == "pairwise" else []
    accuracy = _accuracy(by_task) if by_task else None
    bills = _bills(journal, run)
    return Report(
        run=run,
        protocol=row.protocol,
        kind=row.kind,
        status=row.status,
        seed=int(row.seed),
        engines=[bill.engine for bill in bills],
        episodes={status: count for status, count in counts.items() if count},
        tasks=len(by_task),
        accuracy=accuracy,
        right=sum(bool(r.correct) for r in scored),
        no_answer=sum(r.answer is None and r.status in FINISHED for r in scored),
        failed=sum(r.status == "failed" for r in scored),
        without_reference=len(ended) - len(referred),
        statuses=used.turns,
        usage=_spent(journal, run, used.total),
        baseline=baseline,
        changes=_changes(journal, run),
        conclusion=conclude(row.protocol, baseline),
        step_errors=step_errors(journal, run) if row.protocol == "step_check" else None,
        judges=judged,
        figures=judge_figures(judged) if judged else protocol.figures(journal, run) if protocol else {},
        answers=answers,
        software=software_run(journal, run, accuracy) if row.protocol == "software" else None,
        scripted=scripted(journal, run),
        bills=bills,
        spent=all_spent(journal, run),
        masked=len(referred) - len(scored) if answers else 0,
    )


def all_spent(journal: Journal, run: str) -> Spent:
    """What a run has cost with all that belong to it."""
    cost, tokens = spent(journal, run)
    return Spent(money(cost, tokens), tokens)


def _protocol(row: Any) -> Protocol | None:
    """What a run played; None where it is not at hand: a companion's, or a class from elsewhere."""
    try:
        return make_protocol(row.protocol, (row.config or {}).get("options"))
    except UserError:
        return None


def _by_task(scored: Iterable[Result]) -> dict[str, list[Result]]:
    tasks: dict[str, list[Result]] = defaultdict(list)
    for result in scored:
        tasks[result.task_id].append(result)
    return dict(tasks)


def _accuracy(by_task: dict[str, list[Result]]) -> Estimate:
    """Wilson's interval for one episode a task; over several copies, tasks are resampled, unless all came out
    the same: resampling would give an interval without width."""
    shares = [share(results) for results in by_task.values()]
    if len(set(shares)) == 1 or all(len(results) == 1 for results in by_task.values()):
        return wilson(sum(shares), len(shares))
    return bootstrap(shares)


def conclude(method: str, baseline: Baseline | None) -> str:
    """One sentence on what the intervals allow to say."""
    if baseline is None:
        return "no baseline"
    n = baseline.columns[0].difference.n
    single, *equal = baseline.columns
    said = {"better": "is better than", "worse": "is worse than", "open": "cannot be told from"}
    found: dict[str, list[str]] = defaultdict(list)
    for column in equal:
        found[column.difference.verdict].append(str(column.budget).replace("_", " "))
    rest = [
        f"; it {words} self-consistency at equal {_listed(found[verdict])}"
        for verdict, words in said.items()
        if found[verdict]
    ]
    tail = "" if found["better"] else "; it does not beat self-consistency at any equal budget"
    alone = f"`{method}` {said[single.difference.verdict]} a single answer"
    return f"By these {n} questions, {alone}{''.join(rest)}{tail}."


def _listed(names: list[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"


# --- reads -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reference:
    """What a task's answers are held against."""

    question: Any = None
    answer: Any = None
    check: str = ""


NOWHERE = Reference()


def references(journal: Journal, run: str) -> dict[str, Reference]:
    """Task name -> its reference, of the tasks that a run has begun."""
    columns = (Task.name, Task.question, Task.answer, Task.check)
    query = select(*columns).join(Episode, Episode.task_id == Task.id).where(Episode.run_id == run)
    return {name: Reference(*about) for name, *about in journal.read(query)}


def scored_by_task(journal: Journal, run: str, results: Iterable[Result]) -> dict[str, list[Result]]:
    """Task -> its episodes that count for accuracy: it has a reference, and they were judged or failed.

    Empty for a run whose protocol's outcomes are no answers.
    """
    protocol = _protocol(journal.run_row(run))
    if protocol is not None and not protocol.answers:
        return {}
    known = references(journal, run)
    ended = [r for r in results if r.status in ENDED and known[r.task_id].answer is not None]
    return _by_task(filter(_counts, ended))


def _counts(result: Result) -> bool:
    """Whether an episode of a task with a reference has a verdict, or failed and so is wrong."""
    return result.correct is not None or result.status not in FINISHED


def _bills(journal: Journal, run: str) -> list[Bill]:
    """By the engines' names."""
    taken = (Turn.prompt_tokens, Turn.completion_tokens, Turn.cached_tokens, cast(Turn.from_cache, Integer))
    query = (
        select(Turn.engine, func.count(), *(func.sum(column) for column in taken), func.sum(Turn.cost))
        .join(Episode, Episode.number == Turn.episode_number)
        .where(Episode.run_id == run)
        .group_by(Turn.engine)
        .order_by(Turn.engine)
    )
    names = ("calls", "prompt_tokens", "completion_tokens", "cached_tokens", "cache_hits")
    found = []
    for engine, *sums, cost in journal.read(query):
        counts = dict(zip(names, map(int, sums), strict=True))
        found.append(Bill(engine, cost=money(cost, counts["calls"] - counts["cache_hits"]), **counts))
    return found


def _spent(journal: Journal, run: str, sums: Totals) -> Usage:
    """The sums over a run's turns, with how its latencies are spread."""
    of_run = Turn.episode_number.in_(select(Episode.number).where(Episode.run_id == run))
    taken = journal.read(select(Turn.latency_s).where(of_run))
    times = np.array([row.latency_s for row in taken], np.float64)
    mean, median, late = (
        (float(times.mean()), *map(float, np.percentile(times, (50, 95)))) if len(times) else (0.0, 0.0, 0.0)
    )
    return Usage(
        calls=sums.turns,
        prompt_tokens=sums.prompt_tokens,
        completion_tokens=sums.completion_tokens,
        cached_tokens=sums.cached_tokens,
        cost=money(sums.cost, sums.turns - sums.from_cache),
        latency_mean=mean,
        latency_median=median,
        latency_p95=late,
        retries=sums.retries,
        cache_hits=sums.from_cache,
    )


def _changes(journal: Journal, run: str) -> Changes | None:
    """Answers of the first and the last round, speaker by speaker; None where nobody spoke twice."""
    query = (
        select(Turn.episode_number, Turn.key, Turn.parsed, Task.check, Task.answer)
        .join(Episode, Episode.number == Turn.episode_number)
        .join(Task, Task.id == Episode.task_id)
        .join(Agent, Agent.id == Turn.agent_id)
        .where(Episode.run_id == run, Episode.status.in_(FINISHED), Turn.final, Agent.role.in_(SPEAKERS))
    )
    said: dict[tuple[str, str], list[tuple[int, Any]]] = defaultdict(list)
    for row in journal.read(query):
        number, _, seat = row.key.partition("/")
        if number.isdigit() and "/" not in seat and row.answer is not None:  # `ROUND/SEAT`
            said[row.episode_number, seat].append((int(number), row))
    pairs = [(min(turns)[1], max(turns)[1]) for turns in _spoke_twice(said.values())]
    if not pairs:
        return None
    judged: dict[tuple[str, str | None, str], bool] = {}
    moves = [(_right(first, judged), _right(last, judged)) for first, last in pairs]
    return Changes(
        speakers=len(pairs),
        changed=sum(_moved(first, last) for first, last in pairs),
        relied_on_other=moves.count((False, True)),
        bullied_by_other=moves.count((True, False)),
    )


def _spoke_twice(turns: Iterable[list[tuple[int, Any]]]) -> list[list[tuple[int, Any]]]:
    return [spoken for spoken in turns if len({number for number, _ in spoken}) > 1]


def _moved(first: Any, last: Any) -> bool:
    before, after = answer_of(first.parsed), answer_of(last.parsed)
    if before is None or after is None:
        return before is not after
    return not equality(first.check)(before, after)


def _right(row: Any, judged: dict[tuple[str, str | None, str], bool]) -> bool:
    key = (row.check, answer_of(row.parsed), repr(row.answer))
    if key not in judged:
        judged[key] = check(row.check, key[1], row.answer).correct
    return judged[key]

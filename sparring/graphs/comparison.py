"""A run of `compare`, read: what each method has right, what it cost, and single samples at the same cost.

The cost of a method is what it would have cost alone: the samples of the pool that it took, what the scorers
that it needs said of them or read in them, and its own turns. Where a scorer holds a sample against the
majority, all that made the majority count. Votes at equal calls or tokens are taken from the same pool,
so it costs nothing more; a method that is dearer than the whole pool is compared with the whole pool, and
`short` says so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sqlalchemy import select

from sparring.errors import UserError
from sparring.graphs.catalogue import make_protocol
from sparring.graphs.protocols.compare import Compare
from sparring.graphs.selection.base import Method
from sparring.graphs.stats import Estimate, Numbers, Samples, bootstrap, vote_at, wilson
from sparring.memory.journal import Journal
from sparring.memory.schema import Episode, Event, Score, Task, Turn
from sparring.tools.checks import check
from sparring.tools.equality import equality, group


@dataclass(frozen=True)
class Cost:
    """Means of one question."""

    calls: float
    prompt_tokens: float
    completion_tokens: float
    rated_tokens: float
    """Read by reward models and by engines that score, which write nothing."""


@dataclass(frozen=True)
class Compared:
    """One method over all questions of a run."""

    label: str
    method: str
    accuracy: Estimate
    no_answer: int
    cost: Cost
    equal_calls: float
    """Accuracy of self-consistency on as many samples of the same pool."""
    difference: Estimate
    """The method's less that, paired by question."""
    equal_tokens: float
    """Accuracy of self-consistency that writes as many tokens."""
    difference_tokens: Estimate
    """The method's less that, paired by question."""
    short: bool
    """Whether it took more calls than the pool has samples."""
    short_tokens: bool
    """Whether it wrote more tokens than the pool has."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


Made = dict[int, tuple[Any, dict[str, Any]]]
"""Episode -> its task, and label -> what that method came to."""


@dataclass(frozen=True)
class Spoken:
    """A turn as costs see it."""

    key: str
    prompt_tokens: int
    completion_tokens: int
    answer: str | None
    rated: Mapping[str, int]
    """Scorer -> tokens it read of this turn's chain."""


@dataclass(frozen=True)
class Voted:
    """Self-consistency on so many samples of the pool."""

    calls: int
    completion_tokens: float
    accuracy: float


def _line(protocol: Compare, pools: Mapping[int, Samples]) -> list[Voted]:
    """Self-consistency on 1, 2, ... samples up to the whole pool."""
    tokens = float(np.mean([pool.completion_tokens.mean() for pool in pools.values()]))
    few = min(protocol.drawn, 16)
    sizes = sorted({*range(1, few + 1), *map(round, np.geomspace(few, protocol.drawn, 16))})
    return [
        Voted(size, size * tokens, float(_votes(pools, dict.fromkeys(pools, size), "calls").mean()))
        for size in sizes
    ]


def compared(journal: Journal, run: str) -> list[Compared]:
    """Each method of a run of `compare`, in the order in which they were named.

    Raises:
        UserError: a run of another protocol, or one without a finished question that has a reference.
    """
    return compared_and_voted(journal, run)[0]


def compared_and_voted(journal: Journal, run: str) -> tuple[list[Compared], list[Voted]]:
    """The same, and the votes that methods are held against: self-consistency on 1, 2, ... samples.

    Raises:
        UserError: as `compared`.
    """
    protocol, made, spoken = _read(journal, run)
    pools = {number: _pool(about, spoken[number]) for number, (about, _) in made.items()}
    right = {
        label: np.array([float(bool(told[label]["right"])) for _, told in made.values()])
        for label in protocol.chosen
    }
    found = []
    for label, method in protocol.chosen.items():
        costs = {number: cost_of(protocol, label, method, spoken[number]) for number in made}
        by_calls, by_tokens = (
            _votes(pools, {number: getattr(cost, unit) for number, cost in costs.items()}, unit)
            for unit in ("calls", "completion_tokens")
        )
        found.append(
            Compared(
                label=label,
                method=method.name,
                accuracy=wilson(float(right[label].sum()), len(right[label])),
                no_answer=sum(told[label]["answer"] is None for _, told in made.values()),
                cost=_mean(list(costs.values())),
                equal_calls=float(by_calls.mean()),
                difference=bootstrap(right[label] - by_calls),
                equal_tokens=float(by_tokens.mean()),
                difference_tokens=bootstrap(right[label] - by_tokens),
                short=any(cost.calls > protocol.drawn for cost in costs.values()),
                short_tokens=any(
                    cost.completion_tokens > pools[number].completion_tokens.sum()
                    for number, cost in costs.items()
                ),
            )
        )
    return found, _line(protocol, pools)


def _read(journal: Journal, run: str) -> tuple[Compare, Made, dict[int, list[Spoken]]]:
    """The protocol of a run, what its methods made of each question, and what was said there."""
    row = journal.run_row(run)
    if row.protocol != Compare.name:
        raise UserError(f"run `{run}` played `{row.protocol}`, not `compare`")
    protocol = make_protocol(row.protocol, dict(row.config["options"]))
    assert isinstance(protocol, Compare)
    made = _made(journal, run)
    if not made:
        raise UserError(f"run `{run}` has no finished question with a reference; there is nothing to compare")
    return protocol, made, _spoken(journal, run)


def _votes(pools: Mapping[int, Samples], budgets: Mapping[int, float], unit: str) -> Numbers:
    """What self-consistency has right of each question at that budget, shape (questions,)."""
    return np.array(
        [vote_at(pools[number], unit, budgets[number], seed=place)[0] for place, number in enumerate(pools)]
    )


def cost_of(protocol: Compare, label: str, method: Method, spoken: Sequence[Spoken]) -> Cost:
    """What a method's answer to one question took."""
    scorers = [scorer for need, scorer in protocol.scorers.items() if need in method.needs]
    size = method.samples or protocol.n if method.pooled else 0
    keys = [f"sample/{place}" for place in range(protocol.n)]
    samples = {*(keys if any(scorer.weighs_all for scorer in scorers) else keys[:size])}
    about = [name for name in (*(scorer.under for scorer in scorers), method.under) if name]
    under = tuple(f"{key}/{name}" for key in keys[:size] for name in about)
    mine = [
        turn
        for turn in spoken
        if turn.key in samples
        or turn.key.startswith((f"{label}/", *method.shared))
        or any(turn.key == key or turn.key.startswith(f"{key}/") for key in under)
    ]
    names = tuple(scorer.name for scorer in scorers)
    rated = [
        n
        for turn in mine
        if turn.key not in keys[size:]
        for name, n in turn.rated.items()
        if names and name.startswith(names)
    ]
    return Cost(
        calls=len(mine),
        prompt_tokens=sum(turn.prompt_tokens for turn in mine),
        completion_tokens=sum(turn.completion_tokens for turn in mine),
        rated_tokens=sum(rated),
    )


def _mean(costs: Sequence[Cost]) -> Cost:
    rows = [asdict(cost) for cost in costs]
    return Cost(**{name: float(np.mean([row[name] for row in rows])) for name in rows[0]})


def _made(journal: Journal, run: str) -> Made:
    """Episode -> its task and what each method made of it; one that reached a cap lacks some."""
    query = (
        select(Episode.number, Task.answer, Task.check, Event.key, Event.payload)
        .join(Task, Task.id == Episode.task_id)
        .join(Event, Event.episode_number == Episode.number)
        .where(Episode.run_id == run, Episode.status == "done", Event.kind == "method")
        .where(Task.answer.is_not(None))
        .order_by(Episode.number)
    )
    found: dict[int, tuple[Any, dict[str, Any]]] = {}
    for row in journal.read(query):
        found.setdefault(row.number, (row, {}))[1][row.key] = row.payload
    return found


def _spoken(journal: Journal, run: str) -> dict[int, list[Spoken]]:
    """Episode -> its final turns."""
    rated: defaultdict[int, dict[str, int]] = defaultdict(dict)
    scores = (
        select(Score.turn_id, Score.scorer, Score.evidence)
        .join(Turn, Turn.id == Score.turn_id)
        .join(Episode, Episode.number == Turn.episode_number)
        .where(Episode.run_id == run)
    )
    for row in journal.read(scores):
        if row.evidence and "tokens" in row.evidence:
            # A reward model's scores bear its own name, which may be any.
            scorer = row.evidence.get("scorer", row.scorer)
            rated[row.turn_id][scorer] = int(row.evidence["tokens"])
    columns = (Turn.id, Turn.key, Turn.prompt_tokens, Turn.completion_tokens, Turn.parsed)
    query = select(Episode.number, *columns).join(Turn, Turn.episode_number == Episode.number)
    found: defaultdict[int, list[Spoken]] = defaultdict(list)
    for row in journal.read(query.where(Episode.run_id == run, Turn.final)):
        answer = (row.parsed or {}).get("answer")
        held = Spoken(row.key, row.prompt_tokens, row.completion_tokens, answer, rated[row.id])
        found[row.number].append(held)
    return found


def _pool(about: Any, spoken: Sequence[Spoken]) -> Samples:
    """The pool of one question, for self-consistency at any budget."""
    samples = sorted(
        (turn for turn in spoken if turn.key.startswith("sample/") and turn.key.count("/") == 1),
        key=lambda turn: int(turn.key.split("/")[1]),
    )
    answers = [turn.answer for turn in samples]
    classes = [-1 if one is None else one for one in group(answers, equality(about.check))]
    right = [check(about.check, answer, about.answer).correct for answer in answers]
    tokens = [turn.completion_tokens for turn in samples]
    total = [turn.prompt_tokens + turn.completion_tokens for turn in samples]
    return Samples(np.array(classes), np.array(right), np.array(tokens), np.array(total))

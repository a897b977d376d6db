"""What a run of software tasks came to: how its attempts were graded and ended, and what they took.

An attempt is an episode. What nobody could judge is masked: it has a status of its own and counts neither as
resolved nor as unresolved. An attempt that failed on the way has no patch and counts as not resolved.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from sparring.graphs.player import FINISHED
from sparring.graphs.results import Result, read_results
from sparring.graphs.stats import Estimate, mean, wilson
from sparring.memory.journal import Journal
from sparring.memory.schema import Agent, Episode, Event, Turn
from sparring.tools.swe.predictions import Evaluation, Prediction

if TYPE_CHECKING:
    from sparring.tools.swe.grades import Grade

STATUSES = ("resolved", "partial", "unresolved", "empty", "patch_failed", "tampered", "timeout")
"""Of judged attempts, as `tools.swe.grades.GradeStatus` has them."""
MASKED, FAILED, UNGRADED, OPEN = "masked", "failed", "not_graded", "open"
"""Of the others: the grader's world failed; the episode did; nobody asked for a grade; it goes on."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One episode of a run of `software`."""

    result: Result
    status: str
    """One of `STATUSES`, or of the four others."""
    grade: Grade | None
    """None where there is none, or it is masked."""
    reason: str
    """One line on the grade, or on what failed."""

    @property
    def exit_status(self) -> str | None:
        """What ended the engineer's work; None where it is not over."""
        return self._detail.get("exit_status")

    @property
    def steps(self) -> int:
        """Commands and format errors, those shared with the episode it was forked from included."""
        return int(self._detail.get("steps", self.result.calls))

    def to_json(self) -> dict[str, Any]:
        """What a script asks for, without the words: those are in the journal."""
        used = self.result
        return {
            "instance": used.task_id,
            "copy": used.copy,
            "status": self.status,
            "reason": self.reason,
            "exit_status": self.exit_status,
            "steps": self.steps,
            "calls": used.calls,
            "prompt_tokens": used.prompt_tokens,
            "completion_tokens": used.completion_tokens,
            "cost": used.cost,
            "episode": used.episode,
            "patch": self.patch,
        }

    @property
    def patch(self) -> str | None:
        """None where the work is not over."""
        return self.result.answer if self.result.status in FINISHED else None

    @property
    def _detail(self) -> Mapping[str, Any]:
        return (self.result.outcome or {}).get("detail") or {}


@dataclass(frozen=True, slots=True)
class SoftwareRun:
    """The figures of a run; means are over the attempts that ended."""

    instances: int
    """With an attempt that counts."""
    attempts: int
    """Ended ones, masked ones included."""
    copies: int
    """Attempts that each instance is to have."""
    resolved: int
    judged: int
    """Attempts that count: those that were graded, and those that failed."""
    pass_at_1: Estimate | None
    """Mean over instances of the share of judged attempts that resolve; None where nothing was judged."""
    any: Estimate | None
    """Share of instances that one of their judged attempts resolves; None with one attempt each."""
    statuses: dict[str, int]
    exits: dict[str, int]
    """What ended the engineer's work -> attempts."""
    mean_steps: float
    mean_tokens: float
    """Prompts included."""
    mean_cost: float | None
    """None where no engine said a price."""


def attempts(journal: Journal, run: str) -> list[Attempt]:
    """The attempts of a run, in the order of its instances."""
    from sparring.tools.swe.grades import Grade

    query = (
        select(Episode.id, Event.kind, Event.payload)
        .join(Episode, Episode.number == Event.episode_number)
        .where(Episode.run_id == run, Event.kind.in_(("verdict", "masked_grade")))
        .order_by(Event.id)
    )
    said: dict[str, dict[str, Any]] = defaultdict(dict)
    for row in journal.read(query):
        said[row.id][row.kind] = row.payload
    found = []
    for result in read_results(journal, run):
        told = said[result.episode]
        verdict, masked = told.get("verdict"), told.get("masked_grade")
        if result.status == FAILED:
            one = Attempt(result, FAILED, None, result.error or "")
        elif result.status not in FINISHED:
            one = Attempt(result, OPEN, None, "")
        elif verdict is not None and "grade" in verdict:
            grade = Grade.from_json(verdict["grade"])
            one = Attempt(result, str(grade.status), grade, grade.reason or "")
        elif masked is not None:
            one = Attempt(result, MASKED, None, masked.get("reason") or "")
        else:
            one = Attempt(result, UNGRADED, None, "")
        found.append(one)
    return found


def software_run(journal: Journal, run: str, pass_at_1: Estimate | None) -> SoftwareRun:
    """The figures of a run.

    Args:
        pass_at_1: the run's accuracy.
    """
    found = attempts(journal, run)
    ended = [one for one in found if one.status != OPEN]
    counted = [one for one in ended if one.status not in (MASKED, UNGRADED)]
    solved: dict[str, bool] = defaultdict(bool)
    for one in counted:
        solved[one.result.task_id] |= one.status == "resolved"
    copies = int((journal.run_row(run).config or {}).get("copies", 1))
    of = Counter(one.status for one in ended)
    order = (*STATUSES, MASKED, FAILED, UNGRADED)
    return SoftwareRun(
        instances=len(solved),
        attempts=len(ended),
        copies=copies,
        resolved=of["resolved"],
        judged=len(counted),
        pass_at_1=pass_at_1,
        any=wilson(sum(solved.values()), len(solved)) if copies > 1 and solved else None,
        statuses={name: of[name] for name in order if of[name]},
        exits=dict(Counter(one.exit_status for one in ended if one.exit_status).most_common()),
        mean_steps=_mean(one.steps for one in ended),
        mean_tokens=_mean(one.result.prompt_tokens + one.result.completion_tokens for one in ended),
        mean_cost=mean(cost for one in ended if (cost := one.result.cost) is not None),
    )


def scripted(journal: Journal, run: str) -> bool:
    """Whether the engineer of a run was a script: then nothing in it says anything about any model."""
    said = (
        select(Turn.engine)
        .join(Episode, Episode.number == Turn.episode_number)
        .join(Agent, Agent.id == Turn.agent_id)
        .where(Episode.run_id == run, Agent.role == "engineer")
    )
    engines = [row.engine for row in journal.read(said.distinct())]
    return bool(engines) and all(engine.startswith("scripted") for engine in engines)


def _mean(values: Iterable[float]) -> float:
    held = list(values)
    return sum(held) / len(held) if held else 0.0


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a run has come, over all processes that played it."""

    resolved: int = 0
    masked: int = 0
    steps: int = 0
    cost: float = 0.0


def watch(journal: Journal, run: str) -> Callable[[], Standing]:
    """A function that says how a run stands; each verdict is read once."""
    seen: dict[int, bool] = {}

    def events(kind: str, *columns: Any) -> Any:
        query = select(*columns).join(Episode, Episode.number == Event.episode_number)
        return query.where(Episode.run_id == run, Event.kind == kind)

    def look() -> Standing:
        new = [row.id for row in journal.read(events("verdict", Event.id)) if row.id not in seen]
        for row in journal.read(select(Event.id, Event.payload).where(Event.id.in_(new))) if new else ():
            seen[row.id] = bool(row.payload["correct"])
        masked = journal.read(events("masked_grade", func.count(Event.episode_number.distinct())))[0][0]
        said = select(func.count(), func.sum(Turn.cost)).select_from(Turn)
        said = said.join(Episode, Episode.number == Turn.episode_number).where(Episode.run_id == run)
        [(steps, cost)] = journal.read(said)
        return Standing(sum(seen.values()), int(masked), int(steps), float(cost or 0.0))

    return look


# --- for the official harness ---------------------------------------------------------------------------


def predicted(found: Sequence[Attempt], model: str, copies: int = 1) -> list[list[Prediction]]:
    """Predictions of the attempts that ended with a patch, or with an empty one; a list for each copy, since
    the official harness takes one prediction for each instance."""
    rows: list[list[Prediction]] = [[] for _ in range(copies)]
    for one in found:
        if one.patch is not None:
            rows[one.result.copy % copies].append(Prediction(one.result.task_id, model, one.patch))
    return rows


def evaluated(found: Sequence[Attempt], copies: int = 1) -> list[dict[str, Evaluation]]:
    """How each copy's predictions were graded, as the official harness counts them: patches that do not
    apply and tests that time out are errors, what was masked is an error of the environment."""
    rows: list[dict[str, Evaluation]] = [{} for _ in range(copies)]
    for one in found:
        grade = one.grade
        if one.status == MASKED:
            rows[one.result.copy % copies][one.result.task_id] = Evaluation(None, "environment")
        elif grade is not None and grade.evaluation is not None and one.status != "timeout":
            rows[one.result.copy % copies][one.result.task_id] = grade.evaluation
    return rows

"""Step checking: one critic judges every step of a solution that is given with its task.

How a critic's step-error detection is measured (ProcessBench, 2412.06559; SPC, 2504.19162). A task has its
`steps` beside it and, as answer, the index of the first wrong one from 0, or -1 where none is. The steps are
judged at the same time, each on the steps before it as they stand, so they share one batch and its prefixes.
`graphs.step_errors` turns such runs into recalls, false alarms and F1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypedDict

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from sparring.agents.parsing import parser
from sparring.agents.roles import Role
from sparring.errors import UserError
from sparring.graphs.context import Context
from sparring.graphs.protocol import Outcome, Protocol, in_line
from sparring.graphs.step_errors import figures, first_rejected, step_errors
from sparring.memory.journal import Journal
from sparring.memory.records import TaskRecord


class StepCheckState(TypedDict, total=False):
    question: str
    verdicts: list[bool | None]
    """Of the judged steps in order: right, wrong, or no readable verdict."""
    outcome: Outcome


class StepCheck(Protocol):
    """A critic finds the first wrong step of a solution."""

    name: ClassVar[str] = "step_check"

    upto: Literal["all", "label"] = "all"
    """`label`: no step after the labelled first error, which no metric looks at; needs the label."""
    verdict: Literal["verdict", "verdict/official"] = "verdict"
    """How verdicts are read: the last tag, tolerant of white space, or as SPC's released evaluation does."""
    opening: str = ""
    """Stands for the partial solution before a first step; the released code has `Let's solve this
    problem.`, without one the prompt says that there is none."""
    max_steps: int = Field(default=256, ge=1)
    """Longer solutions are refused."""

    def seats(self) -> dict[str, Role]:
        reads = {"judge": parser(self.verdict)}
        return {"critic": self.role("critic", reads, ["problem", "partial", "step"])}

    @property
    def max_calls(self) -> int:
        return self.max_steps

    def accepts(self, task: TaskRecord) -> None:
        found = steps_of(task)
        if len(found) > self.max_steps:
            raise UserError(f"task `{task.id}` has {len(found)} steps; `max_steps` is {self.max_steps}")
        if label_of(task) is None and self.upto == "label":
            raise UserError(f"task `{task.id}` has no label as its answer: `upto=label` needs one")

    def figures(self, journal: Journal, run: str, episodes: Sequence[int] | None = None) -> dict[str, float]:
        """Balanced accuracy, both recalls, false alarms, F1, and the recall of every kind of error."""
        return figures(step_errors(journal, run, episodes))

    def graph(self) -> StateGraph[Any, Context, Any, Any]:
        return in_line(StepCheckState, self.judge, self.decide)

    async def judge(self, state: StepCheckState, runtime: Runtime[Context]) -> StepCheckState:
        """A verdict on each step, none of them waiting for another."""
        context = runtime.context
        if context.task is None:
            raise UserError("step_check judges the `steps` of a task record; it was given a bare question")
        self.accepts(context.task)
        steps, label = steps_of(context.task), label_of(context.task)
        count = label + 1 if self.upto == "label" and label not in (None, -1) else len(steps)
        turns = await asyncio.gather(
            *(
                context.act("critic", f"judge/{place}", "judge", self._shown(state["question"], steps, place))
                for place in range(count)
            )
        )
        return {"verdicts": [turn.parsed["correct"] if turn.parsed else None for turn in turns]}

    def _shown(self, problem: str, steps: Sequence[str], place: int) -> dict[str, Any]:
        before = list(steps[:place]) or ([self.opening] if self.opening else [])
        return {"problem": problem, "partial": before, "step": steps[place]}

    async def decide(self, state: StepCheckState, runtime: Runtime[Context]) -> StepCheckState:
        """The first step judged wrong; no answer where a verdict before it cannot be read."""
        verdicts = state["verdicts"]
        place = first_rejected(verdicts)
        answer = None if place is None else str(place)
        return {"outcome": Outcome(answer=answer, detail={"verdicts": verdicts})}


def steps_of(task: TaskRecord) -> list[str]:
    """The solution that comes with a task.

    Raises:
        UserError: there is none, it is empty, or a step is no text.
    """
    steps = (task.meta or {}).get("steps")
    if not isinstance(steps, list) or not steps:
        raise UserError(f"task `{task.id}` has no `steps` to check: give the solution as a list of texts")
    for place, step in enumerate(steps):
        if not isinstance(step, str) or not step.strip():
            raise UserError(f"task `{task.id}`: step {place} is no text or a blank one")
    return steps


def label_of(task: TaskRecord) -> int | None:
    """The task's label: index of the first wrong step, -1 where none is; None where it has none.

    Raises:
        UserError: the answer is no whole number, or no step has that index.
    """
    if task.answer is None:
        return None
    last = len(steps_of(task)) - 1
    try:
        label = int(str(task.answer))
    except ValueError:
        label = last + 1
    if not -1 <= label <= last:
        raise UserError(
            f"task `{task.id}`: answer `{task.answer}` is no label; it is the index of the first wrong step, "
            f"0 to {last}, or -1"
        )
    return label

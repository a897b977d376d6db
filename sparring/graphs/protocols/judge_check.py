"""Judge checking: evaluators and scorers of a discussion on solutions whose truth is known.

Rewards of CoMAS come from judges, so agreement among them may pass for truth. Here each agent evaluates
and scores, alone and in the words of the discussion, solutions that are labelled: a task has its `solution`
beside it and, as answer, `right` or `wrong`. Figures are those of `discuss`: how scores spread, and precision
and recall of approval.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar, TypedDict

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import Field, field_validator

from sparring.agents.roles import Role
from sparring.errors import UserError
from sparring.graphs.context import Context
from sparring.graphs.protocol import Outcome, Protocol, in_line
from sparring.graphs.protocols.debate_views import heard
from sparring.graphs.protocols.discuss_figures import discussion_figures, support
from sparring.graphs.protocols.discuss_seats import (
    EVALUATOR,
    SCORER,
    Scale,
    judged,
    ordered,
    reviewer,
    to_be_scored,
)
from sparring.memory.journal import Journal
from sparring.memory.records import TaskRecord

LABELS = ("right", "wrong")


class JudgeCheckState(TypedDict, total=False):
    question: Any
    scores: list[int | None]
    """Of the agents in order; None where a score cannot be read."""
    outcome: Outcome


class JudgeCheck(Protocol):
    """Agents judge a labelled solution."""

    name: ClassVar[str] = "judge_check"

    agents: int = Field(default=1, ge=1)
    """Judges, each on every solution."""
    evaluate: bool = True
    """Whether the scorer reads an evaluation, which the same agent writes."""
    scale: Scale = (1, 3)
    """Least and greatest score."""

    _scale = field_validator("scale")(ordered)

    @property
    def max_calls(self) -> int:
        return self.agents * (1 + self.evaluate)

    def seats(self) -> dict[str, Role]:
        roles = [*([EVALUATOR] if self.evaluate else []), SCORER]
        return {
            seat: reviewer(self, seat, self.scale)
            for number in range(self.agents)
            for seat in (f"{role}.{number}" for role in roles)
        }

    def accepts(self, task: TaskRecord) -> None:
        solution_of(task)
        if task.answer not in LABELS:
            raise UserError(
                f"task `{task.id}`: answer `{task.answer}` is no label; it is `right` or `wrong`, what its "
                "`solution` is"
            )

    def figures(self, journal: Journal, run: str, episodes: Sequence[int] | None = None) -> dict[str, float]:
        return discussion_figures(journal, run, episodes)

    def graph(self) -> StateGraph[Any, Context, Any, Any]:
        return in_line(JudgeCheckState, self.judge, self.decide)

    async def judge(self, state: JudgeCheckState, runtime: Runtime[Context]) -> JudgeCheckState:
        """Every agent for itself."""
        asked = (self._score(state, runtime.context, number) for number in range(self.agents))
        return {"scores": list(await asyncio.gather(*asked))}

    async def _score(self, state: JudgeCheckState, context: Context, number: int) -> int | None:
        assert context.task is not None
        solution = solution_of(context.task)
        evaluation = ""
        if self.evaluate:
            shown = {"question": state["question"], "solution": solution, "discussion": []}
            said = await context.act(f"{EVALUATOR}.{number}", f"evaluate/{number}", "evaluate", shown)
            evaluation = heard(said).strip()
        read = to_be_scored(state["question"], solution, evaluation, self.scale)
        turn = await context.act(f"{SCORER}.{number}", f"score/{number}", "score", read)
        return (judged(turn) or {}).get("score")

    async def decide(self, state: JudgeCheckState, runtime: Runtime[Context]) -> JudgeCheckState:
        """What the mean of the scores says; no answer where none can be read."""
        task = runtime.context.task
        right = None if task is None else task.answer == LABELS[0]
        found = [
            {
                "round": 0,
                "slot": slot,
                "answer": None,
                "right": right,
                "scores": [score],
                "scale": [*self.scale],
            }
            for slot, score in enumerate(state["scores"])
        ]
        together = support({"scores": state["scores"], "scale": self.scale})
        answer = None if together is None else LABELS[together < 0.5]
        return {"outcome": Outcome(answer=answer, detail={"solutions": found})}


def solution_of(task: TaskRecord) -> str:
    """The solution that comes with a task. Raises `UserError` where there is none."""
    solution = (task.meta or {}).get("solution")
    if not isinstance(solution, str) or not solution.strip():
        raise UserError(f"task `{task.id}` has no `solution` to judge: give it as a text")
    return solution

"""Roll-outs: a solver goes on from a given prefix of a solution, n times (Math-Shepherd 2312.08935, SPC).

How good a solver is from correct prefixes says whether its failures can tell a wrong step from a right one:
`SneakyGame` validates by it. The samples vote; each is a turn of its own, so a solver can learn by them.
"""

from __future__ import annotations

import random
from typing import Any, ClassVar, TypedDict

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from sparring.agents.roles import Role
from sparring.agents.steps import next_step, solution
from sparring.errors import UserError
from sparring.graphs.aggregate import Ballot, aggregator
from sparring.graphs.context import Context
from sparring.graphs.protocol import Outcome, Protocol, in_line, voted
from sparring.graphs.protocols.step_check import steps_of
from sparring.memory.records import TaskRecord

SOLVER = "solver"


class RolloutState(TypedDict, total=False):
    question: str
    outcome: Outcome


def solver_of(protocol: Protocol, answer: str) -> Role:
    """The seat of a solver that writes solutions and goes on from prefixes."""
    parsers = {"solution": solution(answer), "continue": solution(answer), "step": next_step(answer)}
    return Role.of(SOLVER, parsers, ["problem", "partial"], protocol.prompts.get(SOLVER, "stepwise"))


class Rollout(Protocol):
    """n continuations of the first steps of a task's solution."""

    name: ClassVar[str] = "rollout"

    n: int = Field(default=1, ge=1)
    """Continuations."""
    keep: int | None = Field(default=None, ge=0)
    """Steps that are given; None: a number from 1 to all of them, drawn for each episode, or what the task
    says in `step` (the index of the last one). 0 needs none: whole solutions, self-consistency."""
    answer: str = "line"
    """Answer format: a name in `agents.parsing.ANSWER_FORMATS`."""

    def seats(self) -> dict[str, Role]:
        return {SOLVER: solver_of(self, self.answer)}

    @property
    def max_calls(self) -> int:
        return self.n

    def accepts(self, task: TaskRecord) -> None:
        if self.keep != 0:
            steps_of(task)
        place = (task.meta or {}).get("step")
        if self.keep is None and place is not None and (type(place) is not int or place < 0):
            raise UserError(f"task `{task.id}`: `step` must be the index of a step, from 0")

    def graph(self) -> StateGraph[Any, Context, Any, Any]:
        return in_line(RolloutState, self.roll_out)

    async def roll_out(self, state: RolloutState, runtime: Runtime[Context]) -> RolloutState:
        context = runtime.context
        steps = self._steps(context)
        kept = await context.episode.event("prefix", "0", {"steps": self._kept(context, len(steps))})
        shown = {"problem": state["question"], "partial": steps[: kept["steps"]]}
        keys = [f"rollout/{number}" for number in range(self.n)]
        turns = await context.sample(SOLVER, keys, "continue" if kept["steps"] else "solution", shown)
        ballots = [Ballot(turn.key, (turn.parsed or {}).get("answer"), turn.text) for turn in turns]
        outcome = voted(await aggregator("majority")(ballots, context.equal))
        decided: Any = await context.episode.event("vote", "0", dict(outcome))
        return {"outcome": decided}

    def _steps(self, context: Context) -> list[str]:
        if self.keep == 0:
            return []
        if context.task is None:
            raise UserError("roll-outs begin at the `steps` of a task record; it was given a bare question")
        return steps_of(context.task)

    def _kept(self, context: Context, steps: int) -> int:
        if self.keep is not None:
            return min(self.keep, steps)
        assert context.task is not None
        if isinstance(place := (context.task.meta or {}).get("step"), int):
            return min(place + 1, steps)
        return random.Random(context.episode.id).randint(1, steps)

"""Round 0 of SPC (2504.19162): both sides are told what a teacher would say, on pairs of steps.

    1. The generator is given the correct step and told an attack on it.
    2. The critic is given the wrong step and the correct one, and told a critique of each.
    3. The solver, where it is a pupil too, is told the solution, and the rest of it after the correct step.

Nothing is sampled: each reply is a demonstration, tokenised as the agent's own and journaled as its turn,
which supervised training takes from there. The prompts are those of `SneakyGame`. The paper has its
attacks and critiques written by larger models from labelled pairs; a task may hold any text, such as those
of the procedural corrupter (`tools.corrupt`).

A task holds `steps`, `step` (which of them, from 0), `wrong`, `error` (type id), `thought`,
`critique_correct` and `critique_wrong`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from sparring.agents.parsing import ParseError, parser
from sparring.agents.roles import Role
from sparring.agents.steps import write_sneaky
from sparring.errors import UserError, unknown
from sparring.graphs.context import Context
from sparring.graphs.protocol import Outcome, in_line
from sparring.graphs.protocols.lesson import supervised_loss
from sparring.graphs.protocols.rollout import SOLVER, solver_of
from sparring.graphs.protocols.sneaky import CRITIC, SNEAKY, Sneaky, SneakyState, plain, shown
from sparring.graphs.protocols.step_check import steps_of
from sparring.memory.journal import Journal
from sparring.memory.records import TaskRecord

TEXTS = ("wrong", "thought", "critique_correct", "critique_wrong")


class SneakyLesson(Sneaky):
    """One pair of steps, demonstrated to those who are to learn from it."""

    name: ClassVar[str] = "sneaky_lesson"

    pupils: tuple[str, ...] = Field(default=(SNEAKY, CRITIC), min_length=1)
    """Who is taught."""
    score: bool = False
    """Journal the log-probabilities of the demonstrations: their negative mean is the supervised loss."""

    def seats(self) -> dict[str, Role]:
        every = {**self.players(), SOLVER: solver_of(self, "line")}
        if strange := [pupil for pupil in self.pupils if pupil not in every]:
            raise unknown("pupil", strange[0], every)
        return {seat: role for seat, role in every.items() if seat in self.pupils}

    @property
    def max_calls(self) -> int:
        return 5

    def accepts(self, task: TaskRecord) -> None:
        steps, meta = steps_of(task), task.meta or {}
        if type(meta.get("step")) is not int or not 0 <= meta["step"] < len(steps):
            raise UserError(f"task `{task.id}`: `step` must be a number from 0 to {len(steps) - 1}")
        if type(meta.get("error")) is not int or meta["error"] not in [error.id for error in self.errors]:
            raise UserError(f"task `{task.id}`: `error` must be the id of one of the error types")
        for name in TEXTS:
            if not isinstance(meta.get(name), str) or not meta[name].strip():
                raise UserError(f"task `{task.id}`: `{name}` must be text")
        if plain(meta["wrong"]) == plain(steps[meta["step"]]):
            raise UserError(f"task `{task.id}`: `wrong` is the correct step, there is no error to teach")
        for name, right in (("critique_correct", True), ("critique_wrong", False)):
            with suppress(ParseError):  # what cannot be read is refused when it is demonstrated
                if parser(self.verdict)(meta[name]).correct is not right:
                    raise UserError(f"task `{task.id}`: the verdict of `{name}` is the opposite of its name")
        if SOLVER in self.pupils and task.answer is None:
            raise UserError(f"task `{task.id}` has no `answer`: a solver is taught to end with it")

    def graph(self) -> StateGraph[Any, Context, Any, Any]:
        return in_line(SneakyState, self.teach)

    async def teach(self, state: SneakyState, runtime: Runtime[Context]) -> SneakyState:
        context = runtime.context
        assert context.task is not None
        meta: dict[str, Any] = context.task.meta or {}
        state = {**state, "steps": steps_of(context.task), "number": meta["step"]}
        correct = state["steps"][state["number"]]
        attack = write_sneaky(meta["error"], meta["thought"], meta["wrong"])
        begun = {"problem": state["question"], "partial": state["steps"][: state["number"] + 1]}
        rest, end = state["steps"][state["number"] + 1 :], f"Answer: {context.task.answer}"
        lessons = [
            (SNEAKY, "attack", "attack", self.attacked(state), attack),
            (CRITIC, "judge/correct/0", "judge", shown(state, correct), meta["critique_correct"]),
            (CRITIC, "judge/sneaky/0", "judge", shown(state, meta["wrong"]), meta["critique_wrong"]),
            (SOLVER, "solution", "solution", {**begun, "partial": []}, "\n".join([*state["steps"], end])),
            (SOLVER, "continue", "continue", begun, "\n".join([*rest, end])),
        ]
        given = [
            context.demonstrate(*lesson, score=self.score) for lesson in lessons if lesson[0] in self.pupils
        ]
        await asyncio.gather(*given)
        return {"outcome": Outcome(answer=None, detail={"step": meta["step"], "error_type": meta["error"]})}

    def figures(self, journal: Journal, run: str, episodes: Sequence[int] | None = None) -> dict[str, float]:
        return supervised_loss(journal, run, episodes) if self.score else {}

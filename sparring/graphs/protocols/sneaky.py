"""The sneaky game of SPC (Chen et al. 2504.19162): a generator hides an error, a critic looks for it.

    1. A step of a solution is drawn. Its prefix and the step itself are what both sides play about.
    2. The sneaky generator names an error type and rewrites the step into a wrong one.
    3. Validation: a solver goes on N times from the correct and N times from the sneaky step. The game is
       valid iff it succeeds from the first (share >= `high`) and fails from the second (share <= `low`).
    4. The critic judges the sneaky step and, as often, the correct one. It is asked about both in the same
       words and never sees the other step.
    5. The sneaky side wins if its step is called correct, the critic if it is called incorrect.

An attack that cannot be read, changes nothing, tells of itself or leaves the solver right is void and its
author's fault; where the solver fails from the correct step too, nobody's. Exact arithmetic cannot tell a
step in other words from a wrong one: there such an attack is void too. Rewards are made from the journal
(`rewards/spc`).

Where we differ from the paper, or it does not say:

    N and the thresholds are recalled: N = 4, 0.75 and 0 are options
    an exact evaluator instead of the solver                         validation="arithmetic"
    an unreadable verdict voids the game instead of being asked again
    several verdicts of a step make pairs for training; the first decides the game
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from pydantic import Field, field_validator

from sparring.agents.parsing import parser
from sparring.agents.roles import Role
from sparring.agents.steps import ERROR_TYPES, ErrorType, gives_itself_away, sneaky
from sparring.errors import UserError
from sparring.graphs.context import Context
from sparring.graphs.protocol import Outcome, Protocol
from sparring.graphs.protocols.rollout import SOLVER, solver_of
from sparring.graphs.protocols.sneaky_figures import game_figures
from sparring.graphs.protocols.step_check import steps_of
from sparring.memory.journal import Journal
from sparring.memory.records import TaskRecord
from sparring.tools.chains import Chain, exact_continuation, stated

SNEAKY, CRITIC = "sneaky", "critic"
BOTH = ("correct", "sneaky")
"""The two steps that are validated and judged; also the second part of the keys of those turns."""


class SneakyState(TypedDict, total=False):
    question: str
    steps: list[str]
    number: int
    """Of the step that is attacked, from 0."""
    wrong: str
    """The sneaky step."""
    detail: dict[str, Any]
    outcome: Outcome


class Sneaky(Protocol):
    """The seats and words of the game, and what a task must hold; `SneakyGame` and `SneakyLesson` play it."""

    answers: ClassVar[bool] = False

    errors: tuple[ErrorType, ...] = ERROR_TYPES
    """The error taxonomy that the generator chooses from."""
    verdict: Literal["verdict", "verdict/official"] = "verdict"
    """How verdicts are read: `verdict`, or `verdict/official` as SPC's code does."""

    @field_validator("errors")
    @classmethod
    def _table(cls, errors: tuple[ErrorType, ...]) -> tuple[ErrorType, ...]:
        if not errors or len({error.id for error in errors}) != len(errors):
            raise ValueError("give at least one error type, each with an id of its own")
        return errors

    def players(self) -> dict[str, Role]:
        """The roles of the two sides."""
        attack = {"attack": sneaky([error.id for error in self.errors])}
        return {
            SNEAKY: self.role(SNEAKY, attack, ["problem", "partial", "step", "errors"]),
            CRITIC: self.role(CRITIC, {"judge": parser(self.verdict)}, ["problem", "partial", "step"]),
        }

    def attacked(self, state: SneakyState) -> dict[str, Any]:
        """What the generator's prompt is given."""
        step = state["steps"][state["number"]]
        errors = [error.model_dump() for error in self.errors]
        return {**shown(state, step), "errors": errors}


def shown(state: SneakyState, step: str) -> dict[str, Any]:
    """A step with its problem and prefix: all that a critic sees."""
    return {"problem": state["question"], "partial": state["steps"][: state["number"]], "step": step}


class SneakyGame(Sneaky):
    """One game about one step."""

    name: ClassVar[str] = "sneaky"

    validation: Literal["solver", "arithmetic"] = "solver"
    """Who validates: roll-outs of the solver, or exact arithmetic on problems of `tools.chains`."""
    rollouts: int = Field(default=4, ge=1)
    """N, of each of the two steps."""
    high: float = Field(default=0.75, ge=0, le=1)
    """Least share of roll-outs that succeed from the correct step of a valid game."""
    low: float = Field(default=0.0, ge=0, le=1)
    """Greatest share that succeed from the sneaky step of a valid game."""
    verdicts: int = Field(default=1, ge=1)
    """Critiques of each of the two steps."""
    solve: bool = False
    """The solver writes the solution first; otherwise tasks hold `steps`."""
    answer: str = "line"
    """Answer format of the solver."""

    @property
    def rivals(self) -> tuple[str, str]:
        return SNEAKY, CRITIC

    def seats(self) -> dict[str, Role]:
        seats = self.players()
        if self.solve or self.validation == "solver":
            seats[SOLVER] = solver_of(self, self.answer)
        return seats

    @property
    def max_calls(self) -> int:
        validating = 2 * self.rollouts if self.validation == "solver" else 0
        return self.solve + 1 + validating + 2 * self.verdicts

    def accepts(self, task: TaskRecord) -> None:
        if task.answer is None:
            raise UserError(f"task `{task.id}` has no `answer`: a sneaky step is validated against it")
        steps = [] if self.solve else steps_of(task)
        if self.validation == "arithmetic":
            _reckoned(task, steps)

    def figures(self, journal: Journal, run: str, episodes: Sequence[int] | None = None) -> dict[str, float]:
        return game_figures(journal, run, episodes)

    def graph(self) -> StateGraph[Any, Context, Any, Any]:
        graph = StateGraph(SneakyState, context_schema=Context)
        nodes = (self.draw, self.attack, self.validate_step, self.judge)
        for node in nodes:
            graph.add_node(node.__name__, node)
        graph.add_edge(START, "draw")
        for node, after in zip(nodes, [*[n.__name__ for n in nodes[1:]], END], strict=True):
            graph.add_conditional_edges(node.__name__, _unless_over(after), [after, END])
        return graph

    async def draw(self, state: SneakyState, runtime: Runtime[Context]) -> SneakyState:
        """A solution, and the step that is attacked, the same in every replay."""
        context = runtime.context
        if self.solve:
            turn = await context.act(SOLVER, "solution", "solution", {"problem": state["question"]})
            steps = (turn.parsed or {}).get("steps") or []
            if not steps:
                return await _void(context, state, "the solver wrote no readable solution", fault=None)
        else:
            assert context.task is not None
            steps = steps_of(context.task)
        number = random.Random(context.episode.id).randrange(len(steps))
        drawn = await context.episode.event("step", "0", {"steps": steps, "number": number})
        return {"steps": drawn["steps"], "number": drawn["number"], "detail": {"step": drawn["number"]}}

    async def attack(self, state: SneakyState, runtime: Runtime[Context]) -> SneakyState:
        """x_S = (p, tau, t_c) -> (reasoning, t_i), the error type first."""
        context = runtime.context
        turn = await context.act(SNEAKY, "attack", "attack", self.attacked(state))
        if turn.parsed is None:
            return await _void(context, state, f"the attack cannot be read: {turn.error}", fault=SNEAKY)
        made = turn.parsed
        name = next(error.name for error in self.errors if error.id == made["error"])
        detail = {**state["detail"], "error": name, "error_type": made["error"]}
        if why := self._unfit(made["step"], state["steps"][state["number"]]):
            return await _void(context, {**state, "detail": detail}, why, fault=SNEAKY)
        return {"wrong": made["step"], "detail": detail}

    def _unfit(self, wrong: str, correct: str) -> str | None:
        """Why a step cannot be played, if so: a critic would know it without looking, or nobody could."""
        if plain(wrong) == plain(correct):
            return "the step was not changed"
        if gives_itself_away(wrong):
            return "the step speaks of its error"
        if self.validation == "arithmetic" and stated(wrong) is None:
            return "the step is no arithmetic"
        return None

    async def validate_step(self, state: SneakyState, runtime: Runtime[Context]) -> SneakyState:
        """Is the correct step sound, and does the sneaky one lead astray? Spec: q_c >= high, q_i <= low."""
        context = runtime.context
        pair = dict(zip(BOTH, (state["steps"][state["number"]], state["wrong"]), strict=True))
        rate = self._rolled_out if self.validation == "solver" else self._computed
        rates = await asyncio.gather(*(rate(context, state, which, step) for which, step in pair.items()))
        correct, wrong = rates
        sound, astray = correct >= self.high, wrong <= self.low
        found = {
            "by": self.validation,
            "rollouts": self.rollouts if self.validation == "solver" else 1,
            "rate_correct": correct,
            "rate_sneaky": wrong,
            "high": self.high,
            "low": self.low,
            "valid": sound and astray,
        }
        found = await context.episode.event("validation", "0", found)
        state = {**state, "detail": {**state["detail"], "validation": found}}
        if not sound:
            return await _void(context, state, "the solver fails from the correct step", fault=None)
        if not astray:
            return await _void(context, state, "the solver is not led astray", fault=SNEAKY)
        return {"detail": state["detail"]}

    async def _rolled_out(self, context: Context, state: SneakyState, which: str, step: str) -> float:
        """Share of the roll-outs from a step that end right; they are one request and one prefill."""
        keys = [f"validate/{which}/{number}" for number in range(self.rollouts)]
        partial = [*state["steps"][: state["number"]], step]
        variables = {"problem": state["question"], "partial": partial}
        turns = await context.sample(SOLVER, keys, "continue", variables)
        right = [await context.right((turn.parsed or {}).get("answer")) for turn in turns]
        return sum(right) / len(right)

    async def _computed(self, context: Context, state: SneakyState, which: str, step: str) -> float:
        """1.0 where exact arithmetic goes on from the step to the right answer, else 0.0."""
        partial = [*state["steps"][: state["number"]], step]
        return float(await context.right(exact_continuation(state["question"], partial)))

    async def judge(self, state: SneakyState, runtime: Runtime[Context]) -> SneakyState:
        """(p, tau, t) -> verdict, for either step; the first verdict of each counts."""
        context = runtime.context
        pair = dict(zip(BOTH, (state["steps"][state["number"]], state["wrong"]), strict=True))
        asked = [
            context.sample(
                CRITIC,
                [f"judge/{which}/{number}" for number in range(self.verdicts)],
                "judge",
                shown(state, step),
            )
            for which, step in pair.items()
        ]
        said = dict(zip(BOTH, await asyncio.gather(*asked), strict=True))
        verdicts = {which: (turns[0].parsed or {}).get("correct") for which, turns in said.items()}
        state = {**state, "detail": {**state["detail"], "verdicts": verdicts}}
        if verdicts["sneaky"] is None:
            return await _void(context, state, "the verdict cannot be read", fault=CRITIC)
        fooled = float(verdicts["sneaky"])
        return await _closed(context, state, {SNEAKY: fooled, CRITIC: 1 - fooled})


def _reckoned(task: TaskRecord, steps: list[str]) -> None:
    """Raise `UserError` where exact arithmetic cannot go on from the steps of a task."""
    try:
        Chain.parse(task.question)
    except UserError as error:
        raise UserError(f"task `{task.id}`, `validation=arithmetic`: {error}") from None
    if strange := next((step for step in steps if stated(step) is None), None):
        raise UserError(
            f"task `{task.id}`, `validation=arithmetic`: step `{strange}` does not read like `7 + 5 = 12`"
        )


def plain(step: str) -> str:
    """A step without what does not make it another one."""
    return " ".join(step.split()).rstrip(".").casefold()


def _unless_over(after: str) -> Any:
    def route(state: SneakyState) -> str:
        return END if state.get("outcome") else after

    return route


async def _void(context: Context, state: SneakyState, why: str, *, fault: str | None) -> SneakyState:
    state = {**state, "detail": {**state.get("detail", {}), "void": why}}
    return await _closed(context, state, None, fault)


async def _closed(
    context: Context, state: SneakyState, scores: dict[str, float] | None, fault: str | None = None
) -> SneakyState:
    outcome = Outcome(answer=None, scores=scores, fault=fault, detail=state["detail"])
    kept: Any = await context.episode.event("decision", "0", dict(outcome))
    return {"outcome": kept}

"""What every protocol is: typed options, seats, a LangGraph graph, an outcome.

A protocol's class is its recipe. `compile()` is the bare graph, which can be drawn and embedded;
everything it needs at run time arrives as `Context`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import asdict
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NotRequired, Self, TypedDict, cast

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from pydantic import BaseModel, ConfigDict, Field, model_validator

from sparring.agents.parsing import Parser
from sparring.agents.roles import Role
from sparring.errors import UserError, kind_of, made, unknown
from sparring.graphs.aggregate import Vote
from sparring.graphs.context import Context, Limits
from sparring.memory.journal import Journal
from sparring.memory.records import TaskRecord
from sparring.memory.run import RunHandle
from sparring.memory.tasks import as_tasks, load_tasks
from sparring.tools.checks import CHECKS, acheck, refuse_code

if TYPE_CHECKING:
    from sparring.graphs.embed import Embedded


class Outcome(TypedDict):
    """What an episode came to, as plain JSON."""

    answer: str | None
    """None where nobody gave a readable answer."""
    tied: NotRequired[bool]
    distribution: NotRequired[dict[str, float]]
    scores: NotRequired[dict[str, float] | None]
    """Of a game: side -> points, 1 in all (a draw is a half each); None where the game is void."""
    fault: NotRequired[str | None]
    """Of a void game: the side whose fault that is, if any."""
    detail: NotRequired[dict[str, Any]]
    capped: NotRequired[str]
    """Which cap the episode reached, where its protocol made an outcome of it all the same."""


def task_rows(
    tasks: str | Path | Iterable[TaskRecord | Mapping[str, Any]], limit: int | None = None
) -> tuple[TaskRecord, ...]:
    """Tasks from what a user gives, all of which can be checked here; `limit` takes the first so many."""
    if isinstance(tasks, str | Path):
        rows = load_tasks(tasks, limit, checks=CHECKS)
    else:
        rows = as_tasks(tasks, limit, checks=CHECKS)
    refuse_code((task.check, task.answer) for task in rows)
    return tuple(rows)


def in_line(state: type[Any], *nodes: Callable[..., Any]) -> StateGraph[Any, Context, Any, Any]:
    """A graph whose nodes, named as their methods, follow one another."""
    graph = StateGraph(state, context_schema=Context)
    names = [node.__name__ for node in nodes]
    for name, node in zip(names, nodes, strict=True):
        graph.add_node(name, node)
    for before, after in pairwise([START, *names, END]):
        graph.add_edge(before, after)
    return graph


def voted(vote: Vote) -> Outcome:
    """The outcome of a vote."""
    detail = {**vote.detail, "invalid": vote.invalid}
    return Outcome(answer=vote.winner, tied=vote.tied, distribution=vote.distribution, detail=detail)


class Protocol(BaseModel, ABC):
    """Base of all protocols; the fields are the options."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str]
    answers: ClassVar[bool] = True
    """Whether an outcome's `answer` is meant to be the task's: then the episode closes with a verdict."""

    sampled: ClassVar[bool] = True
    """Whether single replies can answer its tasks: then a run can have a `graphs.baseline` of them."""

    runs_programs: ClassVar[bool] = False
    """Whether it runs what a model wrote: then it needs the sandbox, which the run's journal describes."""

    prompts: dict[str, str] = Field(default_factory=dict)
    """Seat (`solver.1`) or role (`solver`) -> a prompt file, or a shipped prompt by name."""

    @model_validator(mode="after")
    def _seated(self) -> Self:
        """Every seat has a prompt that fits its role, or this raises before any work."""
        known = self.names
        for name in self.prompts:
            if name not in known:
                raise unknown(f"role of protocol `{self.name}` in `prompts`", name, known)
        return self

    def role(
        self,
        seat: str,
        parsers: Mapping[str, Parser[Any]],
        variables: Collection[str],
        shipped: str | None = None,
    ) -> Role:
        """The role of a seat, named before its dot, with the prompt that was chosen for it.

        Args:
            shipped: the prompt where none was chosen; None: the one with the role's name.
        """
        name = seat.split(".")[0]
        return Role.of(name, parsers, variables, self.prompts.get(seat, self.prompts.get(name, shipped)))

    def named(self, options: dict[str, Any]) -> dict[str, Any]:
        """The options it was made of as a journal keeps them: Python objects by their names."""
        return options

    @abstractmethod
    def seats(self) -> dict[str, Role]:
        """Seat -> the role that sits there."""

    def engines(self) -> dict[str, str]:
        """Seat -> spec of the engine that sits there unless another one is given for it."""
        return {}

    @property
    def names(self) -> set[str]:
        """The seats and their roles: what prompts, engines and sampling can be given for."""
        seats = self.seats()
        return {*seats, *(role.name for role in seats.values())}

    @property
    def rivals(self) -> tuple[str, str] | None:
        """The two seats that play against each other, where this is a game; its outcome has `scores`."""
        return None

    def accepts(self, task: TaskRecord) -> None:
        """Raise `UserError` where a task lacks what this protocol needs; asked before any work."""

    def ready(self) -> None:
        """Raise `UserError` where this machine lacks what episodes need; asked before a run has a row."""

    def tasks(
        self, source: str | Path | Iterable[TaskRecord | Mapping[str, Any]], limit: int | None = None
    ) -> tuple[TaskRecord, ...]:
        """Tasks from what a user gives for them; `limit` takes the first so many.

        Raises:
            UserError: anything that is wrong with them.
        """
        return task_rows(source, limit)

    def equipment(self, run: RunHandle) -> AbstractAsyncContextManager[Any]:
        """What the episodes of a run work with beside agents and journal: a sandbox, for instance.

        Entered once before they are played and left when they are over; nodes have it as
        `context.equipment`.
        """
        return nullcontext()

    async def judgement(self, context: Context, outcome: Outcome | None) -> dict[str, Any] | None:
        """Whether an episode's outcome is right, as the payload of its event `verdict`; `correct` is in it.

        None: nothing to judge it by, which is neither right nor wrong. By default the task's own check.
        """
        task = context.task
        if task is None or task.answer is None:
            return None
        return asdict(await acheck(task.check, outcome["answer"] if outcome else None, task.answer))

    def beginning(self, steps: int) -> tuple[list[str], list[tuple[str, str]]]:
        """Keys of the turns, and (kind, key) of the events, of an episode's first steps: what a fork shares.

        Raises:
            UserError: episodes of this protocol cannot be forked.
        """
        raise UserError(f"episodes of protocol `{self.name}` cannot be forked")

    @property
    def waits(self) -> bool:
        """Whether `facts` come from the run itself: all episodes get to `Pending` before any goes on."""
        return False

    def facts(self, journal: Journal, run: str) -> Mapping[str, Any] | None:
        """What the run has to know before its episodes can be played to their end, as plain JSON; None:
        nothing, or not yet. What is said first is journaled as an event of the run and holds from then on."""
        return None

    @abstractmethod
    def graph(self) -> StateGraph[Any, Context, Any, Any]:
        """The state machine, not yet compiled. Its input has `question`, its final state `outcome`."""

    @property
    @abstractmethod
    def max_calls(self) -> int:
        """The most model calls an episode can make."""

    @property
    def recursion_limit(self) -> int:
        """Supersteps an episode may take; the library's own default would let a loop run 10,007."""
        return 3 * self.max_calls + 10

    def figures(self, journal: Journal, run: str, episodes: Sequence[int] | None = None) -> dict[str, float]:
        """What is measured of a run of this protocol beside its accuracy, the main entry first.

        Args:
            episodes: only those with these numbers.
        """
        return {}

    def compile(self) -> CompiledStateGraph[Any, Context, Any, Any]:
        """The bare LangGraph graph, to be drawn or embedded as it is."""
        return self._compiled(None)

    @cached_property
    def _played(self) -> CompiledStateGraph[Any, Context, Any, Any]:
        # The journal is the memory: inside a caller's graph its checkpointer must not be inherited.
        return self._compiled(checkpointer=False)

    def _compiled(self, checkpointer: Literal[False] | None) -> CompiledStateGraph[Any, Context, Any, Any]:
        graph: object = self.graph()
        if not isinstance(graph, StateGraph):
            given = f"a StateGraph, not yet compiled, is needed, not {type(graph).__name__}"
            raise UserError(f"`graph()` of protocol `{self.name}`: {given}")
        try:
            return graph.compile(name=self.name, checkpointer=checkpointer)
        except ValueError as error:
            raise UserError(f"the graph of protocol `{self.name}` does not hold together: {error}") from error

    async def run(self, question: Any, context: Context, config: RunnableConfig | None = None) -> Outcome:
        """Play one episode to its outcome.

        Raises:
            UserError: the graph ends without an outcome, or with something that is none.
        """
        settings: RunnableConfig = {**(config or {}), "recursion_limit": self.recursion_limit}
        state = await self._played.ainvoke({"question": question}, settings, context=context)
        return self._outcome(state.get("outcome"))

    def _outcome(self, given: Any) -> Outcome:
        """What the last node said, if it is an outcome: plain JSON with an answer."""
        node = "a node has to return `{'outcome': Outcome(answer=...)}`, and the state the field `outcome`"
        where = f"an episode of protocol `{self.name}`"
        if given is None:
            raise UserError(f"{where} ended without an outcome: {node}")
        if not isinstance(given, Mapping) or "answer" not in given:
            raise UserError(f"{where} ended with {kind_of(given)} that is no outcome: {node}")
        if self.answers and not isinstance(given["answer"], str | None):
            raise UserError(f"{where} answers {kind_of(given['answer'])}: an answer is a text, or None")
        try:
            json.dumps(given, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UserError(f"{where} ended with an outcome that is not plain JSON: {error}") from None
        return cast(Outcome, given)

    def node(
        self,
        *,
        agents: Any,
        memory: str | Path | Journal,
        task: Callable[[Any], Any],
        result: Callable[[Outcome], Mapping[str, Any]],
        sampling: Mapping[str, Any] | None = None,
        limits: Limits | None = None,
    ) -> Embedded:
        """This protocol as an async node for a graph of your own.

        Args:
            agents: One engine (spec or object) for all seats, or seat or role -> engine.
            memory: The journal, or where it is.
            task: The caller's state -> a question, a dict with `question`, or a `TaskRecord`.
            result: The outcome -> an update of the caller's state.
            sampling: Sampling fields, as `play` takes them.
            limits: Caps of the episode; reaching one raises `BudgetExceeded` in the caller's graph.
        """
        from sparring.graphs.embed import make_node

        return make_node(
            self, agents=agents, memory=memory, task=task, result=result, sampling=sampling, limits=limits
        )

    @classmethod
    def configure(cls, options: dict[str, Any]) -> Protocol:
        """A protocol from option texts, as the command line gives them.

        Raises:
            UserError: unknown option (those that exist are listed) or a value that does not fit.
        """
        read = {name: _read(value) for name, value in options.items()}
        return made(cls, read, f"protocol `{cls.name}`")


def _read(value: Any) -> Any:
    """A list or an object may be given as its JSON text."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            return value  # the field's own error says what is expected
    return value

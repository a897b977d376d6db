"""What every protocol is: typed options, seats, a LangGraph graph, an outcome.

A protocol's class is its recipe. `compile()` is the bare graph, which can be drawn and embedded;
everything it needs at run time arrives as `Context`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, ClassVar, NotRequired, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import StateGraph
from langgraph.graph.state import CompiledStateGraph
from pydantic import BaseModel, ConfigDict, ValidationError

from sparring.agents.roles import Role
from sparring.errors import UserError, unknown
from sparring.graphs.aggregate import Vote
from sparring.graphs.context import Context


class Outcome(TypedDict):
    """What an episode came to, as plain JSON."""

    answer: str | None
    """None where nobody gave a readable answer."""
    tied: NotRequired[bool]
    distribution: NotRequired[dict[str, float]]
    detail: NotRequired[dict[str, Any]]


def voted(vote: Vote) -> Outcome:
    """The outcome of a vote."""
    detail = {**vote.detail, "invalid": vote.invalid}
    return Outcome(answer=vote.winner, tied=vote.tied, distribution=vote.distribution, detail=detail)


class Protocol(BaseModel, ABC):
    """Base of all protocols; the fields are the options."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str]

    @abstractmethod
    def seats(self) -> dict[str, Role]:
        """Seat -> the role that sits there."""

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

    @cached_property
    def _compiled(self) -> CompiledStateGraph[Any, Context, Any, Any]:
        return self.graph().compile(name=self.name)

    def compile(self) -> CompiledStateGraph[Any, Context, Any, Any]:
        """The bare LangGraph graph."""
        return self._compiled

    async def run(self, question: Any, context: Context, config: RunnableConfig | None = None) -> Outcome:
        """Play one episode to its outcome."""
        settings: RunnableConfig = {**(config or {}), "recursion_limit": self.recursion_limit}
        state = await self.compile().ainvoke({"question": question}, settings, context=context)
        outcome: Outcome = state["outcome"]
        return outcome

    @classmethod
    def configure(cls, options: dict[str, Any]) -> Protocol:
        """A protocol from option texts, as the command line gives them.

        Raises:
            UserError: unknown option (those that exist are listed) or a value that does not fit.
        """
        for name in options:
            if name not in cls.model_fields:
                raise unknown(f"option of protocol `{cls.name}`", name, cls.model_fields)
        try:
            return cls(**options)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "options"
            said = first["msg"].removeprefix("Value error, ")
            raise UserError(f"protocol `{cls.name}`, option `{where}`: {said}") from None

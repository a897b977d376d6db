"""Several attempts at an issue within one episode, each with a tree and a history of its own.

An attempt is (name, strategy text) -> patch, how it ended, and its steps. Everything it says and does lies in
the episode's part `attempt/NAME`: turns `attempt/NAME/step/K`, events `step` with key `attempt/NAME/K`. So it
is resumed like an episode of `software`, and attempts may be made side by side.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph.state import CompiledStateGraph

from sparring.agents.roles import Role
from sparring.errors import UserError
from sparring.graphs.context import Context
from sparring.graphs.protocols.software import SoftwareTask
from sparring.graphs.protocols.software_evidence import valued
from sparring.graphs.protocols.software_place import SEAT, Made
from sparring.memory.records import Turn


class Attempt(TypedDict):
    """What an attempt came to."""

    name: str
    strategy: str
    patch: str
    """Empty where nothing was changed."""
    exit_status: str
    """As in the outcome of `software`."""
    reason: str
    steps: int
    base: str
    tree: str


class Attempts(SoftwareTask):
    """Base of protocols that make several attempts; the options are those of each."""

    def seats(self) -> dict[str, Role]:
        return {SEAT: self.engineer(["strategy"], shipped="attempter")}

    def beginning(self, steps: int) -> tuple[list[str], list[tuple[str, str]]]:
        raise UserError(f"episodes of protocol `{self.name}` cannot be forked")

    @cached_property
    def _one(self) -> CompiledStateGraph[Any, Context, Any, Any]:
        return SoftwareTask.graph(self).compile(name="attempt", checkpointer=False)

    async def attempt(self, context: Context, question: str, name: str, strategy: str = "") -> Attempt:
        """Make an attempt, or read it in the journal.

        Args:
            name: without a slash; tells it from the other attempts of its episode.
            strategy: what the engineer is told to try.
        """
        settings: RunnableConfig = {"recursion_limit": 3 * self.steps + 10}
        given = {"question": question, "strategy": strategy}
        state = await self._one.ainvoke(given, settings, context=part(context, name))
        outcome = state["outcome"]
        ended = outcome["detail"]
        return Attempt(
            name=name,
            strategy=strategy,
            patch=outcome["answer"],
            exit_status=ended["exit_status"],
            reason=ended["reason"],
            steps=ended["steps"],
            base=ended["base"],
            tree=ended["tree"],
        )

    async def value(self, context: Context, question: str, attempt: Attempt) -> tuple[int | None, str]:
        """What the valuer, whom the protocol must seat, says of an attempt as it ended."""
        last = part(context, attempt["name"]).episode.turn(f"step/{attempt['steps'] - 1}")
        steps, where = trajectory(context, attempt), part(context, attempt["name"])
        return await valued(where, "value", question, steps, attempt["patch"], turn=last)


def part(context: Context, name: str) -> Context:
    """Where an attempt is made."""
    return context.within(f"attempt/{name}")


def trajectory(context: Context, attempt: Attempt) -> list[Made]:
    """The steps of an attempt, as their events have them."""
    inside = part(context, attempt["name"]).episode
    return [inside.event_payload("step", str(step)) for step in range(attempt["steps"])]


def replies(context: Context, attempt: Attempt) -> Iterator[Turn]:
    """What the engineer said in each step of an attempt, thoughts and all."""
    inside = part(context, attempt["name"]).episode
    for step in range(attempt["steps"]):
        if (turn := inside.turn(f"step/{step}")) is not None:
            yield turn

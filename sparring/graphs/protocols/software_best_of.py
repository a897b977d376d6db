"""Best of n: attempts at an issue side by side, and a choice among their patches.

    1. n engineers begin at the same point and do not know of one another.
    2. One patch is chosen (`select`): by a judge who reads issue, patches and what commands printed, by a
       debate, by the value that a valuer gives to each, or by the majority that makes the same change.

The baseline of every search over attempts, at the same number of calls. Empty patches are no candidates.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Send
from pydantic import Field

from sparring.agents.roles import Role
from sparring.errors import BudgetExceeded
from sparring.graphs.aggregate import natural
from sparring.graphs.context import Context
from sparring.graphs.protocol import Outcome
from sparring.graphs.protocols.software_attempts import Attempt, Attempts, trajectory
from sparring.graphs.protocols.software_choice import Candidate, Choosing
from sparring.graphs.protocols.software_evidence import VALUER, told, valuer
from sparring.graphs.protocols.software_figures import choice_figures
from sparring.memory.journal import Journal


def joined(old: list[Attempt], new: list[Attempt]) -> list[Attempt]:
    """Attempts by name; one that is delivered twice stays one."""
    return sorted({one["name"]: one for one in [*old, *new]}.values(), key=lambda one: natural(one["name"]))


class BestOfState(TypedDict, total=False):
    question: str
    number: int
    """Of one attempt."""
    attempts: Annotated[list[Attempt], joined]
    outcome: Outcome


class SoftwareBestOf(Choosing, Attempts):
    """n attempts, one choice."""

    name: ClassVar[str] = "software_best_of"

    n: int = Field(default=4, ge=1)
    """Attempts; all run at once."""

    def seats(self) -> dict[str, Role]:
        asked = {VALUER: valuer(self)} if self.select == "value" else {}
        return {**Attempts.seats(self), **asked, **self.choosing_seats()}

    @property
    def max_calls(self) -> int:
        return self.n * (self.steps + (self.select == "value")) + self.choosing_calls

    @property
    def recursion_limit(self) -> int:
        return 10  # an attempt is one node, however long

    def figures(self, journal: Journal, run: str, episodes: Sequence[int] | None = None) -> dict[str, float]:
        return choice_figures(journal, run, episodes)

    def graph(self) -> StateGraph[Any, Context, Any, Any]:
        graph = StateGraph(BestOfState, context_schema=Context)
        graph.add_node("try_it", self.try_it)
        graph.add_node("choose", self.choose)
        graph.add_conditional_edges(START, self._attempts, ["try_it"])
        graph.add_edge("try_it", "choose")
        graph.add_edge("choose", END)
        return graph

    def _attempts(self, state: BestOfState) -> list[Send]:
        return [Send("try_it", {"question": state["question"], "number": n}) for n in range(self.n)]

    async def try_it(self, state: BestOfState, runtime: Runtime[Context]) -> BestOfState:
        """One attempt, from the first command to the patch."""
        return {"attempts": [await self.attempt(runtime.context, state["question"], str(state["number"]))]}

    async def choose(self, state: BestOfState, runtime: Runtime[Context]) -> BestOfState:
        context, question, attempts = runtime.context, state["question"], state["attempts"]
        made = [one for one in attempts if one["patch"]]
        values = await asyncio.gather(*(self._value(context, question, one) for one in made))
        candidates = [
            Candidate(name=a["name"], patch=a["patch"], evidence=told(trajectory(context, a)), value=value)
            for a, value in zip(made, values, strict=True)
        ]
        decision = await self.decide(context, question, candidates)
        detail = {
            "attempts": [{name: one[name] for name in ("name", "exit_status", "steps")} for one in attempts],
            "capped": next(
                (a["reason"] for a in attempts if a["exit_status"] == "capped"), decision["capped"]
            ),
        }
        return {"outcome": self.outcome(decision, candidates, detail)}

    async def _value(self, context: Context, question: str, attempt: Attempt) -> int | None:
        """None where nobody is asked, or the episode has reached a cap."""
        if self.select != "value":
            return None
        try:
            return (await self.value(context, question, attempt))[0]
        except BudgetExceeded:
            return None

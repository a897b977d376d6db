"""Conversation: agents speak in turn, round after round, and everybody reads all that was said.

    1. The first agent answers the question.
    2. Each next one reads question and conversation and goes on from there; after the last, the first again.
    3. The last answer that can be read is the conversation's.

The round-robin setting in which evolved agents are evaluated (CoMAS, 2510.08529, uses AutoGen's). Unlike a
debate nobody opens alone.
"""

from __future__ import annotations

from operator import add
from typing import Annotated, Any, ClassVar, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from sparring.agents.parsing import statement
from sparring.agents.roles import Role
from sparring.graphs.context import Context
from sparring.graphs.protocol import Outcome, Protocol
from sparring.graphs.protocols.debate_views import heard


class Said(TypedDict):
    """One contribution; `name` counts speakers from 1."""

    name: str
    text: str
    answer: str | None


class ConversationState(TypedDict, total=False):
    question: Any
    said: Annotated[list[Said], add]
    outcome: Outcome


class Conversation(Protocol):
    """Agents talk a question over."""

    name: ClassVar[str] = "conversation"

    agents: int = Field(default=3, ge=1)
    """Speakers."""
    rounds: int = Field(default=2, ge=1)
    """Times that each speaks."""
    answer: str = "line"
    """Answer format."""

    @property
    def max_calls(self) -> int:
        return self.agents * self.rounds

    def seats(self) -> dict[str, Role]:
        read = ["question", "said", "name", "participants"]
        speaks = {"speak": statement(self.answer)}
        seats = [f"solver.{number}" for number in range(self.agents)]
        return {seat: self.role(seat, speaks, read, "participant") for seat in seats}

    def graph(self) -> StateGraph[Any, Context, Any, Any]:
        graph = StateGraph(ConversationState, context_schema=Context)
        graph.add_node("speak", self.speak)
        graph.add_node("close", self.close)
        graph.add_edge(START, "speak")
        graph.add_conditional_edges("speak", self.goes_on, ["speak", "close"])
        graph.add_edge("close", END)
        return graph

    async def speak(self, state: ConversationState, runtime: Runtime[Context]) -> ConversationState:
        """The next one, who has read everything."""
        said = state.get("said", [])
        number, speaker = divmod(len(said), self.agents)
        shown = {
            "question": state["question"],
            "said": said,
            "name": str(speaker + 1),
            "participants": self.agents,
        }
        seat = f"solver.{speaker}"
        turn = await runtime.context.act(seat, f"{number}/{seat}", "speak", shown)
        answer = (turn.parsed or {}).get("answer")
        return {"said": [Said(name=str(speaker + 1), text=heard(turn), answer=answer)]}

    def goes_on(self, state: ConversationState) -> str:
        return "speak" if len(state["said"]) < self.max_calls else "close"

    async def close(self, state: ConversationState, runtime: Runtime[Context]) -> ConversationState:
        """The last readable answer."""
        answers = [said["answer"] for said in state["said"]]
        answer = next((answer for answer in reversed(answers) if answer is not None), None)
        outcome = Outcome(answer=answer, detail={"answers": answers})
        kept: Any = await runtime.context.episode.event("decision", "0", dict(outcome))
        return {"outcome": kept}

"""Chain of self-correction (CoSC, Gao et al. 2410.10735): programs, their outputs, and what to think of them.

    A round: the model writes a program p; it is run, which gives the output o; the model verifies (v) in two
    steps whether p is consistent with the question and whether o is; it concludes (c) with the final answer
    or goes on to the next round.

All rounds are one conversation. Known from the paper are the parts of a round; recalled are the cap of 3 and
that outputs are masked in the loss (here they stand in prompts, of which no loss is taken). Verification and
conclusion are one JSON object here, where the paper has free text. What becomes of an episode that reaches
the cap is not known: here its answer is the last one that was stated, if any, and `concluded` is false.
The program runs in the sandbox; its output is journaled, so that a resumed episode does not run it again.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import Any, ClassVar, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from sparring.agents.engines.base import Message
from sparring.agents.parsing import parser, statement
from sparring.agents.results import Conclusion
from sparring.agents.roles import Role
from sparring.graphs.context import Context
from sparring.graphs.protocol import Outcome, Protocol
from sparring.memory.records import Turn
from sparring.tools.programs import LIMITS, run_program, told
from sparring.tools.texts import clipped

PROGRAMMER = "programmer"


class Round(TypedDict):
    """What became of one round."""

    program: bool
    """There was one, and it was run."""
    output: str | None
    answer: str | None
    concluded: bool


class CoscState(TypedDict, total=False):
    question: str
    history: list[Message]
    program: str | None
    output: str | None
    rounds: list[Round]
    outcome: Outcome


class ChainOfSelfCorrection(Protocol):
    """Rounds of program, output, verification and conclusion."""

    name: ClassVar[str] = "cosc"
    runs_programs: ClassVar[bool] = True

    rounds: int = Field(default=3, ge=1)
    """At most."""
    seconds: float = Field(default=LIMITS.wall, gt=0, le=600)
    """Of a program, from start to end."""
    shown: int = Field(default=2000, ge=100)
    """Characters of an output that the model sees; of a longer one the head and the tail."""

    def seats(self) -> dict[str, Role]:
        writing = statement("code")
        parsers = {"program": writing, "again": writing, "verify": parser("conclusion")}
        return {PROGRAMMER: self.role(PROGRAMMER, parsers, ["question", "output"])}

    @property
    def max_calls(self) -> int:
        return 2 * self.rounds

    def graph(self) -> StateGraph[Any, Context, Any, Any]:
        graph = StateGraph(CoscState, context_schema=Context)
        for node in (self.write, self.execute, self.verify, self.conclude):
            graph.add_node(node.__name__, node)
        graph.add_edge(START, "write")
        graph.add_edge("write", "execute")
        graph.add_edge("execute", "verify")
        graph.add_conditional_edges("verify", self._next, ["write", "conclude"])
        graph.add_edge("conclude", END)
        return graph

    async def write(self, state: CoscState, runtime: Runtime[Context]) -> CoscState:
        """p: a program."""
        number = len(state.get("rounds", []))
        said = {"question": state["question"], "output": None}
        turn, history = await self._ask(
            state, runtime.context, f"{number}/program", "again" if number else "program", said
        )
        return {"history": history, "program": (turn.parsed or {}).get("answer")}

    async def execute(self, state: CoscState, runtime: Runtime[Context]) -> CoscState:
        """o: its output; None where the reply held no program."""
        program, number = state["program"], len(state.get("rounds", []))
        if program is None:
            return {"output": None}
        episode = runtime.context.episode
        held = episode.event_payload("output", str(number))
        if held is None:
            ran = await run_program(
                program, limits=replace(LIMITS, wall=self.seconds, cpu=ceil(self.seconds))
            )
            held = await episode.event("output", str(number), {"text": clipped(told(ran), self.shown)})
        return {"output": str(held["text"])}

    async def verify(self, state: CoscState, runtime: Runtime[Context]) -> CoscState:
        """v and c: the round's end. An unreadable conclusion is none, and asks for another round."""
        rounds = state.get("rounds", [])
        said = {"question": state["question"], "output": state["output"]}
        turn, history = await self._ask(state, runtime.context, f"{len(rounds)}/verify", "verify", said)
        found = Conclusion(**turn.parsed) if turn.parsed else None
        ended = Round(
            program=state["program"] is not None,
            output=state["output"],
            answer=(found.answer or "").strip() or None if found else None,
            concluded=found is not None and found.final and state["program"] is not None,
        )
        return {"history": history, "rounds": [*rounds, ended]}

    async def _ask(
        self, state: CoscState, context: Context, key: str, occasion: str, variables: dict[str, Any]
    ) -> tuple[Turn, list[Message]]:
        """A turn, and the conversation with it."""
        history = state.get("history", [])
        asked = context.agent(PROGRAMMER).messages(occasion, variables, history)
        turn = await context.act(PROGRAMMER, key, occasion, variables, history)
        return turn, [*asked, {"role": "assistant", "content": turn.text or ""}]

    def _next(self, state: CoscState) -> str:
        over = state["rounds"][-1]["concluded"] or len(state["rounds"]) == self.rounds
        return "conclude" if over else "write"

    async def conclude(self, state: CoscState, runtime: Runtime[Context]) -> CoscState:
        rounds = state["rounds"]
        answer = next((each["answer"] for each in reversed(rounds) if each["answer"] is not None), None)
        detail = {"rounds": rounds, "concluded": rounds[-1]["concluded"]}
        return {"outcome": Outcome(answer=answer, detail=detail)}

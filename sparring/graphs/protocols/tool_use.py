"""An agent answers a question and may call tools on the way: functions, the interpreter, MCP servers.

    1. The agent reads the question and what tools there are.
    2. Its reply calls one tool, in a fenced block, or gives the answer.
    3. The call is made and journaled (event `tool`); what came of it is the next message. Back to 2.
    4. After the last call that it may make it has to answer.

A reply that is neither a call nor an answer is told so. An unknown tool, bad arguments, an exception and a
call that took too long are results like others, which the agent reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from pydantic import Field, field_validator

from sparring.agents.engines.base import Message
from sparring.agents.parsing import statement
from sparring.agents.roles import Role
from sparring.agents.toolcalls import move
from sparring.graphs.context import Context
from sparring.graphs.protocol import Outcome, Protocol
from sparring.graphs.results import detailed_outcomes
from sparring.graphs.tool_calls import call, toolbox
from sparring.memory.journal import Journal
from sparring.memory.run import RunHandle
from sparring.tools.toolbox.base import SECONDS, SHOWN, Toolbox
from sparring.tools.toolbox.interpreter import PYTHON
from sparring.tools.toolbox.specs import check_tools, tool_specs

SEAT = "solver"
QUESTION, RESULT, MISTAKE, LAST = OCCASIONS = ("question", "result", "mistake", "last")


class Used(TypedDict):
    """One call: which tool, and whether it gave a result."""

    name: str
    failed: bool


class ToolState(TypedDict, total=False):
    question: str
    said: list[Message]
    step: int
    """The next turn."""
    parsed: dict[str, Any] | None
    """Of the last turn."""
    error: str | None
    made: dict[str, Any] | None
    """What the last call came to; None where the last turn was none."""
    used: list[Used]
    mistakes: int
    outcome: Outcome


class ToolUse(Protocol):
    """One agent, its tools, one answer."""

    name: ClassVar[str] = "tool_use"

    tools: tuple[str, ...] = (PYTHON,)
    """Specs (`tools.toolbox.specs`), or functions, which are kept by their names."""
    answer: str = "line"
    """Answer format: a name in `agents.parsing.ANSWER_FORMATS`."""
    calls: int = Field(default=8, ge=1)
    """Of tools, at most."""
    format_errors: int = Field(default=2, ge=0)
    """Replies that are neither call nor answer; one more ends the episode without an answer."""
    seconds: float = Field(default=SECONDS, gt=0, le=3600)
    """Of one call."""
    shown: int = Field(default=SHOWN, ge=100)
    """Characters of a result that are kept and shown, half of them from its end."""

    @field_validator("tools", mode="before")
    @classmethod
    def _specs(cls, given: Any) -> tuple[str, ...]:
        return tool_specs(given)

    def named(self, options: dict[str, Any]) -> dict[str, Any]:
        return {**options, "tools": list(self.tools)} if "tools" in options else options

    def seats(self) -> dict[str, Role]:
        asked = move(self.answer, python=PYTHON in self.tools)
        parsers: dict[str, Any] = {**dict.fromkeys(OCCASIONS, asked), LAST: statement(self.answer)}
        variables = ("question", "tools", "name", "result", "error", "mistake", "left")
        return {SEAT: self.role(SEAT, parsers, variables, "tool_user")}

    @property
    def max_calls(self) -> int:
        return self.calls + self.format_errors + 1

    def ready(self) -> None:
        check_tools(self.tools)

    def equipment(self, run: RunHandle) -> AbstractAsyncContextManager[Toolbox]:
        """The toolbox."""
        return toolbox(run, self.tools, seconds=self.seconds, shown=self.shown)

    def figures(self, journal: Journal, run: str, episodes: Sequence[int] | None = None) -> dict[str, float]:
        """Means over episodes that reached no cap: calls, those without a result, format errors; the share
        that ended in an answer."""
        found = [outcome["detail"] for outcome in detailed_outcomes(journal, run, episodes)]
        if not found:
            return {}
        counts = {name: sum(each[name] for each in found) for name in ("calls", "errors", "format_errors")}
        answered = sum(each["answered"] for each in found)
        return {name: count / len(found) for name, count in {**counts, "answered": answered}.items()}

    def graph(self) -> StateGraph[Any, Context, Any, Any]:
        graph = StateGraph(ToolState, context_schema=Context)
        for node in (self.ask, self.use, self.conclude):
            graph.add_node(node.__name__, node)
        graph.add_edge(START, "ask")
        graph.add_conditional_edges("ask", self._next, ["use", "ask", "conclude"])
        graph.add_edge("use", "ask")
        graph.add_edge("conclude", END)
        return graph

    async def ask(self, state: ToolState, runtime: Runtime[Context]) -> ToolState:
        """The agent's next words."""
        context, step = runtime.context, state.get("step", 0)
        said, turn = await context.converse(
            SEAT, f"step/{step}", *self._prompt(state, context.equipment), state.get("said", [])
        )
        wrong = turn.parsed is None
        return {
            "said": said,
            "step": step + 1,
            "parsed": turn.parsed,
            "error": (turn.error or turn.status) if wrong else None,
            "made": None,
            "mistakes": state.get("mistakes", 0) + wrong,
        }

    def _prompt(self, state: ToolState, box: Toolbox) -> tuple[str, dict[str, Any]]:
        """Occasion and variables of the next prompt."""
        made, left = state.get("made"), self.calls - len(state.get("used", []))
        variables = {
            "question": state["question"],
            "tools": box.text(),
            "mistake": state.get("error"),
            "left": left,
            **{name: (made or {}).get(name) for name in ("name", "result", "error")},
        }
        if not state.get("step"):
            return QUESTION, variables
        if not left:
            return LAST, variables
        return (MISTAKE if made is None else RESULT), variables

    async def use(self, state: ToolState, runtime: Runtime[Context]) -> ToolState:
        """Make the call, unless the journal has it; it is journaled before the agent sees what it gave."""
        context = runtime.context
        asked = (state["parsed"] or {})["call"]
        key = str(state["step"] - 1)
        made = await call(context, context.equipment, key, asked["name"], asked["arguments"])
        used = Used(name=asked["name"], failed="error" in made)
        return {"made": made, "used": [*state.get("used", []), used]}

    def _next(self, state: ToolState) -> str:
        if state["parsed"] is None:
            return "ask" if state["mistakes"] <= self.format_errors else "conclude"
        return "use" if state["parsed"].get("call") else "conclude"

    async def conclude(self, state: ToolState, runtime: Runtime[Context]) -> ToolState:
        used, answer = state.get("used", []), (state["parsed"] or {}).get("answer")
        detail = {
            "calls": len(used),
            "errors": sum(one["failed"] for one in used),
            "format_errors": state["mistakes"],
            "answered": answer is not None,
            "tools": dict(Counter(one["name"] for one in used)),
        }
        return {"outcome": Outcome(answer=answer, detail=detail)}

"""A software engineer resolves an issue of a repository with a shell (the loop of mini-swe-agent 2.4).

    1. The engineer reads the issue and says one command.
    2. It runs in a fresh shell of the sandbox; what it printed is the next message of one linear history.
    3. And so on, until the first line that a command prints is the marker, or a limit is reached.
    4. What differs in the work tree then is the patch, whatever git in the tree says.

Every command is a turn `step/K` and an event `step` that keeps the tree it left, so that a run goes on from
the journal alone, and a fork begins at any step. The patch is graded in another tree (`verdict`). Several
attempts within one episode: `software_attempts`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from sparring.agents.engines.base import Message
from sparring.agents.roles import Role
from sparring.errors import BudgetExceeded
from sparring.graphs.context import Context
from sparring.graphs.protocol import Outcome
from sparring.graphs.protocols.software_place import (
    LARGEST_PATCH,
    MARKER,
    SEAT,
    SUBMITTED,
    Made,
    Spot,
    Workplace,
    fault,
    nothing,
    since,
)
from sparring.graphs.results import detailed_outcomes
from sparring.memory.journal import Journal

__all__ = ["MARKER", "SEAT", "SUBMITTED", "SoftwareTask"]


class SoftwareState(TypedDict, total=False):
    question: str
    strategy: str
    """What the engineer is told to try; may be left out."""
    base: str
    tree: str
    """The last one that was kept."""
    step: int
    """The next one."""
    said: list[Message]
    occasion: str
    variables: dict[str, Any]
    """Of the next message."""
    turn: dict[str, Any]
    mistakes: int
    """Format errors in a row."""
    elapsed: float
    """Seconds of this attempt until `mark`, over all processes that played it."""
    mark: float
    exit: str
    reason: str
    outcome: Outcome


class SoftwareTask(Workplace):
    """One engineer, one shell, one issue."""

    name: ClassVar[str] = "software"

    steps: int = Field(default=100, ge=1)
    """Commands, format errors included."""
    format_errors: int = Field(default=3, ge=1)
    """Replies in a row without exactly one command that end the work."""

    def seats(self) -> dict[str, Role]:
        return {SEAT: self.engineer()}

    @property
    def max_calls(self) -> int:
        return self.steps

    def beginning(self, steps: int) -> tuple[list[str], list[tuple[str, str]]]:
        keys = [str(step) for step in range(steps)]
        return [f"step/{key}" for key in keys], [("base", "0"), *(("step", key) for key in keys)]

    def figures(self, journal: Journal, run: str, episodes: Sequence[int] | None = None) -> dict[str, float]:
        """Of episodes that reached no cap: shares submitted, with a patch, ended otherwise; mean steps."""
        found = detailed_outcomes(journal, run, episodes)
        if not found:
            return {}
        ends = Counter(outcome["detail"]["exit_status"] for outcome in found)
        shares = {
            f"ended_{name}": count / len(found) for name, count in sorted(ends.items()) if name != SUBMITTED
        }
        patched = sum(bool(outcome["answer"]) for outcome in found) / len(found)
        steps = sum(outcome["detail"]["steps"] for outcome in found) / len(found)
        return {SUBMITTED: ends[SUBMITTED] / len(found), "patched": patched, "steps": steps, **shares}

    def graph(self) -> StateGraph[Any, Context, Any, Any]:
        graph = StateGraph(SoftwareState, context_schema=Context)
        for node in (self.begin, self.ask, self.execute, self.submit):
            graph.add_node(node.__name__, node)
        graph.add_edge(START, "begin")
        for name, then in (("begin", "ask"), ("ask", "execute"), ("execute", "ask")):
            graph.add_conditional_edges(name, self.over, {True: "submit", False: then})
        graph.add_edge("submit", END)
        return graph

    def over(self, state: SoftwareState) -> bool:
        """Whether the work has come to its end."""
        return bool(state.get("exit"))

    async def begin(self, state: SoftwareState, runtime: Runtime[Context]) -> SoftwareState:
        """The tree at the base commit; where an earlier process came to the end, on to it."""
        context = runtime.context
        base = await self.base(context)
        ended = context.episode.event_payload("exit", "0")
        if ended is not None:
            context.recall(f"step/{step}" for step in range(ended["detail"]["steps"]))
        return {
            "base": base,
            "tree": base,
            "step": 0,
            "said": [],
            "occasion": "task",
            "variables": self.task_shown(state["question"], self.steps, state.get("strategy", "")),
            "mistakes": 0,
            "elapsed": 0.0,
            "mark": time.monotonic(),
            "exit": "" if ended is None else "known",
        }

    async def ask(self, state: SoftwareState, runtime: Runtime[Context]) -> SoftwareState:
        """The engineer's next words, unless a limit is reached."""
        context, step = runtime.context, state["step"]
        if step >= self.steps:
            return {"exit": "steps", "reason": f"{self.steps} steps were made"}
        if state["mistakes"] >= self.format_errors:
            return {"exit": "format_errors", "reason": f"{state['mistakes']} replies without a command"}
        spent = state["elapsed"] + since(state["mark"])
        known = context.episode.event_payload("step", str(step)) is not None
        if self.seconds is not None and spent >= self.seconds and not known:
            return {"exit": "seconds", "reason": f"the attempt took {spent:.0f} s of {self.seconds:g}"}
        occasion, variables = state["occasion"], state["variables"]
        try:
            said, turn = await self.speak(context, f"step/{step}", occasion, variables, state["said"])
        except BudgetExceeded as reached:
            return {"exit": "capped", "reason": str(reached)}
        return {"said": said, "turn": {"parsed": turn.parsed, "error": fault(turn)}}

    async def execute(self, state: SoftwareState, runtime: Runtime[Context]) -> SoftwareState:
        """Run the command, or say why there is none; what came of it is journaled before it is believed."""
        context, step = runtime.context, state["step"]
        made = context.episode.event_payload("step", str(step))
        if made is None:
            made = await self._step(state, context)
            made["elapsed"] = state["elapsed"] + since(state["mark"])
            made = await context.episode.event("step", str(step), made)
        spent: SoftwareState = {"elapsed": made["elapsed"], "mark": time.monotonic()}
        return {"step": step + 1, **spent, **self._after(state, made)}

    async def _step(self, state: SoftwareState, context: Context) -> Made:
        turn, tree = state["turn"], state["tree"]
        if turn["error"] is not None:
            return nothing(turn["error"], tree)
        spent = state["elapsed"] + since(state["mark"])
        return await self.work(context, turn["parsed"]["command"], _spot(state, context), spent)

    def _after(self, state: SoftwareState, made: Mapping[str, Any]) -> SoftwareState:
        """What a step means for the next one."""
        if made["tree"] is None:
            return {"exit": "oversized", "reason": made["error"]}
        if made["action"] is not None and made["submitted"]:
            said = made["observation"].lstrip().partition("\n")[2].strip()
            return {"exit": SUBMITTED, "reason": said, "tree": made["tree"]}
        mistakes = state["mistakes"] + 1 if made["action"] is None else 0
        occasion, variables = self.shown(made, self.steps - state["step"] - 1)
        following: SoftwareState = {"occasion": occasion, "variables": variables, "tree": made["tree"]}
        return {"mistakes": mistakes, **following}

    async def submit(self, state: SoftwareState, runtime: Runtime[Context]) -> SoftwareState:
        """The patch, whatever ended the work."""
        context = runtime.context
        outcome: Any = context.episode.event_payload("exit", "0")
        if outcome is None:
            text = await self.patch(context, _spot(state, context))
            ending, reason = state["exit"], state["reason"]
            if len(text) > LARGEST_PATCH:
                ending, reason, text = "oversized", f"the patch has {len(text)} characters", ""
            trees = {"base": state["base"], "tree": state["tree"]}
            detail = {"exit_status": ending, "reason": reason, "steps": state["step"], **trees}
            made = Outcome(answer=text, detail=detail)
            if ending == "capped":
                made["capped"] = reason
            outcome = await context.episode.event("exit", "0", dict(made))
        await context.equipment.leave(context.episode.id)
        return {"outcome": outcome}


def _spot(state: SoftwareState, context: Context) -> Spot:
    def made() -> Iterator[Mapping[str, Any]]:
        for step in range(state["step"]):
            yield context.episode.event_payload("step", str(step)) or {}

    return Spot(state["base"], state["tree"], made)

"""Critic-guided search, SPC's use of its critic at test time (2504.19162, section 4.3).

    1. The solver writes one step.
    2. The critic judges it on the problem and the steps before it.
    3. Judged incorrect, the step is written anew, at most `attempts` times; the last one stands.
    4. With the answer, in a line of its own or in a step, the path ends; `paths` of them vote
       (self-consistency with the critic).

Accept or reject, no score is aggregated. The released code has no search; the cap of 5 is recalled. What is
not a step cannot be judged and counts as an attempt; an unreadable verdict rejects nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Send
from pydantic import Field

from sparring.agents.parsing import parser
from sparring.agents.roles import Role
from sparring.agents.steps import is_answer
from sparring.graphs.aggregate import Ballot, aggregator
from sparring.graphs.context import Context
from sparring.graphs.protocol import Outcome, Protocol, voted
from sparring.graphs.protocols.rollout import SOLVER, solver_of

CRITIC = "critic"


class Path(TypedDict):
    """One solution as it came to stand."""

    number: int
    steps: list[str]
    answer: str | None
    written: int
    """Steps that the solver wrote, rejected ones included."""
    rejected: int


def joined(old: list[Path], new: list[Path]) -> list[Path]:
    """Paths by number; one that is delivered twice stays one."""
    return sorted({path["number"]: path for path in [*old, *new]}.values(), key=lambda path: path["number"])


class GuidedState(TypedDict, total=False):
    question: str
    number: int
    paths: Annotated[list[Path], joined]
    outcome: Outcome


class Guided(Protocol):
    """Solutions written step by step under a critic's eyes."""

    name: ClassVar[str] = "guided"

    paths: int = Field(default=1, ge=1)
    """Solutions that vote."""
    attempts: int = Field(default=5, ge=1)
    """Times a step is written at most; 1 asks no critic."""
    max_steps: int = Field(default=16, ge=1)
    """A path without an answer after so many steps has none."""
    answer: str = "line"
    """Answer format of the solver."""
    verdict: Literal["verdict", "verdict/official"] = "verdict"
    """How verdicts are read: `verdict`, or `verdict/official` as SPC's code does."""

    def seats(self) -> dict[str, Role]:
        seats = {SOLVER: solver_of(self, self.answer)}
        if self.attempts > 1:
            judging = {"judge": parser(self.verdict)}
            seats[CRITIC] = self.role(CRITIC, judging, ["problem", "partial", "step"])
        return seats

    @property
    def max_calls(self) -> int:
        return self.paths * self.max_steps * (2 * self.attempts - 1)

    @property
    def recursion_limit(self) -> int:
        return 10  # a path is one node, however long

    def graph(self) -> StateGraph[Any, Context, Any, Any]:
        graph = StateGraph(GuidedState, context_schema=Context)
        graph.add_node("solve", self.solve)
        graph.add_node("vote", self.vote)
        graph.add_conditional_edges(START, self._paths, ["solve"])
        graph.add_edge("solve", "vote")
        graph.add_edge("vote", END)
        return graph

    def _paths(self, state: GuidedState) -> list[Send]:
        return [Send("solve", {"question": state["question"], "number": n}) for n in range(self.paths)]

    async def solve(self, state: GuidedState, runtime: Runtime[Context]) -> GuidedState:
        """One path, step by step."""
        number = state["number"]
        path = Path(number=number, steps=[], answer=None, written=0, rejected=0)
        while path["answer"] is None and len(path["steps"]) < self.max_steps:
            made = await self._step(runtime.context, state["question"], path)
            if made is None:
                break  # nothing that could stand was written
            path["answer"] = made["answer"]
            if not is_answer(made["step"]):
                path["steps"].append(made["step"])
        return {"paths": [path]}

    async def _step(self, context: Context, problem: str, path: Path) -> dict[str, Any] | None:
        """The next step: the first that is not rejected, or the last that was written."""
        place, shown = len(path["steps"]), {"problem": problem, "partial": path["steps"]}
        last: dict[str, Any] | None = None
        for attempt in range(self.attempts):
            key = f"{path['number']}/{place}/{attempt}"
            turn = await context.act(SOLVER, f"{key}/solver", "step", shown)
            path["written"] += 1
            if turn.parsed is None:
                continue
            last = turn.parsed
            # An answer line repeats what the steps came to; a last attempt stands whatever is said of it.
            if is_answer(last["step"]) or attempt + 1 == self.attempts:
                break
            judged = await context.act(CRITIC, f"{key}/critic", "judge", {**shown, "step": last["step"]})
            if judged.parsed is None or judged.parsed["correct"]:
                break
            path["rejected"] += 1
        return last

    async def vote(self, state: GuidedState, runtime: Runtime[Context]) -> GuidedState:
        paths = state["paths"]
        ballots = [Ballot(str(p["number"]), p["answer"], "\n".join(p["steps"])) for p in paths]
        outcome = voted(await aggregator("majority")(ballots, runtime.context.equal))
        outcome["detail"] = {
            **outcome["detail"],
            "written": sum(path["written"] for path in paths),
            "rejected": sum(path["rejected"] for path in paths),
            "steps": [path["steps"] for path in paths],
        }
        kept: Any = await runtime.context.episode.event("vote", "0", dict(outcome))
        return {"outcome": kept}

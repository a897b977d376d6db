"""Duel: two players answer the same question, and the better answer wins.

    1. Both seats, `first` and `second`, answer; neither reads the other.
    2. decide=verifier   the task's own check decides: right beats wrong, both right or both wrong is a draw.
       decide=judge      a judge reads both answers twice, in either order (Zheng et al. 2306.05685,
                         section 3.4): a side wins only where both readings prefer it, else it is a draw.

A side without a readable answer is wrong to the verifier; before the judge, who then is not asked, it loses
to one that has an answer. A judge who cannot be read makes the game void, and that is no player's fault.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, ClassVar, Literal, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Send

from sparring.agents.parsing import comparison, statement
from sparring.agents.roles import Role
from sparring.errors import UserError
from sparring.graphs.context import Context
from sparring.graphs.protocol import Outcome, Protocol
from sparring.memory.records import TaskRecord

FIRST, SECOND = "first", "second"
ORDERS = ((FIRST, SECOND), (SECOND, FIRST))
"""Who is shown as answer A and as answer B, in either reading."""
COMPARED = ("question", "a", "b")


class Said(TypedDict):
    """What a side came up with."""

    text: str
    answer: str | None
    """None where the text holds no answer of the asked format."""


def both(left: dict[str, Said], right: dict[str, Said]) -> dict[str, Said]:
    """Reducer: one answer a side, whichever arrives first."""
    return {**left, **right}


class DuelState(TypedDict, total=False):
    question: Any
    seat: str
    """Only in a state sent to `reply`: whose turn it is."""
    said: Annotated[dict[str, Said], both]
    outcome: Outcome


class Duel(Protocol):
    """Two players, one question."""

    name: ClassVar[str] = "duel"
    answers: ClassVar[bool] = False

    decide: Literal["verifier", "judge"] = "verifier"
    """Who says which answer is better: the task's check, or a judge."""
    answer: str = "line"
    """Answer format: a name in `agents.parsing.ANSWER_FORMATS`."""

    @property
    def rivals(self) -> tuple[str, str]:
        return FIRST, SECOND

    def seats(self) -> dict[str, Role]:
        free = {"question": statement(self.answer)}
        seats = {}
        for seat in self.rivals:
            prompt = self.prompts.get(seat, self.prompts.get("solver"))
            seats[seat] = Role.of("solver", free, ("question", "persona"), prompt)
        if self.decide == "judge":
            prompt = self.prompts.get("judge", "comparer")
            seats["judge"] = Role.of("judge", {"compare": comparison}, COMPARED, prompt)
        return seats

    def accepts(self, task: TaskRecord) -> None:
        if task.answer is None and self.decide == "verifier":
            raise UserError(f"task `{task.id}` has no `answer` to check by: add it, or set `decide=judge`")

    @property
    def max_calls(self) -> int:
        return 2 + 2 * (self.decide == "judge")

    def graph(self) -> StateGraph[Any, Context, Any, Any]:
        graph = StateGraph(DuelState, context_schema=Context)
        graph.add_node("reply", self.reply)
        graph.add_node(self.decide, getattr(self, self.decide))
        graph.add_conditional_edges(START, self.ask, ["reply"])
        graph.add_edge("reply", self.decide)
        graph.add_edge(self.decide, END)
        return graph

    def ask(self, state: DuelState) -> list[Send]:
        """Both sides at once."""
        return [Send("reply", {"question": state["question"], "seat": seat}) for seat in self.rivals]

    async def reply(self, state: DuelState, runtime: Runtime[Context]) -> DuelState:
        """One side's answer."""
        seat, shown = state["seat"], {"question": state["question"], "persona": ""}
        turn = await runtime.context.act(seat, seat, "question", shown)
        return {"said": {seat: Said(text=turn.text, answer=(turn.parsed or {}).get("answer"))}}

    async def verifier(self, state: DuelState, runtime: Runtime[Context]) -> DuelState:
        """The task's check decides."""
        said = state["said"]
        right = {seat: await runtime.context.right(said[seat]["answer"]) for seat in self.rivals}
        return await self._closed(state, runtime.context, _points(right[FIRST], right[SECOND]), right=right)

    async def judge(self, state: DuelState, runtime: Runtime[Context]) -> DuelState:
        """A judge decides, where there is something to compare."""
        context, said = runtime.context, state["said"]
        there = {seat: said[seat]["answer"] is not None for seat in self.rivals}
        if not all(there.values()):
            return await self._closed(state, context, _points(there[FIRST], there[SECOND]), preferred=None)
        preferred = await asyncio.gather(*(self._read(state, context, place) for place in range(len(ORDERS))))
        scores = None
        if None not in preferred:
            scores = _points(*(all(choice == seat for choice in preferred) for seat in self.rivals))
        return await self._closed(state, context, scores, preferred=list(preferred))

    async def _read(self, state: DuelState, context: Context, place: int) -> str | None:
        """The side that the judge prefers in one of the two orders, or `tie`; None if that is unreadable."""
        a, b = ORDERS[place]
        texts = {"a": state["said"][a]["text"], "b": state["said"][b]["text"]}
        shown = {"question": state["question"], **texts}
        turn = await context.act("judge", f"judge/{place}", "compare", shown)
        return {"A": a, "B": b, "tie": "tie"}[turn.parsed["better"]] if turn.parsed else None

    async def _closed(
        self, state: DuelState, context: Context, scores: dict[str, float] | None, **detail: Any
    ) -> DuelState:
        given = {seat: state["said"][seat]["answer"] for seat in self.rivals}
        outcome = Outcome(answer=None, scores=scores, fault=None, detail={"answers": given, **detail})
        # The journaled decision holds: a check may run out of time, and not do so in a replay.
        kept: Any = await context.episode.event("decision", "0", dict(outcome))
        return {"outcome": kept}


def _points(first: bool, second: bool) -> dict[str, float]:
    """The point of the game: to the side that alone has it, else shared."""
    points = 0.5 * (1 + first - second)
    return {FIRST: points, SECOND: 1.0 - points}

"""MAgICoRe, coarse to fine (Chen et al. 2409.12147): many solutions, and refinement where it is worth it.

    1. Solve: k chains of one question.
    2. Score: an outcome score o of each chain, a process score of each of its steps; p is their product.
    3. Gate: a question is hard iff its majority answer scores below the average of a calibration set and the
       scores, summed by answer, are spread over more than three answers (`refine_gate`).
    4. Hard, and iterations left: a reviewer reads each chain with its step scores, a refiner writes it anew;
       go to 2 with the new chains. The majority of the first iteration stays the one that is asked about.
    5. Vote: of all chains the k with the highest o + p vote with that weight.

What the released code does otherwise can be had by name (`compat="official"`), where it makes sense:

    the pool keeps the last two generations; here all
    mean and deviation come from the very questions that are played, first chain of each: a barrier, all are
    solved and scored before any is refined; here from another set that was played before (`calibration`)
    a question that turned easy loses its refined chains; scores and texts of a pool get out of step    never
    answers are compared as strings in the vote and as mathematics in the gate; here by one equality    never
    no answer anywhere raises; here there is no answer                                                  never
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command, Send
from pydantic import Field

from sparring.agents.roles import Role
from sparring.errors import Pending
from sparring.graphs.aggregate import natural
from sparring.graphs.context import Context
from sparring.graphs.protocol import Outcome, Protocol
from sparring.graphs.protocols.refine_chains import (
    REFINER,
    REVIEWER,
    Written,
    chain_of,
    refining_seats,
    reward,
    rewritten,
    unscored,
    votes_of,
    weighed,
    worth_refining,
)
from sparring.graphs.protocols.refine_figures import refinement_figures
from sparring.graphs.protocols.refine_gating import SCORED_BY, Gating
from sparring.graphs.protocols.rollout import SOLVER, solver_of
from sparring.graphs.scorers.base import Chain, Scorer, majority_of, make_scorer, scored
from sparring.memory.journal import Journal
from sparring.memory.records import TaskRecord

MANY_STEPS = 64
"""Steps of a chain that caps on calls reckon with."""


def merged(old: list[Written], new: list[Written]) -> list[Written]:
    """Chains by key, the newest form of each."""
    return sorted({one["key"]: one for one in [*old, *new]}.values(), key=lambda one: natural(one["key"]))


class RefineState(TypedDict, total=False):
    question: str
    iteration: int
    majority: str | None
    chain: Written
    """Of one that is being refined."""
    chains: Annotated[list[Written], merged]
    outcome: Outcome


class Refine(Gating, Protocol):
    """Solve, score, refine what is hard, vote."""

    name: ClassVar[str] = "refine"

    k: int = Field(default=8, ge=1)
    """Chains of a question; the paper has 40."""
    outcome: str = SCORED_BY["outcome"]
    """Outcome scorer: `orm:MODEL`, `judge`, `p_true`, `oracle`, ..."""
    process: str = SCORED_BY["process"]
    """Process scorer: `prm:MODEL` or `rollouts`."""
    compat: Literal["official"] | None = None
    """`official`: what the released code does otherwise (above)."""
    answer: str = "line"
    """Answer format: a name in `agents.parsing.ANSWER_FORMATS`."""

    @property
    def own_average(self) -> bool:
        return self.compat is not None

    def scorers(self) -> tuple[Scorer, Scorer]:
        return make_scorer(self.outcome, "outcome"), make_scorer(self.process, "process")

    def seats(self) -> dict[str, Role]:
        seats = {SOLVER: solver_of(self, self.answer)}
        if self.iterations:
            seats |= refining_seats(self, self.answer)
        for scorer in self.scorers():
            seats |= scorer.seats(self)
        return seats

    @property
    def names(self) -> set[str]:
        """With those who refine, though nobody may: a calibration is played with the same options."""
        return super().names | {REVIEWER, REFINER}

    def engines(self) -> dict[str, str]:
        return {seat: spec for scorer in self.scorers() for seat, spec in scorer.engines().items()}

    def accepts(self, task: TaskRecord) -> None:
        for scorer in self.scorers():
            scorer.accepts(task)

    @property
    def max_calls(self) -> int:
        written = self.k * (1 + self.iterations)
        scoring = sum(scorer.calls(written, MANY_STEPS) for scorer in self.scorers())
        return self.k * (1 + 2 * self.iterations) + scoring

    @property
    def waits(self) -> bool:
        return self.own_average and self.weighs

    def facts(self, journal: Journal, run: str) -> Mapping[str, Any] | None:
        return self.average(journal, run, self.model_dump())

    def figures(self, journal: Journal, run: str, episodes: Sequence[int] | None = None) -> dict[str, float]:
        return refinement_figures(journal, run, episodes)

    def graph(self) -> StateGraph[Any, Context, Any, Any]:
        graph = StateGraph(RefineState, context_schema=Context)
        graph.add_node("solve", self.solve)
        graph.add_node("weigh", self.weigh, destinations=("improve", "vote"))
        graph.add_node("improve", self.improve)
        graph.add_node("vote", self.vote)
        graph.add_edge(START, "solve")
        graph.add_edge("solve", "weigh")
        graph.add_edge("improve", "weigh")
        graph.add_edge("vote", END)
        return graph

    async def solve(self, state: RefineState, runtime: Runtime[Context]) -> RefineState:
        """k chains of one prompt."""
        keys = [f"0/{SOLVER}/{place}" for place in range(self.k)]
        shown = {"problem": state["question"], "partial": []}
        turns = await runtime.context.sample(SOLVER, keys, "solution", shown)
        return {"iteration": 0, "chains": [unscored(Chain.of(turn, state["question"])) for turn in turns]}

    async def weigh(self, state: RefineState, runtime: Runtime[Context]) -> Command[Any]:
        """Score the newest chains, and decide whether they are worth refining."""
        context, number = runtime.context, state["iteration"]
        newest = [one for one in state["chains"] if one["iteration"] == number]
        read = [chain_of(one, state["question"]) for one in newest]
        majority = state["majority"] if number else await majority_of(context, read)
        judged = await asyncio.gather(*(scored(context, who, read, majority) for who in self.scorers()))
        chains = [weighed(*one) for one in zip(newest, *judged, strict=True)]
        update = {"majority": majority, "chains": chains}
        await context.episode.event("rewards", str(number), {"rewards": [reward(one) for one in chains]})
        if number == self.iterations or not await self._hard(context, chains, majority, number):
            return Command(goto="vote", update=update)
        following = {"question": state["question"], "iteration": number + 1}
        sends = [Send("improve", {**following, "chain": chain}) for chain in chains]
        return Command(goto=sends, update={**update, "iteration": number + 1})

    async def _hard(self, context: Context, chains: list[Written], majority: str | None, number: int) -> bool:
        """Whether to refine; where the average is the run's own, once all its questions are scored."""
        if self.waits and not context.facts:
            raise Pending("waits until all questions of its run are scored")
        return await worth_refining(context, self, context.facts, str(number), chains, majority)

    async def improve(self, state: RefineState, runtime: Runtime[Context]) -> RefineState:
        """One chain reviewed and written anew."""
        question, number = state["question"], state["iteration"]
        return {"chains": [await rewritten(runtime.context, question, state["chain"], number)]}

    async def vote(self, state: RefineState, runtime: Runtime[Context]) -> RefineState:
        """What the pool says."""
        context, two = runtime.context, self.compat is not None
        outcome = await votes_of(context, state["chains"], self.k, state["iteration"], two=two)
        decided: Any = await context.episode.event("vote", "0", dict(outcome))
        return {"outcome": decided}

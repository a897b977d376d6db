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
from pydantic import Field, model_validator

from sparring.agents.parsing import note
from sparring.agents.roles import Role
from sparring.agents.steps import solution
from sparring.errors import Pending, UserError
from sparring.graphs.aggregate import Ballot, aggregator, natural
from sparring.graphs.context import Context
from sparring.graphs.protocol import Outcome, Protocol, voted
from sparring.graphs.protocols.refine_figures import refinement_figures
from sparring.graphs.protocols.refine_gate import Calibration, Scored, best, decide
from sparring.graphs.protocols.refine_rewards import rewards_of
from sparring.graphs.protocols.rollout import SOLVER, solver_of
from sparring.graphs.scorers.base import Chain, Judgement, Scorer, majority_of, make_scorer, scored
from sparring.memory.journal import Journal
from sparring.memory.records import Turn
from sparring.tools.equality import agroup

REVIEWER, REFINER = "reviewer", "refiner"
MANY_STEPS = 64
"""Steps of a chain that caps on calls reckon with."""


class Written(TypedDict):
    """A chain and, once it is scored, what it is worth."""

    key: str
    turn: int
    iteration: int
    text: str
    answer: str | None
    outcome: float | None
    steps: list[float] | None
    """Process scores; None, as the outcome, where a scorer could not say."""


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


class Refine(Protocol):
    """Solve, score, refine what is hard, vote."""

    name: ClassVar[str] = "refine"

    k: int = Field(default=8, ge=1)
    """Chains of a question; the paper has 40."""
    iterations: int = Field(default=1, ge=0)
    """Refinements at most; 0 scores and votes."""
    outcome: str = "judge"
    """Outcome scorer: `orm:MODEL`, `judge`, `p_true`, `oracle`, ..."""
    process: str = "rollouts"
    """Process scorer: `prm:MODEL` or `rollouts`."""
    gate: Literal["magicore", "all"] = "magicore"
    """`all` refines every question."""
    calibration: str | None = None
    """Name of a run of this protocol with the same scorers: its rewards are the average that a question is
    held against. It is frozen with the first question."""
    mean: float | None = None
    """Of the rewards o + p, with `deviation` instead of a calibration."""
    deviation: float | None = Field(default=None, gt=0)
    chains: Literal["first", "all"] = "first"
    """Which chains of a calibration's questions are taken: the released code takes the first of each."""
    compat: Literal["official"] | None = None
    answer: str = "line"
    """Answer format: a name in `agents.parsing.ANSWER_FORMATS`."""

    @model_validator(mode="after")
    def _calibrated(self) -> Refine:
        if (self.mean is None) != (self.deviation is None):
            raise ValueError("`mean` and `deviation` come together")
        sources = [self.calibration is not None, self.mean is not None, self.compat is not None]
        if sum(sources) > 1:
            raise ValueError("give one of `calibration`, `mean` with `deviation`, `compat`")
        if self.iterations and self.gate == "magicore" and not any(sources):
            raise ValueError(
                "the gate holds a question against an average: name a `calibration` (a run of `refine` "
                "on other tasks with `iterations=0`), give `mean` and `deviation`, or take "
                "`compat=official`, which solves all questions before it refines any"
            )
        return self

    @property
    def _weighs(self) -> bool:
        """Whether the gate is asked, be it that all are refined whatever it says."""
        return self.iterations > 0 and (self.calibration or self.compat or self.mean) is not None

    def scorers(self) -> tuple[Scorer, Scorer]:
        return make_scorer(self.outcome, "outcome"), make_scorer(self.process, "process")

    def seats(self) -> dict[str, Role]:
        seats = {SOLVER: solver_of(self, self.answer)}
        if self.iterations:
            seats[REVIEWER] = self.role(REVIEWER, {"review": note}, ["question", "steps"])
            refining = {"refine": solution(self.answer)}
            seats[REFINER] = self.role(REFINER, refining, ["question", "steps", "review"])
        for scorer in self.scorers():
            seats |= scorer.seats(self)
        return seats

    def engines(self) -> dict[str, str]:
        return {seat: spec for scorer in self.scorers() for seat, spec in scorer.engines().items()}

    @property
    def max_calls(self) -> int:
        written = self.k * (1 + self.iterations)
        scoring = sum(scorer.calls(written, MANY_STEPS) for scorer in self.scorers())
        return self.k * (1 + 2 * self.iterations) + scoring

    @property
    def waits(self) -> bool:
        return self.compat is not None and self._weighs

    def facts(self, journal: Journal, run: str) -> Mapping[str, Any] | None:
        """Mean and deviation of the rewards of a calibration, or of this run's own first chains."""
        if not self._weighs or self.mean is not None:
            return None
        found = rewards_of(journal, self.calibration or run, self.model_dump(), first=self.chains == "first")
        held = Calibration.of(found, f"run `{self.calibration or run}`")
        return {"mean": held.mean, "deviation": held.deviation, "n": held.n, "source": held.source}

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
        return {"iteration": 0, "chains": [_written(turn, 0) for turn in turns]}

    async def weigh(self, state: RefineState, runtime: Runtime[Context]) -> Command[Any]:
        """Score the newest chains, and decide whether they are worth refining."""
        context, number = runtime.context, state["iteration"]
        newest = [one for one in state["chains"] if one["iteration"] == number]
        read = [
            Chain(one["turn"], one["key"], state["question"], one["text"], one["answer"]) for one in newest
        ]
        majority = state["majority"] if number else await majority_of(context, read)
        weighed = await self._scored(context, newest, read, majority)
        update = {"majority": majority, "chains": weighed}
        await context.episode.event("rewards", str(number), {"rewards": [_reward(one) for one in weighed]})
        if number == self.iterations or not await self._hard(context, weighed, majority, number):
            return Command(goto="vote", update=update)
        following = {"question": state["question"], "iteration": number + 1}
        sends = [Send("improve", {**following, "chain": chain}) for chain in weighed]
        return Command(goto=sends, update={**update, "iteration": number + 1})

    async def _scored(
        self, context: Context, chains: list[Written], read: list[Chain], majority: str | None
    ) -> list[Written]:
        outcome, process = self.scorers()
        found: tuple[list[Judgement], list[Judgement]] = await asyncio.gather(
            scored(context, outcome, read, majority), scored(context, process, read, majority)
        )
        weighed: list[Written] = []
        for one, whole, steps in zip(chains, *found, strict=True):
            values = steps.known
            weighed.append({**one, "outcome": whole.values[0], "steps": list(values) if values else None})
        return weighed

    async def _hard(self, context: Context, chains: list[Written], majority: str | None, number: int) -> bool:
        """Whether to refine: the gate's decision, journaled with all that was weighed."""
        if not self._weighs:
            return True
        kept = context.episode.event_payload("gate", str(number))
        if kept is None:
            known = [one for one in chains if _reward(one) is not None]
            asked, *classes = await agroup([majority, *(one["answer"] for one in known)], context.equal)
            read = [
                Scored(group, one["outcome"] or 0.0, tuple(one["steps"] or ()))
                for one, group in zip(known, classes, strict=True)
            ]
            decision = decide(read, asked, self._calibration(context)).to_json() if read else {"hard": False}
            unscored = len(chains) - len(known)
            kept = await context.episode.event("gate", str(number), {**decision, "unscored": unscored})
        return self.gate == "all" or bool(kept["hard"])

    def _calibration(self, context: Context) -> Calibration:
        if self.mean is not None and self.deviation is not None:
            return Calibration(self.mean, self.deviation)
        if not context.facts:
            if self.compat:
                raise Pending("waits until all questions of its run are scored")
            raise UserError(
                f"calibration `{self.calibration}` is read when a run is played: give its `mean` and "
                "`deviation` instead"
            )
        return Calibration(**context.facts)

    async def improve(self, state: RefineState, runtime: Runtime[Context]) -> RefineState:
        """One chain reviewed and written anew."""
        context, number, chain = runtime.context, state["iteration"], state["chain"]
        place = chain["key"].rsplit("/", 1)[1]
        steps = Chain(chain["turn"], chain["key"], state["question"], chain["text"], chain["answer"]).steps
        grades = chain["steps"] or [0.0] * len(steps)
        shown = [
            {"text": step, "score": round(10 * grade)} for step, grade in zip(steps, grades, strict=True)
        ]
        variables = {"question": state["question"], "steps": shown}
        review = await context.act(REVIEWER, f"{number}/{REVIEWER}/{place}", "review", variables)
        told = {**variables, "review": review.text.strip()}
        turn = await context.act(REFINER, f"{number}/{REFINER}/{place}", "refine", told)
        return {"chains": [_written(turn, number)]}

    async def vote(self, state: RefineState, runtime: Runtime[Context]) -> RefineState:
        """The best k of the pool, each with o + p; where nothing was scored, the majority."""
        context, last = runtime.context, state["iteration"]
        votes = [await self._voted(context, state["chains"], upto) for upto in range(last + 1)]
        outcome = votes[-1]
        outcome["detail"] |= {"refined": last, "answers": [vote["answer"] for vote in votes]}
        if context.task is not None and context.task.answer is not None:
            right = {one["key"]: await context.right(one["answer"]) for one in state["chains"]}
            outcome["detail"] |= {"right": right, "votes": [await context.right(v["answer"]) for v in votes]}
        decided: Any = await context.episode.event("vote", "0", dict(outcome))
        return {"outcome": decided}

    async def _voted(self, context: Context, chains: list[Written], upto: int) -> Outcome:
        """What the pool says after so many refinements."""
        oldest = upto - 1 if self.compat else 0
        pool = [one for one in chains if oldest <= one["iteration"] <= upto]
        known = [one for one in pool if _reward(one) is not None]
        kept = [known[place] for place in best([_reward(one) or 0.0 for one in known], self.k)]
        ballots = [
            Ballot(one["key"], one["answer"], one["text"], weight=_reward(one)) for one in kept or pool
        ]
        outcome = voted(await aggregator("weighted" if kept else "majority")(ballots, context.equal))
        outcome["detail"] |= {
            "pool": [one["key"] for one in kept or pool],
            "unscored": len(pool) - len(known),
        }
        return outcome


def _written(turn: Turn, iteration: int) -> Written:
    answer = (turn.parsed or {}).get("answer")
    return Written(
        key=turn.key,
        turn=turn.id,
        iteration=iteration,
        text=turn.text,
        answer=answer,
        outcome=None,
        steps=None,
    )


def _reward(one: Written) -> float | None:
    """o + p; None where either is not known."""
    if one["outcome"] is None or one["steps"] is None:
        return None
    return Scored(None if one["answer"] is None else 0, one["outcome"], tuple(one["steps"])).reward

"""SE-Agent (2508.02085): attempts at an issue are revised, selected and recombined; then one patch is chosen.

    1. Revision: n pilots, each by another plan. Of each a strategist writes, after reflection, the strategy
       of a revised attempt: a pool of 2n.
    2. Refinement: every attempt gets a score of 0..1, and the n best stay.
    3. Recombination: strategies for n new attempts, by crossover (two attempts), transfer (what served one,
       brought into another) and restructure (the whole pool), 2 + 2 + 1 of 5: a pool of 2n. Go to 2, until
       the best score improves by less than `epsilon` for `patience` rounds, or after `generations`.
    4. Choose among the n that stayed (`select`).

What is not as in the paper, or not said there:

    the paper weighs task completion, reasoning quality and efficiency and gives no weights. Here: a valuer's
    word (-100..100), a patch that is not empty, the share of steps that changed the tree, a length in range;
    weights, epsilon and patience are ours and were not measured; an unreadable value earns nothing
    of equal scores, one whose change is not yet in the pool stays
    which attempts are put together is not said: crossover takes pairs from the best on, those with
    different changes first; transfer goes from the best to each of the others
    who chooses in the end is an option; the paper takes the best, so by default the highest score
    an attempt whose strategy cannot be read is not made; one whose summary cannot be read has none, and the
    operators read its last commands and its patch instead
    the engineer executes every strategy anew in the untouched repository

Defects of the released code that are not here: its operators read the first instance of the pool whatever
the instance, cut issue and attempts to some hundred characters, and cross the last two attempts always;
filters drop what contains the word "error"; transfer, restructure, the scores, the selection and the rule
to stop are missing there, and nothing can be resumed.

Turns are `strategy/NAME`, `attempt/NAME/step/K`, `attempt/NAME/summary` and `attempt/NAME/value`; events
`member` (key: the name, `0.pilot.1` or `2.crossover.0`) and `pool` (key: the round).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Send

from sparring.graphs.aggregate import natural
from sparring.graphs.context import Context
from sparring.graphs.protocol import Outcome
from sparring.graphs.protocols.se_figures import se_figures
from sparring.graphs.protocols.se_making import Making
from sparring.graphs.protocols.se_pool import (
    UNMADE,
    Birth,
    Member,
    kept,
    made_of,
    member,
    recombinations,
    stalled,
    unmade,
)
from sparring.graphs.protocols.software_attempts import part, trajectory
from sparring.graphs.protocols.software_choice import Candidate
from sparring.graphs.protocols.software_evidence import told
from sparring.memory.journal import Journal

MEMBER, POOL = "member", "pool"
"""Kinds of the events of an attempt, and of a selection."""


def joined(old: list[Member], new: list[Member]) -> list[Member]:
    """Members in the order of their names; one that is delivered twice stays one."""
    return sorted({one["name"]: one for one in [*old, *new]}.values(), key=lambda one: natural(one["name"]))


class SeState(TypedDict, total=False):
    question: str
    birth: Birth
    """Of one attempt that is being made."""
    members: Annotated[list[Member], joined]
    births: list[Birth]
    """The attempts that are to be made next."""
    pool: list[str]
    """Names of those that stayed; before the first selection, of the pilots."""
    best: list[float]
    """The best score after each selection."""
    stopped: str
    outcome: Outcome


class SeAgent(Making):
    """Revision, recombination and selection of whole attempts."""

    name: ClassVar[str] = "se_agent"

    @property
    def max_calls(self) -> int:
        # Pilots have no strategist, the last generation no summary: nobody would read it.
        attempts, written = self.n * (2 + self.generations), self.n * (1 + self.generations)
        return attempts * (self.steps + self.valued) + 2 * written + self.choosing_calls

    @property
    def recursion_limit(self) -> int:
        return 2 * (self.generations + 2) + 10  # an attempt is one node, however long

    def figures(self, journal: Journal, run: str, episodes: Sequence[int] | None = None) -> dict[str, float]:
        return se_figures(journal, run, episodes)

    def graph(self) -> StateGraph[Any, Context, Any, Any]:
        graph = StateGraph(SeState, context_schema=Context)
        for node in (self.plan, self.make, self.choose):
            graph.add_node(node.__name__, node)
        graph.add_edge(START, "plan")
        graph.add_conditional_edges("plan", self._next, ["make", "choose"])
        graph.add_edge("make", "plan")
        graph.add_edge("choose", END)
        return graph

    # --- which attempts are made ----------------------------------------------------------------------

    async def plan(self, state: SeState, runtime: Runtime[Context]) -> SeState:
        """The attempts of the next phase, or the end."""
        members = state.get("members", [])
        if not members:
            names = [f"0.pilot.{number}" for number in range(self.n)]
            return {"births": [Birth(name=one, operator="pilot", parents=[]) for one in names], "best": []}
        capped = any(one["capped"] for one in members)
        if "pool" not in state and not capped:
            pilots = [one["name"] for one in members]
            revised = [
                Birth(name=f"0.revise.{number}", operator="revise", parents=[one])
                for number, one in enumerate(pilots)
            ]
            return {"births": revised, "pool": pilots}
        return await self._select(state, runtime.context, capped)

    async def _select(self, state: SeState, context: Context, capped: bool) -> SeState:
        """Who stays, and whether anybody is to be recombined."""
        among = {*state.get("pool", []), *(one["name"] for one in state["births"])}
        pool = [one for one in made_of(state["members"]) if one["name"] in among]
        chosen = kept(pool, self.n)
        best = [*state["best"], chosen[0]["score"]]
        generation, stopped = len(best) - 1, ""
        if capped:
            stopped = "capped"
        elif generation >= self.generations:
            stopped = "generations"
        elif stalled(best, self.epsilon) >= self.patience:
            stopped = "converged"
        names = [one["name"] for one in chosen]
        scores = {one["name"]: one["score"] for one in pool}
        told_so = {"scores": scores, "kept": names, "best": best[-1], "stopped": stopped}
        await context.episode.event(POOL, str(generation), told_so)
        births = [] if stopped else recombinations(chosen, self.n, generation + 1)
        return {"pool": names, "best": best, "births": births, "stopped": stopped}

    def _next(self, state: SeState) -> list[Send] | str:
        if state.get("stopped"):
            return "choose"
        members = {one["name"]: one for one in state.get("members", [])}
        return [
            Send(
                "make",
                {
                    "question": state["question"],
                    "birth": birth,
                    "members": [members[name] for name in birth["parents"]],
                },
            )
            for birth in state["births"]
        ]

    # --- one attempt ----------------------------------------------------------------------------------

    async def make(self, state: SeState, runtime: Runtime[Context]) -> SeState:
        """One attempt: its strategy, what came of it, its summary and its score."""
        context, question, birth = runtime.context, state["question"], state["birth"]
        name, known = birth["name"], context.episode.event_payload(MEMBER, birth["name"])
        if known is not None:  # it is decided: what it took counts, and nobody is asked again
            context.recall([f"strategy/{name}"])
            part(context, name).recall(["summary", "value"])
            return {"members": [await self._again(context, question, birth, known)]}
        strategy, why, capped = await self.strategy(context, question, birth, state.get("members", []))
        made: dict[str, Any] = {**birth, "strategy": strategy, "why": why, "capped": capped}
        attempt = unmade(name)
        if strategy is not None:
            attempt = await self.attempt(context, question, name, strategy)
            made |= await self.told_of_it(context, question, birth, attempt)
        kept_event = await context.episode.event(MEMBER, name, made)
        return {"members": [member(attempt, kept_event)]}

    async def _again(self, context: Context, question: str, birth: Birth, known: dict[str, Any]) -> Member:
        if known["strategy"] is None:
            return member(unmade(birth["name"]), known)
        return member(await self.attempt(context, question, birth["name"], known["strategy"]), known)

    # --- the end --------------------------------------------------------------------------------------

    async def choose(self, state: SeState, runtime: Runtime[Context]) -> SeState:
        """One of the patches that stayed."""
        context, members = runtime.context, {one["name"]: one for one in state["members"]}
        candidates = [
            Candidate(
                name=name,
                patch=members[name]["attempt"]["patch"],
                evidence=told(trajectory(context, members[name]["attempt"])),
                value=members[name]["score"],
            )
            for name in state["pool"]
            if members[name]["attempt"]["patch"]
        ]
        decision = await self.decide(context, state["question"], candidates)
        capped = next((one["capped"] for one in members.values() if one["capped"]), decision["capped"])
        detail = {
            "members": [self._row(one) for one in members.values()],
            "kept": state["pool"],
            "best": state["best"],
            "stopped": state["stopped"],
            "capped": capped,
        }
        return {"outcome": self.outcome(decision, candidates, detail)}

    def _row(self, one: Member) -> dict[str, Any]:
        """A member, as the outcome tells of it."""
        attempt = one["attempt"]
        asked = attempt["exit_status"] != UNMADE and self.read_on(one["name"])
        return {
            "name": one["name"],
            "operator": one["operator"],
            "parents": one["parents"],
            "score": one["score"],
            "value": one["value"],
            "exit_status": attempt["exit_status"],
            "steps": attempt["steps"],
            "summary": ("unreadable" if one["summary"] is None else "read") if asked else "not asked",
        }

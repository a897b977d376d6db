"""Methods side by side: one pool of samples of each question, scored once, and every method on top of it.

    1. Sample: n solutions of one prompt, and, for votes that cost as much as the dearest method, more.
    2. Score the n by what the methods need, each scorer once: outcome, process, self-certainty.
    3. Every method chooses or makes an answer, side by side; nobody asks for a sample or a score twice.

A method's answer and whether it is right are an event (`method`); the episode's own answer is that of the
first method that is named. What a method costs is read from the journal (`graphs.comparison`): the samples it
took, what scored them, its own turns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, ClassVar, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Send
from pydantic import Field, model_validator

from sparring.agents.parsing import statement
from sparring.agents.roles import Role
from sparring.errors import UserError
from sparring.graphs.context import Context
from sparring.graphs.protocol import Outcome, Protocol
from sparring.graphs.scorers.base import Chain, Judgement, Scorer, majority_of, make_scorer, scored
from sparring.graphs.selection.base import Method, Need, Pool, make_methods
from sparring.memory.journal import Journal
from sparring.memory.records import TaskRecord

SOLVER = "solver"


class Made(TypedDict):
    """What a method came to."""

    label: str
    answer: str | None
    right: bool | None
    detail: dict[str, Any]


def by_label(old: list[Made], new: list[Made]) -> list[Made]:
    return list({made["label"]: made for made in [*old, *new]}.values())


class CompareState(TypedDict, total=False):
    question: str
    chains: list[dict[str, Any]]
    label: str
    """Only in a state sent to `choose`."""
    made: Annotated[list[Made], by_label]
    outcome: Outcome


class Compare(Protocol):
    """Methods on one pool."""

    name: ClassVar[str] = "compare"

    n: int = Field(default=8, ge=1)
    """Samples of a question, which methods choose from and scorers score."""
    pool: int | None = Field(default=None, ge=1)
    """Samples drawn in all, where the vote of equal calls needs more; None: `n`."""
    methods: tuple[str | dict[str, Any], ...] = ("single", "majority")
    """Names, or mappings of `method`, its options and a `label`."""
    outcome: str | None = None
    """Outcome scorer, where a method needs one."""
    process: str | None = None
    """Process scorer, where a method needs one."""
    answer: str = "line"
    """Answer format: a name in `agents.parsing.ANSWER_FORMATS`."""

    @model_validator(mode="after")
    def _served(self) -> Compare:
        if not self.methods:
            raise ValueError("name at least one method")
        if self.drawn < self.n:
            raise ValueError(f"a pool of {self.pool} samples is less than the {self.n} of `n`")
        for label, method in self.chosen.items():
            for need in method.needs:
                if need != "certainty" and getattr(self, need) is None:
                    raise ValueError(f"method `{label}` needs {need} scores: give `{need}`, a scorer")
            if method.samples is not None and method.samples > self.n:
                raise ValueError(f"method `{label}` takes {method.samples} samples of a pool of {self.n}")
        return self

    @property
    def drawn(self) -> int:
        """Samples of a question in all."""
        return self.n if self.pool is None else self.pool

    @cached_property
    def chosen(self) -> dict[str, Method]:
        """Label -> method."""
        try:
            return make_methods(self.methods)
        except UserError as error:
            raise ValueError(str(error)) from None

    @cached_property
    def scorers(self) -> dict[Need, Scorer]:
        """What has to be known of the samples -> who says it; what no method needs is not asked."""
        needed = {need for method in self.chosen.values() for need in method.needs}
        specs: dict[Need, str | None] = {"outcome": self.outcome, "process": self.process}
        found: dict[Need, Scorer] = {
            need: make_scorer(spec, "outcome" if need == "outcome" else "process")
            for need, spec in specs.items()
            if need in needed and spec is not None
        }
        return found | ({"certainty": make_scorer("self_certainty")} if "certainty" in needed else {})

    def seats(self) -> dict[str, Role]:
        seats = {SOLVER: self.role(SOLVER, {"question": statement(self.answer)}, ["question", "persona"])}
        for label, method in self.chosen.items():
            for seat, role in method.seats(self, self.answer).items():
                old, new = (_forms(one) for one in (seats.get(seat, role), role))
                if old != new:
                    raise UserError(
                        f"method `{label}` would have `{seat}` reply as {new}, another one as {old}, and "
                        "they share what it says: give both the same options"
                    )
                seats[seat] = role
        for scorer in self.scorers.values():
            seats |= scorer.seats(self)
        return seats

    def engines(self) -> dict[str, str]:
        return {seat: spec for scorer in self.scorers.values() for seat, spec in scorer.engines().items()}

    def accepts(self, task: TaskRecord) -> None:
        for scorer in self.scorers.values():
            scorer.accepts(task)

    @property
    def max_calls(self) -> int:
        chains = self.n + sum(method.scored(self.n) for method in self.chosen.values())
        scoring = sum(scorer.calls(chains, 64) for scorer in self.scorers.values())
        return self.drawn + scoring + sum(method.calls(self.n) for method in self.chosen.values())

    def facts(self, journal: Journal, run: str) -> Mapping[str, Any] | None:
        """What each method has to know, by label."""
        scored_by = {"outcome": self.outcome, "process": self.process}
        asked = {label: method.facts(journal, scored_by) for label, method in self.chosen.items()}
        return {label: known for label, known in asked.items() if known is not None} or None

    def graph(self) -> StateGraph[Any, Context, Any, Any]:
        graph = StateGraph(CompareState, context_schema=Context)
        graph.add_node("sample", self.sample)
        graph.add_node("choose", self.choose)
        graph.add_node("close", self.close)
        graph.add_edge(START, "sample")
        graph.add_conditional_edges("sample", self._methods, ["choose"])
        graph.add_edge("choose", "close")
        graph.add_edge("close", END)
        return graph

    def _methods(self, state: CompareState) -> list[Send]:
        return [Send("choose", {**state, "label": label}) for label in self.chosen]

    async def sample(self, state: CompareState, runtime: Runtime[Context]) -> CompareState:
        """The pool, scored by whoever is needed."""
        context = runtime.context
        keys = [f"sample/{place}" for place in range(self.drawn)]
        variables = {"question": state["question"], "persona": ""}
        turns = await context.sample(SOLVER, keys, "question", variables)
        chains = [Chain.of(turn, state["question"]) for turn in turns[: self.n]]
        await self._scores(context, chains)
        fields = ("turn", "key", "question", "text", "answer")
        return {"chains": [{name: getattr(chain, name) for name in fields} for chain in chains]}

    async def _scores(self, context: Context, chains: list[Chain]) -> dict[Need, dict[str, Judgement]]:
        majority = await majority_of(context, chains)
        asked: dict[Scorer, int] = {}  # two needs may have one scorer
        for need, scorer in self.scorers.items():
            asked[scorer] = max(asked.get(scorer, 0), self._scope(need))
        judged = await asyncio.gather(
            *(scored(context, scorer, chains[:upto], majority) for scorer, upto in asked.items())
        )
        said = dict(zip(asked, judged, strict=True))
        keys = [chain.key for chain in chains]
        return {need: dict(zip(keys, said[one], strict=False)) for need, one in self.scorers.items()}

    def _scope(self, need: Need) -> int:
        """How many of the samples have to be scored: as many as the method takes that takes most."""
        return max(method.samples or self.n for method in self.chosen.values() if need in method.needs)

    async def choose(self, state: CompareState, runtime: Runtime[Context]) -> CompareState:
        """One method; the state says which."""
        context, label = runtime.context, state["label"]
        method, kept = self.chosen[label], context.episode.event_payload("method", label)
        if kept is None:
            chains = [Chain(**chain) for chain in state["chains"]]
            scores = await self._scores(context, chains)

            async def rate(need: Need, more: Sequence[Chain], majority: str | None) -> list[Judgement]:
                return await scored(context, self.scorers[need], more, majority)

            pool = Pool(state["question"], tuple(chains), scores, rate).first(method.samples)
            choice = await method.choose(pool, context, label)
            known = context.task is not None and context.task.answer is not None
            right = await context.right(choice.answer) if known else None
            payload = {"answer": choice.answer, "right": right, "detail": dict(choice.detail)}
            kept = await context.episode.event("method", label, payload)
        made = Made(label=label, answer=kept["answer"], right=kept["right"], detail=kept["detail"])
        return {"made": [made]}

    async def close(self, state: CompareState, runtime: Runtime[Context]) -> CompareState:
        made = {one["label"]: one for one in state["made"]}
        first = made[next(iter(self.chosen))]
        answers = {label: made[label]["answer"] for label in self.chosen}
        right = {label: made[label]["right"] for label in self.chosen}
        return {"outcome": Outcome(answer=first["answer"], detail={"answers": answers, "right": right})}


def _forms(role: Role) -> str:
    """The formats that a role's replies have."""
    return ", ".join(sorted(parser.name for parser in role.parsers.values()))

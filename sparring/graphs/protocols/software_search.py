"""SWE-Search (Antoniades et al. 2410.20285): a tree of steps, values that guide it, a debate over patches.

    1. Select: of all nodes that may be expanded the one with the highest UCT (`software_tree`).
    2. Expand: the engineer says one command, which runs in the node's tree; where the node has children, the
       commands that made them, their values and explanations are told first (hindsight feedback).
    3. Value: the valuer reads issue, work and patch and gives an integer in -100..100 with an explanation.
       It is backed up to the root. Go to 1, until patches, nodes or the budget are used up.
    4. Choose among the submitted patches, at most five different ones, by a debate (`Debate`).

What is not as in the paper, or not said there:

    the terms of depth are the same for all children of a node; so all nodes are compared, not one level
    after another, and d counts from 1, the step that would be made at the root
    values are scaled to 0..1, or C = 1.41 would mean nothing beside -100..100
    its settings of alpha, beta, gamma and of the value below which a branch is abandoned are not given: the
    defaults here are ours and were not measured
    states and actions are typed there (Search, Plan, Edit, ...), with a value prompt for each; here an action
    is a shell command, and the value prompt knows three cases: submitted, changed, unchanged
    no value is given to a reply without a command, to a command that a sibling has run, or to one that left
    too large a tree; such a node counts as a visit and has no children
    an unreadable value is none: its node takes the mean of the nearest node above that has one
    the prompt of a debater shows what commands printed beside the patches

The released code scores nodes by a dozen bonuses on the scale of -100..100, by which the visits are without
effect, and never holds its debate; none of that is here.

Turns are `node/PLACE/act` and `node/PLACE/value`; events `node` hold what a step's event holds, the patch
where it changed, and `ends`. A node begins at its parent's tree alone: `.git` is as at the base commit.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from sparring.agents.roles import Role
from sparring.errors import BudgetExceeded
from sparring.graphs.context import Context
from sparring.graphs.protocol import Outcome
from sparring.graphs.protocols.software_choice import Candidate, Choosing, worth
from sparring.graphs.protocols.software_evidence import HIGH, LOW, VALUER, told, valued, valuer
from sparring.graphs.protocols.software_figures import choice_figures
from sparring.graphs.protocols.software_nodes import Nodes, SearchNode, shape, steps_to, tried
from sparring.graphs.protocols.software_place import (
    LARGEST_PATCH,
    SEAT,
    SUBMITTED,
    Made,
    Spot,
    fault,
    nothing,
    since,
)
from sparring.graphs.protocols.software_tree import (
    ROOT,
    VALUED,
    Rule,
    children,
    depth,
    parent,
    selected,
)
from sparring.memory.journal import Journal
from sparring.memory.records import Turn

NODE = "node"
"""Kind of the event of a node."""
STOP = "stop"
"""Kind of the event that ends the search."""


class SearchState(TypedDict, total=False):
    question: str
    nodes: dict[str, SearchNode]
    at: str
    """The node that is expanded."""
    place: str
    """The node that was made of it."""
    elapsed: float
    """Seconds until `mark`, over all processes."""
    mark: float
    stopped: str
    reason: str
    outcome: Outcome


class SoftwareSearch(Choosing):
    """A search over steps."""

    name: ClassVar[str] = "software_search"

    expansions: int = Field(default=100, ge=1)
    """Nodes that are made, failures and duplicates included."""
    depth: int = Field(default=20, ge=1)
    """Commands from the root to a leaf."""
    children: int = Field(default=3, ge=1)
    """Of one node, at most."""
    finished: int = Field(default=5, ge=1)
    """Submitted patches that end the search."""
    reward: int | None = Field(default=None, ge=LOW, le=HIGH)
    """A submitted patch with this value or a higher one ends the search."""
    threshold: int = Field(default=0, ge=LOW, le=HIGH)
    """Three values under it, one after another, end a branch."""
    exploration: float = Field(default=1.41, ge=0)
    """C of the score (`software_tree.Rule`)."""
    alpha: float = Field(default=0.25, ge=0)
    """Weight of the bonus for early steps."""
    beta: float = Field(default=1.0, ge=0)
    """How fast that bonus fades with depth."""
    gamma: float = Field(default=0.05, ge=0)
    """Weight of what depth costs."""
    feedback: bool = True
    """Whether the engineer reads what came of a node's other children."""
    select: Literal["judge", "debate", "value", "majority"] = "debate"
    """Who chooses among the submitted patches."""

    @property
    def rule(self) -> Rule:
        """How the next node is selected."""
        return Rule(**{name: getattr(self, name) for name in Rule.__dataclass_fields__})

    def seats(self) -> dict[str, Role]:
        engineer = self.engineer(["tried"], shipped="searcher")
        return {SEAT: engineer, VALUER: valuer(self), **self.choosing_seats()}

    @property
    def max_calls(self) -> int:
        return 2 * self.expansions + self.choosing_calls

    @property
    def recursion_limit(self) -> int:
        return 3 * self.expansions + 10

    def figures(self, journal: Journal, run: str, episodes: Sequence[int] | None = None) -> dict[str, float]:
        return choice_figures(journal, run, episodes)

    def graph(self) -> StateGraph[Any, Context, Any, Any]:
        graph = StateGraph(SearchState, context_schema=Context)
        for node in (self.begin, self.pick, self.expand, self.value, self.choose):
            graph.add_node(node.__name__, node)
        graph.add_edge(START, "begin")
        graph.add_edge("begin", "pick")
        for name, then in (("pick", "expand"), ("expand", "value")):
            graph.add_conditional_edges(name, self.over, {True: "choose", False: then})
        graph.add_edge("value", "pick")
        graph.add_edge("choose", END)
        return graph

    def over(self, state: SearchState) -> bool:
        """Whether the search has come to its end."""
        return bool(state.get("stopped"))

    async def begin(self, state: SearchState, runtime: Runtime[Context]) -> SearchState:
        """The root: the tree at the base commit."""
        made: Made = {"tree": await self.base(runtime.context)}
        root = SearchNode(place=ROOT, ends=None, value=None, made=made, why="", patch="", said=[])
        return {"nodes": {ROOT: root}, "elapsed": 0.0, "mark": time.monotonic()}

    async def pick(self, state: SearchState, runtime: Runtime[Context]) -> SearchState:
        """The node to be expanded, unless the search is over."""
        context, nodes = runtime.context, state["nodes"]
        if state.get("stopped"):
            return {}
        if (why := self._enough(nodes)) is not None:
            return await self._stop(context, nodes, *why)
        if (kept := _end(context, nodes)) is not None:
            return await self._stop(context, nodes, kept["stopped"], kept["reason"])
        if (at := selected(nodes, self.rule)) is None:
            return await self._stop(context, nodes, "exhausted", "no node may be expanded")
        place, spent = f"{at}.{len(children(nodes, at))}", state["elapsed"] + since(state["mark"])
        known = context.episode.event_payload(NODE, place) is not None
        if self.seconds is not None and spent >= self.seconds and not known:
            reason = f"the search took {spent:.0f} s of {self.seconds:g}"
            return await self._stop(context, nodes, "seconds", reason)
        return {"at": at, "place": place}

    def _enough(self, nodes: Nodes) -> tuple[str, str] | None:
        """Why the tree is large or good enough."""
        ready = [one for one in nodes.values() if one["ends"] == SUBMITTED and one["patch"]]
        if len(ready) >= self.finished:
            return "finished", f"{len(ready)} patches were submitted"
        if self.reward is not None and any(worth(one["value"]) >= self.reward for one in ready):
            return "reward", f"a patch has a value of {self.reward} or more"
        if len(nodes) - 1 >= self.expansions:
            return "expansions", f"{self.expansions} nodes were made"
        return None

    async def _stop(self, context: Context, nodes: Nodes, stopped: str, reason: str) -> SearchState:
        """The end of the search, journaled: another process may have more time, and must not go on."""
        end = {"stopped": stopped, "reason": reason, "nodes": len(nodes) - 1}
        kept = await context.episode.event(STOP, "0", end)
        return {"stopped": kept["stopped"], "reason": kept["reason"]}

    async def expand(self, state: SearchState, runtime: Runtime[Context]) -> SearchState:
        """One more child: what the engineer says there, and what comes of it."""
        context, nodes, place = runtime.context, state["nodes"], state["place"]
        above = nodes[state["at"]]
        occasion, variables = "task", self.task_shown(state["question"], self.depth)
        if above["place"] != ROOT:
            occasion, variables = self.shown(above["made"], self.depth - depth(above["place"]))
        variables["tried"] = tried(nodes, above["place"]) if self.feedback else []
        try:
            said, turn = await self.speak(context, f"node/{place}/act", occasion, variables, above["said"])
        except BudgetExceeded as reached:
            return await self._stop(context, nodes, "capped", str(reached))
        made = context.episode.event_payload(NODE, place)
        if made is None:
            spent = state["elapsed"] + since(state["mark"])
            made = await self._made(context, nodes, place, turn, spent)
            made |= {"number": len(nodes) - 1, "elapsed": state["elapsed"] + since(state["mark"])}
            made = await context.episode.event(NODE, place, made)
        patch = above["patch"] if made["patch"] is None else made["patch"]
        node = SearchNode(
            place=place, ends=made["ends"], value=None, made=made, why="", patch=patch, said=said
        )
        return {"nodes": {**nodes, place: node}, "elapsed": made["elapsed"], "mark": time.monotonic()}

    async def _made(self, context: Context, nodes: Nodes, place: str, turn: Turn, spent: float) -> Made:
        """Do what the engineer said in the parent's tree."""
        at = parent(place) or ROOT
        tree, base = nodes[at]["made"]["tree"], nodes[ROOT]["made"]["tree"]
        wrong = fault(turn)
        if wrong is not None or turn.parsed is None:
            return {**nothing(wrong or turn.status, tree), "ends": "mistake", "patch": None}
        command = turn.parsed["command"]
        for one in children(nodes, at):
            if (nodes[one]["made"]["action"] or "").strip() == command.strip():
                same = {"action": command, "error": f"the command of node {one}", "tree": tree}
                return {**same, "ends": "duplicate", "patch": None}
        before = steps_to(nodes, at)
        made = await self.work(context, command, Spot(base, tree, lambda: before), spent, anew=True)
        if made["tree"] is None:
            return {**made, "ends": "oversized", "patch": None}
        made |= {"ends": SUBMITTED if made["submitted"] else None, "patch": None}
        if made["tree"] != tree:
            made["patch"] = await self.patch(context, Spot(base, made["tree"], lambda: [*before, made]))
            if len(made["patch"]) > LARGEST_PATCH:
                error = f"the patch has {len(made['patch'])} characters"
                made |= {"ends": "oversized", "error": error, "patch": None}
        return made

    async def value(self, state: SearchState, runtime: Runtime[Context]) -> SearchState:
        """What the valuer says of the new node, where there is something to be said."""
        context, nodes, place = runtime.context, state["nodes"], state["place"]
        node = nodes[place]
        asked_before = context.episode.turn(f"node/{place}/value") is not None
        if node["ends"] not in VALUED or (_end(context, nodes) is not None and not asked_before):
            return {}
        steps = steps_to(nodes, place)
        turn, before = context.episode.turn(f"node/{place}/act"), nodes[state["at"]]["patch"]
        asked = (context, f"node/{place}/value", state["question"], steps, node["patch"])
        try:
            value, why = await valued(*asked, turn=turn, before=before)
        except BudgetExceeded as reached:
            return await self._stop(context, nodes, "capped", str(reached))
        return {"nodes": {**nodes, place: {**node, "value": value, "why": why}}}

    async def choose(self, state: SearchState, runtime: Runtime[Context]) -> SearchState:
        """The submitted patches; where there is none, the best valued of those that were not submitted."""
        context, nodes = runtime.context, state["nodes"]
        await context.equipment.leave(context.episode.id)
        changed = [one for one in nodes.values() if one["patch"] and one["ends"] in VALUED]
        ready = [one for one in changed if one["ends"] == SUBMITTED]
        standing = ready or sorted(changed, key=lambda one: worth(one["value"]))[-1:]
        candidates = [
            Candidate(
                name=one["place"],
                patch=one["patch"],
                evidence=told(steps_to(nodes, one["place"])),
                value=one["value"],
            )
            for one in standing
        ]
        decision = await self.decide(context, state["question"], candidates)
        capped = state["reason"] if state["stopped"] == "capped" else decision["capped"]
        detail = {"stopped": state["stopped"], "reason": state["reason"], "submitted": len(ready)}
        detail |= {"capped": capped, **shape(nodes, self.threshold)}
        return {"outcome": self.outcome(decision, candidates, detail)}


def _end(context: Context, nodes: Nodes) -> dict[str, Any] | None:
    """The end of the search, where an earlier process came to it with these nodes."""
    kept: dict[str, Any] | None = context.episode.event_payload(STOP, "0")
    return kept if kept is not None and len(nodes) - 1 >= kept["nodes"] else None

"""CoMAS's discussion (Xue et al. 2510.08529): agents solve, evaluate and score, and nobody has the answer.

    1. Solve. In every round agents write solutions; they read some of what was said before.
    2. Evaluate. Other agents, or the same, look for what is wrong with each solution.
    3. Score. An agent reads a solution and one evaluation of it and gives an integer. Scores become
       rewards (`rewards/comas`) and are never shown to anybody.

`parallel` is the released code: every agent solves in every round, all blind to each other, and from the
second round on they read the same few random slots of the round before. `sequential` is the paper
(eq. 3 to 5): one solver a round, who reads the last `horizon` rounds whole.

Where we differ, or the sources differ among themselves:

    evaluators read the solution alone, as in the code; in the paper also the discussion
                                                                     evaluators_read="discussion"
    reviewers are dealt within a discussion, evenly; the code deals them over its batch, which is a
    barrier; the paper draws each                                    assignment="uniform"
    a score needs exactly one tag; the code's reader is not known
    score tags in what a scorer reads, and verdicts in what a voter
    reads, are taken apart                                           never otherwise
    there is no final answer in CoMAS: the last round's solutions vote, for reports only
    the two ablations of the paper's section 4.4, as far as it describes them   ablation=...
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command, Send
from pydantic import Field, field_validator, model_validator

from sparring.agents.roles import Role
from sparring.agents.scores import without_tags
from sparring.errors import UserError
from sparring.graphs.aggregate import Ballot, aggregator
from sparring.graphs.context import Context
from sparring.graphs.protocol import Outcome, Protocol, voted
from sparring.graphs.protocols.debate_views import heard
from sparring.graphs.protocols.discuss_figures import discussion_figures
from sparring.graphs.protocols.discuss_roster import Assignment, Roster, deal, reviewers
from sparring.graphs.protocols.discuss_seats import (
    EVALUATOR,
    SCORER,
    SOLVER,
    Scale,
    contributor,
    judged,
    ordered,
    reviewer,
    to_be_scored,
)
from sparring.memory.journal import Journal


class Said(TypedDict):
    """A solution, an evaluation or a score; its turn's key is ROUND/solve/SLOT, ROUND/evaluate/SLOT/NTH or
    ROUND/score/SLOT/NTH."""

    round: int
    slot: int
    nth: int
    """Which evaluation of its solution; 0 of a solution."""
    seat: str
    text: str
    parsed: Any


def in_order(left: list[Said], right: list[Said]) -> list[Said]:
    """Reducer: one entry a place, in their order, whatever arrived first or twice."""
    known = {(said["round"], said["slot"], said["nth"]): said for said in [*left, *right]}
    return [known[place] for place in sorted(known)]


class DiscussState(TypedDict, total=False):
    """Plain JSON. What was said and how it was scored are two channels: no prompt is made of the second."""

    question: Any
    rosters: list[Roster]
    """Of the rounds that were begun."""
    place: tuple[int, int, int]
    """Only in a state sent to a speaker: round, slot and number of what it is to say."""
    solutions: Annotated[list[Said], in_order]
    evaluations: Annotated[list[Said], in_order]
    scores: Annotated[list[Said], in_order]
    outcome: Outcome


class Discuss(Protocol):
    """A discussion whose scores are rewards."""

    name: ClassVar[str] = "discuss"

    agents: int = Field(default=4, ge=1)
    """Who takes part; each has a seat for every role."""
    rounds: int = Field(default=2, ge=1)
    """Rounds of solutions."""
    schedule: Literal["parallel", "sequential"] = "parallel"
    """`parallel`: all solve in every round, as in the code; `sequential`: one does, as in the paper."""
    evaluations: int = Field(default=1, ge=0)
    """n, of each solution."""
    references: int = Field(default=2, ge=0)
    """parallel: slots of the round before that are read."""
    horizon: int = Field(default=2, ge=0)
    """sequential: kappa, rounds that are read."""
    assignment: Assignment = "balanced"
    """How roles are dealt (`discuss_roster`)."""
    evaluators_read: Literal["solution", "discussion"] = "solution"
    """What an evaluator sees beside the question."""
    scale: Scale = (1, 3)
    """Least and greatest score."""
    ablation: Literal["no_scoring"] | None = None
    """`no_scoring`: evaluators vote on solutions instead of criticising them, and nothing is scored. The
    other ablation is `evaluations: 0`: the scorer reads the solution alone. Both together: only solutions."""
    answer: str = "line"
    """Answer format of solutions."""

    _scale = field_validator("scale")(ordered)

    @model_validator(mode="after")
    def _possible(self) -> Discuss:
        if self.assignment == "no_self_review" and self.agents < 2:
            raise ValueError("`assignment: no_self_review` needs two agents or more")
        return self

    @property
    def slots(self) -> int:
        """Solutions a round."""
        return self.agents if self.schedule == "parallel" else 1

    @property
    def scored(self) -> bool:
        return self.ablation != "no_scoring"

    @property
    def max_calls(self) -> int:
        scores = max(self.evaluations, 1) if self.scored else 0
        return self.rounds * self.slots * (1 + self.evaluations + scores)

    def seats(self) -> dict[str, Role]:
        """Every agent has up to three seats, one a role: `solver.0`, `evaluator.0`, `scorer.0`."""
        seats: dict[str, Role] = {}
        for number in range(self.agents):
            seat = f"{SOLVER}.{number}"
            seats[seat] = contributor(self, seat, self.answer)
            for role, used in ((EVALUATOR, bool(self.evaluations)), (SCORER, self.scored)):
                if used:
                    seat = f"{role}.{number}"
                    seats[seat] = reviewer(self, seat, self.scale, votes=not self.scored)
        return seats

    def figures(self, journal: Journal, run: str, episodes: Sequence[int] | None = None) -> dict[str, float]:
        return discussion_figures(journal, run, episodes)

    def graph(self) -> StateGraph[Any, Context, Any, Any]:
        graph = StateGraph(DiscussState, context_schema=Context)
        steps = ["solve", *(["evaluate"] if self.evaluations else []), *(["score"] if self.scored else [])]
        graph.add_node("chair", self.chair, destinations=(*steps, "close"))
        graph.add_edge(START, "chair")
        for name in steps:
            graph.add_node(name, getattr(self, name))
            graph.add_edge(name, "chair")
        graph.add_node("close", self.close)
        graph.add_edge("close", END)
        return graph

    async def chair(self, state: DiscussState, runtime: Runtime[Context]) -> Command[Any]:
        """Give the floor: evaluators, then the scorers beside the next round's solvers, at last the close."""
        if state.get("outcome"):  # only a caller's own checkpointer can bring this back
            raise UserError("this thread holds a finished discussion: ask a new question in one of its own")
        rosters = state.get("rosters", [])
        number = len(rosters) - 1
        if rosters and (waiting := _waiting(state, "evaluate", rosters[-1]["evaluators"])):
            return Command(goto=waiting)
        scoring = _waiting(state, "score", rosters[-1]["scorers"]) if rosters else []
        if number + 1 == self.rounds:
            return Command(goto=scoring or "close")
        episode = runtime.context.episode
        opened: Any = await episode.event("roster", str(number + 1), self._roster(episode.id, number + 1))
        now: DiscussState = {**state, "rosters": [*rosters, opened]}
        solving = _waiting(now, "solve", [[agent] for agent in opened["solvers"]])
        return Command(goto=[*solving, *scoring], update={"rosters": now["rosters"]})

    def _roster(self, episode: str, number: int) -> dict[str, Any]:
        """Of a round; the same in every replay."""
        reviewing = self.agents, self.evaluations, self.scored, self.assignment
        if self.schedule == "sequential":  # one deal over all rounds, each of a single slot
            rng = random.Random(episode)
            how: Assignment = "uniform" if self.assignment == "uniform" else "balanced"
            turns = deal([()] * self.rounds, self.agents, how, rng)
            evaluators, scorers = ([rows[number]] for rows in reviewers(turns, *reviewing, rng))
            solvers, background = [turns[number]], list[int]()
        else:
            rng = random.Random(f"{episode}/{number}")
            solvers = list(range(self.agents))
            background = rng.sample(range(self.slots), min(self.references, self.slots)) if number else []
            evaluators, scorers = reviewers(solvers, *reviewing, rng)
        return dict(Roster(solvers=solvers, evaluators=evaluators, scorers=scorers, background=background))

    def _history(self, state: DiscussState, number: int) -> list[dict[str, Any]]:
        """h_q: what was said before a round, as far as it is read, without any score."""
        if self.schedule == "parallel":
            read = [(number - 1, slot) for slot in state["rosters"][number]["background"]]
        else:
            read = [(earlier, 0) for earlier in range(max(0, number - self.horizon), number)]
        return [
            {
                "solution": _solution(state, *place),
                "evaluations": [said["text"] for said in _at(state, "evaluations", *place)],
            }
            for place in read
        ]

    async def solve(self, state: DiscussState, runtime: Runtime[Context]) -> DiscussState:
        """s_i from (q, h_q), eq. 3."""
        number, slot, _ = state["place"]
        agent = state["rosters"][number]["solvers"][slot]
        shown = {"question": state["question"], "discussion": self._history(state, number)}
        seat, key = f"{SOLVER}.{agent}", f"{number}/solve/{slot}"
        return {"solutions": [await self._say(state, runtime, seat, key, "solve", shown)]}

    async def evaluate(self, state: DiscussState, runtime: Runtime[Context]) -> DiscussState:
        """e_ij from (q, s_i), and h_q in the paper, eq. 4."""
        number, slot, nth = state["place"]
        agent = state["rosters"][number]["evaluators"][slot][nth]
        whole = self.evaluators_read == "discussion"
        solution = _solution(state, number, slot)
        shown = {
            "question": state["question"],
            "discussion": self._history(state, number) if whole else [],
            "solution": solution if self.scored else without_tags(solution, "answer"),
        }
        seat, key = f"{EVALUATOR}.{agent}", f"{number}/evaluate/{slot}/{nth}"
        occasion = "evaluate" if self.scored else "vote"
        return {"evaluations": [await self._say(state, runtime, seat, key, occasion, shown)]}

    async def score(self, state: DiscussState, runtime: Runtime[Context]) -> DiscussState:
        """tau_ij from (q, s_i, e_ij) and never from h_q, eq. 5."""
        number, slot, nth = state["place"]
        agent = state["rosters"][number]["scorers"][slot][nth]
        evaluations = _at(state, "evaluations", number, slot)
        solution = _solution(state, number, slot)
        evaluation = evaluations[nth]["text"] if evaluations else ""
        shown = to_be_scored(state["question"], solution, evaluation, self.scale)
        seat, key = f"{SCORER}.{agent}", f"{number}/score/{slot}/{nth}"
        return {"scores": [await self._say(state, runtime, seat, key, "score", shown)]}

    @staticmethod
    async def _say(
        state: DiscussState,
        runtime: Runtime[Context],
        seat: str,
        key: str,
        occasion: str,
        shown: dict[str, Any],
    ) -> Said:
        turn = await runtime.context.act(seat, key, occasion, shown)
        number, slot, nth = state["place"]
        parsed = turn.parsed if occasion == "solve" else judged(turn)
        return Said(round=number, slot=slot, nth=nth, seat=seat, text=heard(turn).strip(), parsed=parsed)

    async def close(self, state: DiscussState, runtime: Runtime[Context]) -> DiscussState:
        """A vote of the last round, and which solutions were right: for reports, nobody is paid by it."""
        context, solutions = runtime.context, state["solutions"]
        answers = [(said["parsed"] or {}).get("answer") for said in solutions]
        ballots = [
            Ballot(str(said["slot"]), answer, said["text"])
            for said, answer in zip(solutions, answers, strict=True)
            if said["round"] == self.rounds - 1
        ]
        vote = await aggregator("majority")(ballots, context.equal, None)
        right: list[bool | None] = [None] * len(answers)
        if context.task is not None and context.task.answer is not None:
            right = list(await asyncio.gather(*(context.right(answer) for answer in answers)))
        outcome = voted(vote)
        outcome["detail"] = {
            **outcome["detail"],
            "solutions": [
                self._judged(state, said, answer, sound)
                for said, answer, sound in zip(solutions, answers, right, strict=True)
            ],
        }
        kept: Any = await context.episode.event("vote", "0", dict(outcome))
        return {"outcome": kept}

    def _judged(
        self, state: DiscussState, said: Said, answer: str | None, right: bool | None
    ) -> dict[str, Any]:
        """A solution and what was made of it, with seats, as reports read it."""
        place = said["round"], said["slot"]
        found = {"round": place[0], "slot": place[1], "seat": said["seat"], "answer": answer, "right": right}
        if not self.scored:
            votes = _at(state, "evaluations", *place)
            return {**found, "votes": [(vote["parsed"] or {}).get("correct") for vote in votes]}
        scores = [(said["parsed"] or {}).get("score") for said in _at(state, "scores", *place)]
        return {**found, "scores": scores, "scale": list(self.scale)}


def _at(state: DiscussState, channel: Literal["evaluations", "scores"], number: int, slot: int) -> list[Said]:
    """What was said about a solution, in order."""
    return [said for said in state.get(channel, []) if (said["round"], said["slot"]) == (number, slot)]


def _solution(state: DiscussState, number: int, slot: int) -> str:
    return next(
        said["text"] for said in state["solutions"] if (said["round"], said["slot"]) == (number, slot)
    )


CHANNEL: dict[str, Literal["solutions", "evaluations", "scores"]] = {
    "solve": "solutions",
    "evaluate": "evaluations",
    "score": "scores",
}
"""Node -> where it writes."""


def _waiting(state: DiscussState, node: str, cast: list[list[int]]) -> list[Send]:
    """Who of the round under way has not spoken yet; `cast` is (slots, agents)."""
    number = len(state["rosters"]) - 1
    said = {(s["round"], s["slot"], s["nth"]) for s in state.get(CHANNEL[node], [])}
    places = [(number, slot, nth) for slot, row in enumerate(cast) for nth in range(len(row))]
    return [Send(node, {**state, "place": place}) for place in places if place not in said]

"""Debate: MAD, Du et al. and ReConcile as one state machine whose policy is data.

    mad        Liang et al. 2305.19118: an affirmative and a negative side speak in turn, a moderator
               looks for a solution after every round, a judge extracts the answer if none was found.
    du         Du et al. 2305.14325: n peers answer, then update after reading the others' answers of
               the round before, all at once; the majority of the last round wins.
    reconcile  Chen et al. 2309.13007: peers state a confidence and discuss grouped answers until they
               agree; confidences are rescaled and vote.

The recipe, whatever the policy:

    1. Every speaker opens (together, or in turn reading those before).
    2. The referee looks: a moderator's verdict, a consensus check, or nothing.
    3. Unless it stops the debate or the rounds are over, every speaker replies; go to 2.
    4. Close: the statements of the last round vote, or a judge extracts the answer.

A reply that does not parse is never evaluated, repaired or guessed at: the others read its text, it has
no answer, does not vote and bars a consensus. An unreadable judge gives no answer, an unreadable verdict
lets the debate go on, and a preference without an answer sends it to the judge.

What the released codes do otherwise can be had by name, where it makes sense:

    MAD stops on any answer of the moderator, its logs on preference    stop="nonempty"
    MAD's judge reads round 1 only; here it reads all                   judge_sees="first"
    Du's first code read earlier answers of the same round              order="in_turn"
    ReConcile discusses only the two largest groups                     groups_shown=2
    ReConcile takes a missing confidence for 0, an invalid answer for a random one;
    here both are parse errors                                          never
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command, Send

from sparring.errors import UserError
from sparring.graphs.aggregate import Ballot, aggregator
from sparring.graphs.context import Context
from sparring.graphs.protocol import Outcome, voted
from sparring.graphs.protocols.debate_figures import debate_figures
from sparring.graphs.protocols.debate_policy import PRESETS, Policy
from sparring.graphs.protocols.debate_views import (
    DebateState,
    Statement,
    conversation,
    groups_of,
    heard,
    last_words,
    others_of,
)
from sparring.memory.journal import Journal
from sparring.tools.equality import agroup

__all__ = ["PRESETS", "Debate"]


class Debate(Policy):
    """Agents argue about a question."""

    def graph(self) -> StateGraph[Any, Context, Any, Any]:
        graph = StateGraph(DebateState, context_schema=Context)
        between = {"moderate": self.referee == "moderator", "summarise": self.summarises}
        steps = ["speak", *(name for name, used in between.items() if used)]
        graph.add_node("chair", self.chair, destinations=(*steps, self.close))
        graph.add_edge(START, "chair")
        for name in steps:
            graph.add_node(name, getattr(self, name))
            graph.add_edge(name, "chair")
        graph.add_node(self.close, getattr(self, self.close))
        graph.add_edge(self.close, END)
        return graph

    def figures(self, journal: Journal, run: str, episodes: Sequence[int] | None = None) -> dict[str, float]:
        return debate_figures(journal, run, self.speakers, episodes)

    async def chair(self, state: DebateState, runtime: Runtime[Context]) -> Command[Any]:
        """Give the floor: the next speaker, the referee, the next round, or the close."""
        if state.get("outcome"):  # only a caller's own checkpointer can bring this back
            raise UserError("this thread holds a finished debate: ask a new question in a thread of its own")
        number = state.get("round", 0)
        said = {s["seat"] for s in last_words(state, number)}
        if waiting := [seat for seat in self.speakers if seat not in said]:
            return self._floor(state, waiting, number)
        if self.referee == "moderator" and len(state.get("verdicts", [])) <= number:
            return Command(goto="moderate")
        if (self.confidence or self.referee == "consensus") and len(state.get("classes", [])) <= number:
            state = {**state, "classes": await self._classes(state, runtime.context, number)}
        stopped = self._stopped(state, number)
        if stopped or number + 1 >= self.rounds:
            update = {"stopped": stopped, "classes": state.get("classes", [])}
            return Command(goto=self.close, update=update)
        if self.summarises and len(state.get("summaries", [])) <= number:
            return Command(goto="summarise")
        return self._floor(state, self.speakers, number + 1)

    def _floor(self, state: DebateState, waiting: list[str], number: int) -> Command[Any]:
        now = waiting if self.order == "together" else waiting[:1]
        update = {"round": number, "classes": state.get("classes", [])}
        return Command(goto=[Send("speak", {**state, **update, "seat": seat}) for seat in now], update=update)

    @staticmethod
    async def _classes(state: DebateState, context: Context, number: int) -> list[list[int | None]]:
        """Who agrees with whom is decided once and journaled: an equality may run out of time."""
        found = await agroup([s["answer"] for s in last_words(state, number)], context.equal)
        decided = await context.episode.event("classes", str(number), {"classes": found})
        return [*state.get("classes", []), decided["classes"]]

    def _stopped(self, state: DebateState, number: int) -> str | None:
        """Why the debate ends after this round, None if it goes on."""
        if self.referee == "moderator" and (verdict := state["verdicts"][number]["parsed"]):
            flags = {"preference": verdict["preference"], "nonempty": bool(verdict["answer"].strip())}
            if all(flags.values()) if self.stop == "both" else flags[self.stop]:
                return "verdict"
        if self.referee == "consensus" and set(state["classes"][number]) == {0}:
            return "consensus"
        return None

    async def speak(self, state: DebateState, runtime: Runtime[Context]) -> DebateState:
        """One statement; the state says who and in which round."""
        context, seat, number = runtime.context, state["seat"], state["round"]
        place = self.speakers.index(seat)
        asked = [self._asked(state, place, r) for r in range(number + 1)]
        own = [s for s in state.get("statements", []) if s["seat"] == seat]
        # ReConcile's discussion shows a panelist's own answer among the rest, so it starts afresh.
        history = [] if self.confidence else conversation(context.agent(seat), asked[:-1], own)
        turn = await context.act(seat, f"{number}/{seat}", *asked[-1], history)
        parsed = turn.parsed or {}
        said = Statement(
            round=number,
            place=place,
            seat=seat,
            name=f"agent {place + 1}" if self.sides == "peers" else seat,
            text=heard(turn),
            answer=parsed.get("answer"),
            confidence=parsed.get("confidence"),
            reasoning=parsed.get("reasoning"),
        )
        return {"statements": [said]}

    def _asked(self, state: DebateState, place: int, number: int) -> tuple[str, dict[str, Any]]:
        """The occasion and variables of a speaker's prompt in a round, from what was said before it."""
        others: list[Any] = []
        if number or self.sides == "opposed":  # peers open alone
            others = list(others_of(state, place, number, in_turn=self.order == "in_turn"))
        if number and self.summarises and (summary := state["summaries"][number - 1]):
            others = [{"name": "summary", "text": summary}]
        groups: list[dict[str, Any]] = []
        if number and self.confidence:
            before = last_words(state, number - 1)
            groups = groups_of(before, state["classes"][number - 1], self.groups_shown)
        seat = self.speakers[place]
        variables = {
            "question": state["question"],
            "round": number,
            "level": self.level,
            "persona": self.personas[place % len(self.personas)] if self.personas else "",
            "brief": self.brief,
            "others": others,
            "groups": groups,
            "convincing": [t for name, texts in self.convincing.items() if name != seat for t in texts],
        }
        return self.occasions[number > 0], variables

    @staticmethod
    def _read(state: DebateState, statements: list[Statement], number: int) -> dict[str, Any]:
        """What a referee's prompt is given."""
        return {"question": state["question"], "round": number, "statements": statements}

    async def moderate(self, state: DebateState, runtime: Runtime[Context]) -> DebateState:
        """MAD's discriminative judge J_d: has this round found a solution?"""
        context, number = runtime.context, state["round"]
        asked = [("verdict", self._read(state, last_words(state, r), r)) for r in range(number + 1)]
        history = conversation(context.agent("moderator"), asked[:-1], state.get("verdicts", []))
        turn = await context.act("moderator", f"{number}/moderator", *asked[-1], history)
        return {"verdicts": [{"text": heard(turn), "parsed": turn.parsed}]}

    async def summarise(self, state: DebateState, runtime: Runtime[Context]) -> DebateState:
        """One summary of a round for all (LLM-Agora's form of Du et al.'s summariser).

        Where it comes out empty, the speakers read the others' own words.
        """
        number = state["round"]
        shown = self._read(state, last_words(state, number), number)
        turn = await runtime.context.act("summariser", f"{number}/summariser", "summarise", shown)
        return {"summaries": [turn.text.strip()]}

    async def judge(self, state: DebateState, runtime: Runtime[Context]) -> DebateState:
        """The verdict that stopped the debate, or MAD's extractive judge J_e: candidates, then one answer."""
        context, verdicts = runtime.context, state.get("verdicts", [])
        if state["stopped"] == "verdict" and (answer := verdicts[-1]["parsed"]["answer"].strip()):
            return await self._closed(context, state, Outcome(answer=answer), by="moderator")
        number = state["round"]
        shown = {"all": state["statements"], "last": last_words(state, number), "first": last_words(state, 0)}
        asked = ("candidates", self._read(state, shown[self.judge_sees], number))
        first = await context.act("judge", "judge/candidates", *asked)
        history = conversation(context.agent("judge"), [asked], [{"text": heard(first)}])
        turn = await context.act("judge", "judge/decide", "decide", asked[1], history)
        outcome = Outcome(answer=turn.parsed["answer"].strip() if turn.parsed else None)
        return await self._closed(context, state, outcome, by="judge")

    async def vote(self, state: DebateState, runtime: Runtime[Context]) -> DebateState:
        """The last round's statements vote."""
        context = runtime.context
        ballots = [
            Ballot(
                str(s["place"]), s["answer"], s["text"], weight=s["confidence"], confidence=s["confidence"]
            )
            for s in last_words(state, state["round"])
        ]

        async def select(texts: list[str]) -> str:
            shown = {"question": state["question"], "texts": texts}
            return (await context.act("selector", "selector", "select", shown)).text

        vote = await aggregator(self.aggregate)(ballots, context.equal, select)
        return await self._closed(context, state, voted(vote), by=self.aggregate)

    async def _closed(self, context: Context, state: DebateState, outcome: Outcome, by: str) -> DebateState:
        ended = {"by": by, "rounds": state["round"] + 1, "stopped": state["stopped"]}
        decision = {**outcome, "detail": {**outcome.get("detail", {}), **ended}}
        if self.rivals:
            decision |= {"scores": await self._scores(context, state, outcome), "fault": None}
        kept: Any = await context.episode.event("vote" if self.close == "vote" else "decision", "0", decision)
        return {"outcome": kept}

    async def _scores(
        self, context: Context, state: DebateState, outcome: Outcome
    ) -> dict[str, float] | None:
        """Of two sides: whom the verdict that stopped the debate names wins, else whose last answer is the
        final one; both or none is a draw, and without a readable final answer the game is void."""
        affirmative, negative = sides = self.speakers
        if state["stopped"] == "verdict":
            named = state["verdicts"][-1]["parsed"]["side"]
            won = [side == named for side in sides]
        elif outcome["answer"] is None:
            return None
        else:
            last = [said["answer"] for said in last_words(state, state["round"])]
            final, *classes = await agroup([outcome["answer"], *last], context.equal)
            won = [mine == final and not outcome.get("tied") for mine in classes]
        points = 0.5 * (1 + won[0] - won[1])
        return {affirmative: points, negative: 1.0 - points}

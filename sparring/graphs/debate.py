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

Deviations from the released codes, all of them repairs: nothing a model writes is evaluated; a reply
that does not parse is a turn of that status and never becomes a random label, a right answer or
a crash; a verdict's stop rule is named (`stop`: the released MAD stops on any non-empty answer, its
logs on preference; 49 of 200 logged debates end at different rounds); the judge sees the whole debate
by default (`judge_sees="first"` is what the released code does); a speaker never reads the current
round unless `order="in_turn"` (Du et al., issue 4); every distinct answer is shown in a discussion
(`groups_shown=2` is ReConcile's); a confidence outside 0..1 is a parse error and a missing one never
votes as 0; ties go by the one rule of `aggregate`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command, Send
from pydantic import Field, model_validator

from sparring.agents import parsing
from sparring.agents.parsing import Parser, statement
from sparring.agents.roles import Role
from sparring.graphs.aggregate import AGGREGATORS, Ballot, aggregator
from sparring.graphs.context import Context
from sparring.graphs.debate_views import (
    DebateState,
    Statement,
    conversation,
    discussion,
    grouped,
    last_words,
    others_of,
)
from sparring.graphs.protocol import Outcome, Protocol, voted


class Debate(Protocol):
    """Agents argue about a question; the defaults are Du et al. with three agents and two rounds."""

    name: ClassVar[str] = "debate"

    agents: int = Field(default=3, ge=1)
    """Speakers. One peer alone reflects on its own answer."""
    rounds: int = Field(default=2, ge=1)
    """Rounds of statements, the opening included (Du's count; MAD's limit is 3)."""
    sides: Literal["peers", "opposed"] = "peers"
    """Peers share one role; opposed are one affirmative and otherwise negative debaters."""
    order: Literal["together", "in_turn"] = "together"
    """Together: all read the round before. In turn: each also reads those who spoke earlier this round."""
    referee: Literal["none", "moderator", "consensus"] = "none"
    stop: Literal["preference", "nonempty", "both"] = "preference"
    """What in a moderator's verdict ends the debate: its preference, any answer, or both together."""
    close: Literal["vote", "judge"] = "vote"
    judge_sees: Literal["all", "last", "first"] = "all"
    """Which rounds the judge reads."""
    level: Literal[0, 1, 2, 3] = 2
    """Tit for tat, MAD table 11: 0 full consensus, 1 mostly disagree, 2 truth first, 3 disagree always."""
    aggregate: str = "majority"
    confidence: bool = False
    """Peers state a confidence (JSON), and discuss grouped answers."""
    groups_shown: int | None = Field(default=None, ge=1)
    convincing: dict[str, list[str]] = Field(default_factory=dict)
    """Seat -> explanations that once convinced it, shown to the other seats (ReConcile)."""
    summarise_from: int | None = Field(default=None, ge=2)
    """With this many agents or more, one summary of all answers replaces the others' texts."""
    brief: bool = False
    """Du's short consensus prompt: converges faster, on worse answers."""
    personas: list[str] = Field(default_factory=list)
    """One sentence each on who a peer is; used in turn."""
    answer: str = "line"
    """Answer format of free statements: a name in `agents.parsing.ANSWER_FORMATS`."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        parsing.answer_format(self.answer)
        if self.aggregate not in AGGREGATORS:
            raise ValueError(
                f"unknown aggregator `{self.aggregate}`; known: {', '.join(sorted(AGGREGATORS))}"
            )
        if self.aggregate in ("reconcile", "borda", "weighted") and not self.confidence:
            raise ValueError(f"aggregate `{self.aggregate}` needs stated confidences: confidence=true")
        if self.sides == "opposed" and self.agents < 2:
            raise ValueError("opposed sides need at least 2 agents")
        if self.sides == "opposed" and self.confidence:
            raise ValueError("stated confidences are for peers, not for opposed sides")
        return self

    # --- who sits where ---------------------------------------------------------------------------

    @property
    def speakers(self) -> list[str]:
        """Seats of the debaters, in speaking order."""
        if self.sides == "peers":
            return [f"solver.{place}" for place in range(self.agents)]
        return ["affirmative", "negative", *(f"negative.{place}" for place in range(1, self.agents - 1))]

    def seats(self) -> dict[str, Role]:
        free = statement(self.answer)
        seats: dict[str, Role] = {}
        for seat in self.speakers:
            role = seat.split(".")[0]
            if self.sides == "opposed":
                seats[seat] = Role.of(role, {"open": free, "reply": free})
            elif self.confidence:
                seats[seat] = Role.of("panelist", {"open": parsing.stated, "discuss": parsing.stated})
            else:
                seats[seat] = Role.of(role, {"question": free, "others": free, "reflect": free})
        if self.referee == "moderator":
            seats["moderator"] = Role.of("moderator", {"verdict": parsing.moderator})
        if self.close == "judge":
            parsers: dict[str, Parser[Any]] = {"candidates": parsing.candidates, "decide": parsing.judge}
            seats["judge"] = Role.of("judge", parsers)
        if self._summarises:
            seats["summariser"] = Role.of("summariser", {"summarise": parsing.note})
        if self.aggregate == "usc":
            seats["selector"] = Role.of("selector", {"select": parsing.note})
        return seats

    @property
    def _summarises(self) -> bool:
        return self.summarise_from is not None and self.agents >= self.summarise_from

    @property
    def max_calls(self) -> int:
        extra = (self.referee == "moderator") * self.rounds + self._summarises * (self.rounds - 1)
        return self.agents * self.rounds + extra + 2 * (self.close == "judge") + (self.aggregate == "usc")

    # --- the machine ------------------------------------------------------------------------------

    def graph(self) -> StateGraph[Any, Context, Any, Any]:
        graph = StateGraph(DebateState, context_schema=Context)
        referees = {"moderate": self.referee == "moderator", "summarise": self._summarises}
        exits = ("speak", *(name for name, used in referees.items() if used), self.close)
        graph.add_node("chair", self.chair, destinations=exits)
        graph.add_edge(START, "chair")
        graph.add_node("speak", self.speak)
        graph.add_edge("speak", "chair")
        for name, node in (("moderate", self.moderate), ("summarise", self.summarise)):
            if referees[name]:
                graph.add_node(name, node)
                graph.add_edge(name, "chair")
        close = self.judge if self.close == "judge" else self.vote
        graph.add_node(self.close, close)
        graph.add_edge(self.close, END)
        return graph

    async def chair(self, state: DebateState, runtime: Runtime[Context]) -> Command[Any]:
        """Give the floor: the next speaker, the referee, the next round, or the close."""
        number = state.get("round", 0)
        said = {s["seat"] for s in state.get("statements", []) if s["round"] == number}
        waiting = [seat for seat in self.speakers if seat not in said]
        if waiting:
            return Command(goto=self._floor(state, waiting, number), update={"round": number})
        if self.referee == "moderator" and len(state.get("verdicts", [])) <= number:
            return Command(goto="moderate")
        stopped = await self._stopped(state, runtime.context, number)
        if stopped or number + 1 >= self.rounds:
            return Command(goto=self.close, update={"stopped": stopped})
        if self._summarises and len(state.get("summaries", [])) <= number:
            return Command(goto="summarise")
        return Command(goto=self._floor(state, self.speakers, number + 1), update={"round": number + 1})

    def _floor(self, state: DebateState, waiting: list[str], number: int) -> list[Send]:
        now = waiting if self.order == "together" else waiting[:1]
        return [Send("speak", {**state, "round": number, "seat": seat}) for seat in now]

    async def _stopped(self, state: DebateState, context: Context, number: int) -> str | None:
        """Why the debate ends after this round, None if it goes on."""
        if self.referee == "moderator" and (verdict := state["verdicts"][number]["parsed"]):
            flags = {"preference": verdict["preference"], "nonempty": bool(verdict["answer"].strip())}
            if all(flags.values()) if self.stop == "both" else flags[self.stop]:
                return "verdict"
        if self.referee == "consensus":
            groups = await grouped(last_words(state["statements"], number), context.equal)
            if len(groups) == 1 and len(groups[0]["members"]) == len(self.speakers):
                return "consensus"
        return None

    async def speak(self, state: DebateState, runtime: Runtime[Context]) -> DebateState:
        """One statement; the state says who and in which round."""
        context, seat, number = runtime.context, state["seat"], state["round"]
        role = context.agent(seat).role
        asked = [await self._asked(state, seat, r, context) for r in range(number + 1)]
        own = [s for s in state.get("statements", []) if s["seat"] == seat]
        history = conversation(context.agent(seat), asked[:-1], own)
        occasion, variables = asked[-1]
        turn = await context.act(seat, f"{number}/{seat}", occasion, variables, history)
        parsed = turn.parsed or {}
        said = Statement(
            round=number,
            place=self.speakers.index(seat),
            seat=seat,
            role=role.name,
            text=turn.text,
            answer=parsed.get("answer"),
            confidence=parsed.get("confidence"),
        )
        return {"statements": [said]}

    async def _asked(
        self, state: DebateState, seat: str, number: int, context: Context
    ) -> tuple[str, dict[str, Any]]:
        """The occasion and variables of a seat's prompt in a round, from what was said before it."""
        place = self.speakers.index(seat)
        persona = self.personas[place % len(self.personas)] if self.personas else ""
        base: dict[str, Any] = {
            "question": state["question"],
            "persona": persona,
            "level": self.level,
            "brief": self.brief,
        }
        others = others_of(state.get("statements", []), place, number, in_turn=self.order == "in_turn")
        if self.sides == "opposed":
            return "reply" if number else "open", {**base, "others": others}
        if self.confidence:
            convincing = [text for name, texts in self.convincing.items() if name != seat for text in texts]
            base["convincing"] = convincing
            if number == 0:
                return "open", base
            before = last_words(state["statements"], number - 1)
            groups = await grouped(before, context.equal)
            return "discuss", {**base, "groups": groups[: self.groups_shown]}
        if number == 0:
            return "question", base
        if self.agents == 1:
            return "reflect", base
        if self._summarises:
            others = [{"name": "summary", "text": state["summaries"][number - 1]}]
        return "others", {**base, "others": others}

    async def moderate(self, state: DebateState, runtime: Runtime[Context]) -> DebateState:
        """MAD's discriminative judge J_d: has this round found a solution?"""
        context, number = runtime.context, state["round"]
        base = {"question": state["question"], "level": self.level}
        asked = [
            ("verdict", {**base, "round": r, "statements": last_words(state["statements"], r)})
            for r in range(number + 1)
        ]
        history = conversation(context.agent("moderator"), asked[:-1], state.get("verdicts", []))
        turn = await context.act("moderator", f"{number}/moderator", *asked[-1], history)
        verdict = {"round": number, "text": turn.text, "parsed": turn.parsed}
        await context.episode.event("verdict_round", str(number), {"stop": self.stop, "parsed": turn.parsed})
        return {"verdicts": [verdict]}

    async def summarise(self, state: DebateState, runtime: Runtime[Context]) -> DebateState:
        """One summary of a round for all (LLM-Agora's form of Du et al.'s summariser)."""
        number = state["round"]
        variables = {"question": state["question"], "statements": last_words(state["statements"], number)}
        turn = await runtime.context.act("summariser", f"{number}/summariser", "summarise", variables)
        return {"summaries": [turn.text]}

    async def judge(self, state: DebateState, runtime: Runtime[Context]) -> DebateState:
        """The verdict that stopped the debate, or MAD's extractive judge J_e: candidates, then one answer."""
        context = runtime.context
        if state.get("stopped") == "verdict" and (
            answer := state["verdicts"][-1]["parsed"]["answer"].strip()
        ):
            return await self._closed(context, state, Outcome(answer=answer), by="moderator")
        rounds = {"all": None, "last": state["round"], "first": 0}[self.judge_sees]
        shown = discussion(state["statements"], rounds)
        variables = {"question": state["question"], "statements": shown}
        first = await context.act("judge", "judge/candidates", "candidates", variables)
        history = conversation(context.agent("judge"), [("candidates", variables)], [{"text": first.text}])
        turn = await context.act("judge", "judge/decide", "decide", variables, history)
        answer = turn.parsed["answer"] if turn.parsed else None
        return await self._closed(context, state, Outcome(answer=answer), by="judge")

    async def vote(self, state: DebateState, runtime: Runtime[Context]) -> DebateState:
        """The last round's statements vote."""
        context = runtime.context
        statements = last_words(state["statements"], state["round"])
        ballots = [
            Ballot(
                key=str(s["place"]),
                answer=s["answer"],
                text=s["text"],
                confidence=s["confidence"],
                weight=s["confidence"],
            )
            for s in statements
        ]

        async def select(texts: list[str]) -> str:
            shown = {"question": state["question"], "texts": texts}
            return (await context.act("selector", "selector", "select", shown)).text

        vote = await aggregator(self.aggregate)(ballots, context.equal, select)
        return await self._closed(context, state, voted(vote), by=self.aggregate)

    async def _closed(self, context: Context, state: DebateState, outcome: Outcome, by: str) -> DebateState:
        detail = {**outcome.get("detail", {}), "by": by, "rounds": state["round"] + 1}
        outcome["detail"] = {**detail, "stopped": state.get("stopped")}
        await context.episode.event("vote" if self.close == "vote" else "decision", "0", dict(outcome))
        return {"outcome": outcome}


PRESETS: dict[str, dict[str, Any]] = {
    "debate": {},
    "du": {},
    "mad": {
        "agents": 2,
        "rounds": 3,
        "sides": "opposed",
        "order": "in_turn",
        "referee": "moderator",
        "close": "judge",
    },
    "reconcile": {"rounds": 3, "referee": "consensus", "confidence": True, "aggregate": "reconcile"},
}
"""Names under which the papers' policies can be played; every option can still be set."""

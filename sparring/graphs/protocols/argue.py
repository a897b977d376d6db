"""ArgMed-Agents (Hong et al. 2403.06294): agents argue, a symbolic reasoner decides.

    1. Open: the decisions at hand are the task's options; where it has none, the generator proposes some.
    2. Argue: for each the generator fills the scheme for decision making (a fact, a goal; so do it).
    3. Challenge: of each new argument the verifier asks the critical questions of its scheme. A question that
       fails brings about an argument that attacks: for want of evidence, weight or relevance the verifier's
       own reason as an objection; for side effects, or a better alternative, one that the generator states.
    4. Repeat 3 with the arguments that are new, until there is none or `rounds` are over.
    5. Reason: arguments for different decisions attack each other; what an extension of the attack graph
       accepts is the decision (`tools.decisions`). Where none is accepted, go to 2 while `iterations` are
       left, with what stood against each in view: arguments are added, none is taken back.

What cannot be read is no argument, no attack and no pass: it has a count of its own. An argument that was
stated before, word for word, is the same one and may attack once more.

Where this departs from the paper, or fills in what we have of it (its schemes' wording is not quoted):

    an `objection` is a scheme of ours; the paper names schemes for decisions, side effects, alternatives
    one model fills an argument from labelled lines; what it says elsewhere is not extracted by another model
    a better alternative is one of the decisions at hand, and says why
    `rounds` and `width` bound what is argued; an attack that nobody was asked about stands
    extensions may accept different decisions: that of the earliest argument is taken and marked as tied;
    with mode=skeptical none is
    the favourite, which the generator names at first, decides nothing: it is what the figures compare with
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Literal, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command
from pydantic import Field

from sparring.agents.arguments import filled, proposals
from sparring.agents.checklists import tick
from sparring.agents.parsing import answer_format
from sparring.agents.roles import Role
from sparring.errors import UserError
from sparring.graphs.context import Context
from sparring.graphs.protocol import Outcome, Protocol
from sparring.graphs.protocols.argue_case import (
    BETTER,
    CLAIMS,
    DECIDING,
    HARM,
    OBJECTION,
    Case,
    Failed,
    Option,
    Stated,
    critical_questions,
    in_turn,
    listed,
    most_calls,
    named,
    options_from,
    options_of,
    phrase,
)
from sparring.graphs.protocols.argue_figures import argument_figures, framework_of
from sparring.memory.journal import Journal
from sparring.memory.records import TaskRecord, Turn
from sparring.tools.argumentation import Framework, extensions
from sparring.tools.decisions import decide, explain
from sparring.tools.equality import agroup

__all__ = ["Argue", "framework_of"]

GENERATOR, VERIFIER = "generator", "verifier"
STEPS = 100_000
"""Looks at an argument's rule, beyond which an iteration ends undecided."""


class ArgueState(TypedDict, total=False):
    question: Any
    iteration: int
    level: int
    options: list[Option]
    favourite: str | None
    arguments: list[Stated]
    against: str
    """Why the iteration before came to no decision."""
    counts: dict[str, int]
    outcome: Outcome


class Argue(Protocol):
    """Arguments for every option, attacks on them, and the decision that survives."""

    name: ClassVar[str] = "argue"

    decisions: int = Field(default=5, ge=1, le=10)
    """Options at most: a task that has more is refused, of those that are proposed the first are taken."""
    rounds: int = Field(default=2, ge=0)
    """Times that critical questions are asked in an iteration; 0 asks none."""
    width: int = Field(default=8, ge=1)
    """New arguments at most in a round."""
    iterations: int = Field(default=1, ge=1)
    """Times that the case is argued, at most, while no decision is accepted."""
    semantics: Literal["preferred", "grounded", "stable"] = "preferred"
    """Of the extensions that accept decisions (`tools.argumentation`)."""
    mode: Literal["credulous", "skeptical"] = "credulous"
    """Whether a decision must be accepted in some extension, or in all."""

    def seats(self) -> dict[str, Role]:
        stating = {
            "favour": answer_format("choice"),
            "propose": proposals(self.decisions),
            "argue": filled("fact", "goal"),
            "side_effects": filled("effect", "reason"),
            "alternative": filled("decision", "reason"),
        }
        told = ["question", "decision", "against", "goal", "argument", "found"]
        asked = ["question", "argument", "critical"]
        return {
            GENERATOR: self.role(GENERATOR, stating, told, "argument_generator"),
            VERIFIER: self.role(VERIFIER, {"question": tick}, asked, "argument_verifier"),
        }

    @property
    def max_calls(self) -> int:
        """Reached where every question fails in a way that makes most work, and no iteration decides."""
        return 1 + self.iterations * most_calls(self.decisions, self.rounds, self.width)

    def accepts(self, task: TaskRecord) -> None:
        options_of(task.question, task, self.decisions)

    def figures(self, journal: Journal, run: str, episodes: Sequence[int] | None = None) -> dict[str, float]:
        return argument_figures(journal, run, episodes)

    def graph(self) -> StateGraph[Any, Context, Any, Any]:
        graph = StateGraph(ArgueState, context_schema=Context)
        graph.add_node("open", self.open)
        graph.add_node("argue", self.argue, destinations=("challenge", "reason"))
        graph.add_node("challenge", self.challenge, destinations=("challenge", "reason"))
        graph.add_node("reason", self.reason, destinations=("argue", END))
        graph.add_edge(START, "open")
        graph.add_edge("open", "argue")
        return graph

    async def open(self, state: ArgueState, runtime: Runtime[Context]) -> ArgueState:
        """The decisions at hand, and the one that the generator favours before any argument."""
        context, question = runtime.context, state["question"]
        options = options_of(question, context.task, self.decisions)
        if options:
            shown = {"question": listed(question, options)}
            turn = await context.act(GENERATOR, f"{GENERATOR}/favour", "favour", shown)
            letter = (turn.parsed or {}).get("answer")
            favourite = next((one["answer"] for one in options if one["letter"] == letter), None)
        else:
            turn = await context.act(GENERATOR, f"{GENERATOR}/propose", "propose", {"question": question})
            options = options_from(await _distinct(context, turn), letters=False)
            favourite = options[0]["answer"] if options else None
        kept = await context.episode.event("options", "0", {"options": options, "favourite": favourite})
        return ArgueState(
            options=kept["options"],
            favourite=kept["favourite"],
            iteration=0,
            level=0,
            arguments=[],
            against="",
            counts={},
        )

    async def argue(self, state: ArgueState, runtime: Runtime[Context]) -> Command[Any]:
        """An argument for each decision."""
        context, number = runtime.context, state["iteration"]
        question = listed(state["question"], state["options"])

        async def stated(option: Option) -> Turn:
            shown = {"question": question, "decision": named(option), "against": state["against"]}
            return await context.act(GENERATOR, f"{number}/{GENERATOR}/{option['letter']}", "argue", shown)

        turns = await asyncio.gather(*(stated(option) for option in state["options"]))
        case = Case(list(state["arguments"]))
        for option, turn in zip(state["options"], turns, strict=True):
            if turn.parsed is not None:
                slots = {**_quoted(turn), "decision": named(option)}
                case.add(DECIDING, slots, option["answer"], (number, 0))
        counts = Counter(state["counts"])
        counts.update(asked_to_state=len(turns), unstated=sum(turn.parsed is None for turn in turns))
        following = "challenge" if self.rounds and case.at(number, 0) else "reason"
        update = {"arguments": case.arguments, "level": 0, "counts": dict(counts)}
        return Command(goto=following, update=update)

    async def challenge(self, state: ArgueState, runtime: Runtime[Context]) -> Command[Any]:
        """The critical questions of the arguments that are new, and the attacks of those that fail."""
        context, number, level = runtime.context, state["iteration"], state["level"] + 1
        case, counts = Case(list(state["arguments"])), Counter(state["counts"])
        rivals = len(state["options"]) > 1
        asked = [
            (argument, name, critical)
            for argument in case.at(number, level - 1)
            for name, critical in critical_questions(argument, rivals=rivals).items()
        ]
        turns = await asyncio.gather(*(self._verdict(context, state, *one) for one in asked))
        read = [(argument, name, turn.parsed) for (argument, name, _), turn in zip(asked, turns, strict=True)]
        failed = in_turn(
            Failed(a, name, said["reason"]) for a, name, said in read if said and not said["met"]
        )
        taken = failed[: self.width]
        attacks = await asyncio.gather(*(self._attack(context, state, one) for one in taken))
        for one, attack in zip(taken, attacks, strict=True):
            if attack is not None:
                case.add(*attack, (number, level), (one.argument["id"], one.question))
        spoken = [attack for one, attack in zip(taken, attacks, strict=True) if one.question in ATTACKS]
        counts.update(
            asked=len(turns),
            unreadable=sum(said is None for _, _, said in read),
            failed=len(failed),
            left=len(failed) - len(taken),
            asked_to_state=len(spoken),
            unstated=sum(attack is None for attack in spoken),
        )
        goes_on = level < self.rounds and case.at(number, level)
        update = {"arguments": case.arguments, "level": level, "counts": dict(counts)}
        return Command(goto="challenge" if goes_on else "reason", update=update)

    async def _verdict(
        self, context: Context, state: ArgueState, argument: Stated, name: str, critical: str
    ) -> Turn:
        shown = {
            "question": listed(state["question"], state["options"]),
            "argument": argument["text"],
            "critical": critical,
        }
        key = f"{state['iteration']}/{VERIFIER}/{argument['id']}/{_slug(name)}"
        return await context.act(VERIFIER, key, "question", shown)

    async def _attack(
        self, context: Context, state: ArgueState, failed: Failed
    ) -> tuple[str, dict[str, str], str | None] | None:
        """Scheme, slots and decision of the argument that says why a question fails; None where the generator
        was to state it and nothing could be read, or it named no other option."""
        argument, slots = failed.argument, failed.argument["slots"]
        if failed.question not in ATTACKS:
            claim = CLAIMS[argument["scheme"], failed.question].format(**slots)
            return OBJECTION, {"claim": phrase(claim), "reason": phrase(failed.reason)}, None
        shown = {
            "question": listed(state["question"], state["options"]),
            "argument": argument["text"],
            "found": failed.reason,
            "decision": slots["decision"],
            "goal": slots["goal"],
        }
        occasion = _slug(failed.question)
        key = f"{state['iteration']}/{GENERATOR}/{argument['id']}/{occasion}"
        turn = await context.act(GENERATOR, key, occasion, shown)
        if turn.parsed is None:
            return None
        said = {**_quoted(turn), "goal": slots["goal"]}
        if failed.question == HARM:
            return HARM, {**said, "decision": slots["decision"]}, None
        better = next((one for one in state["options"] if one["letter"] == said["decision"]), None)
        if better is None or better["answer"] == argument["decision"]:
            return None
        return BETTER, {**said, "decision": named(better), "other": slots["decision"]}, better["answer"]

    async def reason(self, state: ArgueState, runtime: Runtime[Context]) -> Command[Any]:
        """What the framework accepts; where it is nothing, the next iteration if there is one."""
        context, number = runtime.context, state["iteration"]
        decided = self._decided(Case(state["arguments"]).framework())
        kept = await context.episode.event("framework", str(number), decided)
        accepted = kept["decision"] and kept["decision"]["decision"]
        if accepted is None and number + 1 < self.iterations and state["options"]:
            return Command(goto="argue", update={"iteration": number + 1, "against": kept["text"]})
        outcome = await self._closed(context, state, kept)
        return Command(goto=END, update={"outcome": outcome})

    def _decided(self, framework: Framework) -> dict[str, Any]:
        """The framework, its decision and the reasons, as they are journaled."""
        try:
            found = extensions(framework, self.semantics, steps=STEPS)
            decision = decide(framework, self.semantics, self.mode, steps=STEPS)
        except UserError as beyond:  # too many extensions: the arguments stand, the reasoner gives up
            return {"framework": framework.to_json(), "decision": None, "shares": {}, "text": f"{beyond}"}
        held = Counter(name for one in found for name in {framework.by_id[id].decision for id in one})
        shares = {name: held[name] / len(found) for name in decision.candidates}
        return {
            "framework": framework.to_json(),
            "decision": asdict(decision),
            "shares": shares,
            "text": explain(framework, decision),
        }

    async def _closed(self, context: Context, state: ArgueState, kept: dict[str, Any]) -> Outcome:
        """The outcome, journaled; what is right is told where the task has a reference."""
        decision: dict[str, Any] = kept["decision"] or {}
        number, level = state["iteration"], state["level"]
        answer, favourite = decision.get("decision"), state["favourite"]
        detail = {
            "explanation": kept["text"],
            "favourite": favourite,
            "iterations": number + 1,
            "options": len(state["options"]),
            "arguments": len(state["arguments"]),
            "attacks": sum(len(one["answers"]) for one in state["arguments"]),
            "depth": max((one["level"] for one in state["arguments"]), default=0),
            "settled": not Case(state["arguments"]).at(number, level) and not state["counts"].get("left"),
            "given_up": kept["decision"] is None,
            **dict.fromkeys(COUNTS, 0),
            **state["counts"],
        }
        if context.task is not None and context.task.answer is not None:
            detail |= {
                "right": await context.right(answer),
                "favourite_right": await context.right(favourite),
            }
        tied = answer is not None and len(decision["candidates"]) > 1
        outcome = Outcome(answer=answer, tied=tied, distribution=kept["shares"], detail=detail)
        decided: Any = await context.episode.event("decision", "0", dict(outcome))
        return decided  # type: ignore[no-any-return]  # as JSON gives it back


ATTACKS = (HARM, "alternative")
"""Critical questions whose failure the generator argues out; of the others the verifier's reason will do."""
COUNTS = ("asked", "unreadable", "failed", "left", "asked_to_state", "unstated")


async def _distinct(context: Context, turn: Turn) -> list[str]:
    """The decisions that were proposed, each class of equal ones by its first."""
    said = (turn.parsed or {}).get("decisions", [])
    classes = await agroup(said, context.equal)
    return [text for place, text in enumerate(said) if classes.index(classes[place]) == place]


def _quoted(turn: Turn) -> dict[str, str]:
    return {label: phrase(text) for label, text in turn.parsed["slots"].items()}


def _slug(name: str) -> str:
    return name.replace(" ", "_")

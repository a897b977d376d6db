"""What refining does to the chains of a question, one act each: score, ask the gate, write anew, vote.

The protocol `refine` makes a graph of them; the method `refine` of `compare` does them on a pool it is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from sparring.agents.parsing import note
from sparring.agents.roles import Role
from sparring.agents.steps import solution
from sparring.graphs.aggregate import Ballot, aggregator
from sparring.graphs.context import Context
from sparring.graphs.protocol import Outcome, Protocol, voted
from sparring.graphs.protocols.refine_gate import Scored, best, decide
from sparring.graphs.protocols.refine_gating import Gating
from sparring.graphs.scorers.base import Chain, Judgement
from sparring.tools.equality import agroup

REVIEWER, REFINER = "reviewer", "refiner"


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


def unscored(chain: Chain, iteration: int = 0) -> Written:
    """A chain as it was written."""
    return {
        "key": chain.key,
        "turn": chain.turn,
        "iteration": iteration,
        "text": chain.text,
        "answer": chain.answer,
        "outcome": None,
        "steps": None,
    }


def chain_of(one: Written, question: str) -> Chain:
    """The same as scorers read it."""
    return Chain(one["turn"], one["key"], question, one["text"], one["answer"])


def weighed(one: Written, outcome: Judgement, process: Judgement) -> Written:
    """A chain with what the scorers said of it."""
    values = process.known
    return {**one, "outcome": outcome.values[0], "steps": list(values) if values else None}


def reward(one: Written) -> float | None:
    """o + p; None where either is not known."""
    if one["outcome"] is None or one["steps"] is None:
        return None
    return Scored(None if one["answer"] is None else 0, one["outcome"], tuple(one["steps"])).reward


def refining_seats(protocol: Protocol, answer: str) -> dict[str, Role]:
    """Reviewer and refiner; `answer` is the format that answers have."""
    return {
        REVIEWER: protocol.role(REVIEWER, {"review": note}, ["question", "steps"]),
        REFINER: protocol.role(REFINER, {"refine": solution(answer)}, ["question", "steps", "review"]),
    }


async def worth_refining(
    context: Context,
    gating: Gating,
    facts: Mapping[str, Any] | None,
    key: str,
    chains: Sequence[Written],
    majority: str | None,
) -> bool:
    """Whether to refine the newest chains. The gate is asked wherever there is an average to hold a question
    against, be it that all are refined; its decision is journaled once as event `gate` with all that was
    weighed. A question of which nothing could be scored is easy.

    Args:
        facts: The average, where a run has looked it up.
    """
    if not gating.weighs:
        return True
    average = gating.held_against(facts)
    kept = context.episode.event_payload("gate", key)
    if kept is None:
        known = [one for one in chains if reward(one) is not None]
        asked, *classes = await agroup([majority, *(one["answer"] for one in known)], context.equal)
        read = [
            Scored(group, one["outcome"] or 0.0, tuple(one["steps"] or ()))
            for one, group in zip(known, classes, strict=True)
        ]
        decision = decide(read, asked, average).to_json() if read else {"hard": False}
        kept = await context.episode.event("gate", key, {**decision, "unscored": len(chains) - len(known)})
    return bool(kept["hard"]) or gating.gate == "all"


async def rewritten(context: Context, question: str, chain: Written, number: int, under: str = "") -> Written:
    """A chain reviewed, its step scores beside it, and written anew.

    Args:
        number: Which refinement this is, from 1.
        under: What the keys of its turns begin with.
    """
    place = chain["key"].rsplit("/", 1)[1]
    steps = chain_of(chain, question).steps
    grades = (
        [None] * len(steps) if chain["steps"] is None else [round(10 * score) for score in chain["steps"]]
    )
    shown = [{"text": step, "score": grade} for step, grade in zip(steps, grades, strict=True)]
    variables = {"question": question, "steps": shown}
    review = await context.act(REVIEWER, f"{under}{number}/{REVIEWER}/{place}", "review", variables)
    told = {**variables, "review": review.text.strip()}
    turn = await context.act(REFINER, f"{under}{number}/{REFINER}/{place}", "refine", told)
    return unscored(Chain.of(turn, question), number)


async def pooled_vote(context: Context, pool: Sequence[Written], k: int) -> Outcome:
    """The best k of a pool, each with o + p; where nothing was scored, the majority."""
    known = [one for one in pool if reward(one) is not None]
    kept = [known[place] for place in best([reward(one) or 0.0 for one in known], k)]
    ballots = [
        # By iteration first: what the keys of refined chains begin with must not break a tie.
        Ballot(f"{one['iteration']}/{one['key']}", one["answer"], one["text"], weight=reward(one))
        for one in kept or pool
    ]
    outcome = voted(await aggregator("weighted" if kept else "majority")(ballots, context.equal))
    outcome["detail"] |= {"pool": [one["key"] for one in kept or pool], "unscored": len(pool) - len(known)}
    return outcome


async def votes_of(context: Context, chains: Sequence[Written], k: int, last: int, *, two: bool) -> Outcome:
    """The vote of the pool after the last refinement, with those after each before it in its detail.

    Args:
        two: Whether a pool keeps the last two generations alone.
    """
    votes = []
    for upto in range(last + 1):
        since = upto - 1 if two else 0
        votes.append(await pooled_vote(context, [c for c in chains if since <= c["iteration"] <= upto], k))
    outcome = votes[-1]
    outcome["detail"] |= {"refined": last, "answers": [vote["answer"] for vote in votes]}
    if context.task is not None and context.task.answer is not None:
        right = {one["key"]: await context.right(one["answer"]) for one in chains}
        outcome["detail"] |= {"right": right, "votes": [await context.right(v["answer"]) for v in votes]}
    return outcome

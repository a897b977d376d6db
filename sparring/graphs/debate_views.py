"""Who sees what in a debate: pure functions from the statements so far to what a prompt shows.

A speaker's conversation is rebuilt from the state for every turn: the prompts it was given are
functions of what was said before them, so nothing but the statements has to be kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import add
from typing import Annotated, Any, TypedDict

from sparring.agents.engines.base import Message
from sparring.agents.roles import Agent
from sparring.graphs.protocol import Outcome
from sparring.tools.equality import Equal, agroup


class Statement(TypedDict):
    """What one debater said in one round."""

    round: int
    place: int
    """Position in the speaking order."""
    seat: str
    role: str
    text: str
    answer: str | None
    """None where the text holds no answer of the asked format."""
    confidence: float | None


def in_order(left: list[Statement], right: list[Statement]) -> list[Statement]:
    """Reducer: statements by round and place, so that arrival order does not matter."""
    return sorted([*left, *right], key=lambda s: (s["round"], s["place"]))


class DebateState(TypedDict, total=False):
    """Plain JSON, as a checkpointer would need it."""

    question: str
    round: int
    seat: str
    """Only in a state sent to `speak`: whose turn it is."""
    statements: Annotated[list[Statement], in_order]
    verdicts: Annotated[list[dict[str, Any]], add]
    summaries: Annotated[list[str], add]
    stopped: str | None
    outcome: Outcome


def last_words(statements: Sequence[Statement], number: int) -> list[Statement]:
    """The statements of one round, in speaking order."""
    return [s for s in statements if s["round"] == number]


def discussion(statements: Sequence[Statement], number: int | None) -> list[Statement]:
    """All statements, or those of one round."""
    return list(statements) if number is None else last_words(statements, number)


def others_of(
    statements: Sequence[Statement], place: int, number: int, *, in_turn: bool
) -> list[dict[str, Any]]:
    """What the speaker at `place` reads before its statement of round `number`.

    Together: the others' statements of round number - 1. In turn: those who speak before it have this
    round's statement shown, those after it the last round's.
    """
    shown = []
    for said in statements:
        wanted = number if in_turn and said["place"] < place else number - 1
        if said["place"] != place and said["round"] == wanted:
            shown.append({"name": _title(said), "text": said["text"], "answer": said["answer"]})
    return shown


def _title(said: Statement) -> str:
    return f"agent {said['place'] + 1}" if said["role"] in ("solver", "panelist") else said["seat"]


async def grouped(statements: Sequence[Statement], equal: Equal) -> list[dict[str, Any]]:
    """Statements by equal answer, the largest group first, ties by the earliest speaker."""
    classes = await agroup([s["answer"] for s in statements], equal)
    groups: dict[int, dict[str, Any]] = {}
    for said, index in zip(statements, classes, strict=True):
        if index is not None:
            group = groups.setdefault(index, {"answer": said["answer"], "members": []})
            group["members"].append({"name": _title(said), **said})
    return sorted(groups.values(), key=lambda g: (-len(g["members"]), g["members"][0]["place"]))


def conversation(
    agent: Agent, asked: Sequence[tuple[str, dict[str, Any]]], replies: Sequence[Mapping[str, Any]]
) -> list[Message]:
    """An agent's own history: each earlier prompt rendered again, and what it replied."""
    history: list[Message] = []
    for (occasion, variables), reply in zip(asked, replies, strict=True):
        history = agent.messages(occasion, variables, history)
        history.append({"role": "assistant", "content": reply["text"]})
    return history

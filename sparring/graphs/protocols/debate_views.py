"""Who sees what in a debate: the state, and pure functions from it to what a prompt shows.

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
from sparring.memory.records import Turn

SPEAKER = ("question", "round", "level", "persona", "brief", "others", "groups", "convincing")
REFEREE = ("question", "round", "statements")
SELECTOR = ("question", "texts")
"""The variables that the prompts of each kind of seat are given."""

SILENCE = "(no reply)"
"""Stands for an empty reply, so that no prompt leaves its reader to imagine one."""


class Statement(TypedDict):
    """What one debater said in one round."""

    round: int
    place: int
    """Position in the speaking order."""
    seat: str
    name: str
    """What the others call the speaker."""
    text: str
    answer: str | None
    """None where the text holds no answer of the asked format."""
    confidence: float | None
    reasoning: str | None
    """Where the format has a field for it."""


def in_order(left: list[Statement], right: list[Statement]) -> list[Statement]:
    """Reducer: one statement a place and round, in speaking order, whatever arrived first or twice."""
    said = {(s["round"], s["place"]): s for s in [*left, *right]}
    return [said[key] for key in sorted(said)]


class DebateState(TypedDict, total=False):
    """Plain JSON, as a checkpointer would need it."""

    question: Any
    round: int
    seat: str
    """Only in a state sent to `speak`: whose turn it is."""
    statements: Annotated[list[Statement], in_order]
    classes: list[list[int | None]]
    """Per round, the class of each speaker's answer; None where it gave none."""
    verdicts: Annotated[list[dict[str, Any]], add]
    summaries: Annotated[list[str], add]
    stopped: str | None
    outcome: Outcome


def heard(turn: Turn) -> str:
    """A turn's text as others, and later its author, get to read it."""
    return turn.text if turn.text.strip() else SILENCE


def last_words(state: DebateState, number: int) -> list[Statement]:
    """The statements of one round, in speaking order."""
    return [s for s in state.get("statements", []) if s["round"] == number]


def others_of(state: DebateState, place: int, number: int, *, in_turn: bool) -> list[Statement]:
    """What the speaker at `place` reads before its statement of round `number`.

    Together: the others' statements of round number - 1. In turn: this round's of those who speak
    before it, the last round's of those after it; so everybody reads everything once.
    """
    return [
        said
        for said in state.get("statements", [])
        if said["place"] != place
        and said["round"] == (number if in_turn and said["place"] < place else number - 1)
    ]


def groups_of(
    statements: Sequence[Statement], classes: Sequence[int | None], most: int | None
) -> list[dict[str, Any]]:
    """Statements by answer, the largest group first, ties by the earliest speaker; at most `most` answers.

    Statements without a readable answer come last, as a group whose answer is None.
    """
    groups: dict[int, list[Statement]] = {}
    unclear: list[Statement] = []
    for said, index in zip(statements, classes, strict=True):
        (unclear if index is None else groups.setdefault(index, [])).append(said)
    ordered = sorted(groups.values(), key=lambda members: (-len(members), members[0]["place"]))[:most]
    shown: list[dict[str, Any]] = [{"answer": m[0]["answer"], "members": m} for m in ordered]
    return [*shown, {"answer": None, "members": unclear}] if unclear else shown


def conversation(
    agent: Agent, asked: Sequence[tuple[str, dict[str, Any]]], replies: Sequence[Mapping[str, Any]]
) -> list[Message]:
    """An agent's own history: each earlier prompt rendered again, and what it replied."""
    history: list[Message] = []
    for (occasion, variables), reply in zip(asked, replies, strict=True):
        history = agent.messages(occasion, variables, history)
        history.append({"role": "assistant", "content": reply["text"]})
    return history

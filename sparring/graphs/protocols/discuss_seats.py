"""The seats of a discussion: who solves, evaluates and scores, and how their words are read."""

from __future__ import annotations

from typing import Any

from sparring.agents.parsing import note, statement, verdict
from sparring.agents.roles import Role
from sparring.agents.scores import score, without_tags
from sparring.graphs.protocol import Protocol
from sparring.memory.records import Turn

SOLVER, EVALUATOR, SCORER = "solver", "evaluator", "scorer"
Scale = tuple[int, int]
"""Lowest and highest score."""


def ordered(scale: Scale) -> Scale:
    """The scale, if it is one."""
    if scale[0] >= scale[1]:
        raise ValueError(f"the highest score {scale[1]} must be above {scale[0]}")
    return scale


def contributor(protocol: Protocol, seat: str, answer: str) -> Role:
    """Who solves; `answer` is the format of its solutions."""
    return protocol.role(seat, {"solve": statement(answer)}, ["question", "discussion"], "discussant")


def judged(turn: Turn) -> Any:
    """What a judge said, read; None where it was cut off, as nobody is paid by it then."""
    return turn.parsed if turn.status == "ok" else None


def reviewer(protocol: Protocol, seat: str, scale: Scale, *, votes: bool = False) -> Role:
    """Who evaluates, or votes instead, or scores, by the seat's name."""
    if seat.startswith(SCORER):
        read = ["question", "solution", "evaluation", "low", "high"]
        return protocol.role(seat, {"score": score(*scale)}, read)
    occasions = {"vote": verdict} if votes else {"evaluate": note}
    return protocol.role(seat, occasions, ["question", "discussion", "solution"])


def to_be_scored(question: Any, solution: str, evaluation: str, scale: Scale) -> dict[str, Any]:
    """All that a scorer is given, eq. 5: never the discussion, and words without their score tags."""
    return {
        "question": question,
        "solution": without_tags(solution),
        "evaluation": without_tags(evaluation),
        "low": scale[0],
        "high": scale[1],
    }

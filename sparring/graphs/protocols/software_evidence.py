"""What others get to read of an engineer's work: commands, what they printed, and the patch.

All of it comes from the steps themselves. Nothing of the hidden tests or the reference fix is at hand here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sparring.agents.roles import Role
from sparring.agents.scores import explained, without_tags
from sparring.graphs.context import Context
from sparring.graphs.protocol import Protocol
from sparring.memory.records import Turn
from sparring.memory.scores import ScoreRecord

VALUER = "valuer"
LOW, HIGH = -100, 100
"""The scale of values."""
LONGEST_PATCH = 12_000
"""Characters of a patch that a prompt shows."""
LONGEST_COMMAND, LONGEST_OUTPUT = 1_500, 1_500
"""Characters of one step that a prompt shows."""
SHOWN_STEPS = 12
"""The last so many."""


def valuer(protocol: Protocol) -> Role:
    """Who says how promising a state of the work is: an integer and why."""
    variables = ["question", "work", "patch", "finished", "changed", "low", "high"]
    return protocol.role(VALUER, {"value": explained(LOW, HIGH)}, variables)


async def valued(
    context: Context,
    key: str,
    question: str,
    steps: Sequence[Mapping[str, Any]],
    patch: str,
    *,
    turn: Turn | None,
    before: str | None = None,
) -> tuple[int | None, str]:
    """A state's value in -100..100 and the explanation; no value, and none made up, where it is unreadable.

    Journaled as a turn of the valuer's and as a score of the turn that led to the state.

    Args:
        steps: all that led there, as their events have them; the last one may have submitted.
        patch: what they changed.
        turn: the engineer's that led there; None: no score is kept.
        before: the patch before the last step, where that is known.
    """
    shown = {
        "question": question,
        "work": without_tags(told(steps)),
        "patch": without_tags(clipped(patch, LONGEST_PATCH)),
        "finished": bool(steps and steps[-1].get("submitted")),
        "changed": patch != before if before is not None else bool(patch),
        "low": LOW,
        "high": HIGH,
    }
    said = await context.act(VALUER, key, "value", shown)
    value = said.parsed["score"] if said.parsed else None
    why = said.parsed["reason"] if said.parsed else ""
    if turn is not None:
        evidence = {"turn": said.id, "reason": why or said.error}
        version = context.agent(VALUER).role.parser("value").version
        await context.episode.scores.add([ScoreRecord(turn.id, VALUER, version, value, evidence=evidence)])
    return value, why


def told(steps: Sequence[Mapping[str, Any]], most: int = SHOWN_STEPS) -> str:
    """The last `most` steps in words."""
    left_out = max(0, len(steps) - most)
    lines = [f"({left_out} commands before these are left out)"] if left_out else []
    return "\n\n".join([*lines, *(told_of(step) for step in steps[left_out:])])


def told_of(step: Mapping[str, Any]) -> str:
    """One step in words."""
    return "\n".join(_lines(step))


def _lines(step: Mapping[str, Any]) -> Iterator[str]:
    if step["action"] is None:
        yield f"(a reply without a command: {step['error']})"
        return
    yield f"$ {clipped(step['action'].strip(), LONGEST_COMMAND)}"
    if step["tree"] is None:
        yield f"({step['error']})"
        return
    if printed := step["observation"].strip("\n"):
        yield clipped(printed, LONGEST_OUTPUT)
    ended = f"ended from outside: {step['killed_by']}" if step["killed_by"] else None
    yield f"({ended or 'exit status ' + str(step['returncode'])})"


def clipped(text: str, most: int) -> str:
    """A text without its middle where it has more than `most` characters."""
    if len(text) <= most:
        return text
    head, tail = text[: most // 2], text[len(text) - most // 2 :]
    return f"{head}\n[... {len(text) - len(head) - len(tail)} characters left out ...]\n{tail}"

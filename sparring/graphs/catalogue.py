"""The protocols by name, imported when asked for."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from sparring.errors import UserError, unknown
from sparring.graphs.own import find_class, spec_of

if TYPE_CHECKING:
    from sparring.graphs.protocol import Protocol

PROTOCOLS = {
    "sample": "sparring.graphs.protocols.sample:Sample",
    "debate": "sparring.graphs.protocols.debate:Debate",
    "du": "sparring.graphs.protocols.debate:Debate",
    "mad": "sparring.graphs.protocols.debate:Debate",
    "reconcile": "sparring.graphs.protocols.debate:Debate",
    "step_check": "sparring.graphs.protocols.step_check:StepCheck",
    "guided": "sparring.graphs.protocols.guided:Guided",
    "rollout": "sparring.graphs.protocols.rollout:Rollout",
    "sneaky": "sparring.graphs.protocols.sneaky:SneakyGame",
    "sneaky_lesson": "sparring.graphs.protocols.sneaky_lesson:SneakyLesson",
    "duel": "sparring.graphs.protocols.duel:Duel",
    "conversation": "sparring.graphs.protocols.conversation:Conversation",
    "lesson": "sparring.graphs.protocols.lesson:Lesson",
    "discuss": "sparring.graphs.protocols.discuss:Discuss",
    "compare": "sparring.graphs.protocols.compare:Compare",
    "refine": "sparring.graphs.protocols.refine:Refine",
    "judge_check": "sparring.graphs.protocols.judge_check:JudgeCheck",
    "pairwise": "sparring.graphs.protocols.pairwise:Pairwise",
    "software": "sparring.graphs.protocols.software:SoftwareTask",
    "software_best_of": "sparring.graphs.protocols.software_best_of:SoftwareBestOf",
    "software_search": "sparring.graphs.protocols.software_search:SoftwareSearch",
    "se_agent": "sparring.graphs.protocols.se_agent:SeAgent",
    "improve": "sparring.graphs.protocols.improve:Improve",
    "cosc": "sparring.graphs.protocols.cosc:ChainOfSelfCorrection",
    "tool_use": "sparring.graphs.protocols.tool_use:ToolUse",
    "argue": "sparring.graphs.protocols.argue:Argue",
}
"""Name -> class; a module's `PRESETS` hold the options that a name stands for."""


def make_protocol(name: str, options: dict[str, Any] | None = None) -> Protocol:
    """A protocol by name, or one of your own as `module:Class`.

    Raises:
        UserError: unknown name or option (those that exist are listed), or a value that does not fit.
    """
    from sparring.graphs.protocol import Protocol  # not on top: the names are also asked for in a hurry

    if not isinstance(name, str):
        raise UserError("give a protocol by name or as `module:Class` and its options beside it")
    if name not in PROTOCOLS and ":" not in name:
        raise unknown("protocol", name, [*PROTOCOLS, "module:Class"])
    kind: type[Protocol] = find_class(PROTOCOLS.get(name, name), Protocol, "protocol")
    preset: dict[str, Any] = getattr(sys.modules[kind.__module__], "PRESETS", {}).get(name, {})
    return kind.configure({**preset, **(options or {})})


def protocol_name(protocol: str | type[Protocol]) -> str:
    """What a run keeps of a protocol that was given by name or as its class.

    Raises:
        UserError: a class that no other process could find.
    """
    from sparring.graphs.protocol import Protocol

    if not (isinstance(protocol, type) and issubclass(protocol, Protocol)):
        return protocol  # `make_protocol` says what is wrong with it
    spec = spec_of(protocol)
    return next((name for name, shipped in PROTOCOLS.items() if shipped == spec), spec)

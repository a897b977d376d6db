"""The policy of a debate as data: its options, who then sits where, and the papers' presets."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from sparring.agents import parsing
from sparring.agents.parsing import Parser, statement
from sparring.agents.roles import Role
from sparring.graphs.aggregate import AGGREGATORS
from sparring.graphs.protocol import Protocol
from sparring.graphs.protocols.debate_views import REFEREE, SELECTOR, SPEAKER


class Policy(Protocol):
    """The options; the defaults are Du et al. with three agents and two rounds."""

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
    """Who looks after each round whether to stop: nobody, a moderator, or a check for consensus."""
    stop: Literal["preference", "nonempty", "both"] = "preference"
    """What in a moderator's verdict ends the debate: its preference, any answer, or both together."""
    close: Literal["vote", "judge"] = "vote"
    """The last round's statements vote; or the verdict that ended the debate holds, else a judge decides."""
    judge_sees: Literal["all", "last", "first"] = "all"
    """Which rounds the judge reads."""
    level: Literal[0, 1, 2, 3] = 2
    """Tit for tat, MAD table 11: 0 full consensus, 1 mostly disagree, 2 truth first, 3 disagree always."""
    aggregate: str = "majority"
    """How the last round's answers vote: a name in `graphs.aggregate.AGGREGATORS`."""
    confidence: bool = False
    """Peers state a confidence (JSON), and discuss the grouped answers, their own among them, afresh."""
    groups_shown: int | None = Field(default=None, ge=1)
    """The most answers that a discussion shows; None shows all."""
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
        if self.aggregate not in AGGREGATORS:
            raise ValueError(
                f"unknown aggregator `{self.aggregate}`; known: {', '.join(sorted(AGGREGATORS))}"
            )
        for option, other, value in _ONLY_WITH:
            default = type(self).model_fields[option].get_default(call_default_factory=True)
            if getattr(self, option) != default and getattr(self, other) != value:
                raise ValueError(f"`{option}` has no effect unless {other}={value}")
        if self.aggregate in ("reconcile", "borda", "weighted") and not self.confidence:
            raise ValueError(f"aggregate `{self.aggregate}` needs stated confidences: confidence=true")
        if self.sides == "opposed" and (self.agents < 2 or self.order != "in_turn"):
            raise ValueError("opposed sides answer each other: 2 agents or more and order=in_turn")
        if strangers := sorted(set(self.convincing) - set(self.speakers)):
            raise ValueError(f"convincing: no seat `{strangers[0]}`; known: {', '.join(self.speakers)}")
        return self

    # --- who sits where ---------------------------------------------------------------------------

    @property
    def speakers(self) -> list[str]:
        """Seats of the debaters, in speaking order."""
        if self.sides == "peers":
            role = "panelist" if self.confidence else "solver"
            return [f"{role}.{place}" for place in range(self.agents)]
        return ["affirmative", "negative", *(f"negative.{place}" for place in range(1, self.agents - 1))]

    @property
    def rivals(self) -> tuple[str, str] | None:
        """Two opposed sides play a game; among more, or among peers, there is none to win."""
        return ("affirmative", "negative") if self.sides == "opposed" and self.agents == 2 else None

    @property
    def occasions(self) -> tuple[str, str]:
        """On which a speaker opens, and later speaks again."""
        if self.sides == "opposed":
            return "open", "reply"
        if self.confidence:
            return "open", "discuss"
        return "question", "others" if self.agents > 1 else "reflect"

    def seats(self) -> dict[str, Role]:
        free, stated = statement(self.answer), parsing.stated
        parsers: dict[str, dict[str, Parser[Any]]] = {
            "affirmative": {"open": free, "reply": free},
            "negative": {"open": free, "reply": free},
            "panelist": {"open": stated, "discuss": stated},
            "solver": {"question": free, "others": free, "reflect": free},
            "moderator": {"verdict": parsing.moderator},
            "judge": {"candidates": parsing.candidates, "decide": parsing.judge},
            "summariser": {"summarise": parsing.note},
            "selector": {"select": parsing.note},
        }
        used = {
            "moderator": self.referee == "moderator",
            "judge": self.close == "judge",
            "summariser": self.summarises,
        }
        seats = {seat: self.role(seat, parsers[seat.split(".")[0]], SPEAKER) for seat in self.speakers}
        seats |= {seat: self.role(seat, parsers[seat], REFEREE) for seat, needed in used.items() if needed}
        if self.aggregate == "usc":
            seats["selector"] = self.role("selector", parsers["selector"], SELECTOR)
        return seats

    @property
    def summarises(self) -> bool:
        return self.summarise_from is not None and self.agents >= self.summarise_from

    @property
    def max_calls(self) -> int:
        extra = (self.referee == "moderator") * self.rounds + self.summarises * (self.rounds - 1)
        return self.agents * self.rounds + extra + 2 * (self.close == "judge") + (self.aggregate == "usc")


_ONLY_WITH: tuple[tuple[str, str, Any], ...] = (
    ("level", "sides", "opposed"),
    ("stop", "referee", "moderator"),
    ("judge_sees", "close", "judge"),
    ("aggregate", "close", "vote"),
    ("confidence", "sides", "peers"),
    ("personas", "sides", "peers"),
    ("brief", "sides", "peers"),
    ("brief", "confidence", False),
    ("summarise_from", "sides", "peers"),
    ("summarise_from", "confidence", False),
    ("summarise_from", "order", "together"),
    ("order", "confidence", False),
    ("answer", "confidence", False),
    ("groups_shown", "confidence", True),
    ("convincing", "confidence", True),
)
"""Option, and what another must be for it to matter: an option that would be ignored is an error."""

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

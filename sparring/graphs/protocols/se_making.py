"""How SE-Agent makes one attempt: its options and seats, the strategy, the summary, the score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from sparring.agents.parsing import attempt_summary, note
from sparring.agents.roles import Role
from sparring.errors import BudgetExceeded, UserError, unknown
from sparring.graphs.context import Context
from sparring.graphs.protocols.se_plans import PLANS
from sparring.graphs.protocols.se_pool import PARTS, Birth, Member, rules, scored, spoken
from sparring.graphs.protocols.software_attempts import Attempt, Attempts, part, replies, trajectory
from sparring.graphs.protocols.software_choice import Choosing
from sparring.graphs.protocols.software_evidence import (
    LONGEST_PATCH,
    VALUER,
    clipped,
    told,
    told_of,
    valuer,
)

SUMMARISER, STRATEGIST = "attempt_summariser", "strategist"
LONGEST_THOUGHT = 800
"""Characters of what the engineer thinks before a command, as a summariser reads it."""


class Making(Choosing, Attempts):
    """The options of SE-Agent, and what it knows of one attempt."""

    n: int = Field(default=5, ge=1)
    """Pilots, and attempts that stay; the pool has twice as many."""
    generations: int = Field(default=3, ge=0)
    """Recombinations, at most."""
    plans: tuple[str, ...] = Field(default=tuple(PLANS), min_length=1)
    """Of the pilots, in turn: a shipped plan by name, or a text of your own (two words and more)."""
    epsilon: float = Field(default=0.01, ge=0)
    """An improvement of the best score that is less does not count."""
    patience: int = Field(default=1, ge=1)
    """So many rounds that improve the best score by less than epsilon end it."""
    weigh_value: float = Field(default=0.6, ge=0)
    """Of the valuer's word in the score; weights are relative to one another."""
    weigh_patch: float = Field(default=0.2, ge=0)
    """Of a patch that is not empty."""
    weigh_edits: float = Field(default=0.1, ge=0)
    """Of the share of steps that changed the tree."""
    weigh_length: float = Field(default=0.1, ge=0)
    """Of a length in range."""
    shortest: int = Field(default=3, ge=0)
    """Least steps of a length in range (the released filter's)."""
    longest: int = Field(default=30, ge=1)
    """Greatest steps of a length in range (the released filter's)."""
    shown_steps: int = Field(default=60, ge=1)
    """The last so many that a summariser reads."""
    select: Literal["judge", "debate", "value", "majority"] = "value"
    """Who chooses in the end; `value` is the highest score."""

    @field_validator("plans")
    @classmethod
    def _known(cls, plans: tuple[str, ...]) -> tuple[str, ...]:
        for plan in plans:
            if len(plan.split()) < 2 and plan not in PLANS:
                raise unknown("plan", plan, PLANS)
        return plans

    @model_validator(mode="after")
    def _weighed(self) -> Self:
        if not sum(self.weights.values()):
            raise UserError("all weights of the score are 0; give one of weigh_value, ... another value")
        if self.shortest > self.longest:
            raise UserError(f"shortest is {self.shortest} and longest {self.longest}; no length is in range")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """Part of the score -> its weight."""
        return {name: getattr(self, f"weigh_{name}") for name in ("value", "patch", "edits", "length")}

    @property
    def valued(self) -> bool:
        """Whether a valuer is asked."""
        return self.weigh_value > 0 or self.select == "value"

    def seats(self) -> dict[str, Role]:
        seats = Attempts.seats(self)
        seats[SUMMARISER] = self.role(
            SUMMARISER, {"summarise": attempt_summary}, ["question", "work", "ended", "patch"]
        )
        seats[STRATEGIST] = self.role(STRATEGIST, dict.fromkeys(PARTS, note), ["case"])
        return {**seats, **({VALUER: valuer(self)} if self.valued else {}), **self.choosing_seats()}

    async def strategy(
        self, context: Context, question: str, birth: Birth, parents: Sequence[Member]
    ) -> tuple[str | None, str | None, str | None]:
        """The strategy; or None and why there is none, and the cap that was reached."""
        if birth["operator"] == "pilot":
            return self.planned(int(birth["name"].rpartition(".")[2])), None, None
        by_name = {one["name"]: one for one in parents}
        ordered = [by_name[name] for name in birth["parents"]]
        shown = {"case": case(context, question, birth, ordered)}
        try:
            said = await context.act(STRATEGIST, f"strategy/{birth['name']}", birth["operator"], shown)
        except BudgetExceeded as reached:
            return None, str(reached), str(reached)
        if said.parsed is None:
            return None, said.error or said.status, None
        return said.parsed["text"], None, None

    def planned(self, number: int) -> str:
        """The plan of a pilot, in words."""
        plan = self.plans[number % len(self.plans)]
        return PLANS.get(plan, plan)

    async def told_of_it(
        self, context: Context, question: str, birth: Birth, attempt: Attempt
    ) -> dict[str, Any]:
        """What becomes known of an attempt once it is made, for its event."""
        capped = attempt["reason"] if attempt["exit_status"] == "capped" else None
        value: int | None = None
        summary: dict[str, Any] | None = None
        try:
            if not capped and self.read_on(birth["name"]):
                summary = await self.summary(context, question, attempt)
            if not capped and self.valued:
                value = (await self.value(context, question, attempt))[0]
        except BudgetExceeded as reached:
            capped = str(reached)
        parts = rules(attempt, trajectory(context, attempt), self.shortest, self.longest)
        score = scored(parts, value, self.weights)
        return {"capped": capped, "summary": summary, "value": value, "parts": parts, "score": score}

    def read_on(self, name: str) -> bool:
        """Whether an operator will read this attempt."""
        generation, operator, _ = name.split(".")
        return operator == "pilot" or int(generation) < self.generations

    async def summary(self, context: Context, question: str, attempt: Attempt) -> dict[str, Any] | None:
        """The summary of an attempt; None where it cannot be read."""
        shown = {
            "question": question,
            "work": work(context, attempt, self.shown_steps),
            "ended": ended(attempt),
            "patch": clipped(attempt["patch"], LONGEST_PATCH),
        }
        said = await part(context, attempt["name"]).act(SUMMARISER, "summary", "summarise", shown)
        return dict(said.parsed) if said.parsed is not None else None


def ended(attempt: Attempt) -> str:
    """How an attempt ended, in words."""
    return f"{attempt['exit_status']}, after {attempt['steps']} commands"


def work(context: Context, attempt: Attempt, most: int) -> str:
    """The last `most` steps with what the engineer thought before each."""
    steps, said = trajectory(context, attempt), [turn.text for turn in replies(context, attempt)]
    left_out = max(0, len(steps) - most)
    lines = [f"({left_out} commands before these are left out)"] if left_out else []
    for step, text in list(zip(steps, said, strict=True))[left_out:]:
        thought = clipped(text.partition("```")[0].strip(), LONGEST_THOUGHT)
        lines.append(f"{thought}\n{told_of(step)}".strip())
    return "\n\n".join(lines)


def case(context: Context, question: str, birth: Birth, parents: Sequence[Member]) -> str:
    """What a strategist reads: the issue and the parents, in full."""
    names = PARTS[birth["operator"]] or [f"Attempt {number + 1}" for number in range(len(parents))]
    lines = [f"The issue:\n\n<issue>\n{question}\n</issue>"]
    for name, one in zip(names, parents, strict=True):
        whole = birth["operator"] == "revise" or one["summary"] is None
        lines.append(f"{name}:\n\n<attempt>\n{_told(context, one, whole)}\n</attempt>")
    return "\n\n".join(lines)


def _told(context: Context, one: Member, whole: bool) -> str:
    """An attempt in words: how it ended and its summary; where that is not enough, the work and the patch."""
    attempt, summary = one["attempt"], one["summary"]
    lines = [f"How it ended: {ended(attempt)}. Its score, 0 to 1, without any test: {one['score']:.2f}."]
    lines.append("There is no summary of it." if summary is None else spoken(summary))
    if whole:
        patch = clipped(attempt["patch"], LONGEST_PATCH) or "(nothing)"
        commands = told(trajectory(context, attempt))
        lines += [f"Its last commands and what they printed:\n\n{commands}", f"What it changed:\n\n{patch}"]
    return "\n\n".join(lines)

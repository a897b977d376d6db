"""What parsers return: immutable pydantic models, strict about types, that hold what stands in the text."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class Result(BaseModel):
    """Base of all results: immutable, no type coercion; fields a model adds of its own are left out."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


Stated = Field(min_length=1, pattern=r"\S")


class Answer(Result):
    """A bare answer."""

    answer: str = Stated


class Statement(Result):
    """A turn of free text and, where its role asks for one, the answer it ends in."""

    text: str = Stated
    answer: str | None = None


class Conclusion(Result):
    """Verification and conclusion of a round of CoSC (2410.10735): of the program, then of its output."""

    program: str
    program_fits: bool
    """The program does what the question asks."""
    output: str
    output_fits: bool
    """The output can be the question's answer."""
    answer: str | None = None
    """The final answer; None asks for another round."""

    @property
    def final(self) -> bool:
        """It ends the rounds."""
        return self.program_fits and self.output_fits and bool((self.answer or "").strip())


class ModeratorVerdict(Result):
    """MAD's discriminative judge J_d (2305.19118): is there a solution yet, and whose."""

    preference: bool
    side: Literal["affirmative", "negative", "none"]
    reason: str
    answer: str
    """Empty where there is no answer yet; MAD's models fill it in even without a preference."""

    @field_validator("preference", mode="before")
    @classmethod
    def _yes_or_no(cls, value: Any) -> Any:
        """ "Yes" and "No" in any case are the words MAD's prompt asks for; nothing else is coerced."""
        words = {"yes": True, "no": False}
        return words.get(value.strip().lower(), value) if isinstance(value, str) else value

    @field_validator("side", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.strip().lower() if isinstance(value, str) else value


class JudgeDecision(Result):
    """MAD's extractive judge J_e: the final answer."""

    reason: str
    answer: str = Stated


class Candidates(Result):
    """The answers a debate has put forward, without reasons."""

    candidates: list[str] = Field(min_length=1)

    @field_validator("candidates")
    @classmethod
    def _none_blank(cls, value: list[str]) -> list[str]:
        if not all(item.strip() for item in value):
            raise ValueError("a candidate is blank")
        return value


class StatedAnswer(Result):
    """ReConcile's reply (2309.13007): an answer with the confidence its author gives it."""

    reasoning: str
    answer: str = Stated
    confidence: float = Field(ge=0.0, le=1.0)


class StepVerdict(Result):
    """SPC's critic (2504.19162): is the last step right, and what was said about it before the verdict."""

    correct: bool
    critique: str


class Comparison(Result):
    """A judge's word on two answers to one question."""

    reason: str
    better: Literal["A", "B", "tie"]


class AttemptSummary(Result):
    """What SE-Agent's operators read of an attempt (2508.02085; the fields of its released code)."""

    approach_summary: str = Stated
    strategy: str = Stated
    modified_files: list[str]
    key_changes: list[str]
    specific_techniques: list[str]
    tools_used: list[str]
    reasoning_pattern: str
    assumptions_made: list[str]
    components_touched: list[str]

"""Lessons: the seats of any protocol are told what a teacher would say there.

    options: {of: discuss, options: {agents: 4}}

Nothing is sampled: each reply is a demonstration in the words of that protocol's prompts, tokenised as the
agent's own and journaled as its turn, which supervised training takes from there. A task holds `lessons`, a
list of

    {"role": "scorer", "occasion": "score", "variables": {...}, "text": "... <score>3</score>"}

where `variables` is all that the role's prompt is given on that occasion. Every pupil of a role is told the
same. (`sneaky_lesson` makes such lessons of pairs of steps.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, TypedDict

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from sparring.agents.parsing import ParseError
from sparring.agents.roles import Role
from sparring.errors import UserError, unknown
from sparring.graphs.context import Context
from sparring.graphs.protocol import Outcome, Protocol, in_line
from sparring.memory.journal import Journal
from sparring.memory.queries import mean_logprobs
from sparring.memory.records import TaskRecord

FIELDS = {"role": str, "occasion": str, "variables": Mapping, "text": str}


class LessonState(TypedDict, total=False):
    question: Any
    outcome: Outcome


class Lesson(Protocol):
    """Demonstrations for those who sit in another protocol."""

    name: ClassVar[str] = "lesson"
    answers: ClassVar[bool] = False

    of: str = "discuss"
    """The protocol, by name."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Its options; prompts are given beside them."""
    pupils: tuple[str, ...] = ()
    """Seats or roles that are taught; empty: all."""
    score: bool = False
    """Journal the log-probabilities of the demonstrations: their negative mean is the supervised loss."""
    most: int = Field(default=64, ge=1)
    """Demonstrations of a task; more are refused."""

    @cached_property
    def _inner(self) -> Protocol:
        from sparring.graphs.catalogue import make_protocol  # which imports protocols by name

        return make_protocol(self.of, {**self.options, "prompts": self.prompts})

    def seats(self) -> dict[str, Role]:
        every = self._inner.seats()
        known = {*every, *(role.name for role in every.values())}
        if strange := [pupil for pupil in self.pupils if pupil not in known]:
            raise unknown("pupil", strange[0], known)
        taught = set(self.pupils) or known
        return {seat: role for seat, role in every.items() if {seat, role.name} & taught}

    @property
    def max_calls(self) -> int:
        return self.most

    def accepts(self, task: TaskRecord) -> None:
        lessons = (task.meta or {}).get("lessons")
        if not isinstance(lessons, list) or not lessons:
            raise UserError(f"task `{task.id}` has no `lessons`: give a list of what is to be said")
        for place, lesson in enumerate(lessons):
            self._fits(lesson, f"task `{task.id}`, lesson {place}")
        if (count := len(self._told(lessons))) > self.most:
            raise UserError(f"task `{task.id}` has {count} demonstrations; `most` is {self.most}")

    def _fits(self, lesson: Any, where: str) -> None:
        """Raise `UserError` where a lesson could not be given."""
        for name, kind in FIELDS.items():
            if not isinstance(lesson, Mapping) or not isinstance(lesson.get(name), kind):
                raise UserError(f"{where}: `{name}` is missing or of another kind; see `protocols.lesson`")
        roles = {role.name: role for role in self._inner.seats().values()}
        if lesson["role"] not in roles:
            raise unknown(f"role in {where}", lesson["role"], roles)
        role = roles[lesson["role"]]
        parser = role.parser(lesson["occasion"])
        asked = role.prompt.variables.get(lesson["occasion"], frozenset()) - {"instruction"}
        if missing := sorted(asked - set(lesson["variables"])):
            raise UserError(f"{where}: its prompt is also given `{missing[0]}`")
        try:
            parser(lesson["text"])
        except ParseError as error:
            raise UserError(f"{where}: the text is not of the form that is asked for: {error}") from None

    def _told(self, lessons: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, Mapping[str, Any]]]:
        """(seat, key, lesson) of all demonstrations."""
        seats = self.seats()
        return [
            (seat, f"{place}/{seat}", lesson)
            for place, lesson in enumerate(lessons)
            for seat, role in seats.items()
            if role.name == lesson["role"]
        ]

    def graph(self) -> StateGraph[Any, Context, Any, Any]:
        return in_line(LessonState, self.teach)

    async def teach(self, state: LessonState, runtime: Runtime[Context]) -> LessonState:
        context = runtime.context
        assert context.task is not None
        told = self._told((context.task.meta or {})["lessons"])
        given = (
            context.demonstrate(
                seat, key, lesson["occasion"], dict(lesson["variables"]), lesson["text"], score=self.score
            )
            for seat, key, lesson in told
        )
        await asyncio.gather(*given)
        return {"outcome": Outcome(answer=None, detail={"lessons": len(told)})}

    def figures(self, journal: Journal, run: str, episodes: Sequence[int] | None = None) -> dict[str, float]:
        return supervised_loss(journal, run, episodes) if self.score else {}


def supervised_loss(journal: Journal, run: str, episodes: Sequence[int] | None = None) -> dict[str, float]:
    """`loss`: the mean negative log-probability of a demonstrated token, by role and over all."""
    found = mean_logprobs(journal, run, episodes)
    tokens = max(1, sum(count for _, count in found.values()))
    loss = -sum(mean * count for mean, count in found.values()) / tokens
    return {"loss": loss, **{f"loss_{role}": -mean for role, (mean, _) in sorted(found.items())}}

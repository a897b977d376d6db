"""The one interface of everything that scores solutions: `orm:MODEL`, `judge`, `module:Class`.

A scorer gives an `outcome` score of a whole solution or a `process` score of each of its steps, in 0..1.
What it says is journaled in `scores` before anybody acts on it, so a replay asks nobody again. A scorer
that speaks does so in a seat of its own, by turns like any other; a reward model sits there and says nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal
from urllib.parse import parse_qsl

from pydantic import BaseModel, ConfigDict

from sparring.agents.roles import Role
from sparring.agents.steps import split_steps
from sparring.errors import UserError, made, unknown
from sparring.graphs.aggregate import Ballot, aggregator
from sparring.graphs.context import Context
from sparring.graphs.own import find_class
from sparring.graphs.protocol import Protocol
from sparring.memory.records import TaskRecord, Turn
from sparring.memory.scores import ScoreRecord

Kind = Literal["outcome", "process"]


@dataclass(frozen=True, slots=True)
class Chain:
    """A solution that was written in some turn."""

    turn: int
    key: str
    question: str
    text: str
    answer: str | None

    @classmethod
    def of(cls, turn: Turn, question: str) -> Chain:
        """What was written in a turn, with the answer that was read in it."""
        return cls(turn.id, turn.key, question, turn.text, (turn.parsed or {}).get("answer"))

    @property
    def steps(self) -> tuple[str, ...]:
        """What it is split into; all of it where there is nothing to split."""
        return tuple(split_steps(self.text)) or (self.text.strip(),)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a scorer says of a chain."""

    values: tuple[float | None, ...]
    """One, or one for each step; None where it cannot say."""
    evidence: Any = None

    @property
    def known(self) -> tuple[float, ...] | None:
        """The values, if there is none that it could not give."""
        found = tuple(value for value in self.values if value is not None)
        return found if len(found) == len(self.values) else None


class Scorer(BaseModel, ABC):
    """Base of all scorers; the fields are its options."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str]
    kind: ClassVar[Kind]
    version: ClassVar[str] = "1"
    under: ClassVar[str | None] = None
    """What follows a chain's key in the keys of its own turns; None: it has none."""

    seat: str = ""
    """Of who speaks or sits for it; by default the scorer's name."""

    def seats(self, protocol: Protocol) -> dict[str, Role]:
        """Seats that it needs beside the protocol's own."""
        return {}

    def engines(self) -> dict[str, str]:
        """Seat -> spec of the engine it brings along."""
        return {}

    def calls(self, chains: int, steps: int) -> int:
        """The most calls that scoring so many chains of so many steps can take."""
        return 0

    @property
    def looks(self) -> bool:
        """Whether it looks at the task's reference."""
        return False

    def accepts(self, task: TaskRecord) -> None:
        """Raise `UserError` where a task lacks what the scorer needs; asked before any work."""
        if self.looks and task.answer is None:
            raise UserError(f"task `{task.id}` has no `answer`, and scorer `{self.name}` looks at it")

    @property
    def weighs_all(self) -> bool:
        """Whether what it says of one chain depends on the others, by their majority."""
        return False

    def label(self, context: Context) -> tuple[str, str]:
        """The scorer and its version as the journal has them."""
        options = self.model_dump(exclude_defaults=True, exclude={"seat"}, mode="json")
        shown = "&".join(f"{name}={value}" for name, value in sorted(options.items()))
        return f"{self.name}?{shown}" if shown else self.name, self.version

    @abstractmethod
    async def score(self, context: Context, chains: Sequence[Chain], majority: str | None) -> list[Judgement]:
        """Judgements of chains of one question, in their order.

        Args:
            majority: The answer that most of the first solutions gave; None: there is none.
        """


async def majority_of(context: Context, chains: Sequence[Chain], key: str = "0") -> str | None:
    """The answer that most of a question's first solutions gave, decided once for the episode: an equality
    may run out of time, and not do so in a replay. `key` tells whose, where there are several."""
    kept = context.episode.event_payload("majority", key)
    if kept is None:
        ballots = [Ballot(chain.key, chain.answer) for chain in chains]
        vote = await aggregator("majority")(ballots, context.equal)
        kept = await context.episode.event("majority", key, {"answer": vote.winner, "tied": vote.tied})
    answer: str | None = kept["answer"]
    return answer


async def scored(
    context: Context, scorer: Scorer, chains: Sequence[Chain], majority: str | None
) -> list[Judgement]:
    """What a scorer says of chains; what it has said before is read from the journal."""
    name, version = scorer.label(context)
    kept = context.episode.scores
    fresh = [chain for chain in chains if kept.of(chain.turn, name, version) is None]
    if fresh:
        judged = await scorer.score(context, fresh, majority)
        records = [
            ScoreRecord(
                chain.turn, name, version, value, None if scorer.kind == "outcome" else place,
                one.evidence if place == 0 else None,
            )
            for chain, one in zip(fresh, judged, strict=True)
            for place, value in enumerate(one.values)
        ]  # fmt: skip
        await kept.add(records)
    return [_read(kept.of(chain.turn, name, version) or ()) for chain in chains]


def _read(records: Sequence[ScoreRecord]) -> Judgement:
    return Judgement(tuple(record.value for record in records), records[0].evidence if records else None)


SCORERS = {
    "orm": "sparring.graphs.scorers.models:OutcomeModel",
    "prm": "sparring.graphs.scorers.models:ProcessModel",
    "judge": "sparring.graphs.scorers.judge:Judge",
    "p_true": "sparring.graphs.scorers.p_true:PTrue",
    "self_certainty": "sparring.graphs.scorers.certainty:SelfCertainty",
    "rollouts": "sparring.graphs.scorers.rollouts:Rollouts",
    "oracle": "sparring.graphs.scorers.oracle:Oracle",
}


def make_scorer(spec: str, kind: Kind | None = None) -> Scorer:
    """A scorer by its spec: `NAME`, `NAME?option=value&...`, `orm:MODEL`, `prm:MODEL?tag=...`, or one of your
    own as `module:Class` or `module:Class?option=value&...`.

    Args:
        kind: What it has to give.

    Raises:
        UserError: unknown name or option, a value that does not fit, or a scorer of the other kind.
    """
    head, _, query = spec.partition("?")
    name, colon, model = head.partition(":")
    if name not in SCORERS and not colon:
        raise unknown("scorer", head, [*SCORERS, "module:Class"])
    made_of: type[Scorer] = find_class(SCORERS.get(name, head), Scorer, "scorer")
    options: Mapping[str, Any]
    if name in ("orm", "prm"):
        if not model:
            raise UserError(f"scorer `{spec}`: name a model, as in `{name}:ORG/NAME` or `{name}:FOLDER`")
        options = {"spec": spec}
    elif colon and name in SCORERS:
        raise UserError(f"scorer `{spec}`: only `orm:` and `prm:` name a model; options follow a `?`")
    else:
        try:
            options = dict(parse_qsl(query, strict_parsing=bool(query)))
        except ValueError:
            raise UserError(f"scorer `{spec}`: write options as ?name=value&name=value") from None
    scorer = made(made_of, options, f"scorer `{name if name in SCORERS else head}`")
    if kind is not None and scorer.kind != kind:
        fitting = [other for other in SCORERS if _kind(other) == kind]
        raise UserError(
            f"scorer `{spec}` gives {scorer.kind} scores where {kind} scores are needed; those that give "
            f"them: {', '.join(fitting)}"
        )
    return scorer


def _kind(name: str) -> Kind:
    kind: Kind = find_class(SCORERS[name], Scorer, "scorer").kind
    return kind

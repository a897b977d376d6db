"""What methods of choosing share: the pool they all see, and what they make of it.

A method takes the first `samples` chains of the pool with the scores it needs, may ask agents of its own, and
gives an answer. Its own turns lie under its label (`gsa/write`), so what it costs can be read from the
journal: the samples it took, what their scorers said, and its turns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from sparring.agents.roles import Role
from sparring.errors import UserError, made, unknown
from sparring.graphs.aggregate import Ballot, Vote
from sparring.graphs.context import Context
from sparring.graphs.protocol import Protocol
from sparring.graphs.scorers.base import Chain, Judgement
from sparring.memory.journal import Journal

Need = Literal["outcome", "process", "certainty"]
Rate = Callable[[Need, Sequence[Chain], str | None], Awaitable[list[Judgement]]]


async def _nobody(need: Need, chains: Sequence[Chain], majority: str | None) -> list[Judgement]:
    return [Judgement((None,))] * len(chains)


@dataclass(frozen=True, slots=True)
class Pool:
    """Samples of one question, scored; what a scorer could not say is None."""

    question: str
    chains: tuple[Chain, ...]
    scores: Mapping[Need, Mapping[str, Judgement]] = field(default_factory=dict)
    """Kind -> key of a chain -> what was said of it."""
    rate: Rate = _nobody
    """Asks a scorer about more chains, beside the majority's answer."""

    def score(self, need: Need, chain: Chain) -> float | None:
        """One number of a chain: its score, or the product of its steps' scores."""
        known = self.scores[need][chain.key].known
        if known is None:
            return None
        product = 1.0
        for value in known:
            product *= value
        return product

    def first(self, count: int | None) -> Pool:
        """The pool as a method with fewer samples sees it."""
        return replace(self, chains=self.chains[:count])


@dataclass(frozen=True, slots=True)
class Choice:
    """What a method came to."""

    answer: str | None
    detail: Mapping[str, Any] = field(default_factory=dict)


class Method(BaseModel, ABC):
    """Base of all methods; the fields are its options."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str]
    needs: ClassVar[tuple[Need, ...]] = ()
    under: ClassVar[str | None] = None
    """What follows a sample's key in the keys of turns about it that methods share."""
    pooled: ClassVar[bool] = True
    """Whether it takes samples of the pool at all."""
    shared: ClassVar[tuple[str, ...]] = ()
    """How the keys of other turns that methods share begin."""

    samples: int | None = Field(default=None, ge=1)
    """Of the pool, the first; None: all."""

    def seats(self, protocol: Protocol, answer: str) -> dict[str, Role]:
        """Seats that it asks; `answer` is the format that answers have."""
        return {}

    def calls(self, samples: int) -> int:
        """The most calls of its own, beside the samples."""
        return 0

    def scored(self, samples: int) -> int:
        """The most chains that scorers read beside the samples."""
        return 0

    def facts(self, journal: Journal, scored_by: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """What has to be known before it can choose, as JSON; it is in `context.facts` under its label.

        Args:
            scored_by: `outcome` and `process`, the scorers of the run.
        """
        return None

    @abstractmethod
    async def choose(self, pool: Pool, context: Context, label: str) -> Choice:
        """The answer; `label` begins the keys of its turns."""


def ballots(pool: Pool, weight: Need | None = None) -> list[Ballot]:
    """A ballot a chain; those that have no score where one is asked for stay at home."""
    found = []
    for chain in pool.chains:
        value = None if weight is None else pool.score(weight, chain)
        if weight is None or value is not None:
            found.append(Ballot(chain.key, chain.answer, chain.text, weight=value, confidence=value))
    return found


def chosen(vote: Vote) -> Choice:
    return Choice(vote.winner, {**vote.detail, "tied": vote.tied, "invalid": vote.invalid})


METHODS = {
    "single": "sparring.graphs.selection.votes:Single",
    "majority": "sparring.graphs.selection.votes:Majority",
    "weighted": "sparring.graphs.selection.votes:Weighted",
    "best_of_n": "sparring.graphs.selection.votes:BestOfN",
    "borda": "sparring.graphs.selection.votes:Borda",
    "usc": "sparring.graphs.selection.asked:Usc",
    "gsa": "sparring.graphs.selection.asked:Gsa",
    "self_agreement": "sparring.graphs.selection.asked:SelfAgreement",
    "self_refine": "sparring.graphs.selection.rewriting:SelfRefine",
    "tick": "sparring.graphs.selection.checklists:Tick",
    "stick": "sparring.graphs.selection.checklists:Stick",
    "deepening": "sparring.graphs.selection.deepening:Deepening",
    "refine": "sparring.graphs.selection.refining:Refine",
    "glore": "sparring.graphs.selection.rewriting:Glore",
}


TAKEN = ("sample", "checklist")
"""What begins the keys of turns that are no method's own."""


def make_methods(given: Sequence[str | Mapping[str, Any]]) -> dict[str, Method]:
    """Label -> method, from names or mappings of `method` and its options; `label` names one of several.

    Raises:
        UserError: unknown method or option, a value that does not fit, or a label that is there twice or
            would begin keys that are not its method's.
    """
    found: dict[str, Method] = {}
    for one in given:
        values = {"method": one} if isinstance(one, str) else dict(one)
        name = values.pop("method", None)
        label = str(values.pop("label", name))
        if name not in METHODS:
            raise unknown("method", name, METHODS)
        if label in found or "/" in label or not label.isprintable():
            raise UserError(f"method `{label}`: give each of several a `label` of its own, without a slash")
        module, class_name = METHODS[name].split(":")
        if not label.strip() or label in TAKEN:
            raise UserError(f"method `{name}`: `{label}` cannot be a `label`; take another word")
        found[label] = made(getattr(import_module(module), class_name), values, f"method `{name}`")
    return found

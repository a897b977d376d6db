"""What a reward function is: journal rows of one episode in, reward rows out, nothing else read.

Fault decides (DESIGN section 3). The world's fault is NULL for every function, and is settled here once.
The model's fault gets the value that a function declares for that status. NULL means masked: it enters
no baseline, no statistic and no loss.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict
from sqlalchemy import ColumnElement, and_

from sparring.errors import UserError
from sparring.memory.records import WORLD_FAULT
from sparring.memory.schema import Reward
from sparring.memory.types import canonical, digest


@dataclass(frozen=True, slots=True)
class TurnRow:
    """A turn as a reward function sees it; `seat` is where its agent sat, where that can be told."""

    id: int
    key: str
    attempt: int
    final: bool
    role: str
    policy: str
    policy_version_id: int
    status: str
    text: str | None
    parsed: Any
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class EventRow:
    id: int
    kind: str
    key: str
    payload: Any


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """A judgement of a turn that is not a reward (reward model, process reward, P(True))."""

    id: int
    turn_id: int
    step: int | None
    scorer: str
    version: str
    value: float | None


@dataclass(frozen=True, slots=True)
class EpisodeRow:
    """A closed episode and everything that was said, decided and judged in it, in order of ids."""

    id: str
    number: int
    run: str
    protocol: str
    status: str
    outcome: Any
    task: str
    question: Any
    answer: Any
    check: str
    meta: Any
    turns: tuple[TurnRow, ...]
    events: tuple[EventRow, ...]
    scores: tuple[ScoreRow, ...]


WHOLE = (-1, -1)
"""The span that means the whole turn."""


@dataclass(frozen=True, slots=True)
class Paid:
    """One reward: of a whole turn, or of its completion's tokens start to end - 1. None is NULL."""

    turn_id: int
    value: float | None
    reason: str
    turns: Sequence[int] = ()
    """Ids of the turns that were read for it, itself included; none given: itself alone."""
    events: Sequence[int] = ()
    scores: Sequence[int] = ()
    span: tuple[int, int] = WHOLE


class RewardFunction(BaseModel, ABC):
    """Base of all reward functions; the fields are its options.

    A subclass is pure: the same rows give the same rewards, on any machine, years later. `version` is
    raised when its formula changes; old rows stay beside the new ones.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str]
    version: ClassVar[str]

    @property
    def config_hash(self) -> str:
        """Of the options: rows of two configurations are kept apart."""
        return digest(canonical(self.model_dump(mode="json")), size=8).hex()

    def __call__(self, episode: EpisodeRow) -> list[Paid]:
        """The rewards of an episode, at most one for each turn and span.

        Raises:
            UserError: `rewards` gives something else than `Paid` rows.
        """
        fault = {turn.id for turn in episode.turns if turn.status in WORLD_FAULT}
        given: object = self.rewards(episode)
        said: list[Any] = list(given) if isinstance(given, Iterable) else [given]
        if strange := [type(one).__name__ for one in said if not isinstance(one, Paid)]:
            what = f"`rewards` has to give `Paid` rows, not {strange[0]}"
            raise UserError(f"reward function `{self.name}`, episode {episode.id}: {what}")
        paid = [reward for reward in said if reward.turn_id not in fault]
        lost = [Paid(turn, None, "the world's fault", turns=(turn,)) for turn in sorted(fault)]
        return [*paid, *lost]

    @abstractmethod
    def rewards(self, episode: EpisodeRow) -> Iterable[Paid]:
        """What the turns earned; what is said of turns that are the world's fault is dropped."""


@dataclass(frozen=True, slots=True)
class RewardRef:
    """Which rows are meant: function, version and configuration."""

    function: str
    version: str
    config_hash: str

    @property
    def rows(self) -> tuple[Any, ...]:
        """Conditions on `rewards`: these rows, of whole turns and of spans."""
        return (
            Reward.function == self.function,
            Reward.version == self.version,
            Reward.config_hash == self.config_hash,
        )

    @property
    def whole(self) -> tuple[Any, ...]:
        """The same, of whole turns alone."""
        return (*self.rows, Reward.span_start == -1)

    @property
    def matches(self) -> ColumnElement[bool]:
        """`whole`, as one condition of a join."""
        return and_(*self.whole)

    @classmethod
    def of(cls, function: RewardFunction) -> RewardRef:
        return cls(function.name, function.version, function.config_hash)


@dataclass(slots=True)
class Derived:
    """What deriving rewards did."""

    episodes: int = 0
    rewards: int = 0
    """Rows added; those that were there are left alone."""
    null: int = 0
    already: int = 0
    """Rows that were there with the same value."""
    changed: list[int] = field(default_factory=list)
    """Turns whose stored value differs: the function is not pure, or changed without a new version."""

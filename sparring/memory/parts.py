"""A part of an episode: whatever is said and decided there is keyed below the part's name.

So that one protocol can be played within an episode of another, several times and side by side, on one
journal, one meter and one verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .episode import EpisodeHandle, Produce
from .records import Ask, Turn
from .run import RunHandle
from .scores import Scores


class EpisodePart:
    """An episode as those see it who play in one part of it. Turns are returned with their whole keys."""

    def __init__(self, whole: EpisodeHandle | EpisodePart, name: str) -> None:
        self.whole, self.name = whole, name

    @property
    def id(self) -> str:
        """Names the part among the parts of all episodes; no row has it."""
        return f"{self.whole.id}-{self.name.replace('/', '-')}"

    @property
    def run(self) -> RunHandle:
        return self.whole.run

    @property
    def scores(self) -> Scores:
        return self.whole.scores

    def _key(self, key: str) -> str:
        return f"{self.name}/{key}"

    async def turns(self, keys: Sequence[str], ask: Ask, produce: Produce) -> list[Turn]:
        """As `EpisodeHandle.turns`."""
        return await self.whole.turns([self._key(key) for key in keys], ask, produce)

    def turn(self, key: str) -> Turn | None:
        """As `EpisodeHandle.turn`."""
        return self.whole.turn(self._key(key))

    def event_payload(self, kind: str, key: str) -> Any:
        """As `EpisodeHandle.event_payload`."""
        return self.whole.event_payload(kind, self._key(key))

    async def event(self, kind: str, key: str, payload: dict[str, Any]) -> dict[str, Any]:
        """As `EpisodeHandle.event`."""
        return await self.whole.event(kind, self._key(key), payload)

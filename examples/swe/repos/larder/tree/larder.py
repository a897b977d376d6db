"""A cache with a use-by date and limited room."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Any

NOTHING = object()


class Larder:
    """Keeps `room` things, each for `keep` seconds."""

    def __init__(self, room: int, keep: float = 3600, clock: Callable[[], float] = time.monotonic) -> None:
        if room < 1:
            raise ValueError("a larder has room for one thing at least")
        self.room = room
        self.keep = keep
        self._clock = clock
        self._kept: dict[Hashable, tuple[float, Any]] = {}
        self.hits = self.misses = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable, default: Any = None) -> Any:
        """What is kept under a key and still good; else `default`."""
        until, value = self._kept.get(key, (0.0, NOTHING))
        if value is NOTHING or until <= self._clock():
            self._kept.pop(key, None)
            self.misses += 1
            return default
        self.hits += 1
        return value

    def put(self, key: Hashable, value: Any) -> None:
        """Keep something; when there is no room, something else has to go."""
        self._kept.pop(key, None)
        while len(self._kept) >= self.room:
            self._kept.pop(next(iter(self._kept)))
        self._kept[key] = (self._clock() + self.keep, value)

    def fetch(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What is kept, or what is made now and kept from here on."""
        value = self.get(key, NOTHING)
        if value is NOTHING:
            value = make()
            self.put(key, value)
        return value

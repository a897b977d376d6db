"""Several servers of one model: the least busy one takes the next call, one that is down is set aside."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openai import AsyncOpenAI

ASIDE_S = 30.0
"""Seconds for which an endpoint that is down gets no calls while another one is up."""


@dataclass(slots=True)
class Endpoint:
    """One server."""

    url: str
    client: AsyncOpenAI
    in_flight: int = 0
    aside_until: float = field(default=0.0)
    """On the clock of `time.monotonic`."""
    adapters: set[str] = field(default_factory=set)
    """Names of those that it has loaded for us."""
    tempers: bool | None = None
    """Whether its log-probabilities are of the temperature drawn with; None until it was asked."""

    @contextmanager
    def busy(self) -> Iterator[None]:
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    def set_aside(self) -> None:
        self.aside_until = time.monotonic() + ASIDE_S


class Endpoints:
    """Picks an endpoint for each call."""

    def __init__(self, all_: Sequence[Endpoint]) -> None:
        self.all = list(all_)
        self._turn = 0

    def order(self) -> list[Endpoint]:
        """All endpoints, the one to try first in front: up, least in flight, and round-robin among equals.

        Those set aside come last, the one whose time ends first in front: when all are down, one is asked.
        """
        self._turn += 1
        now, count = time.monotonic(), len(self.all)
        turned = [self.all[(self._turn + place) % count] for place in range(count)]
        return sorted(turned, key=lambda one: (max(0.0, one.aside_until - now), one.in_flight))

"""Several servers of one model: the least busy one takes the next call, one that is down is set aside."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.pagination import AsyncPage
    from openai.types import Model

T = TypeVar("T")
ASIDE_S = 30.0
"""Seconds for which an endpoint that is down gets no calls while another one is up."""
LOOK_S = 20.0
"""Seconds within which a server must list its models."""
WATCH_S = 30.0
"""Seconds after which a server that owes us an answer is asked whether it is still there."""


@dataclass(slots=True)
class Endpoint:
    """One server."""

    url: str
    client: AsyncOpenAI
    in_flight: int = 0
    aside_until: float = field(default=0.0)
    """On the clock of `time.monotonic`."""
    doubtful: bool = False
    """It was down, or a call to it was given up; it has answered nothing since."""
    adapters: set[str] = field(default_factory=set)
    """Names of those that it has loaded for us."""
    tempers: bool | None = None
    """Whether its log-probabilities are of the temperature drawn with; None until it was asked."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while something about this server is found out or loaded, once for all that wait for it."""

    @contextmanager
    def busy(self) -> Iterator[None]:
        self.in_flight += 1
        try:
            yield
            self.aside_until, self.doubtful = 0.0, False
        except asyncio.CancelledError:  # most likely somebody has waited long enough
            self.set_aside()
            raise
        finally:
            self.in_flight -= 1

    def set_aside(self) -> None:
        self.aside_until, self.doubtful = time.monotonic() + ASIDE_S, True

    def forget(self) -> None:
        """What a server does not keep when it is started anew, perhaps with other options."""
        self.adapters.clear()
        self.tempers = None

    async def models(self) -> AsyncPage[Model]:
        """What it serves. Raises the client's `APITimeoutError` where it does not say so soon."""
        return await self.client.models.list(timeout=LOOK_S)


class Endpoints:
    """Picks an endpoint for each call."""

    def __init__(self, all_: Sequence[Endpoint]) -> None:
        self.all = list(all_)
        self._turn = 0

    def order(self) -> list[Endpoint]:
        """All endpoints, the one to try first in front: up, least in flight, and round-robin among equals.

        Those set aside come last, the one whose time ends first in front: when all are down, one is asked.
        One that has yet to show that it is back gets a single call.
        """
        self._turn += 1
        now, count = time.monotonic(), len(self.all)
        turned = [self.all[(self._turn + place) % count] for place in range(count)]
        return sorted(
            turned,
            key=lambda one: (
                max(0.0, one.aside_until - now),
                one.doubtful and one.in_flight > 0,
                one.in_flight,
            ),
        )


async def there(endpoint: Endpoint) -> None:
    """Ask a server for a sign of life; any answer is one.

    Raises:
        APIConnectionError: there is none; of a time-out too.
    """
    import openai

    try:
        await endpoint.models()
    except openai.APIConnectionError:
        raise
    except openai.APIError:
        return


async def watched(endpoint: Endpoint, work: Coroutine[Any, Any, T], *, asks: bool = True) -> T:
    """The result of a call, as long as its server is there: a process that was stopped holds its
    connections open and says nothing.

    Args:
        asks: False only waits. Some servers take one call at a time, and list their models when it is over.

    Raises:
        APIConnectionError: the server was asked for a sign of life, and gave none.
    """
    if not asks:
        return await work
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=WATCH_S))[0]:
            await there(endpoint)
        return task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

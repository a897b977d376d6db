"""A call on its way into the journal: it outlives those who asked for it, since it is paid for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence


class Flight:
    """Turns or an event on their way into the journal. Who waits for them may leave; they go on."""

    __slots__ = ("_error", "_landed", "_waiters", "agent", "fingerprint", "keys", "task")

    def __init__(self, keys: Sequence[str] = (), fingerprint: bytes = b"", agent: str = "") -> None:
        self.keys, self.fingerprint, self.agent = keys, fingerprint, agent
        self.task: asyncio.Task[None] | None = None
        """Makes the turns; done once they are handed to the writer."""
        self._waiters: list[asyncio.Future[None]] = []
        self._landed = False
        self._error: BaseException | None = None

    def land(self, error: BaseException | None) -> None:
        """Let go of those who wait."""
        self._landed, self._error = True, error
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def landed(self) -> bool:
        """Wait; False where it was given up before there was anything to journal."""
        if not self._landed:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        if isinstance(self._error, asyncio.CancelledError):
            return False
        if self._error is not None:
            raise self._error
        return True

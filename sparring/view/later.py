"""What takes longer than a page may: computed once beside the pages, shown as soon as it is there."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from threading import Lock
from typing import Any

WAIT_S = 0.05
"""How long a page waits for it."""
MOST = 64
"""Values kept, the oldest go first."""


class Later:
    """Values by key, each with the state of the journal that it was computed from.

    Args:
        wait_s: How long whoever asks waits for a value; None: until it is there.
    """

    def __init__(self, wait_s: float | None = WAIT_S) -> None:
        self._wait_s = wait_s
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sparring-view-later")
        self._values: dict[Hashable, tuple[Hashable, Any]] = {}
        self._coming: dict[Hashable, Future[Any]] = {}
        self._guard = Lock()

    def get(self, key: Hashable, stamp: Hashable, work: Callable[[], Any]) -> Any:
        """The value for this state; else the last one there was while a new one is computed; None: none yet.

        Raises:
            Exception: whatever `work` raised, to whoever was waiting for it.
        """
        with self._guard:
            if key in self._values and self._values[key][0] == stamp:
                return self._values[key][1]
            coming = self._coming.get(key)
            if coming is None:
                coming = self._coming[key] = self._pool.submit(self._compute, key, stamp, work)
        try:
            return coming.result(timeout=self._wait_s)
        except NotYet:
            with self._guard:
                return self._values.get(key, (None, None))[1]

    def _compute(self, key: Hashable, stamp: Hashable, work: Callable[[], Any]) -> Any:
        try:
            value = work()
            with self._guard:
                self._values.pop(key, None)
                self._values[key] = (stamp, value)
                while len(self._values) > MOST:
                    del self._values[next(iter(self._values))]
            return value
        finally:
            with self._guard:
                self._coming.pop(key, None)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

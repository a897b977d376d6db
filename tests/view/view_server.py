"""A viewer's server in a thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sparring.memory.journal import Journal


@dataclass(frozen=True)
class Served:
    """A viewer that answers."""

    port: int
    token: str
    stop: Callable[[], None]

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def enter(self, page: str = "/") -> str:
        """An address that lets in."""
        return f"{self.origin}{page}{'&' if '?' in page else '?'}token={self.token}"


@contextmanager
def serving(memory: str, port: int = 0) -> Iterator[Served]:
    """The viewer over a journal, in a thread."""
    import uvicorn

    from sparring.view.app import make_app
    from sparring.view.serve import listen

    token = "t0ken-that-no-page-shows"
    with Journal.open(memory, read_only=True) as journal, listen(port) as at:
        port = at.getsockname()[1]
        config = uvicorn.Config(
            make_app(journal, "journal", token, port), log_level="error", access_log=False
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([at])))
        thread.start()

        def stop() -> None:
            server.should_exit = True
            thread.join()

        deadline = time.monotonic() + 60
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.02)
        try:
            yield Served(port, token, stop)
        finally:
            stop()

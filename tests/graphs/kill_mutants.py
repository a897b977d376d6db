"""Journals that are wrong in one way each, for the kill test to find: it has to tell every one of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from kill_works import WORKS, Du

from sparring.memory.episode import EpisodeHandle
from sparring.memory.writer import Writer


def wakes_before_it_commits() -> None:
    settle = Writer._settle

    def early(self: Writer, batch: Any, connection: Any) -> Any:
        for write in batch:
            if write.loop is not None:
                write.loop.call_soon_threadsafe(_answer, write, write.waiter, write.done)
            elif write.waiter is not None:
                write.waiter.set_result(None)
            write.waiter = write.done = write.loop = None
        time.sleep(0.05)
        return settle(self, batch, connection)

    Writer._settle = early  # type: ignore[method-assign]  # this process is to be wrong


def _answer(write: Any, waiter: Any, done: Any) -> None:
    if done is not None:
        done(None)
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def _submitting(change: Callable[[int, str, Any], bool]) -> None:
    """`change` is told how many rows went before; whether the row is written."""
    submit, seen = Writer.submit, [0]

    def changed(self: Writer, write: Any) -> None:
        kept = []
        for table, row in write.rows:
            seen[0] += 1
            if change(seen[0], table, row):
                kept.append((table, row))
        write.rows = kept
        submit(self, write)

    Writer.submit = changed  # type: ignore[method-assign]  # as above


def drops_an_event() -> None:
    _submitting(lambda number, table, row: table != "events" or number % 3 > 0)


def loses_the_token_ids() -> None:
    def without(number: int, table: str, row: Any) -> bool:
        if table == "turns" and number % 2:
            row.update(completion_ids=None, logprobs=None)
        return True

    _submitting(without)


def asks_twice() -> None:
    fly = EpisodeHandle._fly

    async def both(self: Any, flight: Any, ask: Any, head: Any, produce: Any) -> None:
        async def again(places: Any) -> Any:
            await produce(places)
            return await produce(places)

        await fly(self, flight, ask, head, again)

    EpisodeHandle._fly = both  # type: ignore[method-assign]  # as above


def closes_before_the_verdict() -> None:
    close = EpisodeHandle.close

    async def apart(
        self: Any, status: Any, outcome: Any = None, error: Any = None, verdict: Any = None
    ) -> None:
        await close(self, status, outcome, error)
        await asyncio.sleep(0.5)  # long enough to be looked at on a busy machine too
        await close(self, status, outcome, error, verdict)

    EpisodeHandle.close = apart  # type: ignore[method-assign]  # as above


MUTANTS: dict[str, Callable[[], None]] = {
    made.__name__: made
    for made in (
        wakes_before_it_commits,
        drops_an_event,
        loses_the_token_ids,
        asks_twice,
        closes_before_the_verdict,
    )
}


class Mutant(Du):
    """`du` on such a journal; the undisturbed run is on a good one."""

    def live(self) -> None:
        if "undisturbed" not in self.folder.name:
            MUTANTS[(self.folder.parent / "mutant").read_text()]()
        super().live()


WORKS["mutant"] = (Mutant,)

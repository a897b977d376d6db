"""A worker of a Ray cluster (`graphs.workers`): one process that plays the episodes a driver hands to it."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import sparring
from sparring.agents.engines.budget import Purse
from sparring.agents.engines.registry import EnginePool
from sparring.errors import SparringError, UserError
from sparring.graphs.player import Player
from sparring.memory.journal import Journal
from sparring.memory.types import digest

T = TypeVar("T")

Usage = tuple[int, int]
"""Samples and completion tokens."""


def code() -> str:
    """Sparring's version and a hash of its source: equal wherever the same is installed."""
    folder = Path(sparring.__file__).parent
    files = sorted((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*.py"))
    parts = [part for name, path in files for part in (name, path.read_bytes())]
    return f"{sparring.__version__} ({digest(*parts, size=4).hex()})"


def carried(error: Exception) -> SparringError:
    """An error as it reaches the driver: not every library's survives the way, and words do."""
    if isinstance(error, SparringError):
        try:
            pickle.loads(pickle.dumps(error))
            return error
        except Exception:  # whatever it holds
            same = UserError if isinstance(error, UserError) else SparringError
            return same(str(error))
    return SparringError(f"a worker failed: {type(error).__name__}: {error}")


def _told(work: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
    @wraps(work)
    async def plainly(*given: Any) -> T:
        try:
            return await work(*given)
        except Exception as error:
            raise carried(error) from None

    return plainly


class Worker:
    """A Ray actor that plays the episodes it is handed, several at a time."""

    @_told
    async def open(self, url: str, durability: Any, folder: str, parts: int, wanted: str) -> None:
        """Reach the journal. Relative names mean what they mean to the driver, where its folder is there.

        Args:
            parts: workers that share the limits of the engines.
            wanted: the driver's `code`.

        Raises:
            UserError: another Sparring is installed here, or the journal cannot be reached from here.
        """
        self._here = here = f"the worker on `{socket.gethostname()}`"
        if (mine := code()) != wanted:
            raise UserError(
                f"{here} has Sparring {mine} from {Path(sparring.__file__).parent}, the driver {wanted}: "
                "install the same on every machine"
            )
        if Path(folder).is_dir():
            os.chdir(folder)
        try:
            self._journal = await asyncio.to_thread(Journal.open, url, durability)
        except UserError as error:
            raise UserError(f"{here}: {error}; every machine has to reach the journal by this URL") from None
        self._purse = Purse()
        self._pool = EnginePool(parts, self._purse)
        self._prepared: dict[str, Any] = {}
        self._player: Player | None = None
        self._end = asyncio.Event()
        self._playing: set[asyncio.Task[str]] = set()

    @_told
    async def prepare(self, row: dict[str, Any]) -> None:
        """Have the engines of a play ready, before its run has a row or an episode.

        Raises:
            UserError: an engine, or a module that the protocol needs, is not where this worker is.
        """
        from sparring.graphs.play import Play  # not on top: it imports who hires workers

        play = Play.from_row(SimpleNamespace(**row))
        try:
            cast = play.cast()
            agents = await cast.agents(self._pool, self._journal)
            await asyncio.to_thread(cast.protocol.ready)
        except UserError as error:
            raise UserError(f"{self._here}: {error}") from None
        self._prepared[row["id"]] = play, agents

    @_told
    async def begin(self, run: str, epoch: int) -> None:
        """Be at work for a run, and for no other, until told otherwise."""
        await self.rest()
        play, agents = self._prepared[run]
        joined = await asyncio.to_thread(self._journal.join, run, epoch)
        player, ready = Player(play, joined, self._pool, agents=agents), asyncio.Event()

        async def work() -> None:
            async with player.at_work():
                ready.set()
                await self._end.wait()

        self._working = asyncio.create_task(work())
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait([self._working, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._working.done():
            self._working.result()
        self._player = player

    @_told
    async def play(self, place: int, iteration: int, copy: int) -> str:
        """Play an episode, its task by its place in the play; the status, see `Player.one`."""
        assert self._player is not None
        task = asyncio.create_task(self._player.one(self._player.play.tasks[place], iteration, copy))
        self._playing.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            return "interrupted"
        finally:
            self._playing.discard(task)

    async def usage(self) -> Usage:
        """What the engines gave so far."""
        totals = [snapshot["total"] for snapshot in self._pool.ledgers().values()]
        return sum(int(t["samples"]) for t in totals), sum(int(t["completion_tokens"]) for t in totals)

    async def stop(self) -> None:
        """Make no call any more; those in flight end and are journaled."""
        self._purse.shut = True

    async def rest(self) -> None:
        """Break off what is being played; all that was said is in the journal."""
        for task in self._playing:
            task.cancel()
        await asyncio.gather(*self._playing, return_exceptions=True)
        if self._player is not None:
            self._end.set()
            await self._working
            self._player, self._end = None, asyncio.Event()

    async def close(self) -> None:
        """Let go of everything."""
        await self.rest()
        await self._pool.close()
        await asyncio.to_thread(self._journal.close)

"""A thousand episodes at once: what they take, and that nothing stays of those that are finished."""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
from pathlib import Path
from typing import Any

import pytest

from sparring.agents.engines.base import Request
from sparring.agents.engines.scripted import ScriptedEngine
from sparring.graphs.play import aplay, plan
from sparring.graphs.player import Player
from sparring.memory.writer import Writer

START = multiprocessing.get_context("forkserver")
TEXT = 4000
"""Characters of a reply; an episode is six of them."""
FINISHED_KB, AT_ONCE_KB = 30, 800
"""At most: of a finished episode, and of one that is played."""


def crowded(folder: Path, episodes: int, at_once: int, leak: bool, told: Any) -> None:
    """The whole of a process; tells its peak in kB above what it began with, and the most calls in flight."""
    flying, kept = [0, 0], []
    connect = Writer._connect

    def small_cache(self: Writer) -> Any:
        connection = connect(self)
        connection.connection.execute("PRAGMA cache_size=-2048")  # its 64 MB would hide what is held
        return connection

    Writer._connect = small_cache  # type: ignore[method-assign]  # a process of its own
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    async def reply(request: Request, seed: int) -> str:
        flying[0] += 1
        flying[1] = max(flying)
        await asyncio.sleep(0.3)
        flying[0] -= 1
        return f"{seed:020}" * (TEXT // 20) + "\nAnswer: 1"

    if leak:
        close = Player._close

        async def keep(self: Player, handle: Any, *rest: Any) -> str:
            kept.append(handle)
            return await close(self, handle, *rest)

        Player._close = keep  # type: ignore[method-assign]  # what the test must see
    tasks = [{"id": str(n), "question": f"{n}?"} for n in range(episodes)]
    play = plan("du", tasks, engine=ScriptedEngine(reply), rounds=2)
    result = asyncio.run(aplay(play, folder / "j.db", concurrency=at_once, durability="normal"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told.put((peak - before, flying[1], result.complete))


def peak(folder: Path, episodes: int, at_once: int, *, leak: bool = False) -> int:
    folder.mkdir()
    START.set_forkserver_preload(["sparring.graphs.play", "sparring.graphs.protocols.debate"])
    told = START.Queue()
    process = START.Process(target=crowded, args=(folder, episodes, at_once, leak, told))
    process.start()
    above, flying, complete = told.get(timeout=500)
    process.join()
    print(f"{episodes} episodes, {at_once} at once: {above / 1024:.0f} MB above the start")
    assert complete and flying == 3 * at_once, "that many were played side by side"
    return int(above)


@pytest.mark.timeout(600)
def test_a_thousand_at_once_take_what_they_need_and_leave_nothing(tmp_path: Path) -> None:
    few, many = peak(tmp_path / "a", 100, 100), peak(tmp_path / "b", 1000, 100)
    thousand = peak(tmp_path / "c", 1000, 1000)
    assert (many - few) / 900 < FINISHED_KB, "finished episodes are held"
    assert (thousand - many) / 900 < AT_ONCE_KB


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_bounds_see_a_leak_and_hold_for_longer(tmp_path: Path) -> None:
    once, thrice = peak(tmp_path / "a", 1000, 1000), peak(tmp_path / "b", 3000, 1000)
    assert (thrice - once) / 2000 < FINISHED_KB
    leaking = peak(tmp_path / "c", 3000, 1000, leak=True)
    assert (leaking - once) / 2000 > FINISHED_KB

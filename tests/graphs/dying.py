"""A process that kills itself with signal 9, at an event or in the midst of a command."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparring.memory.episode import EpisodeHandle


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_event(mine: Callable[[str, str], bool], *, after: bool) -> None:
    """Die before or after the event of the kind and key that `mine` says yes to is journaled."""
    decide = EpisodeHandle.event

    async def event(self: EpisodeHandle, kind: str, key: str, payload: dict[str, Any]) -> dict[str, Any]:
        if mine(kind, key) and not after:
            die()
        kept = await decide(self, kind, key, payload)
        if mine(kind, key):
            die()
        return kept

    EpisodeHandle.event = event  # type: ignore[method-assign]  # this process is to die in it


def die_in_command(memory: Path) -> None:
    """Die once a command has made the file `begun` in its tree."""

    def watch() -> None:
        trees = memory.with_name(f"{memory.name}.swe") / "work"
        while not list(trees.glob("*/tree/begun")):
            time.sleep(0.005)
        die()

    threading.Thread(target=watch, daemon=True).start()

"""A tool that leaves a mark outside the journal, with the process that it was called in."""

from __future__ import annotations

import os
import time
from pathlib import Path


def note(file: str, word: str) -> str:
    """Write a word down."""
    with Path(file).open("a") as out:
        out.write(f"{word} {os.getpid()}\n")
    time.sleep(0.2)
    return f"{word} is noted"

"""A tool that leaves a mark outside the journal each time it is called."""

from __future__ import annotations

import os
from pathlib import Path


def note(word: str) -> str:
    """Write a word down; it says how many there are."""
    file = Path(os.environ["SPARRING_TEST_NOTES"])
    with file.open("a") as out:
        out.write(f"{word}\n")
    return f"{len(file.read_text().splitlines())} words"


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def broken(a: int) -> int:
    """Always fails."""
    raise ValueError("never works")

"""Reading a menu: columns by semicolons, the first line names them."""

from __future__ import annotations

from pathlib import Path


def rows(text: str) -> list[dict[str, str]]:
    """The dishes of a menu, by column."""
    lines = [line for line in text.split("\n") if line]
    if not lines:
        return []
    names = lines[0].split(";")
    found = []
    for number, line in enumerate(lines[1:], 2):
        values = line.split(";")
        if len(values) != len(names):
            raise ValueError(f"line {number} has {len(values)} columns instead of {len(names)}")
        found.append(dict(zip(names, values, strict=True)))
    return found


def lire(path: str | Path) -> list[dict[str, str]]:
    """The dishes of a file."""
    return rows(Path(path).read_bytes().decode("utf-8"))

"""Fenced blocks of a reply, found by their labels."""

from __future__ import annotations

import re
from collections.abc import Collection

from sparring.agents.objects import ParseError

_FENCE = re.compile(r"[ ]{0,3}(`{3,})[ \t]*([^\s`]*)[^`]*")


def blocks(text: str, labels: Collection[str], kind: str) -> list[tuple[str, str]]:
    """Label and content of each block with one of these labels; blocks of other kinds are passed over.

    As in CommonMark a block ends with a line of at least as many backticks as it began with and nothing else,
    so that a block of four may hold one of three.

    Raises:
        ParseError: one of them, of the `kind` that the message names, is never closed.
    """
    found: list[tuple[str, str]] = []
    fence, label, inside = "", "", list[str]()
    for line in text.split("\n"):
        match = _FENCE.fullmatch(line.rstrip("\r"))
        if not fence:
            if match:
                fence, label, inside = match[1], match[2].lower(), []
        elif match and len(match[1]) >= len(fence) and not line.strip().strip("`"):
            if label in labels:
                found.append((label, "\n".join(inside)))
            fence = ""
        else:
            inside.append(line)
    if fence and label in labels:
        raise ParseError("unbalanced", f"the {kind} block is never closed")
    return found

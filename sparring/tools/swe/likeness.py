"""When two patches of one base count as the same change."""

from __future__ import annotations

import re
from collections.abc import Iterator

_HUNK = re.compile(r"@@ -(\d{1,9})(?:,(\d{1,9}))? \+\d{1,9}(?:,(\d{1,9}))? @@")


def normal(patch: str) -> str:
    """What a patch of `submission.patch` does, as a text that is equal where the change is.

    Which lines of the base go, and which come in before which of them, file by file. Left out are context,
    the hashes of files, blank lines that come or go, and white space at the ends of lines.
    """
    return "\n".join(_told(patch))


def _told(patch: str) -> Iterator[str]:
    base = old = new = 0  # the next line of the base; lines of both sides that the hunk still has
    for line in patch.split("\n"):
        if old > 0 or new > 0:
            mark, text = line[:1], line[1:].rstrip()
            if mark == "\\":  # no newline at the end of the file
                continue
            if mark in ("+", "-") and text:
                yield f"{base}{mark}{text}"
            old, new, base = old - (mark != "+"), new - (mark != "-"), base + (mark != "+")
        elif found := _HUNK.match(line):
            base = int(found[1])
            old, new = (1 if count is None else int(count) for count in found.group(2, 3))
        elif line.strip() and not line.startswith(("index ", "\\", "--- ", "+++ ")):
            yield line

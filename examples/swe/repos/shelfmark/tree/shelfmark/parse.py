"""Reading a call number into its parts."""

from __future__ import annotations

import re
from dataclasses import dataclass

PATTERN = re.compile(
    r"(?P<letters>[A-Z]{1,3}) ?(?P<number>\d+)(?:\.(?P<decimal>\d+))?"
    r"(?P<cutters>(?: ?\.?[A-Z]\d+){0,2})"
    r"(?: (?P<year>\d{4}))?(?: \[(?P<note>[^\]]*)\])?"
)
CUTTER = re.compile(r"[A-Z]\d+")


@dataclass(frozen=True)
class CallNumber:
    """A call number in parts; digits stay text, as leading and trailing zeros can matter."""

    letters: str
    number: str
    decimal: str = ""
    cutters: tuple[str, ...] = ()
    year: int | None = None
    note: str = ""

    def __str__(self) -> str:
        text = self.letters + self.number + (f".{self.decimal}" if self.decimal else "")
        text += "".join(f" .{cutter}" for cutter in self.cutters)
        text += f" {self.year}" if self.year else ""
        return text + (f" [{self.note}]" if self.note else "")


def parse(text: str) -> CallNumber:
    """The parts of a call number.

    Raises:
        ValueError: the text is none.
    """
    match = PATTERN.fullmatch(" ".join(text.split()))
    if match is None:
        raise ValueError(f"{text!r} is no call number")
    return CallNumber(
        match["letters"],
        match["number"],
        match["decimal"] or "",
        tuple(CUTTER.findall(match["cutters"])),
        int(match["year"]) if match["year"] else None,
        match["note"] or "",
    )

"""Reading a tide table: a line for each high or low water, `05:10 low 0.8`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Tide:
    """One high or low water: minutes after midnight, metres above chart datum."""

    at: int
    kind: str
    height: float


def minutes(text: str) -> int:
    """Minutes after midnight of `HH:MM`."""
    hours, _, rest = text.partition(":")
    value = int(hours) * 60 + int(rest)
    if not 0 <= value < 1440 or not 0 <= int(rest) < 60:
        raise ValueError(f"{text} is no time of day")
    return value


def clock(at: int) -> str:
    """`HH:MM` of minutes after midnight."""
    return f"{at // 60:02}:{at % 60:02}"


def read(text: str) -> list[Tide]:
    """The tides of a table, in the order of the day; high and low water must take turns."""
    tides = []
    for line in filter(None, map(str.strip, text.splitlines())):
        time, kind, height = line.split()
        tides.append(Tide(minutes(time), kind, float(height)))
    tides.sort(key=lambda tide: tide.at)
    for tide, following in pairwise(tides):
        if tide.kind == following.kind:
            raise ValueError(f"two tides of kind {tide.kind} follow each other at {clock(following.at)}")
    return tides

"""Shifts, written `Ines Tue 22:00-06:00`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
LINE = re.compile(r"(\w+) (\w{3}) (\d\d):(\d\d)-(\d\d):(\d\d)")


@dataclass(frozen=True)
class Shift:
    """A person's shift: the day it begins, minutes after that day's midnight."""

    person: str
    day: int
    begin: int
    end: int

    @property
    def hours(self) -> float:
        return (self.end - self.begin) / 60

    @property
    def span(self) -> tuple[int, int]:
        """Begin and end in minutes of the week."""
        return self.day * 1440 + self.begin, self.day * 1440 + self.end


def read_shift(line: str) -> Shift:
    """The shift of a line.

    Raises:
        ValueError: the line is none.
    """
    match = LINE.fullmatch(line.strip())
    if match is None or match[2] not in DAYS:
        raise ValueError(f"{line!r} is no shift")
    begin, end = (int(match[at]) * 60 + int(match[at + 1]) for at in (3, 5))
    return Shift(match[1], DAYS.index(match[2]), begin, end)


def read_roster(text: str) -> list[Shift]:
    return [read_shift(line) for line in text.splitlines() if line.strip()]


def hours(shifts: Iterable[Shift]) -> dict[str, float]:
    """Hours of the week by person."""
    total: dict[str, float] = defaultdict(float)
    for shift in shifts:
        total[shift.person] += shift.hours
    return dict(total)


def overworked(shifts: Iterable[Shift], most: float = 40) -> list[str]:
    """Who works more than `most` hours, by name."""
    return sorted(person for person, total in hours(shifts).items() if total > most)


def short_rests(shifts: Iterable[Shift], least: float = 11) -> list[tuple[Shift, Shift]]:
    """Shifts of one person with less than `least` hours between them."""
    ordered = sorted(shifts, key=lambda shift: (shift.person, shift.span))
    return [
        (one, other)
        for one, other in pairwise(ordered)
        if one.person == other.person and other.span[0] - one.span[1] < least * 60
    ]

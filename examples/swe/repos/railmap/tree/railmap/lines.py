"""Lines: stations in order, once around for a ring."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """A line is run in the order of its stations; a ring goes on from the last to the first."""

    name: str
    stations: tuple[str, ...]
    ring: bool = False

    def __post_init__(self) -> None:
        if len(set(self.stations)) < len(self.stations):
            raise ValueError(f"line {self.name} has a station twice")

    def after(self, station: str) -> str | None:
        """The next station; None at the end of the line and for stations elsewhere."""
        if station not in self.stations:
            return None
        place = self.stations.index(station) + 1
        if place == len(self.stations):
            return self.stations[0] if self.ring else None
        return self.stations[place]


def travel(line: Line, start: str) -> Iterator[str]:
    """The stations that a train reaches from `start`, in order, for as long as it runs."""
    here = line.after(start)
    while here is not None:
        yield here
        here = line.after(here)


def stops(line: Line, start: str, end: str) -> int | None:
    """How many stops it is from one station to another; None where no train of the line goes there."""
    if start == end:
        return 0
    for number, station in enumerate(travel(line, start), 1):
        if station == end:
            return number
    return None


def best(lines: list[Line], start: str, end: str) -> tuple[str, int] | None:
    """The line that goes there with the fewest stops, and how many these are."""
    found = [(count, line.name) for line in lines if (count := stops(line, start, end)) is not None]
    return (min(found)[1], min(found)[0]) if found else None

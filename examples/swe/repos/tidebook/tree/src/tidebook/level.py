"""The water level at a time of day."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import cos, pi

from .table import Tide, clock


def neighbours(tides: Sequence[Tide], at: int) -> tuple[Tide, Tide]:
    """The tides before and after a time."""
    for before, after in pairwise(tides):
        if before.at <= at <= after.at:
            return before, after
    raise ValueError(f"{clock(at)} lies outside of the table")


def level(tides: Sequence[Tide], at: int) -> float:
    """Metres above chart datum at a time, in minutes after midnight.

    Between two tides the level follows half a cosine: slow, fast, slow.
    """
    before, after = neighbours(tides, at)
    share = (at - before.at) / (after.at - before.at)
    middle, half = (before.height + after.height) / 2, (before.height - after.height) / 2
    return round(middle + half * cos(pi * share), 3)

"""Courses on a globe."""

from __future__ import annotations

from math import atan2, cos, degrees, radians, sin

Place = tuple[float, float]
"""Latitude and longitude in degrees; north and east are positive."""


def course(start: Place, end: Place) -> float:
    """The course at the start of the shortest way, in degrees from north, 0 to 360."""
    (lat1, lon1), (lat2, lon2) = ((radians(a), radians(b)) for a, b in (start, end))
    east = sin(lon2 - lon1) * cos(lat2)
    north = cos(lat1) * sin(lat2) - sin(lat1) * cos(lat2) * cos(lon2 - lon1)
    return degrees(atan2(east, north)) % 360


def compass(angle: float) -> str:
    """The nearest of eight points of the compass."""
    return ("N", "NE", "E", "SE", "S", "SW", "W", "NW")[round(angle % 360 / 45) % 8]

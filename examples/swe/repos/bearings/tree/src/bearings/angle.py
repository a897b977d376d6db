"""Angles in degrees as text and back."""

from __future__ import annotations

import re

TEXT = re.compile(r"(-?)(\d+)°(?:(\d+)')?(?:(\d+(?:\.\d+)?)\")?")


def dms(angle: float, places: int = 0) -> str:
    """Degrees, minutes and seconds of an angle; `places` decimals of a second."""
    sign = "-" if angle < 0 else ""
    degrees, rest = divmod(abs(angle), 1)
    minutes, rest = divmod(rest * 60, 1)
    seconds = round(rest * 60, places)
    width = places + 3 if places else 2
    return f"{sign}{degrees:.0f}°{minutes:02.0f}'{seconds:0{width}.{places}f}\""


def degrees(text: str) -> float:
    """The angle of a text as `dms` writes it.

    Raises:
        ValueError: it is none, or has more than 59 minutes or seconds.
    """
    match = TEXT.fullmatch(text.strip())
    if match is None or int(match[3] or 0) > 59 or float(match[4] or 0) >= 60:
        raise ValueError(f"{text!r} is no angle")
    value = int(match[2]) + int(match[3] or 0) / 60 + float(match[4] or 0) / 3600
    return -value if match[1] else value

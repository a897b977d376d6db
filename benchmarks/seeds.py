"""How figures over seeds are told: mean, least and greatest; of three seeds there is no interval."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

Spread = tuple[float, float, float]


def spread(values: Sequence[float]) -> Spread:
    """Mean, least and greatest; NaN of none."""
    return (fmean(values), min(values), max(values)) if values else (float("nan"),) * 3


def told(values: Sequence[float]) -> str:
    mean, least, most = spread(values)
    return f"{mean:.3f} [{least:.3f}, {most:.3f}]"

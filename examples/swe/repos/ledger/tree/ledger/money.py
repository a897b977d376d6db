"""Amounts in whole cents."""

from __future__ import annotations


def show(cents: int) -> str:
    """`-12.05` for -1205."""
    sign = "-" if cents < 0 else ""
    return f"{sign}{abs(cents) // 100}.{abs(cents) % 100:02}"


def share(cents: int, part: int, whole: int) -> int:
    """`part` of `whole` of an amount, rounded half up."""
    return (2 * cents * part + whole) // (2 * whole)


def split(cents: int, weights: list[int]) -> list[int]:
    """An amount split in proportion to weights.

    Raises:
        ValueError: no weights, or none above 0.
    """
    whole = sum(weights)
    if whole <= 0 or min(weights) < 0:
        raise ValueError("weights must not be negative, and one must be more than 0")
    return [share(cents, weight, whole) for weight in weights]

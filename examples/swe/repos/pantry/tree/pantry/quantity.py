"""Amounts as people write them: `2`, `1/2`, `1 1/2`, `0.25`."""

from __future__ import annotations

from fractions import Fraction


def read_amount(text: str) -> Fraction:
    """The number that a text stands for.

    Raises:
        ValueError: it stands for none.
    """
    parts = text.split()
    if not 1 <= len(parts) <= 2 or (len(parts) == 2 and "/" not in parts[1]):
        raise ValueError(f"{text!r} is no amount")
    try:
        return sum(map(Fraction, parts), Fraction(0))
    except ZeroDivisionError:
        raise ValueError(f"{text!r} is no amount") from None


def show_amount(amount: Fraction) -> str:
    """An amount for the kitchen: fractions with small denominators, else two decimals."""
    if amount.denominator == 1:
        return str(amount.numerator)
    if amount.denominator > 8:
        return f"{float(amount):.2f}".rstrip("0").rstrip(".")
    whole, rest = divmod(amount, 1)
    return f"{whole} {rest}" if whole else str(rest)

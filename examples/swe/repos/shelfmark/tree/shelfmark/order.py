"""The order of call numbers on the shelf."""

from __future__ import annotations

from collections.abc import Iterable

from .parse import CallNumber, parse

Key = tuple[object, ...]


def shelf_key(call: CallNumber) -> Key:
    """A key that sorts as the shelf does.

    Letters come first, then the class number, then its decimals; nothing comes before something. Cutters are
    decimals: .B25 stands before .B7. Copies without a year stand before those with one.
    """
    cutters = tuple((cutter[0], cutter[1:]) for cutter in call.cutters)
    return (call.letters, call.number, call.decimal, cutters, call.year or 0, call.note)


def shelved(texts: Iterable[str]) -> list[str]:
    """Call numbers as they stand on the shelf, in their tidy form."""
    return [str(call) for call in sorted(map(parse, texts), key=shelf_key)]

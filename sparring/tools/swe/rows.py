"""Rows of JSON and JSON Lines files, each with the words that say where it stands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sparring.errors import UserError, json_value, kind_of


def json_rows(path: Path, what: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row of a file and where it stands (`instances `a.jsonl`, line 3`).

    A file that ends in `.json` holds a list of rows, or a map whose values are rows; others a row a line.

    Raises:
        UserError: the file cannot be read, is empty, or holds something else.
    """
    shown = f"{what} `{path}`"
    try:
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")  # a byte order mark
    except OSError as error:
        raise UserError(f"{shown} cannot be read: {error.strerror or error}") from None
    if path.suffix == ".json":
        value = json_value(data, shown)
        if isinstance(value, dict):
            value = list(value.values())
        if not isinstance(value, list):
            raise UserError(f"{shown}: a list of rows is needed, not {kind_of(value)}")
        found = [(f"{shown}, row {number}", row) for number, row in enumerate(value, 1)]
    else:
        # not splitlines(): it would also split at U+2028 and others that JSON allows inside text
        lines = enumerate(data.split(b"\n"), 1)
        places = ((f"{shown}, line {number}", line) for number, line in lines if line.strip())
        found = [(where, json_value(line, where)) for where, line in places]
    if not found:
        raise UserError(f"{shown}: the file holds no row")
    for where, row in found:
        if not isinstance(row, dict):
            raise UserError(f"{where}: a row is a JSON object, not {kind_of(row)}")
        yield where, row


def no_twins(places: Iterable[tuple[str, str]], shown: str) -> None:
    """Refuse an id that comes twice.

    Args:
        places: where each row stands, and its id.
    """
    seen: dict[str, str] = {}
    for where, name in places:
        if name in seen:
            short = [place.rsplit(", ", 1)[-1] for place in (seen[name], where)]
            raise UserError(
                f"{shown}: id `{name}` is given twice ({short[0]} and {short[1]}); ids must differ"
            )
        seen[name] = where

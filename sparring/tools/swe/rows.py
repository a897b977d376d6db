"""Rows of JSON and JSON Lines files, each with the words that say where it stands."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from sparring.errors import UserError


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
        value = parsed(data, shown)
        if isinstance(value, dict):
            value = list(value.values())
        if not isinstance(value, list):
            raise UserError(f"{shown}: a list of rows is needed, not {kind_of(value)}")
        found = [(f"{shown}, row {number}", row) for number, row in enumerate(value, 1)]
    else:
        # not splitlines(): it would also split at U+2028 and others that JSON allows inside text
        lines = enumerate(data.split(b"\n"), 1)
        places = ((f"{shown}, line {number}", line) for number, line in lines if line.strip())
        found = [(where, parsed(line, where)) for where, line in places]
    if not found:
        raise UserError(f"{shown}: the file holds no row")
    for where, row in found:
        if not isinstance(row, dict):
            raise UserError(f"{where}: a row is a JSON object, not {kind_of(row)}")
        yield where, row


def parsed(data: bytes | str, where: str) -> Any:
    """The JSON value of a text.

    Raises:
        UserError: it is no JSON or not UTF-8.
    """
    try:
        return json.loads(data.decode() if isinstance(data, bytes) else data, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 (byte {error.start + 1}); save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}: malformed JSON, {error.msg} (line {error.lineno}, column {error.colno})"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: malformed JSON, {error}") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


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


def kind_of(value: Any) -> str:
    """How a message calls a JSON value."""
    if value in ("", [], {}) and not isinstance(value, bool | int | float):
        return f"an empty {dict(str='text', list='list', dict='object')[type(value).__name__]}"
    names: dict[type, str] = {bool: "true or false", int: "a number", float: "a number", str: "text"}
    names |= {list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value), type(value).__name__)

"""The one JSON object of a model's reply, strictly: nothing is filled in, guessed or repaired."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from math import isfinite
from typing import Any, NoReturn

from sparring.errors import SparringError


class ParseError(SparringError):
    """The text is not of the asked form: the model's fault, turn status `parse_error`."""

    fault = "model"
    status = "parse_error"

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        """One word for counting: `empty`, `missing`, `unbalanced`, `ambiguous`, `invalid_json`, ..."""
        self.detail = detail


def clip(text: str, limit: int = 60) -> str:
    """A text as a message shows it."""
    return repr(text if len(text) <= limit else text[:limit] + "...")


_FENCE = re.compile(
    r"^[ \t]*```[ \t]*json[ \t]*\r?\n(.*?)^[ \t]*```", re.MULTILINE | re.DOTALL | re.IGNORECASE
)


def find_object(text: str) -> dict[str, Any]:
    """The one JSON object of a reply: the whole of it, one fenced json block, or one {...} in prose.

    Duplicate keys, NaN and Infinity, and several objects that differ are errors.
    """
    stripped = text.strip()
    if stripped.startswith("{") and closing(stripped, 0, strings=True) == len(stripped) - 1:
        return _loads(stripped)
    fenced = [match[1] for match in _FENCE.finditer(text)]
    if fenced:
        found = [_loads(block.strip()) for block in fenced]
    else:
        found = [value for value in map(_try_loads, _top_level(text)) if value is not None]
    if not found:
        raise ParseError("missing", "no complete JSON object in the reply")
    if any(json.dumps(other) != json.dumps(found[0]) for other in found[1:]):
        raise ParseError("ambiguous", f"{len(found)} different JSON objects in the reply")
    return found[0]


def _loads(chunk: str) -> dict[str, Any]:
    try:
        value = json.loads(chunk, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise ParseError("invalid_json", f"{error.msg} at character {error.pos}") from None
    except RecursionError:
        raise ParseError("invalid_json", "nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits
        raise ParseError("invalid_json", clip(str(error))) from None
    if not isinstance(value, dict):
        raise ParseError("invalid_json", f"a JSON object is needed, not {type(value).__name__}")
    return value


def _try_loads(chunk: str) -> dict[str, Any] | None:
    """None for braces in prose, such as a LaTeX argument, which are no JSON at all."""
    try:
        return _loads(chunk)
    except ParseError as error:
        if error.code == "invalid_json":
            return None
        raise


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ParseError("duplicate_key", "a key appears twice in one object")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ParseError("bad_number", f"{name} is not a number")


def _finite(digits: str) -> float:
    value = float(digits)
    return value if isfinite(value) else _no_constant(digits)


def _top_level(text: str) -> Iterator[str]:
    start = text.find("{")
    while start >= 0:
        end = closing(text, start, strings=True)
        if end is None:
            return
        yield text[start : end + 1]
        start = text.find("{", end + 1)


_MARKS = {False: re.compile(r"\\.|[{}]", re.DOTALL), True: re.compile(r"\\.|[{}\"]", re.DOTALL)}


def closing(text: str, start: int, *, strings: bool) -> int | None:
    """Index of the brace that closes the one at `start`, in one pass; escaped marks do not count, nor,
    with `strings`, what stands in double quotes."""
    depth, quoted = 0, False
    for match in _MARKS[strings].finditer(text, start):
        mark = match[0]
        if mark == '"':
            quoted = not quoted
        elif quoted or len(mark) > 1:
            continue
        else:
            depth += 1 if mark == "{" else -1
            if depth == 0:
                return match.start()
    return None

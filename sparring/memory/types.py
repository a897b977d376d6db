"""Column types that hold whatever a model can say, on SQLite and PostgreSQL alike."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import LargeBinary, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from ..errors import JournalError

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def dumps(value: Any) -> str:
    """Compact JSON that any UTF-8 database takes: NUL is always escaped, lone surrogates where present."""
    text = _encode(value)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"))
    return text


def canonical(value: Any) -> bytes:
    """One byte string per JSON value, for hashing."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def digest(*parts: bytes | str, size: int = 16) -> bytes:
    """Hash of a sequence of parts; ("ab", "c") and ("a", "bc") differ."""
    state = hashlib.blake2b(digest_size=size)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.digest()


def plain(text: str | None) -> str | None:
    """Text for a plain column: what a database refuses (NUL, lone surrogates) is shown as an escape."""
    if text is None:
        return None
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()


class Json(TypeDecorator[Any]):
    """JSON as text. PostgreSQL's own types refuse NUL and surrogates, which models do emit."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else dumps(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        try:
            return None if value is None else json.loads(value)
        except (ValueError, RecursionError) as error:  # nothing of ours writes such a value
            raise JournalError(f"the journal holds a value that cannot be read: {error}") from None


class Packed(TypeDecorator[NDArray[Any]]):
    """A flat numpy array as its little-endian bytes."""

    impl = LargeBinary
    cache_ok = True

    def __init__(self, dtype: str) -> None:
        super().__init__()
        self.dtype = dtype

    def pack(self, value: Any) -> bytes:
        """The bytes of an array or of a list of numbers; bytes are taken to be packed already."""
        if isinstance(value, bytes):
            return value
        return np.asarray(value, dtype=self.dtype).tobytes()

    def process_bind_param(self, value: NDArray[Any] | None, dialect: Dialect) -> bytes | None:
        """An array (N,) as its bytes; SQLAlchemy's own hook."""
        return None if value is None else self.pack(value)

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> NDArray[Any] | None:
        """The array (N,) of stored bytes; SQLAlchemy's own hook."""
        return None if value is None else np.frombuffer(value, dtype=self.dtype)

    @property
    def python_type(self) -> type[Any]:
        return np.ndarray

"""A database that is away for a moment (restarting, locked, full) is asked again, and how long."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnection

T = TypeVar("T")

RETRY_S = 20.0
"""How long it is asked again before those who wait are told."""
FOR_GOOD = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_READONLY)
"""SQLite's operational errors that stay: a statement that is wrong, a file that cannot be written."""


def is_away(error: BaseException) -> bool:
    """Whether the database, not a row, is at fault: then asking again can help and splitting cannot."""
    if isinstance(error, NoConnection):  # all of this process wait, for whatever holds them up
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    # PostgreSQL's class 54: a row is too large for an index.
    if not isinstance(error, OperationalError) or str(_sqlstate(error) or "").startswith("54"):
        return False
    return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF not in FOR_GOOD


def cause(error: BaseException) -> str:
    """What the database said, in one line, with what to do where that is known."""
    lines = str(getattr(error, "orig", error)).strip().splitlines()
    said = lines[0] if lines else type(error).__name__
    for name in ("statement timeout", "lock timeout"):
        if said.endswith(name):
            said += f"; the URL can give more time (`?{name.replace(' ', '_')}=SECONDS`)"
    return said


def _sqlstate(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)


class Patience:
    """The waits between the attempts of one piece of work: from 0.05 s to 2 s, `RETRY_S` in all."""

    def __init__(self, spent: bool = False) -> None:
        """`spent`: one attempt and no more."""
        self._deadline = float("-inf") if spent else None
        self._pause = 0.05

    @property
    def begun(self) -> bool:
        """Whether an attempt failed."""
        return self._deadline is not None

    def again(self, error: BaseException) -> bool:
        """Whether to try again after this error; waits before it says so."""
        return is_away(error) and self.wait()

    def wait(self) -> bool:
        """Whether there is time for another attempt; waits before it says so."""
        if self._deadline is None:
            self._deadline = time.monotonic() + RETRY_S
        if time.monotonic() > self._deadline:
            return False
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, 2.0)
        return True


def patiently(work: Callable[[], T], refused: Callable[[str], Exception], patience: Patience) -> T:
    """Do `work`, again while the database is away; `refused` makes the error that tells what it said."""
    while True:
        try:
            return work()
        except (DBAPIError, NoConnection) as error:
            if not patience.again(error):
                raise refused(cause(error)) from None

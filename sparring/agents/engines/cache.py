"""The response cache: answers kept in one SQLite file, so that a repeated question costs nothing.

A key is the SHA-256 of everything that can change an answer: the whole request, the policy version with
its adapter's hash and base, the engine's spec and base, the seed and the sample index. The first answer
stored under a key stays. Values are JSON and packed arrays; nothing is ever unpickled. Off by default.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sparring.agents.engines.base import Completion, Request, Usage
from sparring.agents.engines.identity import canonical, feed
from sparring.agents.models import cache_dir
from sparring.errors import UserError

LAYOUT = 1
"""`PRAGMA user_version` of the files this version writes."""

_TABLE = """
CREATE TABLE IF NOT EXISTS responses (
    key BLOB PRIMARY KEY,
    created REAL NOT NULL,
    reply TEXT NOT NULL,
    prompt_ids BLOB,
    completion_ids BLOB,
    logprobs BLOB
) WITHOUT ROWID
"""
_PLAIN = ("text", "finish_reason", "logprob_kind", "latency_s", "seed_sent")


def default_path() -> Path:
    """The file that `cache=on` means, in the user's cache folder."""
    return cache_dir() / "responses.sqlite"


def sample_key(request: Request, spec: str, base: str, seed: int, index: int) -> bytes:
    """The key of one sample, 32 bytes."""
    hasher = hashlib.sha256(canonical([spec, base, seed, index]).encode() + b"\0")
    feed(hasher, request)
    return hasher.digest()


class ResponseCache:
    """One file, safe for many threads and processes at once.

    Raises:
        UserError: the file cannot be opened, is damaged, or has another layout.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise

    def get(self, key: bytes) -> Completion | None:
        """The completion under `key`, marked `cached`, its cost 0; None where there is none."""
        query = "SELECT reply, prompt_ids, completion_ids, logprobs FROM responses WHERE key = ?"
        with self._lock, self._explained():
            row = self._db.execute(query, (key,)).fetchone()
            return None if row is None else _unpack(*row)

    def put(self, rows: Sequence[tuple[bytes, Completion]]) -> None:
        """Store what is new, in one transaction."""
        now = time.time()
        values = [(key, now, *_pack(completion)) for key, completion in rows]
        with self._lock, self._explained(), self._transaction():
            self._db.executemany("INSERT OR IGNORE INTO responses VALUES (?, ?, ?, ?, ?, ?)", values)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        # An answer lost to a power cut is asked for again; no need to wait for the disk.
        self._db.execute("PRAGMA synchronous = NORMAL")
        with self._transaction():
            (layout,) = self._db.execute("PRAGMA user_version").fetchone()
            (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if layout != LAYOUT and tables:
                raise UserError(f"{self.path} is no response cache of this version; name another file")
            self._db.execute(_TABLE)
            self._db.execute(f"PRAGMA user_version = {LAYOUT}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:
            raise UserError(f"response cache {self.path}: {error}") from error
        except (sqlite3.DatabaseError, ValueError, KeyError) as error:
            raise UserError(f"response cache {self.path} is damaged ({error}): delete the file") from error


def _pack(completion: Completion) -> tuple[str, bytes | None, bytes | None, bytes | None]:
    plain: dict[str, Any] = {name: getattr(completion, name) for name in _PLAIN}
    plain["usage"] = asdict(completion.usage)
    arrays = (completion.prompt_ids, completion.completion_ids, completion.logprobs)
    ids, new, logprobs = (None if array is None else array.tobytes() for array in arrays)
    return json.dumps(plain), ids, new, logprobs


def _unpack(reply: str, ids: bytes | None, new: bytes | None, logprobs: bytes | None) -> Completion:
    plain = json.loads(reply)
    usage = Usage(**{**plain.pop("usage"), "cost": 0.0})
    return Completion(
        **plain,
        usage=usage,
        prompt_ids=None if ids is None else np.frombuffer(ids, np.int32),
        completion_ids=None if new is None else np.frombuffer(new, np.int32),
        logprobs=None if logprobs is None else np.frombuffer(logprobs, np.float32),
        cached=True,
    )

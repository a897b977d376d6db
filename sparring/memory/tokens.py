"""Prompt ids are stored as a reference to the turn they continue plus what is new.

`PrefixIndex` holds, for one open episode, the (prompt + completion) ids of its turns in blocks: each
block of 16 ids is known by the hash of all ids up to its end, as in paged prefix caches, so finding
the longest shared prefix costs one hash per block and not a comparison with every earlier turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .types import digest

Ids = NDArray[np.int32]
BLOCK = 16


@dataclass(frozen=True, slots=True)
class Stored:
    """Prompt ids as a turn row keeps them."""

    prefix_turn_id: int | None
    prefix_length: int
    tail: Ids


class PrefixIndex:
    """Longest shared token prefix among the turns of one episode."""

    def __init__(self) -> None:
        self._blocks: dict[bytes, int] = {}
        self._ids: dict[int, Ids] = {}
        self._recent: int | None = None

    def store(self, prompt: Ids) -> Stored:
        """How to store `prompt` (P,) given the turns added so far."""
        candidates = [self._walk(prompt), self._recent]
        best, length = None, 0
        for turn in candidates:
            shared = 0 if turn is None else _shared(self._ids[turn], prompt)
            if shared > length:
                best, length = turn, shared
        return Stored(best, length, prompt[length:])

    def add(self, turn: int, prompt: Ids, completion: Ids) -> None:
        """Make turn `turn` available as a prefix of later prompts."""
        ids = np.concatenate([prompt, completion]).astype(np.int32, copy=False)
        self._ids[turn] = ids
        self._recent = turn
        for name in _block_hashes(ids):
            # The first turn that holds a block keeps it: its stored form is the shallower one.
            self._blocks.setdefault(name, turn)

    def _walk(self, prompt: Ids) -> int | None:
        found = None
        for name in _block_hashes(prompt):
            turn = self._blocks.get(name)
            if turn is None:
                break
            found = turn
        return found


def _block_hashes(ids: Ids) -> list[bytes]:
    data = ids.astype("<i4", copy=False).tobytes()
    names, state = [], b""
    for end in range(BLOCK * 4, len(data) + 1, BLOCK * 4):
        state = digest(state, data[end - BLOCK * 4 : end], size=8)
        names.append(state)
    return names


def _shared(left: Ids, right: Ids) -> int:
    size = min(len(left), len(right))
    different = np.flatnonzero(left[:size] != right[:size])
    return int(different[0]) if len(different) else size


@dataclass(frozen=True, slots=True)
class StoredTurn:
    """The id columns of one turn row."""

    prefix_turn_id: int | None
    prefix_length: int
    tail: Ids
    completion: Ids


def resolve(turn_id: int, rows: Mapping[int, StoredTurn], memo: dict[int, Ids] | None = None) -> Ids:
    """Prompt ids (P,) of a turn from the rows of it and its ancestors.

    `memo` keeps (prompt + completion) of every turn met, so that resolving an episode is linear.
    """
    memo = {} if memo is None else memo
    path = [turn_id]
    while (parent := rows[path[-1]].prefix_turn_id) is not None and parent not in memo:
        path.append(parent)
    prompt = np.empty(0, np.int32)
    for turn in reversed(path):
        row = rows[turn]
        if row.prefix_turn_id is None:
            prompt = row.tail
        else:
            prompt = np.concatenate([memo[row.prefix_turn_id][: row.prefix_length], row.tail])
        memo[turn] = np.concatenate([prompt, row.completion])
    return prompt

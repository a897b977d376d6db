"""Prompt ids are stored as a reference to the turn they continue plus what is new.

`PrefixIndex` is a radix tree of the (prompt + completion) ids of an open episode's turns: each edge
holds a run of ids, so that a shared history is kept once, and finding the longest shared prefix of a
prompt compares each id once, edge by edge, and not with every earlier turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]
WIDTH = 4
"""Bytes of one id."""
EMPTY: Ids = np.empty(0, np.int32)


@dataclass(frozen=True, slots=True)
class Stored:
    """Prompt ids as a turn row keeps them."""

    prefix_turn_id: int | None
    prefix_length: int
    tail: Ids


class _Edge:
    """A run of ids, the first turn that holds it, and what follows it by first id."""

    __slots__ = ("following", "label", "turn")

    def __init__(self, label: bytes, turn: int) -> None:
        self.label, self.turn = label, turn
        self.following: dict[bytes, _Edge] = {}


class PrefixIndex:
    """Longest shared token prefix among the turns of one episode."""

    def __init__(self) -> None:
        self._root = _Edge(b"", 0)

    def store(self, prompt: Ids) -> Stored:
        """How to store `prompt` (P,) given the turns added so far."""
        edge, _, length = self._walk(prompt.tobytes())
        if length == 0:
            return Stored(None, 0, prompt)
        return Stored(edge.turn, length // WIDTH, prompt[length // WIDTH :])

    def add(self, turn: int, prompt: Ids, completion: Ids) -> None:
        """Make turn `turn`, a prompt (P,) and its completion (T,), available as a prefix of later prompts."""
        data = prompt.tobytes() + completion.tobytes()
        edge, inside, length = self._walk(data)
        if length == len(data):
            return  # The first turn that holds these ids keeps them: its stored form is the shallower one.
        if inside < len(edge.label):
            _split(edge, inside)
        edge.following[data[length : length + WIDTH]] = _Edge(data[length:], turn)

    def _walk(self, data: bytes) -> tuple[_Edge, int, int]:
        """The last edge reached, how far into its label, and how far into `data`; all in bytes."""
        edge, position = self._root, 0
        while True:
            following = edge.following.get(data[position : position + WIDTH])
            if following is None:
                return edge, len(edge.label), position
            edge, label = following, following.label
            if not data.startswith(label, position):
                shared = _shared(label, data, position)
                return edge, shared, position + shared
            position += len(label)


def _split(edge: _Edge, at: int) -> None:
    """Cut an edge's label in two; both halves belong to the same turn."""
    lower = _Edge(edge.label[at:], edge.turn)
    lower.following, edge.following = edge.following, {edge.label[at : at + WIDTH]: lower}
    edge.label = edge.label[:at]


def _shared(label: bytes, data: bytes, position: int) -> int:
    """Bytes of `label` that `data` has from `position` on, in whole ids."""
    size = min(len(label), len(data) - position) // WIDTH
    left = np.frombuffer(label, np.int32, size)
    right = np.frombuffer(data, np.int32, size, position)
    different = np.flatnonzero(left != right)
    return WIDTH * (int(different[0]) if len(different) else size)


class StoredTurn(NamedTuple):
    """The id columns of one turn row; ids as packed bytes."""

    prefix_turn_id: int | None
    prefix_length: int
    tail: bytes
    completion: bytes | None


def resolve(turn_id: int, rows: Mapping[int, StoredTurn]) -> Ids:
    """Prompt ids (P,) of a turn from the rows of it and its ancestors: each gives what it added."""
    parent, length, tail, _ = rows[turn_id]
    pieces, missing = [tail], length * WIDTH
    while parent is not None and missing > 0:
        parent, length, tail, completion = rows[parent]
        added = missing - length * WIDTH
        if added > 0:
            if added > len(tail):
                pieces.append((completion or b"")[: added - len(tail)])
            pieces.append(tail[:added])
            missing = length * WIDTH
    pieces.reverse()
    return np.frombuffer(b"".join(pieces), np.dtype("<i4"))

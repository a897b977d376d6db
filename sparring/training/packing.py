"""Micro-batches as prefix trees: what several sequences begin with is computed once, with gradient.

Samples of one prompt share the prompt, turns of one episode share its history, and equal completions
are one path. A row of a micro-batch is such a tree: every token that differs is one position, attends to
its ancestors only, and stands at its depth. The log-probability of a token is read at its parent. So the
loss and its gradient are those of the separate sequences, for the price of the distinct tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]
Places = NDArray[np.int64]
PAD = 0


@dataclass(frozen=True, slots=True)
class Row:
    """A sequence to be trained on: prompt ids (P,), completion ids (T,), P and T at least 1."""

    prompt: Ids
    completion: Ids
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not len(self.prompt) or not len(self.completion):
            raise ValueError("a sequence needs at least one prompt token and one completion token")


@dataclass(frozen=True, slots=True)
class Budget:
    """How large a micro-batch may be. One sequence always fits, however long."""

    tokens: int = 1024
    """Positions, padding included."""
    row_tokens: int = 512
    """Distinct tokens of one tree: attention costs the square of it."""
    predictions: int = 512
    """Positions whose logits are materialised; each holds a float per word of the vocabulary."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """R trees of at most L positions, right-aligned; the last K positions are those that predict.

    `where[i]` and `targets[i]` say, for sequence `members[i]`, at which of the M predicting positions
    (row by row, without padding) each completion token (T_i,) is predicted, and which token it is.
    """

    members: Places
    input_ids: Places
    """(R, L)."""
    positions: Places
    """(R, L), the depth of each token; -1 is padding."""
    visible: NDArray[np.bool_]
    """(R, L, L), query by key: the ancestors of a token and itself."""
    predicting: NDArray[np.bool_]
    """(R, K)."""
    temperatures: NDArray[np.float32]
    """(R,)."""
    where: tuple[Places, ...]
    targets: tuple[Places, ...]

    @property
    def computed(self) -> int:
        """Tokens that pass through the model, padding not counted."""
        return int((self.positions >= 0).sum())


class _Tree:
    """One row being built. Sequences come in sorted order, so only the last path can be continued."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature
        self.tokens: list[int] = []
        self.depths: list[int] = []
        self.paths: list[Places] = []
        self.new: list[tuple[Places, int]] = []
        self.members: list[int] = []
        self.targets: list[Ids] = []
        self.predicting: set[int] = set()
        self.first: Ids = np.zeros(0, np.int32)
        self._last: Ids = self.first

    def shared(self, ids: Ids) -> int:
        """Tokens at the start of `ids` that the last path holds."""
        most = min(len(ids), len(self._last))
        differ = np.flatnonzero(ids[:most] != self._last[:most])
        return int(differ[0]) if len(differ) else most

    def add(self, member: int, row: Row) -> None:
        ids = np.concatenate([row.prompt, row.completion[:-1]])
        shared, first = self.shared(ids), len(self.tokens)
        fresh = np.arange(first, first + len(ids) - shared)
        path = np.concatenate([self.paths[-1][:shared], fresh]) if self.paths else fresh
        self.tokens += ids[shared:].tolist()
        self.depths += range(shared, len(ids))
        self.paths.append(path)
        self.new.append((fresh, shared))
        self.members.append(member)
        self.targets.append(row.completion)
        self.predicting.update(path[len(row.prompt) - 1 :].tolist())
        if len(self.members) == 1:
            self.first = ids
        self._last = ids

    @classmethod
    def of(cls, member: int, row: Row) -> _Tree:
        tree = cls(row.temperature)
        tree.add(member, row)
        return tree

    def within(self, budget: Budget) -> bool:
        return len(self.tokens) <= budget.row_tokens and len(self.predicting) <= budget.predictions

    def takes(self, other: _Tree, budget: Budget) -> bool:
        """Whether all of another tree, whose sequences come next, fits too."""
        if self.temperature != other.temperature:
            return False
        tokens = len(self.tokens) + len(other.tokens) - self.shared(other.first)
        predictions = len(self.predicting) + len(other.predicting)
        return tokens <= budget.row_tokens and predictions <= budget.predictions

    def order(self) -> Places:
        """Old place -> new place, such that the predicting positions come last."""
        last = np.zeros(len(self.tokens), bool)
        last[list(self.predicting)] = True
        places = np.empty(len(self.tokens), np.int64)
        places[np.argsort(last, kind="stable")] = np.arange(len(self.tokens))
        return places


def pack(rows: Sequence[Row], budget: Budget | None = None, *, share: bool = True) -> list[MicroBatch]:
    """Sequences as micro-batches within a budget; every sequence is in exactly one of them.

    Args:
        share: False gives each sequence a row of its own, for models that take no tree.
    """
    budget = budget or Budget()
    trees = _trees(rows, budget, share)
    trees.sort(key=lambda tree: (len(tree.tokens), len(tree.predicting)))
    groups: list[list[_Tree]] = []
    for tree in trees:  # ascending, so the newest is the longest of its group
        count = len(groups[-1]) + 1 if groups else 1
        most = max((len(other.predicting) for other in (*(groups[-1] if groups else ()), tree)), default=0)
        fits = count * len(tree.tokens) <= budget.tokens and count * most <= budget.predictions
        if groups and fits:
            groups[-1].append(tree)
        else:
            groups.append([tree])
    return [_lay_out(group) for group in groups]


def _trees(rows: Sequence[Row], budget: Budget, share: bool) -> list[_Tree]:
    """Trees within the budget. The rows of one prompt stay together where they fit: torn apart, their
    prompt would be computed in each part."""
    trees: list[_Tree] = []
    for places in _prompts(rows) if share else [[place] for place in range(len(rows))]:
        whole = _Tree(rows[places[0]].temperature)
        for place in places:
            whole.add(place, rows[place])
        fits = bool(trees) and share and trees[-1].takes(whole, budget)
        if not fits and whole.within(budget):
            trees.append(whole)
            continue
        for place in places:
            if not fits and (place == places[0] or not trees[-1].takes(_Tree.of(place, rows[place]), budget)):
                trees.append(_Tree(whole.temperature))
            trees[-1].add(place, rows[place])
    return trees


def _prompts(rows: Sequence[Row]) -> list[list[int]]:
    """Places of the rows, sorted, by temperature and prompt."""

    def key(place: int) -> tuple[float, list[int]]:
        row = rows[place]
        return row.temperature, [*row.prompt.tolist(), *row.completion.tolist()]

    def prompt(place: int) -> tuple[float, bytes]:
        return rows[place].temperature, rows[place].prompt.tobytes()

    return [list(places) for _, places in groupby(sorted(range(len(rows)), key=key), key=prompt)]


def _lay_out(trees: Sequence[_Tree]) -> MicroBatch:
    length = max(len(tree.tokens) for tree in trees)
    width = max(len(tree.predicting) for tree in trees)
    ids = np.full((len(trees), length), PAD, np.int64)
    positions = np.full((len(trees), length), -1, np.int64)
    visible = np.zeros((len(trees), length, length), bool)
    visible[:, np.arange(length), np.arange(length)] = True  # padding sees itself: no row without a key
    predicting = np.zeros((len(trees), width), bool)
    members, where, targets = [], [], []
    begin = 0
    for number, tree in enumerate(trees):
        pad = length - len(tree.tokens)
        places = tree.order() + pad
        ids[number, places], positions[number, places] = tree.tokens, tree.depths
        for (fresh, shared), path in zip(tree.new, tree.paths, strict=True):
            if len(fresh):
                mine = places[path]
                visible[number, mine[shared:, None], mine[None]] = _causal(len(path))[shared:]
        predicting[number, width - len(tree.predicting) :] = True
        start = length - len(tree.predicting) - begin
        for member, path, target in zip(tree.members, tree.paths, tree.targets, strict=True):
            members.append(member)
            where.append(places[path[len(path) - len(target) :]] - start)
            targets.append(target.astype(np.int64))
        begin += len(tree.predicting)
    temperatures = np.array([tree.temperature for tree in trees], np.float32)
    return MicroBatch(
        np.array(members), ids, positions, visible, predicting, temperatures, tuple(where), tuple(targets)
    )


def _causal(length: int) -> NDArray[np.bool_]:
    return np.tri(length, dtype=bool)

"""Keys and values of all running sequences, in place, and of finished ones for their prefixes.

`SlotCache` is the cache object handed to a Hugging Face model: one slot per running row, buffers that
grow but are never rebuilt by a step. Rows always fill the slots 0..rows-1, so that decoding attends to
one dense block. `PrefixStore` keeps what finished rows computed, least recently used first out, so
that a debate's next prompt, which begins with the last one, costs its new tokens only.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor
from transformers.cache_utils import Cache

from sparring.agents.engines.base import Ids


@dataclass(slots=True)
class Segment:
    """`stop - start` packed tokens that prefill `slot` from position `offset` on."""

    slot: int
    offset: int
    start: int
    stop: int
    mask: Tensor | None = None
    """(tokens, positions), True where a token may look; None where plain causal is right."""

    @property
    def end(self) -> int:
        return self.offset + self.stop - self.start


@dataclass(slots=True)
class Plan:
    """Where the packed tokens of one forward pass belong: first one per decoding row, then segments."""

    slots: Tensor
    """(D,) slot of each decoding token."""
    positions: Tensor
    """(D,) its position."""
    rows: int
    """Slots 0..rows-1 are attended to while decoding."""
    length: int
    """So many positions of each, at most."""
    mask: Tensor | None = None
    """(rows, 1, 1, length) additive, hides what lies beyond each row's own length."""
    dense: bool = True
    """Whether `slots` is exactly 0..rows-1."""
    segments: list[Segment] = field(default_factory=list)


class SlotCache(Cache):
    """Preallocated keys (layer, slot, head, dim, position) and values (layer, slot, head, position, dim).

    Keys lie transposed because a bfloat16 product of a few queries with them is then some eight times
    faster on a CPU.
    """

    STEP = 64
    """Capacity grows by whole multiples of this many positions."""

    def __init__(self, layers: int, heads: int, dim: int, like: Tensor, limit: int) -> None:
        super().__init__(layers=[])
        self.limit = limit
        self.keys = like.new_zeros(layers, 0, heads, dim, 0)
        self.values = like.new_zeros(layers, 0, heads, 0, dim)
        self.plan: Plan | None = None

    @classmethod
    def for_model(cls, model: Any, limit: int) -> SlotCache:
        """An empty cache that fits a model; it may come to hold about `limit` positions."""
        config = model.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(config.num_hidden_layers, heads, dim, next(model.parameters()).detach(), limit)

    @property
    def slots(self) -> int:
        return self.keys.shape[1]

    @property
    def capacity(self) -> int:
        return self.keys.shape[4]

    @property
    def bytes_per_token(self) -> int:
        layers, _, heads, dim, _ = self.keys.shape
        return 2 * layers * heads * dim * self.keys.element_size()

    def reserve(self, rows: int, length: int) -> None:
        """Make room for slots 0..rows-1 of `length` positions, keeping what they hold.

        Grows in large strides where the limit allows it, else to what is needed.
        """
        if rows <= self.slots and length <= self.capacity <= 4 * length + 4 * self.STEP:
            return
        slots = self.slots if rows <= self.slots else 1 << (rows - 1).bit_length()
        needed = -(-length // self.STEP) * self.STEP
        capacity = self.capacity if needed <= self.capacity <= 2 * needed else needed
        if slots * capacity > self.limit:
            # As many as fit, not as many as are asked for: the next row would have all of it copied again.
            slots, capacity = max(rows, min(slots, self.limit // length)), needed
        layers, _, heads, dim, _ = self.keys.shape
        # Zeros, not empty: a masked position weighs 0, but 0 * NaN of unwritten memory would be NaN.
        keys = self.keys.new_zeros(layers, slots, heads, dim, capacity)
        values = self.values.new_zeros(layers, slots, heads, capacity, dim)
        rows, length = min(slots, self.slots), min(capacity, self.capacity)
        keys[:, :rows, :, :, :length] = self.keys[:, :rows, :, :, :length]
        values[:, :rows, :, :length] = self.values[:, :rows, :, :length]
        self.keys, self.values = keys, values

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the packed (1, heads, N, dim) states where the plan says; give them back unchanged."""
        assert self.plan is not None
        plan, keys, values = self.plan, self.keys[layer_idx], self.values[layer_idx]
        if count := len(plan.slots):
            keys[plan.slots, :, :, plan.positions] = key_states[0, :, :count].transpose(0, 1)
            values[plan.slots, :, plan.positions] = value_states[0, :, :count].transpose(0, 1)
        for part in plan.segments:
            span = slice(part.offset, part.end)
            keys[part.slot, :, :, span] = key_states[0, :, part.start : part.stop].transpose(1, 2)
            values[part.slot, :, span] = value_states[0, :, part.start : part.stop]
        return key_states, value_states

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Asked for by transformers on its way to a mask, which our attention does without."""
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return query_length, 0

    def copy(self, source: int, target: int, length: int) -> None:
        self.keys[:, target, :, :, :length] = self.keys[:, source, :, :, :length]
        self.values[:, target, :, :length] = self.values[:, source, :, :length]

    def read(self, slot: int, length: int) -> tuple[Tensor, Tensor]:
        """Copies of a slot's first L positions: keys (layers, heads, D, L), values (layers, heads, L, D)."""
        return self.keys[:, slot, :, :, :length].clone(), self.values[:, slot, :, :length].clone()

    def write(self, slot: int, keys: Tensor, values: Tensor, length: int) -> None:
        """Put what `read` gave into a slot: keys (layers, heads, D, L), values (layers, heads, L, D)."""
        self.keys[:, slot, :, :, :length] = keys[..., :length]
        self.values[:, slot, :, :length] = values[:, :, :length]


@dataclass(slots=True)
class Kept:
    """One finished sequence: its ids and, per layer, its keys and values."""

    ids: Ids
    keys: Tensor
    values: Tensor


class PrefixStore:
    """Finished sequences per adapter, at most `limit` tokens in all, least recently used first out."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.tokens = 0
        self._kept: OrderedDict[int, tuple[str | None, Kept]] = OrderedDict()
        self._next = 0

    def find(self, ids: Ids, adapter: str | None) -> tuple[int, Kept | None]:
        """The longest common prefix of ids (P,) with a kept sequence, and that sequence."""
        best, where = 0, -1
        for number, (owner, kept) in self._kept.items():
            if owner == adapter and (length := common_prefix(kept.ids, ids)) > best:
                best, where = length, number
        if where < 0:
            return 0, None
        self._kept.move_to_end(where)
        return best, self._kept[where][1]

    def put(self, adapter: str | None, kept: Kept) -> None:
        """Keep a sequence in place of those it begins with."""
        size = len(kept.ids)
        if size > self.limit:
            return
        for number, (owner, old) in list(self._kept.items()):
            if owner == adapter and common_prefix(old.ids, kept.ids) == len(old.ids):
                self._drop(number)
        while self.tokens + size > self.limit:
            self._drop(next(iter(self._kept)))
        self._kept[self._next] = (adapter, kept)
        self._next += 1
        self.tokens += size

    def _drop(self, number: int) -> None:
        self.tokens -= len(self._kept.pop(number)[1].ids)


def common_prefix(left: Ids, right: Ids) -> int:
    """How many first ids two sequences, (P,) and (Q,), share."""
    size = min(len(left), len(right))
    if size == 0 or left[0] != right[0]:
        return 0
    differs = left[:size] != right[:size]
    first = int(np.argmax(differs))
    return first if differs[first] else size

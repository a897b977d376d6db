"""One packed forward pass: which tokens of which rows, where their keys go, which logits come back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparring.agents.engines.transformers.cache import Plan, Segment, SlotCache
from sparring.agents.engines.transformers.lora import AdapterBank
from sparring.agents.engines.transformers.rows import Row

CHUNK = 512
"""Prompt tokens in one pass, at most; bounds how long decoding rows wait for a prompt."""


@dataclass(frozen=True, slots=True)
class Part:
    """`count` tokens of a row in a pass; the logits of the last `wanted` of them come back."""

    row: Row
    count: int
    wanted: int


def forward(
    model: Any, slots: SlotCache, adapters: AdapterBank, rows: list[Row]
) -> tuple[Tensor, list[Part]]:
    """Compute the next tokens of `rows`; logits (R, V), R the sum of wanted, in the order of the parts."""
    plan, parts = plan_pass(slots, rows)
    device = slots.keys.device
    ids: list[int] = []
    positions: list[int] = []
    keep: list[int] = []
    for part in parts:
        row = part.row
        ids += row.next_ids(part.count)
        positions += range(row.computed, row.computed + part.count)
        keep += range(len(ids) - part.wanted, len(ids))
    adapters.use((part.row.job.adapter, part.count) for part in parts)
    slots.plan = plan
    output = model(
        input_ids=torch.tensor([ids], device=device),
        position_ids=torch.tensor([positions], device=device),
        past_key_values=slots,
        use_cache=True,
        logits_to_keep=torch.tensor(keep, dtype=torch.int64, device=device),
        slots=slots,
    )
    logits: Tensor = output.logits[0]
    return logits, parts


def plan_pass(slots: SlotCache, rows: list[Row]) -> tuple[Plan, list[Part]]:
    """Rows with one token to compute first, in slot order, then pieces of prompts up to `CHUNK`."""
    single = [slot for slot, row in enumerate(rows) if row.remaining == 1]
    parts = [Part(rows[slot], 1, _wanted(rows[slot], 1)) for slot in single]
    segments: list[Segment] = []
    start = len(single)
    for slot, row in enumerate(rows):
        count = min(row.remaining, CHUNK + len(single) - start)
        if row.remaining > 1 and count > 0:
            segments.append(_segment(slot, row.computed, start, start + count, slots.keys.device))
            parts.append(Part(row, count, _wanted(row, count)))
            start += count
    slots.reserve(len(rows), max(row.positions for row in rows))
    return _plan(single, rows, segments, slots.keys), parts


def _wanted(row: Row, count: int) -> int:
    return max(0, row.computed + count - max(row.computed, row.job.first))


def _segment(slot: int, offset: int, start: int, stop: int, device: torch.device) -> Segment:
    segment = Segment(slot, offset, start, stop)
    if offset:
        segment.mask = torch.ones(stop - start, segment.end, dtype=torch.bool, device=device).tril(offset)
    return segment


def _plan(single: list[int], rows: list[Row], segments: list[Segment], like: Tensor) -> Plan:
    """Lengths and mask of the decoding rows; a row that does not decode attends to position 0 only."""
    places = torch.tensor(single, dtype=torch.int64)
    positions = torch.tensor([rows[slot].computed for slot in single], dtype=torch.int64)
    last = torch.zeros(len(rows), dtype=torch.int64)
    last[places] = positions
    length = int(last.max()) + 1
    # A whole buffer needs no copy before a product, which a slice of it would; worth twice the length.
    length = like.shape[-1] if like.shape[-1] <= 2 * length else -(-length // 64) * 64
    mask = torch.zeros(len(rows), length, dtype=like.dtype)
    mask.masked_fill_(torch.arange(length)[None] > last[:, None], -torch.inf)
    return Plan(
        slots=places.to(like.device),
        positions=positions.to(like.device),
        rows=len(rows),
        length=length,
        mask=mask[:, None, None].to(like.device),
        dense=len(single) == len(rows),
        segments=segments,
    )

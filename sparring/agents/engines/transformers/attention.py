"""Attention over the slots of a `SlotCache`, registered with transformers as `sparring_slots`.

A forward pass is one packed sequence (1, N): first one token per decoding row, then whole prompts or
pieces of them. What may look at what is decided here from the cache's plan and never by a mask that
transformers builds, so there is no unpadded case in which a missing mask would go unnoticed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from sparring.agents.engines.transformers.cache import Plan, Segment, SlotCache
from sparring.errors import UserError

NAME = "sparring_slots"


def register() -> None:
    """Make `attn_implementation="sparring_slots"` known, with a mask function that builds none."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, slot_attention)
    AttentionMaskInterface.register(NAME, _no_mask)


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None


def slot_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Packed queries (1, heads, N, dim) to (1, N, heads, dim); `options["slots"]` is the cache."""
    cache: SlotCache | None = options.get("slots")
    if cache is None or cache.plan is None:
        raise RuntimeError("this model instance serves the engine; use `engine.shared_base()` elsewhere")
    for feature in ("softcap", "s_aux"):
        if options.get(feature) is not None:
            raise UserError(f"the embedded engine does not know this model's attention `{feature}`; use vLLM")
    scaling = options.get("scaling")
    scale = float(scaling) if scaling is not None else query.shape[-1] ** -0.5
    plan, layer = cache.plan, int(module.layer_idx)  # type: ignore[arg-type]  # an int that nn.Module types as a Tensor
    out = query.new_empty(query.shape[2], query.shape[1], query.shape[3])
    if count := len(plan.slots):
        keys = cache.keys[layer, : plan.rows, :, :, : plan.length]
        values = cache.values[layer, : plan.rows, :, : plan.length]
        out[:count] = _decode(query[0, :, :count].transpose(0, 1), keys, values, plan, scale)
    for part in plan.segments:
        out[part.start : part.stop] = _prefill(part, query, (key, value), cache, layer, scale)
    return out.unsqueeze(0), None


def _decode(query: Tensor, keys: Tensor, values: Tensor, plan: Plan, scale: float) -> Tensor:
    """One query per row, (D, heads, dim); the query heads of a group share their keys unrepeated."""
    _, heads, dim = query.shape
    if plan.dense:
        rows = query
    else:
        rows = query.new_zeros(plan.rows, heads, dim)
        rows[plan.slots] = query
    assert plan.mask is not None
    groups = rows.reshape(plan.rows, keys.shape[1], -1, dim)
    scores = torch.matmul(groups, keys).mul_(scale).add_(plan.mask)
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(query.dtype)
    out = torch.matmul(weights, values).reshape(plan.rows, heads, dim)
    return out if plan.dense else out[plan.slots]


def _prefill(
    part: Segment, query: Tensor, fresh: tuple[Tensor, Tensor], cache: SlotCache, layer: int, scale: float
) -> Tensor:
    """A segment's own queries over its slot's earlier positions and, causally, itself."""
    queries = query[:, :, part.start : part.stop]
    if part.offset == 0:
        keys, values = (states[:, :, part.start : part.stop] for states in fresh)
    else:
        # Laid out anew: the kernel takes up to 200 times as long over keys whose last stride is not 1.
        keys = cache.keys[layer, part.slot, :, :, : part.end].transpose(1, 2).contiguous().unsqueeze(0)
        values = cache.values[layer, part.slot, :, : part.end].unsqueeze(0)
    out = scaled_dot_product_attention(
        queries, keys, values, part.mask, is_causal=part.mask is None, scale=scale, enable_gqa=True
    )
    return out[0].transpose(0, 1)

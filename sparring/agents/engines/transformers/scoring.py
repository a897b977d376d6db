"""Log-probabilities and full-vocabulary statistics of given tokens, in float32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sparring.agents.engines.base import Floats, Ids, Scored, ScoreRequest


def score_logits(logits: Tensor, targets: Ids, request: ScoreRequest) -> Scored:
    """Score `targets` (T,) under softmax(logits (T, V) / temperature)."""
    scaled = logits.float() / request.temperature
    logs = torch.log_softmax(scaled, -1)
    index = torch.from_numpy(targets.astype(np.int64)).to(logs.device)
    chosen = logs.gather(1, index[:, None])[:, 0]
    top_ids = top_logprobs = entropy = certainty = None
    if request.top_k:
        best = logs.topk(min(request.top_k, logs.shape[1]))
        top_ids, top_logprobs = best.indices.int().cpu().numpy(), best.values.cpu().numpy()
    if request.full_vocabulary:
        entropy = -(logs.exp() * logs).sum(-1).cpu().numpy()
        # A divergence, which rounding may bring below 0.
        certainty = (-logs.mean(-1) - float(np.log(logs.shape[1]))).clamp(min=0).cpu().numpy()
    return Scored(chosen.cpu().numpy(), top_ids, top_logprobs, entropy, certainty)


def joined(parts: Sequence[Scored]) -> Scored:
    """The scores of consecutive pieces of one continuation as one."""
    return Scored(
        _floats([part.logprobs for part in parts]),
        None
        if parts[0].top_ids is None
        else np.concatenate([p.top_ids for p in parts if p.top_ids is not None]),
        _optional([part.top_logprobs for part in parts]),
        _optional([part.entropy for part in parts]),
        _optional([part.self_certainty for part in parts]),
    )


def _optional(parts: list[Floats | None]) -> Floats | None:
    held = [part for part in parts if part is not None]
    return _floats(held) if held else None


def _floats(parts: list[Floats]) -> Floats:
    return np.concatenate(parts).astype(np.float32, copy=False)

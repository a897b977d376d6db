"""Log-probabilities of completions under a model, read off prefix trees; only their logits are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparring.training.packing import Budget, MicroBatch, Row, pack

TOLERANCE = 1e-3
"""Where trees and separate rows differ by more than this, the model does not take trees."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Of the B sequences of a micro-batch, padded on the right to the longest completion T."""

    logprobs: Tensor
    """(B, T) float32: log-softmax(logits / temperature) of each completion token."""
    mask: Tensor
    """(B, T) bool."""
    entropy: Tensor | None
    """(B, T) float32, of the distribution each token was predicted by, in nats."""


def token_logprobs(
    model: Any,
    batch: MicroBatch,
    *,
    trees: bool = True,
    entropy: Literal["none", "measure", "train"] = "none",
) -> Tokens:
    """Run the model over a micro-batch. The model's output may be bfloat16; what follows is float32.

    Args:
        entropy: whether to give it, and whether with gradient.
    """
    device = next(model.parameters()).device
    positions = torch.from_numpy(np.maximum(batch.positions, 0)).to(device)
    predicting = torch.from_numpy(batch.predicting).to(device)
    if trees:
        mask = torch.from_numpy(batch.visible[:, None]).to(device)
    else:
        mask = torch.from_numpy((batch.positions >= 0).astype(np.int64)).to(device)
    out = model(
        input_ids=torch.from_numpy(batch.input_ids).to(device),
        attention_mask=mask,
        position_ids=positions,
        logits_to_keep=predicting.shape[1],
        use_cache=False,
    )
    logits = out.logits[:, -predicting.shape[1] :][predicting].float()  # not every model keeps only these
    if (batch.temperatures != 1).any():
        counts = batch.predicting.sum(axis=1)
        logits = logits / torch.from_numpy(np.repeat(batch.temperatures, counts)).to(device)[:, None]
    return _gather(logits, batch, entropy)


def _gather(logits: Tensor, batch: MicroBatch, entropy: str) -> Tokens:
    """From the logits (M, V) of the predicting positions to (B, T) padded arrays."""
    longest = max(len(target) for target in batch.targets)
    shape = (len(batch.targets), longest)
    where, target, mask = (np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, bool))
    for number, (places, tokens) in enumerate(zip(batch.where, batch.targets, strict=True)):
        where[number, : len(places)], target[number, : len(places)] = places, tokens
        mask[number, : len(places)] = True
    at, token = (torch.from_numpy(array).to(logits.device) for array in (where, target))
    normaliser = torch.logsumexp(logits, -1)
    logprobs = logits[at, token] - normaliser[at]
    spread = None
    if entropy != "none":
        with torch.set_grad_enabled(entropy == "train" and torch.is_grad_enabled()):
            spread = (normaliser - (torch.softmax(logits, -1) * logits).sum(-1))[at]
    return Tokens(logprobs, torch.from_numpy(mask).to(logits.device), spread)


@torch.no_grad()
def all_logprobs(
    model: Any, rows: Sequence[Row], budget: Budget | None = None, *, trees: bool = True
) -> list[NDArray[np.float32]]:
    """Log-probabilities (T_i,) of every row, without gradient."""
    found: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(rows)
    for batch in pack(rows, budget, share=trees):
        tokens = token_logprobs(model, batch, trees=trees)
        values = tokens.logprobs.cpu().numpy()
        for number, member in enumerate(batch.members):
            found[member] = values[number, : len(batch.targets[number])]
    return found


def takes_trees(model: Any, longest: int | None = None) -> bool:
    """Whether the model gives the same log-probabilities for a tree as for its separate sequences.

    Models with sliding windows, recurrent layers or absolute positions of their own may not; they are
    trained on one row a sequence.

    Args:
        longest: most tokens of a sequence; None: as many as the model has positions.
    """
    return _all_attend(model.config.get_text_config(), longest) and _same_apart(model)


def _all_attend(config: Any, longest: int | None) -> bool:
    """Whether every token attends to all before it: within a window a short trial cannot tell."""
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds - {"full_attention", "sliding_attention"}:
        return False
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if "sliding_attention" in kinds or (window and not kinds):
        longest = longest or getattr(config, "max_position_embeddings", None)
        return bool(window and longest and window >= longest)
    return True


@torch.no_grad()
def _same_apart(model: Any) -> bool:
    vocabulary = int(model.config.get_text_config().vocab_size)
    stem = np.arange(1, 9, dtype=np.int32) % vocabulary
    rows = [Row(stem, np.array([last % vocabulary, 1, last % vocabulary], np.int32)) for last in (3, 5, 7)]
    try:
        together = all_logprobs(model, rows, trees=True)
    except (TypeError, ValueError, RuntimeError, NotImplementedError):
        return False
    apart = all_logprobs(model, rows, trees=False)
    return all(float(np.abs(a - b).max()) < TOLERANCE for a, b in zip(together, apart, strict=True))

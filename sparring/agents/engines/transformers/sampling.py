"""From logits to tokens: every row with its own temperature, truncation and uniform draw.

A token is the inverse of the cumulative distribution at one uniform number of the row's own
generator, so that what a row samples does not depend on its neighbours. The behaviour log-probability
is log-softmax(logits / temperature) before any truncation or penalty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sparring.agents.engines.base import Sampling

_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Draw:
    """What one row brings: how to sample, its uniform number, and the ids a penalty looks at."""

    sampling: Sampling
    uniform: float
    seen: Tensor | None = None
    """(n,) prompt and completion so far, only where there is a repetition penalty."""


def sample(logits: Tensor, draws: Sequence[Draw]) -> tuple[list[int], list[float]]:
    """Tokens and their behaviour log-probabilities from logits (R, V)."""
    heat = torch.tensor([draw.sampling.temperature or 1.0 for draw in draws], device=logits.device)[:, None]
    weights = logits.to(torch.float32, copy=True).div_(heat)  # in place: fresh megabytes cost page faults
    highest = weights.amax(-1, keepdim=True)
    blocks = _blocks(weights.sub_(highest).exp_())
    sums = blocks.sum(-1)
    normaliser = highest + sums.sum(-1, keepdim=True).log()
    if special := [row for row, draw in enumerate(draws) if draw.sampling.logprob_kind != "tempered"]:
        for row in special:
            blocks[row] = _blocks(_restricted(logits[row].float().clone(), draws[row])[None])[0]
        sums = blocks.sum(-1)
    tokens = _invert(blocks, sums, [draw.uniform for draw in draws])
    logprobs = logits.gather(1, tokens[:, None]).float() / heat - normaliser
    return tokens.tolist(), logprobs[:, 0].tolist()


def uniforms(seed: int, count: int) -> np.ndarray:
    """A row's uniform numbers in [0, 1), one for each of its tokens, (T,), from its seed alone."""
    return np.random.Generator(np.random.PCG64(seed % 2**64)).random(count)


def _blocks(weights: Tensor) -> Tensor:
    """(R, V) to (R, V / 256, 256), zeros at the end: two short searches instead of one long sum."""
    rest = -weights.shape[1] % _BLOCK
    padded = torch.nn.functional.pad(weights, (0, rest)) if rest else weights
    return padded.view(weights.shape[0], -1, _BLOCK)


def _invert(blocks: Tensor, sums: Tensor, draws: list[float]) -> Tensor:
    """The token at which the cumulative weight passes `draw` times the total, per row."""
    uniform = torch.tensor(draws, dtype=torch.float64, device=blocks.device)
    rising = sums.double().cumsum(-1)
    target = (uniform * rising[:, -1])[:, None]
    block = _passes(rising, target)
    before = rising.gather(1, block[:, None]) - sums.double().gather(1, block[:, None])
    inside = blocks[torch.arange(len(draws), device=blocks.device), block].double().cumsum(-1)
    return block * _BLOCK + _passes(inside, target - before)


def _passes(rising: Tensor, target: Tensor) -> Tensor:
    """First index whose cumulative value exceeds the target; never one of weight zero at the end."""
    last = (rising < rising[:, -1:]).sum(-1)
    return torch.minimum((rising <= target).sum(-1), last)


def _restricted(logits: Tensor, draw: Draw) -> Tensor:
    """The weights (V,) that one greedy, truncated or penalised row really draws from.

    In the order of transformers: penalty (Keskar et al. 1909.05858), temperature, top-k, top-p
    (Holtzman et al. 1904.09751), min-p (Nguyen et al. 2407.01082).
    """
    how = draw.sampling
    if how.repetition_penalty != 1.0 and draw.seen is not None:
        seen = logits[draw.seen]
        logits[draw.seen] = torch.where(
            seen > 0, seen / how.repetition_penalty, seen * how.repetition_penalty
        )
    if how.temperature == 0:
        greedy = torch.zeros_like(logits)
        greedy[logits.argmax()] = 1.0
        return greedy
    probs = torch.softmax(logits / how.temperature, -1)
    if 0 < how.top_k < len(probs):
        probs = probs * (probs >= probs.topk(how.top_k).values[-1])
    if how.top_p < 1.0:
        probs = probs * (probs >= _nucleus(probs, how.top_p))
    if how.min_p > 0.0:
        probs = probs * (probs >= how.min_p * probs.max())
    return probs


def _nucleus(probs: Tensor, top_p: float) -> Tensor:
    """The smallest probability inside the nucleus; a full sort only where 1024 tokens do not fill it."""
    wanted = top_p * probs.sum()
    for count in (min(1024, len(probs)), len(probs)):
        values = probs.topk(count).values
        rising = values.cumsum(-1)
        if rising[-1] >= wanted:
            break
    kept = int((rising - values < wanted).sum())
    return values[max(kept, 1) - 1]

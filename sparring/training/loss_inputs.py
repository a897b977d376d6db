"""What a policy-gradient loss takes and gives, and the counts that make its micro-batches add up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

Stats = dict[str, Tensor]
"""Name to (2,) tensor [sum, count], so that micro-batches and processes add up; `means` divides."""


@dataclass(frozen=True, slots=True)
class LossInputs:
    """One micro-batch, padded to T tokens. What stands where `mask` is False is never used, NaN included."""

    logprobs: Tensor
    """(B, T) with gradient: log-softmax(logits / temperature) of the sampled tokens, policy in training."""
    old: Tensor
    """(B, T): the ratio's denominator: behaviour log-probabilities, recomputed ones, or the reference's
    where the loss's `denominator` says so."""
    advantages: Tensor
    """(B, T); a loss at sequence level takes the mean over the sequence's tokens."""
    mask: Tensor
    """(B, T) bool: completion tokens."""
    reference: Tensor | None = None
    """(B, T): log-probabilities under the reference version."""
    entropy: Tensor | None = None
    """(B, T) with gradient, in nats."""
    weights: Tensor | None = None
    """(B, T) constants on the policy term: truncated importance weights of trainer against engine."""
    supervised: Tensor | None = None
    """(B,) bool: rows without a reward, trained as supervised fine-tuning."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts of a whole optimizer step, over its micro-batches and processes; `a + b` joins two parts.

    A row without a completion token counts nowhere.
    """

    sequences: int
    """Rows with a reward."""
    tokens: int
    """Completion tokens of those rows."""
    longest: int
    """Most completion tokens in a row, or a constant from outside such as the sampling limit
    (Dr. GRPO divides by it)."""
    supervised: int = 0
    """Rows without a reward."""

    @classmethod
    def of(cls, mask: Tensor, supervised: Tensor | None = None) -> Totals:
        """Counts of one micro-batch: `mask` (B, T) bool, `supervised` (B,) bool."""
        policy, other = split(mask, supervised)
        lengths = policy.sum(1)
        return cls(
            sequences=int((lengths > 0).sum()),
            tokens=int(lengths.sum()),
            longest=int(lengths.max()) if len(lengths) else 0,
            supervised=int(other.any(1).sum()),
        )

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.sequences + other.sequences,
            self.tokens + other.tokens,
            max(self.longest, other.longest),
            self.supervised + other.supervised,
        )


@dataclass(frozen=True, slots=True)
class LossOutput:
    """This micro-batch's share of the step's loss (scalar with gradient), and what to log of it."""

    loss: Tensor
    stats: Stats


def means(parts: Iterable[Stats]) -> dict[str, float]:
    """The statistics of several micro-batches as means; what was counted nowhere is left out."""
    added: Stats = {}
    for part in parts:
        for name, pair in part.items():
            added[name] = added[name] + pair if name in added else pair
    return {name: float(total / count) for name, (total, count) in added.items() if count > 0}


# --- what the losses share ---------------------------------------------------------------------------


def split(mask: Tensor, supervised: Tensor | None) -> tuple[Tensor, Tensor]:
    """Completion tokens of rows with a reward and of supervised rows: two masks (B, T)."""
    mask = mask.bool()
    rows = torch.zeros_like(mask[:, 0]) if supervised is None else supervised.bool()
    return mask & ~rows[:, None], mask & rows[:, None]


def kept(values: Tensor, mask: Tensor) -> Tensor:
    """`values` (B, T) in at least float32, 0 outside the mask: there its gradient is exactly 0 too."""
    values = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    return torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device))


def row_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over each row's tokens, (B, T) -> (B, 1); 0 for a row without any."""
    return kept(values, mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)


def tally(values: Tensor, mask: Tensor) -> Tensor:
    """[sum over the mask, size of the mask], (2,), of values and mask of the same shape; without gradient."""
    total = kept(values.detach(), mask).sum()
    return torch.stack([total, mask.sum().to(total.dtype)])

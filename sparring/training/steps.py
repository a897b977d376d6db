"""Experience as optimizer steps: settings, old log-probabilities, micro-batches, inputs of the loss."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from sparring.training.experience import Sample
from sparring.training.forward import Tokens, all_logprobs
from sparring.training.losses import LossInputs, PolicyLoss, Totals
from sparring.training.packing import Budget, MicroBatch, pack


class TrainSettings(BaseModel):
    """How a policy is updated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rate: float = Field(default=2e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    epochs: int = Field(default=1, ge=1)
    """Passes over the experience of an update."""
    minibatches: int = Field(default=1, ge=1)
    """Optimizer steps of one pass; the samples of a prompt stay together."""
    old: Literal["auto", "behaviour", "recompute"] = "auto"
    """Denominator of the ratio: the engine's log-probabilities, or those of the trainer before its first
    step, where truncated importance weights make up for the difference. `auto` recomputes where the
    engine's arithmetic is not float32 or a turn is stale."""
    informative_only: bool = False
    """Train on samples with an advantage only, as DAPO's dynamic sampling does: the others have no gradient
    of their own, but count in the loss's averages and feel an entropy bonus or a KL term."""
    truncate: float = Field(default=2.0, gt=0)
    """Largest importance weight (trainer over engine) of a token."""
    max_kl: float = Field(default=5.0, gt=0)
    """Stop an update before a step at which the mean KL to the old policy (k2, nats a token) passes this."""
    max_norm: float = Field(default=1e4, gt=0)
    """Stop an update whose gradient norm, before clipping, passes this."""
    longest: int | None = Field(default=None, ge=1)
    """What a loss with `aggregate: constant` divides a row's sum by, such as the sampling limit; None: the
    most completion tokens that a row of the step has."""
    tokens: int = Field(default=1024, ge=1)
    """Positions of a micro-batch."""
    row_tokens: int = Field(default=512, ge=1)
    """Distinct tokens of one prefix tree."""
    predictions: int = Field(default=512, ge=1)
    """Positions of a micro-batch whose logits are made."""

    @property
    def budget(self) -> Budget:
        return Budget(self.tokens, self.row_tokens, self.predictions)


@dataclass(slots=True)
class Step:
    """One optimizer step: its micro-batches, what each sample brings, and the counts over all of them."""

    batches: list[MicroBatch]
    samples: Sequence[Sample]
    totals: Totals


def prepare(
    model: Any, samples: Sequence[Sample], settings: TrainSettings, *, exact: bool, trees: bool
) -> dict[str, float]:
    """Fill in the old log-probabilities under the model as it is now, where they are to be recomputed.

    Args:
        exact: whether the engine's log-probabilities are float32 and so agree with the trainer's.
    """
    chosen = list(samples)
    if settings.old == "behaviour":
        chosen = []
    elif settings.old == "auto" and exact:
        chosen = [sample for sample in samples if sample.staleness > 0]
    if not chosen:
        return {"recomputed": 0.0}
    gaps = []
    found = all_logprobs(model, [sample.row for sample in chosen], settings.budget, trees=trees)
    for sample, logprobs in zip(chosen, found, strict=True):
        assert sample.turn.logprobs is not None
        gap = logprobs - sample.turn.logprobs
        sample.old = logprobs
        sample.weights = np.exp(np.minimum(gap, math.log(settings.truncate))).astype(np.float32)
        gaps.append(gap)
    gap = np.concatenate(gaps)
    return {
        "recomputed": float(len(chosen)),
        "engine_gap_max": float(np.abs(gap).max()),
        "engine_gap_mean": float(np.abs(gap).mean()),
        "weights_truncated": float((gap > math.log(settings.truncate)).mean()),
    }


def plan_steps(samples: Sequence[Sample], settings: TrainSettings, seed: int, *, trees: bool) -> list[Step]:
    """Optimizer steps: in each pass the prompts in another order, dealt out by size."""
    prompts: dict[Any, list[int]] = {}
    for number, sample in enumerate(samples):
        prompts.setdefault(sample.prompt, []).append(number)
    groups = list(prompts.values())
    steps: list[Step] = []
    rng = np.random.default_rng(seed)
    for _ in range(settings.epochs):
        order = [groups[i] for i in rng.permutation(len(groups))]
        parts: list[list[int]] = [[] for _ in range(min(settings.minibatches, len(groups)))]
        for group in order:
            min(parts, key=len).extend(group)
        steps += [_step([samples[i] for i in part], settings, trees) for part in parts]
    return steps


def _step(samples: list[Sample], settings: TrainSettings, trees: bool) -> Step:
    batches = pack([sample.row for sample in samples], settings.budget, share=trees)
    lengths = [len(sample.turn.completion_ids) for sample in samples if not sample.supervised]
    longest = settings.longest or max(lengths, default=1)
    totals = Totals(len(lengths), sum(lengths), longest, supervised=len(samples) - len(lengths))
    return Step(batches, samples, totals)


def loss_inputs(tokens: Tokens, samples: Sequence[Sample], loss: PolicyLoss) -> LossInputs:
    """The samples' arrays beside their log-probabilities, padded like them: (B, T)."""
    reference = weights = supervised = None
    if any(sample.supervised for sample in samples):
        supervised = torch.tensor([sample.supervised for sample in samples], device=tokens.mask.device)
    if any(sample.reference is not None for sample in samples):
        reference = _padded((sample.reference for sample in samples), tokens.mask)
    if loss.denominator == "reference" and reference is not None:
        old = reference
    else:
        old = old_logprobs(samples, tokens.mask)
        if any(sample.weights is not None for sample in samples):
            known = (
                np.ones(len(s.advantages), np.float32) if s.weights is None else s.weights for s in samples
            )
            weights = _padded(known, tokens.mask)
    advantages = _padded((sample.advantages for sample in samples), tokens.mask)
    return LossInputs(
        tokens.logprobs,
        old,
        advantages,
        tokens.mask,
        reference,
        entropy=tokens.entropy,
        weights=weights,
        supervised=supervised,
    )


def old_logprobs(samples: Sequence[Sample], mask: Tensor) -> Tensor:
    """(B, T): under the policy before the update, recomputed ones where there are."""
    return _padded((s.turn.logprobs if s.old is None else s.old for s in samples), mask)


def _padded(arrays: Iterable[NDArray[np.float32] | None], mask: Tensor) -> Tensor:
    table = np.zeros(tuple(mask.shape), np.float32)
    for number, array in enumerate(arrays):
        if array is not None:  # a demonstration has none, and none of it is used
            table[number, : len(array)] = array
    return torch.from_numpy(table).to(mask.device)

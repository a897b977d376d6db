"""Policy-gradient losses behind one interface: log-probabilities and advantages in, one scalar out.

A loss is a few independent choices (level and clip of the ratio, how tokens are averaged, the KL term), and
the published ones are settings of them (`PRESETS`). An optimizer step is cut into micro-batches as memory
allows, so a loss is told the `Totals` of the whole step: the losses of its micro-batches add up to the
loss of the step exactly, wherever the cuts are. Whoever accumulates them must not divide again.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from sparring.errors import UserError, made, unknown
from sparring.training.loss_inputs import (
    LossInputs,
    LossOutput,
    Stats,
    Totals,
    kept,
    means,
    row_mean,
    split,
    tally,
)

__all__ = ["PRESETS", "LossInputs", "LossOutput", "PolicyLoss", "Stats", "Totals", "make_loss", "means"]

N = TypeVar("N", int, Tensor)
LIMIT = 20.0
"""Log-ratios are capped here before exp, and pass no gradient above: e^20 = 5e8 is beyond any use."""


class PolicyLoss(BaseModel):
    """A policy-gradient loss. Change an option between updates with `model_copy(update=...)`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "custom"
    ratio: Literal["token", "sequence"] = "token"
    """Of each token, or of the sequence: exp(mean log-ratio), as in GSPO and SPC."""
    denominator: Literal["behaviour", "reference"] = "behaviour"
    """Whose log-probabilities the caller is to put into `LossInputs.old`."""
    clip_low: float | None = Field(0.2, ge=0)
    """The ratio is clipped at 1 - clip_low; None does not clip."""
    clip_high: float | None = Field(0.2, ge=0)
    """The ratio is clipped at 1 + clip_high; None does not clip."""
    dual_clip: float | None = Field(None, gt=1)
    """Bounds the ratio where the advantage is negative (Ye et al., 1912.09729); None does not."""
    kl: Literal["k1", "k3", "advantage"] = "k3"
    """KL(policy || reference), times `beta`: `k1` (the log-ratio) or `k3` (Schulman 2020) added to each
    token's loss; the gradient of plain `k1` is zero in expectation, so it wants `kl_weighted`. `advantage`
    takes the log-ratio, as a constant, off the advantage: A = r - beta (l - l_ref) (SPAG)."""
    beta: float = Field(0.0, ge=0)
    kl_weighted: bool = False
    """Multiply the added KL by the ratio, with gradient: unbiased value and gradient (DeepSeek-V3.2)."""
    entropy_bonus: float = 0.0
    """Times the mean entropy per token of the step, whatever `aggregate` is; taken off the loss."""
    aggregate: Literal["sequence", "token", "constant", "sum"] = "sequence"
    """Mean over a row's tokens, then over rows; mean over all tokens; sum over tokens / (rows x longest);
    or sum over a row's tokens, mean over rows."""
    supervised_weight: float = Field(1.0, ge=0)
    """Times the mean over supervised rows of -(mean log-probability)."""

    @property
    def needs_reference(self) -> bool:
        """Whether the caller has to compute log-probabilities of the reference version."""
        return self.beta > 0 or self.denominator == "reference"

    @property
    def needs_entropy(self) -> bool:
        return self.entropy_bonus != 0

    def __call__(self, inputs: LossInputs, totals: Totals) -> LossOutput:
        """The micro-batch's share of the loss of a step with these totals.

        Raises:
            UserError: the loss needs reference log-probabilities or entropies and the inputs have none.
        """
        mask, supervised = split(inputs.mask, inputs.supervised)
        new = kept(inputs.logprobs, mask)
        log_ratio = new - kept(inputs.old, mask)
        against = self._reference(inputs)
        gap = None if against is None else kept(against, mask) - new
        loss, stats = self._policy(inputs, log_ratio, gap, totals.longest)
        stats |= distances(log_ratio, gap, mask)
        loss = loss / max(self._count(totals.sequences, totals.tokens, totals.longest), 1)
        if inputs.entropy is not None:
            entropy = kept(inputs.entropy, mask)
            stats["entropy"] = tally(entropy, mask)
            loss = loss - self.entropy_bonus * entropy.sum() / max(totals.tokens, 1)
        elif self.needs_entropy:
            raise UserError(f"loss `{self.name}` has an entropy bonus and got no entropies")
        likelihood = row_mean(inputs.logprobs, supervised)
        stats["supervised_loss"] = tally(-likelihood, supervised.any(1, keepdim=True))
        return LossOutput(loss - self.supervised_weight * likelihood.sum() / max(totals.supervised, 1), stats)

    def _policy(
        self, inputs: LossInputs, log_ratio: Tensor, gap: Tensor | None, longest: int
    ) -> tuple[Tensor, Stats]:
        """Clipped surrogate plus KL, summed as `aggregate` says; `gap` (B, T) is reference - policy."""
        mask, _ = split(inputs.mask, inputs.supervised)
        advantages = kept(inputs.advantages, mask)
        weights = kept(torch.ones_like(advantages) if inputs.weights is None else inputs.weights, mask)
        if gap is not None and self.beta and self.kl == "advantage":
            advantages = advantages + self.beta * gap.detach()
        units = mask
        if self.ratio == "sequence":
            log_ratio, advantages, weights = (row_mean(x, mask) for x in (log_ratio, advantages, weights))
            units = mask.any(1, keepdim=True)
        ratio = _exp(log_ratio)
        surrogate = -weights * self._objective(ratio, advantages)
        stats = self._clipped(ratio, advantages, units)
        stats["policy_loss"] = self._pooled(surrogate, mask, longest).detach()
        if gap is not None and self.beta and self.kl != "advantage":
            penalty = -gap if self.kl == "k1" else _k3(gap)
            surrogate = surrogate + self.beta * (penalty * ratio if self.kl_weighted else penalty)
        return self._pooled(surrogate, mask, longest)[0], stats

    def _objective(self, ratio: Tensor, advantages: Tensor) -> Tensor:
        """PPO's clipped surrogate (Schulman et al. 2017, eq. 7), to be maximised; shapes as given."""
        low, high = self._bounds()
        objective = torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)
        if self.dual_clip is not None:
            floor = torch.maximum(objective, self.dual_clip * advantages)
            objective = torch.where(advantages < 0, floor, objective)
        return objective

    def _bounds(self) -> tuple[float, float]:
        low = float("-inf") if self.clip_low is None else 1 - self.clip_low
        return low, float("inf") if self.clip_high is None else 1 + self.clip_high

    def _clipped(self, ratio: Tensor, advantages: Tensor, units: Tensor) -> Stats:
        """Shares of the tokens (or sequences) whose gradient the clip takes away on either side."""
        low, high = self._bounds()
        return {
            "ratio": tally(ratio, units),
            "clip_low": tally(((ratio < low) & (advantages < 0)).to(ratio.dtype), units),
            "clip_high": tally(((ratio > high) & (advantages > 0)).to(ratio.dtype), units),
        }

    def _pooled(self, values: Tensor, mask: Tensor, longest: int) -> Tensor:
        """[sum, what it is to be divided by] over one micro-batch of (B, T) or (B, 1) values."""
        values = kept(values, mask)
        rows = row_mean(values, mask) if self.aggregate == "sequence" else values
        counts = self._count(mask.any(1).sum(), mask.sum(), longest)
        return torch.stack([rows.sum(), counts.to(values.dtype)])

    def _count(self, sequences: N, tokens: N, longest: int) -> N:
        """What the sum over tokens or sequences is divided by."""
        if self.aggregate == "constant":
            return sequences * longest
        return tokens if self.aggregate == "token" else sequences

    def _reference(self, inputs: LossInputs) -> Tensor | None:
        if inputs.reference is None and self.denominator == "reference":
            return inputs.old
        if inputs.reference is None and self.needs_reference:
            raise UserError(f"loss `{self.name}` with beta {self.beta:g} needs a reference and got none")
        return inputs.reference


def _exp(log_ratio: Tensor) -> Tensor:
    return log_ratio.clamp(max=LIMIT).exp()


def _k3(gap: Tensor) -> Tensor:
    """exp(d) - 1 - d of d = log q - log p: never negative, unbiased for KL(p || q) under samples of p."""
    gap = gap.clamp(max=LIMIT)
    return gap.exp() - 1 - gap


def distances(log_ratio: Tensor, gap: Tensor | None, mask: Tensor) -> Stats:
    """How far the policy has moved: KL(old || policy) by k1, k2 and k3, KL(policy || reference) by k3."""
    stats = {
        "kl_old_k1": tally(-log_ratio, mask),
        "kl_old_k2": tally(log_ratio.square() / 2, mask),
        "kl_old_k3": tally(_k3(log_ratio), mask),
    }
    if gap is not None:
        stats["kl_reference"] = tally(_k3(gap), mask)
    return stats


PRESETS: dict[str, dict[str, Any]] = {
    # PPO without a critic: REINFORCE++ (2501.03262) and CoMAS's code; `aggregate=sum` is CoMAS eq. 11.
    "reinforce++": {},
    # Schulman et al. 2017: mean over all time steps.
    "ppo": {"aggregate": "token"},
    # Williams 1992, importance-weighted off policy; on policy its gradient is -A grad log pi.
    "reinforce": {"clip_low": None, "clip_high": None},
    # DeepSeekMath, 2402.03300.
    "grpo": {},
    # Liu et al., 2503.20783: no length in the divisor. Its advantages are `group` with scale `none`.
    "dr_grpo": {"aggregate": "constant"},
    # Yu et al., 2503.14476: clip higher, mean over all tokens.
    "dapo": {"clip_high": 0.28, "aggregate": "token"},
    # Zheng et al., 2507.18071.
    "gspo": {"ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4},
    # SPC's released trainer (2504.19162); beta 0.1 is its paper. SPAG (2404.10642): beta 0.2, weight 0.5.
    # It has micro-batches of one row and divides both terms by all rows; here each by its own.
    "spc": {"ratio": "sequence", "denominator": "reference", "kl": "advantage", "supervised_weight": 0.15},
}


def make_loss(name: str, **options: Any) -> PolicyLoss:
    """The loss of this name, with options changed. Raises `UserError` for unknown names and bad values."""
    if name not in PRESETS:
        raise unknown("loss", name, PRESETS)
    return made(PolicyLoss, {**PRESETS[name], **options}, f"loss `{name}`", fixed={"name": name})

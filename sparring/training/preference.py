"""Supervised and preference training (SFT, DPO, KTO) with TRL's trainers, fed with the journal's token ids.

    fitted = fit("dpo", engine.shared_base(), pairs(turns), PreferenceSettings(), out)

All three trainers take token ids, so no text is tokenised and no row can differ from the journal: the
model sees prompt + completion as they were, and the loss is on exactly the completion's tokens. A row
longer than `max_length` is left out and counted, never cut. What comes out is a PEFT adapter folder;
the model that was handed in stays as it is, and so does everything that shares its weights.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from sparring.errors import UserError, unknown
from sparring.training.preference_data import Pair, Sample

if TYPE_CHECKING:
    from sparring.training.weights import LoraSettings

Objective = Literal["sft", "dpo", "kto"]


class PreferenceSettings(BaseModel):
    """How to train; `beta`, `dpo_*` and `kto_*` matter to their objectives only."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rate: float = Field(default=5e-5, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    epochs: float = Field(default=1.0, gt=0)
    batch_size: int = Field(default=8, ge=1)
    """Rows (DPO: pairs) of one forward pass."""
    gradient_accumulation: int = Field(default=1, ge=1)
    """Forward passes of one optimizer step."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    max_length: int | None = Field(default=2048, ge=2)
    """Tokens of prompt + completion; longer rows are left out."""
    max_loss: float = Field(default=1e3, gt=0)
    """A loss above this, or one that is not finite, stops the training."""
    beta: float = Field(default=0.1, gt=0)
    """How strongly DPO and KTO hold to the reference (their papers' beta)."""
    dpo_loss: Literal["sigmoid", "ipo", "hinge", "robust"] = "sigmoid"
    dpo_label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    kto_loss: Literal["kto", "apo_zero_unpaired"] = "kto"
    kto_threshold: float = 0.5
    """A sample with at least this reward is desirable."""
    kto_desirable_weight: float = Field(default=1.0, gt=0)
    kto_undesirable_weight: float = Field(default=1.0, gt=0)
    seed: int = Field(default=0, ge=0, lt=2**32)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained adapter and how it came about."""

    path: Path
    adapter_hash: str
    turn_ids: tuple[int, ...]
    """The turns of the rows that were used, for `update_turns`."""
    metrics: dict[str, float]
    """rows, dropped_long, tokens (completion tokens of one epoch), steps, loss_first, loss_last, and the
    last value of what TRL reports (DPO: rewards/margins, rewards/accuracies; KTO: kl)."""
    history: tuple[dict[str, float], ...]
    """What TRL reports of each optimizer step."""


def fit(
    objective: Objective,
    model: Any,
    data: Sequence[Sample] | Sequence[Pair],
    settings: PreferenceSettings,
    out: Path,
    *,
    lora: LoraSettings | None = None,
    reference: Path | None = None,
) -> Fitted:
    """Train a LoRA adapter on samples (SFT, KTO) or pairs (DPO) and write it to the folder `out`.

    Args:
        model: a causal language model in float32, to begin a new adapter; or a `PeftModel`, to go on from
            a copy of its active adapter.
        out: appears by one rename, and replaces a folder of that name.
        lora: shape of a new adapter.
        reference: adapter folder of the policy version that DPO and KTO hold to; None is the bare base.

    Raises:
        UserError: unknown objective, data of the wrong kind, nothing left to train on, or the reference or
            `out` cannot be used.
        UpdateStopped: the loss is not finite or above `settings.max_loss`.
    """
    used = _usable(objective, data, settings)
    if reference is not None and objective == "sft":
        raise UserError("sft holds to no reference; leave it out or train with dpo or kto")
    from sparring.agents.models import adapter_hash, quiet
    from sparring.training.preference_trainers import policy_over, save, trainer_for
    from sparring.training.weights import LoraSettings

    quiet()
    if reference is not None:
        adapter_hash(reference)  # it is there, and its weights are safetensors
    policy = policy_over(model, lora or LoraSettings(), settings.seed)
    with tempfile.TemporaryDirectory(
        prefix="sparring-trainer-"
    ) as scratch:  # the trainer insists on a folder
        trainer = trainer_for(objective, policy, used, settings, scratch, reference)
        trainer.train()
    history = [step for step in trainer.state.log_history if "loss" in step]
    save(policy, out)
    return Fitted(
        path=out,
        adapter_hash=adapter_hash(out),
        turn_ids=tuple(sorted({turn for row in used for turn in row.turn_ids})),
        metrics={
            **history[-1],
            "rows": len(used),
            "dropped_long": len(data) - len(used),
            "tokens": sum(len(part.completion_ids) for row in used for part in _parts(row)),
            "steps": trainer.state.global_step,
            "loss_first": history[0]["loss"],
            "loss_last": history[-1]["loss"],
        },
        history=tuple(history),
    )


def _usable(
    objective: Objective, data: Sequence[Sample] | Sequence[Pair], settings: PreferenceSettings
) -> list[Any]:
    """The rows that fit into `max_length`, all checked before any work."""
    if objective not in get_args(Objective):
        raise unknown("objective", objective, get_args(Objective))
    kind = Pair if objective == "dpo" else Sample
    if not all(isinstance(row, kind) for row in data):
        raise UserError(
            f"{objective} trains on {kind.__name__.lower()}s; make them with `{kind.__name__.lower()}s()`"
        )
    limit = settings.max_length
    used = [row for row in data if limit is None or all(_length(part) <= limit for part in _parts(row))]
    fewest = 1
    if objective == "kto" and settings.kto_loss == "kto":
        fewest = 2  # its KL term compares a prompt with another row's completion
        if settings.batch_size < 2:
            raise UserError("kto estimates a KL term over a batch: set batch_size to 2 or more")
    if len(used) < fewest:
        raise UserError(
            f"{objective}: {len(used)} rows to train on, {fewest} needed ({len(data) - len(used)} of "
            f"{len(data)} were longer than max_length {limit})"
        )
    return used


def _parts(row: Sample | Pair) -> tuple[Sample, ...]:
    return (row.chosen, row.rejected) if isinstance(row, Pair) else (row,)


def _length(sample: Sample) -> int:
    return len(sample.prompt_ids) + len(sample.completion_ids)

"""TRL's trainers over token ids: what they are given, and what they are kept from doing.

They would tokenise text while preparing a data set; ours arrives prepared, in the columns their own data
collators read. They would send a message home and print to standard output; ours do neither.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset  # type: ignore[import-untyped]  # it ships no types
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import PreTrainedTokenizerFast, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_config import KTOConfig
from trl.trainer.kto_trainer import KTOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from sparring.training.preference_data import Pair, Sample
from sparring.training.trainer import UpdateStopped
from sparring.training.weights import Adapters, LoraSettings

if TYPE_CHECKING:
    from sparring.training.preference import Objective, PreferenceSettings

POLICY, REFERENCE = "default", "ref"
"""Names under which TRL looks for the adapter it trains and the one it compares with."""
IGNORED = -100
"""Label of a token that is in no loss."""


class TokenIds:
    """A TRL trainer whose data set is ready: token ids, no text."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset

    def _send_telemetry(self) -> None:
        """Nothing leaves this machine."""


class Sft(TokenIds, SFTTrainer):
    """Columns input_ids, labels."""


class Dpo(TokenIds, DPOTrainer):
    """Columns prompt_ids, chosen_ids, rejected_ids."""


class Kto(TokenIds, KTOTrainer):
    """Columns prompt_ids, completion_ids, KL_completion_ids, label."""


class Guard(TrainerCallback):
    """Stops at a loss or gradient that is not finite, or a loss that is too large."""

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        for name in ("loss", "grad_norm"):
            value = float((logs or {}).get(name, 0.0))
            if not math.isfinite(value) or (name == "loss" and value > self.limit):
                raise UpdateStopped(
                    f"{name} was {value:g} at step {state.global_step}; nothing was written: lower the "
                    "learning rate"
                )


def policy_over(model: Any, lora: LoraSettings, seed: int) -> PeftModel:
    """A new model object over the same base tensors, with one adapter `default` of its own.

    The adapter is fresh (B is zero, so it begins as the base), or a copy of a `PeftModel`'s active one.
    """
    shared: dict[int, Any] = {
        id(tensor): nn.Parameter(tensor.detach(), requires_grad=False)
        for name, tensor in model.named_parameters()
        if "lora_" not in name
    }
    base, weights = copy.deepcopy(model, shared), None
    config: Any = lora.config()
    if isinstance(base, PeftModel):
        name = str(base.active_adapter)
        config, weights = base.peft_config[name], get_peft_model_state_dict(base, adapter_name=name)
        config.inference_mode = False
        base = base.unload()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        policy: PeftModel = get_peft_model(base, config, adapter_name=POLICY)
    if weights is not None:
        set_peft_model_state_dict(policy, weights, adapter_name=POLICY)
    return policy


def save(policy: PeftModel, out: Path) -> None:
    """Write the trained adapter as a PEFT folder, safetensors only, all at once."""
    adapters = Adapters(policy)
    adapters.model = policy
    adapters.save(POLICY, out, str(policy.peft_config[POLICY].base_model_name_or_path or ""))


def trainer_for(
    objective: Objective,
    policy: PeftModel,
    rows: Sequence[Sample] | Sequence[Pair],
    settings: PreferenceSettings,
    folder: str,
    reference: Path | None = None,
) -> Any:
    """The trainer of an objective, ready to train: its data, its arguments and its reference."""
    trainers: dict[str, Any] = {
        "sft": (Sft, SFTConfig, sft_rows, {}),
        "dpo": (Dpo, DPOConfig, dpo_rows, _dpo_options(settings)),
        "kto": (Kto, KTOConfig, kto_rows, _kto_options(settings)),
    }
    trainer_class, config_class, columns, options = trainers[objective]
    trainer = trainer_class(
        model=policy,
        args=config_class(**_arguments(policy, settings, folder), **options),
        train_dataset=Dataset.from_list(columns(rows, settings)),
        processing_class=no_tokenizer(),
        callbacks=[Guard(settings.max_loss)],
    )
    trainer.remove_callback(PrinterCallback)
    if REFERENCE in policy.peft_config:  # TRL's copy of the adapter as it begins
        policy.delete_adapter(REFERENCE)
    if reference is not None:
        policy.load_adapter(str(reference), REFERENCE, torch_device=str(policy.device))
    policy.set_adapter(POLICY)
    return trainer


def _arguments(policy: PeftModel, settings: PreferenceSettings, folder: str) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.schedule,
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation,
        "max_grad_norm": settings.max_grad_norm,
        "max_length": None,  # longer rows have been left out; nothing is cut
        "seed": settings.seed,
        "use_cpu": policy.device.type == "cpu",  # where the weights are, they stay: an engine may share them
        "bf16": False,
        "activation_checkpointing": False,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "dataloader_pin_memory": False,
    }


def _dpo_options(settings: PreferenceSettings) -> dict[str, Any]:
    return {
        "beta": settings.beta,
        "loss_type": [settings.dpo_loss],
        "label_smoothing": settings.dpo_label_smoothing,
    }


def _kto_options(settings: PreferenceSettings) -> dict[str, Any]:
    return {
        "beta": settings.beta,
        "loss_type": settings.kto_loss,
        "desirable_weight": settings.kto_desirable_weight,
        "undesirable_weight": settings.kto_undesirable_weight,
    }


def no_tokenizer() -> Any:
    """What TRL takes its padding id from. It knows no word, so nothing could be tokenised with it.

    Padded positions are masked, so which id they hold does not matter.
    """
    words: Any = Tokenizer(WordLevel({"<pad>": 0}, unk_token="<pad>"))
    made: Any = PreTrainedTokenizerFast
    return made(tokenizer_object=words, pad_token="<pad>")


def sft_rows(rows: Sequence[Sample], settings: PreferenceSettings) -> list[dict[str, Any]]:
    return [
        {
            "input_ids": [*row.prompt_ids.tolist(), *row.completion_ids.tolist()],
            "labels": [IGNORED] * len(row.prompt_ids) + row.completion_ids.tolist(),
        }
        for row in rows
    ]


def dpo_rows(rows: Sequence[Pair], settings: PreferenceSettings) -> list[dict[str, Any]]:
    return [
        {
            "prompt_ids": row.chosen.prompt_ids.tolist(),
            "chosen_ids": row.chosen.completion_ids.tolist(),
            "rejected_ids": row.rejected.completion_ids.tolist(),
        }
        for row in rows
    ]


def kto_rows(rows: Sequence[Sample], settings: PreferenceSettings) -> list[dict[str, Any]]:
    """Rows in a seeded order, for KTO's trainer goes through them as they come.

    Its KL term needs each prompt with a completion that belongs to another one (Ethayarajh et al. 2024,
    section 4.1): the previous row's of the same batch, so that a batch's completions are the same set.
    Neighbours in the journal often share a prompt, hence the shuffling.
    """
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(settings.seed)).tolist()
    shuffled = [rows[place] for place in order]
    made = []
    for place, row in enumerate(shuffled):
        start = place - place % settings.batch_size
        stop = min(start + settings.batch_size, len(shuffled))
        other = stop - 1 if place == start and stop - start > 1 else place - 1
        made.append(
            {
                "prompt_ids": row.prompt_ids.tolist(),
                "completion_ids": row.completion_ids.tolist(),
                "KL_completion_ids": shuffled[other].completion_ids.tolist(),
                "label": row.reward >= settings.kto_threshold,
            }
        )
    return made

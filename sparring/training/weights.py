"""Weights of a policy on disk and in a trainer: LoRA adapters and the optimizer's state, safetensors only.

A folder appears by one rename after everything in it was written through to the disk, so a full disk leaves
the weights that were there, and a kill leaves them or, beside their place, what `publish` puts back.
"""

from __future__ import annotations

import copy
import filecmp
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparring.agents.models import adapter_hash
from sparring.errors import UserError

if TYPE_CHECKING:
    from sparring.training.steps import TrainSettings

ADAPTER = "adapter_model.safetensors"
OPTIMIZER = "optimizer.safetensors"
REFERENCE = "<reference>"
"""Name of the adapter that holds a reference version; no policy's."""


class LoraSettings(BaseModel):
    """Shape of the adapters of a policy; all its versions have the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    targets: str | tuple[str, ...] = "all-linear"
    """Names of linear layers, or `all-linear` for all but the output layer."""

    def config(self) -> LoraConfig:
        targets = self.targets if isinstance(self.targets, str) else list(self.targets)
        alpha: Any = self.alpha  # the library's type is int, it takes any number
        return LoraConfig(r=self.rank, lora_alpha=alpha, target_modules=targets, task_type="CAUSAL_LM")


class Adapters:
    """The adapters of several policies on one base, by policy name; one is active at a time.

    Args:
        model: the base, wrapped in place; its own weights are frozen and never written.
    """

    def __init__(self, model: Any) -> None:
        self._base = model
        self.model: Any = None
        self._keys: dict[str, str] = {}

    def add(self, name: str, settings: LoraSettings, seed: int, folder: Path | None) -> None:
        """A policy's adapter, from `folder`, or fresh: B is zero, so it begins as the base.

        One that is there is made anew: after an update that went wrong nothing of it is left.

        Raises:
            UserError: the weights in `folder` are of another shape than the settings say.
        """
        self._wrap(name, settings.config(), seed)
        if folder is not None:
            self.load(name, folder)

    def reference(self, folder: Path | None) -> str | None:
        """Make a version's adapter available as the reference; None is the bare base."""
        if folder is None:
            return None
        self._wrap(REFERENCE, LoraConfig.from_pretrained(str(folder)), seed=0)
        self.load(REFERENCE, folder)
        return REFERENCE

    def _wrap(self, name: str, config: Any, seed: int) -> None:
        # PEFT looks for an adapter's name in those of tensors: a policy may be called `layers` or `v1.2`.
        key = self._keys.setdefault(name, f"policy{len(self._keys)}")
        config.inference_mode = False
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            warnings.filterwarnings("ignore", "Adapter .* was active which is now deleted", UserWarning)
            torch.manual_seed(seed)
            if self.model is None:
                self.model = get_peft_model(self._base, config, adapter_name=key)
                return
            if key in self.model.peft_config:
                self.model.delete_adapter(key)
            self.model.add_adapter(key, config)

    def _key(self, name: str) -> str:
        return self._keys.get(name, name)

    def load(self, name: str, folder: Path) -> None:
        """Take the weights of an adapter folder.

        Raises:
            UserError: they do not fit the adapter.
        """
        key = self._key(name)
        mine, theirs = self.model.peft_config[key], LoraConfig.from_pretrained(str(folder))
        fits = (mine.r, mine.lora_alpha) == (theirs.r, theirs.lora_alpha)
        try:
            result: Any = set_peft_model_state_dict(self.model, load_file(folder / ADAPTER), adapter_name=key)
            fits = fits and not result.unexpected_keys
            fits = fits and not any(f".{key}." in missing for missing in result.missing_keys)
        except RuntimeError:  # other sizes
            fits = False
        if not fits:
            raise UserError(
                f"adapter {folder} (rank {theirs.r}, alpha {theirs.lora_alpha:g}) does not fit `{name}` "
                f"(rank {mine.r}, alpha {mine.lora_alpha:g}) or adapts other layers; keep the settings "
                "it was made with"
            )

    def activate(self, name: str) -> list[Tensor]:
        """Train this adapter and no other; its parameters, in a fixed order."""
        self.model.set_adapter(self._key(name))
        return [tensor for _, tensor in self.named(name)]

    def named(self, name: str) -> list[tuple[str, Tensor]]:
        """The adapter's tensors by name (that of the adapter left out), in a fixed order."""
        part = f".{self._key(name)}."
        marked = [(key, tensor) for key, tensor in self.model.named_parameters() if part in key]
        return sorted((key.replace(part, "."), tensor) for key, tensor in marked if "lora_" in key)

    def save(self, name: str, folder: Path, base: str) -> str:
        """Write the adapter as a PEFT folder and return its hash; a folder that is there is replaced."""
        key = self._key(name)

        def write(part: Path) -> None:
            weights = get_peft_model_state_dict(self.model, adapter_name=key, save_embedding_layers=False)
            held = {key: tensor.detach().cpu().contiguous() for key, tensor in weights.items()}
            save_file(held, part / ADAPTER, metadata={"format": "pt"})
            config = copy.copy(self.model.peft_config[key])
            config.base_model_name_or_path, config.inference_mode = base, True
            if isinstance(config.target_modules, set):  # in one order, or equal adapters differ in their hash
                config.target_modules = sorted(config.target_modules)
            config.save_pretrained(str(part))

        publish(folder, write)
        return adapter_hash(folder)


def publish(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder beside `folder`, write it through to the disk, and rename it into place.

    What was there is put aside before and removed after; if it is the same, it stays.

    Raises:
        UserError: the disk is full or cannot be written; what was there before is untouched.
    """
    part, aside = (folder.with_name(f".{folder.name}.{kind}-{uuid4().hex}") for kind in ("part", "old"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        part.mkdir()
        try:
            write(part)
            for file in (*part.iterdir(), part):
                _sync(file)
            _swap(part, folder, aside)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        raise UserError(
            f"weights cannot be written to {folder}: {error}; make room there (or permit writing) and resume"
        ) from error


def _sweep(folder: Path) -> None:
    """Clean up after writers that were killed; one that had put the folder aside gets it back."""
    for stale in folder.parent.glob(f".{folder.name}.part-*"):
        shutil.rmtree(stale, ignore_errors=True)
    for old in folder.parent.glob(f".{folder.name}.old-*"):
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(old, folder)


def _swap(part: Path, folder: Path, aside: Path) -> None:
    if folder.is_dir():
        if _same(part, folder):
            return
        os.replace(folder, aside)
    try:
        os.replace(part, folder)
    except OSError:
        if aside.exists():
            os.replace(aside, folder)
        raise
    _sync(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _same(one: Path, other: Path) -> bool:
    names = sorted(file.name for file in one.iterdir())
    if names != sorted(file.name for file in other.iterdir()):
        return False
    return not any(filecmp.cmpfiles(one, other, names, shallow=False)[1:])


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def adamw(named: list[tuple[str, Tensor]], settings: TrainSettings) -> torch.optim.Optimizer:
    """A fresh optimizer for parameters in this order."""
    return torch.optim.AdamW(
        [tensor for _, tensor in named],
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
    )


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """An optimizer's state as `NAME|KIND` -> tensor, by the names of the parameters of its one group."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in zip(names, optimizer.param_groups[0]["params"], strict=True):
        for key, value in optimizer.state.get(tensor, {}).items():
            tensors[f"{name}|{key}"] = torch.as_tensor(value).detach().cpu().contiguous()
    return tensors


def set_optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: list[str], held: dict[str, Tensor]
) -> None:
    """Take back what `optimizer_tensors` gave; parameters it does not know begin anew."""
    states: dict[str, dict[str, Tensor]] = {}
    for key, value in held.items():
        name, _, kind = key.rpartition("|")
        states.setdefault(name, {})[kind] = value
    for name, tensor in zip(names, optimizer.param_groups[0]["params"], strict=True):
        if name in states:
            optimizer.state[tensor] = {
                kind: value if kind == "step" else value.to(tensor.device)
                for kind, value in states[name].items()
            }


def save_optimizer(optimizer: torch.optim.Optimizer, names: list[str], folder: Path) -> None:
    """Write an optimizer's state by the names of its parameters, which are those of its one group."""
    tensors = optimizer_tensors(optimizer, names)
    publish(folder, lambda part: save_file(tensors, part / OPTIMIZER))


def load_optimizer(optimizer: torch.optim.Optimizer, names: list[str], folder: Path) -> None:
    """Take back what `save_optimizer` wrote; parameters it does not know begin anew.

    Raises:
        UserError: the file is missing or broken.
    """
    try:
        held = load_file(folder / OPTIMIZER)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"optimizer state {folder} cannot be read: {error}; restore it, or delete the folder to begin "
            "with fresh moments"
        ) from error
    set_optimizer_tensors(optimizer, names, held)

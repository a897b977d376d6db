"""LoRA adapters beside one shared base, any number of them in one batch; the base is never merged.

PEFT's own mixed batches need one row per sample and loop over adapters; our batches are packed tokens.
So the adapters in use are laid side by side: one product with all their A matrices, a mask that leaves
each token the ranks of its own adapter, one product with all their B matrices.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sparring.agents.models import adapter_hash
from sparring.errors import UserError

_TENSOR = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])\.weight")


@dataclass(frozen=True, slots=True)
class Adapter:
    """Per target module: A transposed (in, r) and scaled B transposed (r, out)."""

    hash: str
    matrices: dict[str, tuple[Tensor, Tensor]]


def load_adapter(folder: str, layers: dict[str, nn.Linear], digest: str) -> Adapter:
    """Read a PEFT LoRA folder, safetensors only, for the linear layers of this base.

    Raises:
        UserError: anything but plain LoRA, or weights that do not fit this model.
    """
    config = json.loads((Path(folder) / "adapter_config.json").read_text())
    _plain(config, folder)
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in load_file(Path(folder) / "adapter_model.safetensors").items():
        match = _TENSOR.fullmatch(name)
        if match is None or match[1] not in layers or match[1].endswith("lm_head"):
            raise UserError(f"adapter {folder}: no place in this model for `{name}` (LoRA on linear layers only)")
        found.setdefault(match[1], {})[match[2]] = tensor
    matrices = {name: _pair(folder, name, pair, layers[name], config) for name, pair in found.items()}
    return Adapter(digest, matrices)


def _plain(config: dict[str, Any], folder: str) -> None:
    if config.get("peft_type") != "LORA":
        raise UserError(f"adapter {folder} is {config.get('peft_type')}; the embedded engine serves LoRA")
    refused = [key for key in ("use_dora", "modules_to_save", "fan_in_fan_out", "lora_bias") if config.get(key)]
    if config.get("bias", "none") != "none":
        refused.append("bias")
    if refused:
        raise UserError(f"adapter {folder} uses {', '.join(refused)}; the embedded engine serves plain LoRA")


def _pair(
    folder: str, name: str, pair: dict[str, Tensor], layer: nn.Linear, config: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    down, up = pair.get("A"), pair.get("B")
    if down is None or up is None or down.shape[1] != layer.in_features or up.shape[0] != layer.out_features:
        raise UserError(f"adapter {folder} does not fit this model at {name}; it was made for another base")
    alpha = float(config.get("lora_alpha", 8))
    for pattern, own in (config.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", name):
            alpha = float(own)
    rank = down.shape[0]
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    weight = layer.weight
    return (
        down.T.to(weight.device, weight.dtype).contiguous(),
        (up.T.float() * scale).to(weight.device, weight.dtype).contiguous(),
    )


class AdapterBank:
    """The adapters that are resident, and the hooks that apply them to packed tokens."""

    def __init__(self, model: nn.Module, limit: int = 32) -> None:
        self.limit = limit
        self._layers = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}
        self._loaded: dict[str, Adapter] = {}
        self._known: dict[tuple[str, float], str] = {}
        self._stack: tuple[str, ...] = ()
        self._matrices: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        self._hooks: list[Any] = []
        self._tokens: Tensor | None = None
        self._masks: dict[int, Tensor] = {}

    @property
    def resident(self) -> list[str]:
        """Content hashes of the loaded adapters, least recently used first."""
        return list(self._loaded)

    def load(self, folder: str, expected: str | None) -> str:
        """Make an adapter resident, if it is not; its content hash.

        Raises:
            UserError: missing, not plain LoRA, or not the adapter the policy version recorded.
        """
        digest = self._digest(folder)
        if expected is not None and digest != expected:
            raise UserError(
                f"adapter {folder} has hash {digest[:12]}, the policy version recorded {expected[:12]}; "
                "the files changed since, restore them or register a new version"
            )
        adapter = self._loaded.pop(digest, None) or load_adapter(folder, self._layers, digest)
        self._loaded[digest] = adapter
        return digest

    def _digest(self, folder: str) -> str:
        try:
            files = [Path(folder) / name for name in ("adapter_config.json", "adapter_model.safetensors")]
            key = (folder, sum(math.fsum((file.stat().st_mtime, file.stat().st_size)) for file in files))
        except OSError:
            return adapter_hash(folder)  # names the file that is missing
        if key not in self._known:
            self._known[key] = adapter_hash(folder)
        return self._known[key]

    def use(self, tokens: list[str | None]) -> None:
        """Say which adapter each packed token of the next forward pass belongs to."""
        self._masks.clear()
        wanted = {name for name in tokens if name is not None}
        if not wanted:
            self._tokens = None
            return
        if not wanted <= set(self._stack):
            self._restack(tuple(sorted(wanted)))
        number = {name: index for index, name in enumerate(self._stack)}
        device = next(iter(self._matrices.values()))[0].device
        self._tokens = torch.tensor([number[name] if name is not None else -1 for name in tokens], device=device)

    def evict(self, needed: set[str]) -> None:
        """Forget the least recently used adapters beyond the limit that no row needs."""
        for name in [name for name in self._loaded if name not in needed]:
            if len(self._loaded) <= self.limit:
                return
            del self._loaded[name]

    def _restack(self, names: tuple[str, ...]) -> None:
        for hook in self._hooks:
            hook.remove()
        self._stack, self._hooks, self._matrices = names, [], {}
        for module in dict.fromkeys(module for name in names for module in self._loaded[name].matrices):
            parts = [(i, self._loaded[name].matrices.get(module)) for i, name in enumerate(names)]
            held = [(i, pair) for i, pair in parts if pair is not None]
            owner = torch.cat([torch.full((pair[0].shape[1],), i) for i, pair in held])
            down = torch.cat([pair[0] for _, pair in held], 1)
            up = torch.cat([pair[1] for _, pair in held], 0)
            self._matrices[module] = (down, up, owner.to(down.device))
            self._hooks.append(self._layers[module].register_forward_hook(self._hook(module)))

    def _hook(self, module: str) -> Any:
        def add(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if self._tokens is None:
                return output
            down, up, owner = self._matrices[module]
            ranks = args[0].reshape(-1, down.shape[0]) @ down
            ranks.mul_(self._mask(owner, ranks.dtype))
            output.view(-1, up.shape[1]).addmm_(ranks, up)
            return output

        return add

    def _mask(self, owner: Tensor, dtype: torch.dtype) -> Tensor:
        """(N, R): 1 where a rank belongs to the token's adapter. One per rank layout and pass."""
        assert self._tokens is not None
        key = owner.shape[0]
        if key not in self._masks:
            self._masks[key] = (self._tokens[:, None] == owner[None, :]).to(dtype)
        return self._masks[key]

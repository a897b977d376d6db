"""LoRA adapters beside one shared base, any number of them in one batch; the base is never merged.

PEFT's own mixed batches need one row per sample and loop over adapters; our batches are packed tokens.
So the adapters in use are laid side by side: one product with all their A matrices, a mask that leaves
each token the ranks of its own adapter, one product with all their B matrices.
"""

from __future__ import annotations

import json
import math
import re
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sparring.agents.engines.adapters import AdapterFolders
from sparring.errors import UserError

_TENSOR = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])\.weight")


Layout = tuple[tuple[int, int], ...]
"""Of one module's stacked matrices: (place of the adapter in the stack, its rank), in order."""


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
            raise UserError(
                f"adapter {folder}: no place in this model for `{name}` (LoRA on linear layers only)"
            )
        found.setdefault(match[1], {})[match[2]] = tensor
    matrices = {name: _pair(folder, name, pair, layers[name], config) for name, pair in found.items()}
    return Adapter(digest, matrices)


def _plain(config: dict[str, Any], folder: str) -> None:
    if config.get("peft_type") != "LORA":
        raise UserError(f"adapter {folder} is {config.get('peft_type')}; the embedded engine serves LoRA")
    refused = [
        key for key in ("use_dora", "modules_to_save", "fan_in_fan_out", "lora_bias") if config.get(key)
    ]
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

    STACKED = 8
    """So many adapters stay laid side by side, so that a change of who speaks costs nothing."""
    RECENT = 16
    """Passes after which an adapter that nobody used makes room when another comes: the versions a policy
    has left behind would be computed for every token all the same."""

    def __init__(self, model: nn.Module, limit: int = 16) -> None:
        self.limit = limit
        self._passes = 0
        self._used: dict[str, int] = {}
        self._layers = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}
        self._loaded: OrderedDict[str, Adapter] = OrderedDict()
        self._folders = AdapterFolders()
        self._stack: list[Adapter] = []
        self._matrices: dict[str, tuple[Tensor, Tensor, Layout]] = {}
        self._hooks: list[RemovableHandle] = []
        self._tokens: list[int] | None = None
        self._masks: dict[Layout, Tensor] = {}

    @property
    def resident(self) -> list[str]:
        """Content hashes of the loaded adapters, least recently used first."""
        return list(self._loaded)

    def load(self, folder: str, expected: str | None) -> Adapter:
        """The adapter in a folder, read if it is new or its files changed.

        Raises:
            UserError: missing, not plain LoRA, or not the adapter the policy version recorded.
        """
        digest = self._folders.digest(folder, expected)
        if digest not in self._loaded:
            self._loaded[digest] = load_adapter(folder, self._layers, digest)
        self._loaded.move_to_end(digest)
        while len(self._loaded) > self.limit:  # rows that still run on it hold it themselves
            self._loaded.popitem(last=False)
        return self._loaded[digest]

    def use(self, owners: Iterable[tuple[Adapter | None, int]]) -> None:
        """Say whose adapter the packed tokens of the next pass belong to: (adapter, token count) runs."""
        runs = list(owners)
        wanted = {adapter.hash: adapter for adapter, _ in runs if adapter is not None}
        self._masks.clear()
        self._tokens = None
        self._passes += 1
        self._used.update(dict.fromkeys(wanted, self._passes))
        if not wanted:
            return
        if not wanted.keys() <= {adapter.hash for adapter in self._stack}:
            since = self._passes - self.RECENT
            others = [a for a in self._stack if a.hash not in wanted and self._used[a.hash] > since]
            self._restack([*wanted.values(), *others[: max(0, self.STACKED - len(wanted))]])
        number = {adapter.hash: place for place, adapter in enumerate(self._stack)}
        self._tokens = [
            number[adapter.hash] if adapter else -1 for adapter, count in runs for _ in range(count)
        ]

    def _restack(self, adapters: list[Adapter]) -> None:
        self._used = {adapter.hash: self._used[adapter.hash] for adapter in adapters}
        for hook in self._hooks:
            hook.remove()
        self._stack, self._hooks, self._matrices = adapters, [], {}
        for module in dict.fromkeys(module for adapter in adapters for module in adapter.matrices):
            held = [(i, *a.matrices[module]) for i, a in enumerate(adapters) if module in a.matrices]
            layout = tuple((place, down.shape[1]) for place, down, _ in held)
            down, up = torch.cat([down for _, down, _ in held], 1), torch.cat([up for *_, up in held], 0)
            self._matrices[module] = (down, up, layout)
            self._hooks.append(self._layers[module].register_forward_hook(partial(self._add, module)))

    def _add(self, module: str, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if self._tokens is None:
            return output
        down, up, layout = self._matrices[module]
        ranks = args[0].reshape(-1, down.shape[0]) @ down
        output.view(-1, up.shape[1]).addmm_(ranks.mul_(self._mask(layout, ranks)), up)
        return output

    def _mask(self, layout: Layout, like: Tensor) -> Tensor:
        """(N, R): 1 where a rank belongs to the token's adapter; one per layout of ranks and pass."""
        if layout not in self._masks:
            owner = torch.tensor([place for place, rank in layout for _ in range(rank)])
            mask = torch.tensor(self._tokens)[:, None] == owner
            self._masks[layout] = mask.to(like.device, like.dtype)
        return self._masks[layout]

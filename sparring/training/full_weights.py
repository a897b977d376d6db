"""All weights of a policy in training: every version is a base checkpoint of its own, with no adapter."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from sparring.agents.models import checkpoint_hash
from sparring.errors import UserError
from sparring.training.weights import publish

TOKENIZER = (
    "tokenizer*",
    "*.jinja",
    "special_tokens_map.json",
    "generation_config.json",
    "vocab*",
    "merges*",
)
"""Files of a checkpoint beside its weights and configuration."""


class FullWeights:
    """The same verbs as `weights.Adapters`, for one policy whose weights all move.

    Args:
        model: a copy of the base that nobody else uses.
        origin: folder of the base, for the tokenizer.
    """

    def __init__(self, model: Any, origin: Path) -> None:
        self.model, self._origin = model, origin

    def add(self, name: str, settings: Any, seed: int, folder: Path | None) -> None:
        if folder is not None:
            self.load(name, folder)

    def load(self, name: str, folder: Path) -> None:
        """Take the weights of a checkpoint folder.

        Raises:
            UserError: they do not fit the model.
        """
        weights: dict[str, Tensor] = {}
        for file in sorted(folder.glob("*.safetensors")):
            weights |= load_file(file)
        tied = set(getattr(self.model, "_tied_weights_keys", None) or ())
        result = self.model.load_state_dict(weights, strict=False)
        if result.unexpected_keys or set(result.missing_keys) - tied:
            raise UserError(
                f"checkpoint {folder} does not fit policy `{name}`: it is of another architecture"
            )
        self.model.tie_weights()

    def activate(self, name: str) -> list[Tensor]:
        """Train all weights; they, in a fixed order."""
        self.model.requires_grad_(True)
        return [tensor for _, tensor in self.named(name)]

    def named(self, name: str) -> list[tuple[str, Tensor]]:
        """The weights by name, in a fixed order."""
        return sorted(self.model.named_parameters())

    def reference(self, folder: Path | None) -> str | None:
        raise UserError(
            "a policy without adapters has no reference beside it; train it with `lora`, or beta 0"
        )

    def save(self, name: str, folder: Path, base: str) -> str:
        """Write a checkpoint that any engine can load, in float32, and return its hash."""

        def write(part: Path) -> None:
            self.model.save_pretrained(str(part))
            for pattern in TOKENIZER:
                for file in self._origin.glob(pattern):
                    shutil.copy2(file, part / file.name)

        publish(folder, write)
        return checkpoint_hash(folder)

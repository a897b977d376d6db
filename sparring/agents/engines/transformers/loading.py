"""From a model spec to a model ready to serve: weights, tokenizer, end tokens, context."""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.agents.engines.chat import load_tokenizer, stop_ids
from sparring.agents.models import checkpoint_hash, quiet, resolve
from sparring.errors import UserError


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model as the worker needs it."""

    model: Any
    tokenizer: Any
    base: str
    """`checkpoint_hash` of the weights."""
    stop_ids: frozenset[int]
    context: int


def local_folder(spec: str) -> Path:
    """Where the files of a spec lie; a hub id is downloaded into the hub's own cache (safetensors only)."""
    found = resolve(spec)
    if isinstance(found, Path):
        return found
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.jinja", "tokenizer*", "*.model", "*.txt"]
    try:
        return Path(snapshot_download(found, allow_patterns=patterns))
    except Exception as error:
        raise UserError(
            f"cannot get `{found}` from the model hub: {type(error).__name__}; is it reachable?"
        ) from error


def context_of(config: Any) -> int:
    """Positions a model can attend to; a sliding window bounds it, inside it is plain attention."""
    context = int(getattr(config, "max_position_embeddings", None) or 4096)
    kinds = set(getattr(config, "layer_types", None) or ())
    if other := kinds - {"full_attention", "sliding_attention"}:
        raise UserError(f"the embedded engine does not know {', '.join(sorted(other))} layers; use vLLM")
    window = getattr(config, "sliding_window", None)
    if window and (not kinds or "sliding_attention" in kinds):
        context = min(context, int(window))
    return context


def load(spec: str, dtype: str, device: str, *, packed: bool = True) -> Loaded:
    """Load a model for inference, on a CPU with `packed` weights (`packing`).

    Raises:
        UserError: no such model, no chat template, an attention this engine does not know.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from sparring.agents.engines.transformers import attention, packing

    attention.register()
    quiet()
    folder = local_folder(spec)
    tokenizer = load_tokenizer(folder, spec)
    where = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    kind = dtype if dtype == "auto" else getattr(torch, dtype)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=kind, attn_implementation=attention.NAME, use_safetensors=True
    )
    model.requires_grad_(False)
    model.train(False)
    model.to(torch.device(where))  # type: ignore[arg-type]  # its decorator hides the method's signature
    if packed:
        packing.pack(model)
    ends = stop_ids(tokenizer, model.generation_config, model.config)
    return Loaded(model, tokenizer, checkpoint_hash(folder), ends, context_of(model.config))


def twin(model: Any) -> Any:
    """The same architecture over the same parameters, not copied, with transformers' own attention."""
    from sparring.agents.engines.transformers import packing

    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    # Packed weights stay behind: they have no gradient.
    layers = [part for part in model.modules() if isinstance(part, packing.PackedLinear)]
    shared |= {id(layer.packed): None for layer in layers}
    shared |= {id(module._forward_hooks): OrderedDict() for module in model.modules()}  # the adapters' hooks
    other = copy.deepcopy(model, shared)
    other.set_attn_implementation("sdpa")
    return other


def float32_copy(spec: str) -> Any:
    """The model in float32 with transformers' own attention, for a trainer that cannot share an engine's.

    Raises:
        UserError: no such model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    quiet()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(
        local_folder(spec), dtype=torch.float32, attn_implementation="sdpa", use_safetensors=True
    )
    model.requires_grad_(False)
    return model.to(torch.device(device))  # type: ignore[arg-type]  # its decorator hides the method's signature

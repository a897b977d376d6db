"""What an engine that computes elsewhere keeps here of its checkpoint: tokenizer, identity, context."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.agents.engines.chat import load_tokenizer, stop_ids
from sparring.agents.models import checkpoint_hash


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint folder, read but for its weights."""

    folder: Path
    tokenizer: Any
    base: str
    """`checkpoint_hash` of the weights."""
    ends: frozenset[int]
    context: int


def read_checkpoint(spec: str) -> Checkpoint:
    """Of a catalogue name, hub id or local folder. Raises `UserError` where there is none."""
    from transformers import AutoConfig, GenerationConfig

    from sparring.agents.engines.transformers.loading import local_folder

    folder = local_folder(spec)
    tokenizer, config = load_tokenizer(folder, spec), AutoConfig.from_pretrained(folder)
    known = (folder / "generation_config.json").is_file()
    ends = stop_ids(tokenizer, config, GenerationConfig.from_pretrained(folder) if known else None)
    context = int(getattr(config, "max_position_embeddings", None) or 4096)
    return Checkpoint(folder, tokenizer, checkpoint_hash(folder), ends, context)

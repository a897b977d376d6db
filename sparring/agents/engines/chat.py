"""Messages to token ids, by a model's own tokenizer and chat template: for engines that tokenise here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparring.agents.engines.base import Ids, Message
from sparring.errors import UserError


def load_tokenizer(folder: Path, spec: str) -> Any:
    """The tokenizer of a checkpoint folder. Raises `UserError` where it has no chat template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if not tokenizer.chat_template:
        raise UserError(
            f"`{spec}` has no chat template, so it cannot take messages; choose an instruct model"
        )
    return tokenizer


def render(tokenizer: Any, messages: Sequence[Message]) -> Ids:
    """Ids of a prompt (P,), up to where the reply begins. Raises `UserError` at a part that is not text."""
    plain = [{**message, "content": _text(message["content"])} for message in messages]
    text = tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
    return np.array(tokenizer.encode(text, add_special_tokens=False), np.int32)


def demonstration(tokenizer: Any, messages: Sequence[Message], reply: str) -> tuple[Ids, Ids]:
    """Ids of a prompt (P,) and of a reply to it (T,) that somebody else wrote, the stop token at its end."""
    said = tokenizer.encode(reply, add_special_tokens=False)
    return render(tokenizer, messages), np.array([*said, tokenizer.eos_token_id], np.int32)


def stop_ids(tokenizer: Any, *configs: Any) -> frozenset[int]:
    """The end tokens: the tokenizer's and those of the model's configurations."""
    ids = {tokenizer.eos_token_id}
    for config in configs:
        listed = getattr(config, "eos_token_id", None)
        ids.update(listed if isinstance(listed, list) else [listed])
    return frozenset(number for number in ids if number is not None)


def _text(content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    if other := {str(part.get("type")) for part in content} - {"text"}:
        raise UserError(f"this engine takes text messages only, not {', '.join(sorted(other))}")
    return "".join(str(part["text"]) for part in content)

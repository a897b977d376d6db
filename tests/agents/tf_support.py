"""What the tests of the embedded engine share: a byte tokenizer, requests, the plain forward pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from sparring.agents.engines.base import Completion, PolicyVersion, Request, Sampling
from sparring.agents.models import adapter_hash

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIZES = {
    "vocab_size": 300,
    "hidden_size": 96,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
    "eos_token_id": 257,
    "bos_token_id": 256,
    "pad_token_id": 257,
}


def save_tokenizer(folder: Path) -> None:
    """Bytes as tokens, and the two marks of the chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)


def version_of(adapter: Path | None) -> PolicyVersion:
    if adapter is None:
        return PolicyVersion("base")
    return PolicyVersion("trained", 1, adapter=str(adapter), adapter_hash=adapter_hash(adapter))


def ask(text: str, *seeds: int, adapter: Path | None = None, **sampling: object) -> Request:
    how = Sampling(**{"max_tokens": 24, **sampling})
    return Request(({"role": "user", "content": text},), how, seeds or (0,), version_of(adapter))


def reference(folder: Path, adapter: Path | None = None) -> torch.nn.Module:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter).eval()
    return model


@torch.no_grad()
def logs_of(model: torch.nn.Module, prompt: np.ndarray, rest: np.ndarray, temperature: float) -> torch.Tensor:
    """Log-softmax of one plain forward pass at the positions that predict `rest`: (T, V)."""
    ids = torch.tensor(np.concatenate([prompt, rest])[None].astype(np.int64))
    logits = model(ids).logits[0, len(prompt) - 1 : -1].float()
    return torch.log_softmax(logits / temperature, -1)


def check(
    folder: Path, request: Request, completion: Completion, model: torch.nn.Module | None = None
) -> None:
    """Ids belong to the prompt and text, log-probabilities to a plain forward pass."""
    adapter = request.version.adapter
    model = model or reference(folder, Path(adapter) if adapter else None)
    assert completion.prompt_ids is not None and completion.completion_ids is not None
    logs = logs_of(
        model, completion.prompt_ids, completion.completion_ids, request.sampling.temperature or 1.0
    )
    want = logs[torch.arange(len(logs)), torch.tensor(completion.completion_ids.astype(np.int64))]
    np.testing.assert_allclose(completion.logprobs, want.numpy(), atol=1e-4, rtol=0)
    assert completion.logprobs.dtype == np.float32 and completion.completion_ids.dtype == np.int32

"""Our losses against TRL's own GRPO trainer, on a tiny llama with LoRA: the loss and every gradient.

TRL sees the batch as its trainer makes it (prompts padded left, completions right); ours come from one
plain forward pass a row. So masks, shifts and temperature are checked too, not only the formula.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

from sparring.training.losses import LossInputs, LossOutput, Totals, make_loss, means

VOCABULARY, PAD = 50, 0
TEMPERATURE = 0.7
PROMPTS = (3, 5, 2, 4, 6, 3)
COMPLETIONS = (12, 5, 9, 1, 7, 11)
LONGEST = 16
"""The sampling limit, more than any completion has."""


@pytest.fixture(autouse=True)
def loss_one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
        pad_token_id=PAD,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


def with_lora(base: LlamaForCausalLM) -> Any:
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", lora_dropout=0.0))
    torch.manual_seed(5)
    for name, weight in model.named_parameters():
        if "lora_" in name:  # B is made as zeros, and then A would get no gradient
            torch.nn.init.normal_(weight, std=0.1)
    return model


def rows() -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(11)
    sizes = zip(PROMPTS, COMPLETIONS, strict=True)
    return [(torch.randint(3, VOCABULARY, (p,)), torch.randint(3, VOCABULARY, (c,))) for p, c in sizes]


def padded(parts: list[torch.Tensor], left: bool = False) -> torch.Tensor:
    side = "left" if left else "right"
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=PAD, padding_side=side)


def log_probabilities(model: Any, shift: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T) log-probabilities and entropies, row by row; `shift` reads them that many positions late."""
    logs, entropies = [], []
    for prompt, completion in rows():
        logits = model(torch.cat([prompt, completion])[None]).logits[0]
        start = len(prompt) - 1 + shift
        log = torch.log_softmax(logits[start : start + len(completion)] / TEMPERATURE, -1)
        logs.append(log.gather(1, completion[: len(log), None])[:, 0])
        entropies.append(-(log.exp() * log).sum(-1))
    width = max(COMPLETIONS)
    both = (padded(logs), padded(entropies))
    logs, entropies = (torch.nn.functional.pad(x, (0, width - x.shape[1])) for x in both)
    return logs, entropies


@dataclass
class Case:
    """One batch: behaviour log-probabilities of another model, a reference of a third one."""

    advantages: torch.Tensor
    mask: torch.Tensor
    old: torch.Tensor
    reference: torch.Tensor


@pytest.fixture(scope="module")
def case() -> Case:
    with torch.no_grad():
        old, reference = log_probabilities(tiny(2))[0], log_probabilities(tiny(1))[0]
    advantages = torch.tensor([1.2, -0.7, -1.1, 0.4, 0.9, -0.6])
    mask = torch.arange(max(COMPLETIONS))[None] < torch.tensor(COMPLETIONS)[:, None]
    return Case(advantages, mask, old, reference)


def trl_loss(case: Case, folder: Any, **options: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and LoRA gradients of TRL's trainer on one batch."""
    words = {f"w{i}": i for i in range(VOCABULARY)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="w3")), pad_token="w0", eos_token="w2"
    )
    config = GRPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=len(PROMPTS),
        num_generations=2,
        max_completion_length=LONGEST,
        temperature=TEMPERATURE,
        report_to="none",
        bf16=False,
        use_cpu=True,
        activation_checkpointing=False,
        **options,
    )
    trainer = GRPOTrainer(
        model=with_lora(tiny(1)),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": ["w4 w5"] * len(PROMPTS)}),
        processing_class=tokenizer,
    )
    prompts, completions = zip(*rows(), strict=True)
    inputs = {
        "prompt_ids": padded(list(prompts), left=True),
        "prompt_mask": padded([torch.ones_like(p) for p in prompts], left=True),
        "completion_ids": padded(list(completions)),
        "completion_mask": case.mask.long(),
        "advantages": case.advantages,
        "old_per_token_logps": case.old,
        "ref_per_token_logps": case.reference,
        "num_items_in_batch": case.mask.sum(),
    }
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    return loss.item(), gradients(trainer.model)


def our_loss(
    case: Case, name: str, shift: int = 0, mask: torch.Tensor | None = None, **options: Any
) -> tuple[LossOutput, dict[str, torch.Tensor]]:
    model = with_lora(tiny(1)).train()
    logprobs, entropy = log_probabilities(model, shift)
    mask = case.mask if mask is None else mask
    inputs = LossInputs(
        logprobs=logprobs,
        old=case.old,
        advantages=case.advantages[:, None].expand_as(case.old),
        mask=mask,
        reference=case.reference,
        entropy=entropy,
    )
    totals = Totals(len(PROMPTS), sum(COMPLETIONS), LONGEST)
    out = make_loss(name, **options)(inputs, totals)
    out.loss.backward()
    return out, gradients(model)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    # TRL keeps a frozen copy of the adapter beside ours, as its reference.
    found = {
        name: weight.grad
        for name, weight in model.named_parameters()
        if "lora_" in name and ".default." in name
    }
    assert len(found) == 2 * 7 * 2  # two layers, seven linear maps, A and B
    assert all(gradient is not None and gradient.norm() > 0 for gradient in found.values())
    return {name: gradient.clone() for name, gradient in found.items()}


def furthest(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Greatest relative difference over the LoRA tensors."""
    assert ours.keys() == theirs.keys()
    return max(((ours[k] - theirs[k]).norm() / theirs[k].norm()).item() for k in ours)


PLAIN = {"epsilon": 0.2, "epsilon_high": 0.2, "use_bias_correction_kl": False}
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    *(
        (name, {"beta": beta, "clip_high": 0.2}, {"loss_type": name, "beta": beta})
        for name in ("grpo", "dr_grpo", "dapo")
        for beta in (0.0, 0.04)
    ),
    ("dapo", {}, {"loss_type": "dapo", "epsilon_high": 0.28}),
    ("grpo", {"beta": 0.04, "kl_weighted": True}, {"beta": 0.04, "use_bias_correction_kl": True}),
    ("grpo", {"dual_clip": 3.0}, {"delta": 3.0}),
    ("grpo", {"entropy_bonus": 0.03}, {"entropy_coef": 0.03}),
    (
        "gspo",
        {"beta": 0.04},
        {"importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4, "beta": 0.04},
    ),
    (
        "gspo",
        {"clip_low": 0.9, "clip_high": 9.0, "aggregate": "token"},
        {
            "importance_sampling_level": "sequence",
            "loss_type": "dapo",
            "epsilon": 0.9,
            "epsilon_high": 9.0,
        },
    ),
]


@pytest.mark.parametrize(("name", "ours", "theirs"), CASES, ids=lambda value: str(value)[:60])
def test_agrees_with_trl(name, ours, theirs, case, tmp_path) -> None:
    want, reference = trl_loss(case, tmp_path, **{"loss_type": "grpo", **PLAIN, **theirs})
    out, got = our_loss(case, name, **ours)
    assert out.loss.item() == pytest.approx(want, abs=1e-5)
    assert furthest(got, reference) < 1e-4
    if name != "gspo":
        stats = means([out.stats])
        assert stats["clip_low"] >= 0.2 and stats["clip_high"] >= 0.2


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "dapo"])
def test_a_mask_shifted_by_one_disagrees(name, case, tmp_path) -> None:
    """What the comparison is worth: a mask moved by a token either way, or a position read one late."""
    want, reference = trl_loss(case, tmp_path, loss_type=name, beta=0.04, **PLAIN)
    late = torch.nn.functional.pad(case.mask, (1, 0))[:, :-1]
    early = torch.nn.functional.pad(case.mask, (0, 1))[:, 1:]
    for wrong in ({"mask": late}, {"mask": early}, {"shift": 1}):
        out, got = our_loss(case, name, beta=0.04, clip_high=0.2, **wrong)
        assert abs(out.loss.item() - want) > 1e-3
        assert furthest(got, reference) > 1e-2

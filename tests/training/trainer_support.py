"""What the tests of packing, forward pass, trainer and weights share: a tiny policy, samples, plain torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[1] / "agents"))

from tf_support import SIZES, ask, check, save_tokenizer  # noqa: F401  # for the tests, which cannot find it
from transformers import LlamaConfig, LlamaForCausalLM

from sparring.memory.samples import TrainingTurn
from sparring.training.experience import Sample
from sparring.training.losses import LossInputs, PolicyLoss, Totals
from sparring.training.packing import Row
from sparring.training.weights import Adapters, LoraSettings

LORA = LoraSettings(rank=4, alpha=8)
VOCABULARY = SIZES["vocab_size"]


def ids(*values: int) -> Any:
    return np.array(values, np.int32)


def draw(seed: int, length: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, length).astype(np.int32)


def tiny_base(seed: int = 7) -> Any:
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).requires_grad_(False).eval()


def roughen(adapters: Adapters, name: str, seed: int = 1) -> None:
    """Weights far from zero, so that every LoRA tensor has a gradient."""
    generator = torch.Generator().manual_seed(seed)
    for _, tensor in adapters.named(name):
        tensor.data.normal_(std=0.1, generator=generator)


def tiny_adapters(*names: str) -> Adapters:
    adapters = Adapters(tiny_base())
    for number, name in enumerate(names or ("policy",)):
        adapters.add(name, LORA, 0, None)
        roughen(adapters, name, number + 1)
    adapters.activate((names or ("policy",))[0])
    return adapters


def sgd(adapters: Adapters, name: str = "policy", rate: float = 1.0) -> torch.optim.Optimizer:
    """With a rate of 1 and no momentum a step is the gradient."""
    return torch.optim.SGD(adapters.activate(name), lr=rate)


def copies(adapters: Adapters, name: str = "policy") -> dict[str, torch.Tensor]:
    return {key: tensor.detach().clone() for key, tensor in adapters.named(name)}


def sample(prompt: Any, completion: Any, advantage: float, **more: Any) -> Sample:
    """A turn that another policy than the one in training said: its log-probabilities are made up."""
    rng = np.random.default_rng([len(prompt), *completion.tolist()])
    kept = {key: more.pop(key) for key in ("logprobs", "turn_id") if key in more}
    logprobs = kept.get("logprobs", -rng.uniform(3, 8, len(completion)).astype(np.float32))
    turn = TrainingTurn(
        kept.get("turn_id", 1), "episode", "key", "agent", 1, "ok", prompt, completion, logprobs, "tempered"
    )
    more = {"temperature": 1.0, "staleness": 0, **more}
    advantages = np.full(len(completion), advantage, np.float32)
    return Sample(turn, "solver", "task", reward=advantage, advantages=advantages, **more)


def mixed_samples(temperature: float = 1.0) -> list[Sample]:
    """Every way in which sequences can share: prompts, completions, turns of one episode, a length of 1."""
    one, other, long = draw(1, 9), draw(2, 5), draw(3, 14)
    said = draw(4, 6)
    rows = [
        *((one, draw(10 + i, 3 + i)) for i in range(4)),
        (one, draw(10, 3)),  # the same again
        (one, draw(13, 6)[:2]),  # the beginning of another
        (other, said),
        (np.concatenate([other, said]), draw(20, 4)),  # the next turn of the same episode
        (np.concatenate([other, said, draw(20, 4), long]), draw(21, 1)),
        (one[:4], draw(22, 5)),  # a prompt that begins another prompt
        (long, draw(23, 12)),
        (ids(9), ids(8)),
    ]
    return [
        sample(prompt, completion, 0.4 * (-1) ** number * (number + 1), temperature=temperature)
        for number, (prompt, completion) in enumerate(rows)
    ]


@dataclass(frozen=True)
class Plain:
    """(T,) of one sequence by one forward pass of its own."""

    logprobs: torch.Tensor
    entropy: torch.Tensor


def plain(model: Any, row: Row) -> Plain:
    whole = torch.tensor(np.concatenate([row.prompt, row.completion])[None].astype(np.int64))
    logits = model(whole).logits[0, len(row.prompt) - 1 : -1].float() / row.temperature
    logs = torch.log_softmax(logits, -1)
    taken = logs[torch.arange(len(logs)), torch.tensor(row.completion.astype(np.int64))]
    return Plain(taken, -(logs.exp() * logs).sum(-1))


def plain_loss(model: Any, samples: Sequence[Sample], loss: PolicyLoss) -> torch.Tensor:
    """The loss of a whole batch over separate sequences, by the tested losses; with gradient."""
    lengths = [len(each.turn.completion_ids) for each in samples]
    totals = Totals(len(samples), sum(lengths), max(lengths))
    total = torch.zeros(())
    for each in samples:
        got = plain(model, each.row)
        inputs = LossInputs(
            got.logprobs[None],
            torch.tensor(each.turn.logprobs if each.old is None else each.old)[None],
            torch.tensor(each.advantages)[None],
            torch.ones(1, len(got.logprobs), dtype=torch.bool),
            None if each.reference is None else torch.tensor(each.reference)[None],
            got.entropy[None],
            None if each.weights is None else torch.tensor(each.weights)[None],
        )
        total = total + loss(inputs, totals).loss
    return total


def gradients(adapters: Adapters, loss: torch.Tensor, name: str = "policy") -> dict[str, torch.Tensor]:
    tensors = [tensor for _, tensor in adapters.named(name)]
    found = torch.autograd.grad(loss, tensors)
    return {key: got for (key, _), got in zip(adapters.named(name), found, strict=True)}


def furthest(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Greatest relative difference over the tensors, none of which may be 0."""
    assert ours.keys() == theirs.keys() and len(ours) == 2 * 7 * SIZES["num_hidden_layers"]
    return max(float((ours[key] - theirs[key]).norm() / theirs[key].norm()) for key in ours)

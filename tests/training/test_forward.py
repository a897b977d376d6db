"""Trees give the log-probabilities, entropies and gradients of the separate sequences, or are not used."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from trainer_support import (
    SIZES,
    draw,
    furthest,
    gradients,
    mixed_samples,
    plain,
    plain_loss,
    roughen,
    tiny_adapters,
    tiny_base,
)
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from sparring.training.forward import all_logprobs, takes_trees, token_logprobs
from sparring.training.losses import Totals, make_loss
from sparring.training.packing import Budget, Row, pack
from sparring.training.steps import loss_inputs
from sparring.training.weights import Adapters, LoraSettings

SMALL = Budget(40, 24, 30)
"""Cuts the samples into many trees and micro-batches."""


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def policy() -> Adapters:
    return tiny_adapters()


def apart(model: Any, rows: list[Row]) -> list[Any]:
    with torch.no_grad():
        return [plain(model, row) for row in rows]


@pytest.mark.parametrize("trees", [True, False])
@pytest.mark.parametrize("budget", [Budget(), SMALL, Budget(1, 1, 1)])
def test_log_probabilities_are_those_of_separate_passes(policy, budget, trees) -> None:
    rows = [each.row for t in (1.0, 0.6, 1.7) for each in mixed_samples(t)]
    got = all_logprobs(policy.model, rows, budget, trees=trees)
    for ours, want, row in zip(got, apart(policy.model, rows), rows, strict=True):
        assert ours.shape == row.completion.shape and ours.dtype == np.float32
        np.testing.assert_allclose(ours, want.logprobs.numpy(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("trees", [True, False])
def test_entropies_are_those_of_separate_passes(policy, trees) -> None:
    rows = [each.row for t in (1.0, 0.6) for each in mixed_samples(t)]
    want = apart(policy.model, rows)
    for batch in pack(rows, SMALL, share=trees):
        tokens = token_logprobs(policy.model, batch, trees=trees, entropy="measure")
        assert tokens.entropy is not None and not tokens.entropy.requires_grad
        for number, member in enumerate(batch.members):
            length = len(rows[member].completion)
            assert tokens.mask[number].tolist() == [True] * length + [False] * (tokens.mask.shape[1] - length)
            np.testing.assert_allclose(
                tokens.entropy[number, :length].numpy(), want[member].entropy.numpy(), atol=1e-5, rtol=0
            )
    assert token_logprobs(policy.model, batch, trees=trees).entropy is None


@pytest.mark.parametrize("trees", [True, False])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("grpo", {"entropy_bonus": 0.03, "beta": 0.04}),
        ("reinforce++", {"entropy_bonus": 0.03, "beta": 0.04, "kl": "k1", "kl_weighted": True}),
        ("dapo", {"clip_low": 0.9, "clip_high": 50.0}),
        ("gspo", {"clip_low": 0.9, "clip_high": 9.0}),
    ],
)
def test_gradients_are_those_of_separate_sequences(policy, name, options, trees) -> None:
    loss = make_loss(name, **options)
    samples = [*mixed_samples(1.0), *mixed_samples(0.7)[:5]]
    for number, each in enumerate(samples):
        size = len(each.turn.completion_ids)
        each.reference = -np.random.default_rng(number).uniform(3, 7, size).astype(np.float32)
    want = gradients(policy, plain_loss(policy.model, samples, loss))
    lengths = [len(each.turn.completion_ids) for each in samples]
    total = torch.zeros(())
    for batch in pack([each.row for each in samples], Budget(120, 60, 60), share=trees):
        tokens = token_logprobs(policy.model, batch, trees=trees, entropy="train")
        inputs = loss_inputs(tokens, [samples[i] for i in batch.members], loss)
        total = total + loss(inputs, Totals(len(samples), sum(lengths), max(lengths))).loss
    assert furthest(gradients(policy, total), want) < 1e-4


def test_a_neighbour_in_the_tree_changes_nothing(policy) -> None:
    """Nothing leaks between branches: another sibling leaves a sequence's log-probabilities as they are."""
    prompt, mine = draw(1, 12), draw(2, 7)
    got = [all_logprobs(policy.model, [Row(prompt, mine), Row(prompt, draw(seed, 9))])[0] for seed in (3, 4)]
    np.testing.assert_allclose(got[0], got[1], atol=1e-6, rtol=0)


def other_models() -> dict[str, Any]:
    """Tiny models by how they treat the past: (model, whether it takes trees)."""
    torch.manual_seed(3)
    plain_sizes = {key: value for key, value in SIZES.items() if key != "head_dim"} | {"num_hidden_layers": 2}
    gpt2 = GPT2Config(vocab_size=300, n_positions=128, n_embd=48, n_layer=2, n_head=3, initializer_range=0.2)
    mamba = MambaConfig(
        vocab_size=300, hidden_size=48, state_size=8, num_hidden_layers=2, initializer_range=0.2
    )
    window = MistralConfig(**plain_sizes, sliding_window=64)
    mixed = Qwen2Config(**plain_sizes, use_sliding_window=True, sliding_window=64, max_window_layers=1)
    full = Qwen2Config(**plain_sizes, use_sliding_window=False, sliding_window=64)
    return {
        "llama": (tiny_base(), True),
        "gpt2": (GPT2LMHeadModel(gpt2), None),
        "mamba": (MambaForCausalLM(mamba), False),
        "mistral, window 64": (MistralForCausalLM(window), False),
        "qwen2, windows in half of its layers": (Qwen2ForCausalLM(mixed), False),
        "qwen2, window not in use": (Qwen2ForCausalLM(full), True),
    }


OTHERS = other_models()


@pytest.mark.parametrize("name", OTHERS)
def test_who_does_not_take_trees_is_trained_on_rows(name) -> None:
    """Long sequences: a window of 64 does not show in a short trial, but at token 65 of a tree."""
    model, takes = OTHERS[name]
    model.eval().requires_grad_(False)
    trees = takes_trees(model)
    assert takes is None or trees is takes
    prompt = draw(5, 60)
    rows = [Row(prompt, draw(6 + i, 30 + i)) for i in range(3)] + [Row(draw(9, 7), draw(10, 3))]
    got = all_logprobs(model, rows, Budget(500, 200, 200), trees=trees)
    for ours, want in zip(got, apart(model, rows), strict=True):
        np.testing.assert_allclose(ours, want.logprobs.numpy(), atol=2e-5, rtol=0)


def test_dropping_out_belongs_to_no_policy() -> None:
    """GPT-2 has dropout by default; the trainer's pass has none, so the ratio of a fresh turn is 1."""
    from sparring.training.trainer import TrainSettings, train

    adapters = Adapters(OTHERS["gpt2"][0])
    adapters.add("policy", LoraSettings(rank=2, targets=("c_attn",)), 0, None)
    roughen(adapters, "policy")
    samples = mixed_samples()
    for each in samples:
        each.old = plain(adapters.model.eval(), each.row).logprobs.detach().numpy()
    optimizer = torch.optim.SGD(adapters.activate("policy"), lr=0.0)
    figures = train(adapters, samples, make_loss("grpo"), TrainSettings(), optimizer, seed=0)
    assert figures["ratio"] == pytest.approx(1, abs=1e-5) and figures["kl_old_k3"] < 1e-8


def test_a_window_as_long_as_the_sequences_is_none() -> None:
    """The engine keeps within the window; there every token attends to all before it."""
    model = OTHERS["mistral, window 64"][0]
    assert takes_trees(model, longest=64) and not takes_trees(model, longest=65)
    rows = [Row(draw(5, 40), draw(6 + i, 24)) for i in range(3)]
    got = all_logprobs(model, rows)
    for ours, want in zip(got, apart(model, rows), strict=True):
        np.testing.assert_allclose(ours, want.logprobs.numpy(), atol=2e-5, rtol=0)


def test_other_kinds_of_layers_are_refused_by_name() -> None:
    model = tiny_base()
    model.config.layer_types = ["full_attention", "chunked_attention", "full_attention"]
    assert not takes_trees(model)
    model.config.layer_types = ["full_attention"] * 3
    assert takes_trees(model)

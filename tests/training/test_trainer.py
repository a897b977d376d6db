"""An update is the gradient of the written-out loss, and one that goes wrong changes nothing that counts."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any

import numpy as np
import pytest
import torch
from trainer_support import (
    LORA,
    SIZES,
    ask,
    check,
    copies,
    draw,
    furthest,
    gradients,
    mixed_samples,
    plain,
    sample,
    save_tokenizer,
    sgd,
    tiny_adapters,
)
from transformers import LlamaConfig, LlamaForCausalLM

from sparring.agents.engines.transformers import TransformersEngine
from sparring.training.experience import Sample
from sparring.training.losses import PolicyLoss, make_loss
from sparring.training.steps import plan_steps, prepare
from sparring.training.trainer import Execution, TrainSettings, UpdateInterrupted, UpdateStopped, train
from sparring.training.weights import Adapters

FREE = {"max_grad_norm": 1e9, "max_norm": 1e9, "max_kl": 1e9}
"""Nothing is clipped and nothing stops."""


pytestmark = pytest.mark.usefixtures("one_thread")


def step(
    samples: list[Sample], loss: PolicyLoss, trees: bool = True, **settings: Any
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """What one update by plain gradient descent at rate 1 takes off each tensor, and its figures."""
    adapters = tiny_adapters()
    before = copies(adapters)
    given = TrainSettings(**{**FREE, **settings})
    figures = train(adapters, samples, loss, given, sgd(adapters), seed=0, execution=Execution(trees=trees))
    return {key: before[key] - after for key, after in copies(adapters).items()}, figures


def written_out(
    adapters: Adapters, samples: list[Sample], low: float, high: float, bonus: float
) -> torch.Tensor:
    """GRPO's loss (2402.03300 without KL) minus `bonus` times the mean entropy of a token, term by term."""
    total, entropy, tokens = torch.zeros(()), torch.zeros(()), 0
    for each in samples:
        got = plain(adapters.model, each.row)
        ratio = torch.exp(got.logprobs - torch.tensor(each.turn.logprobs))
        advantage = float(each.advantages[0])
        terms = torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
        if each.weights is not None:
            terms = terms * torch.tensor(each.weights)
        total = total - terms.sum() / len(terms) / len(samples)
        entropy, tokens = entropy + got.entropy.sum(), tokens + len(terms)
    return total - bonus * entropy / tokens


@pytest.mark.parametrize("trees", [True, False])
def test_the_step_is_the_gradient_of_the_written_out_loss(trees) -> None:
    samples = mixed_samples()
    samples[3].weights = np.linspace(0.3, 1.7, len(samples[3].advantages)).astype(np.float32)
    adapters = tiny_adapters()
    loss = written_out(adapters, samples, 0.9, 40.0, 0.03)
    want = gradients(adapters, loss)
    moved, figures = step(samples, make_loss("grpo", clip_low=0.9, clip_high=40.0, entropy_bonus=0.03), trees)
    assert furthest(moved, want) < 1e-4
    assert figures["loss"] == pytest.approx(loss.item(), rel=1e-4)
    norm = torch.sqrt(sum(gradient.square().sum() for gradient in want.values()))
    assert figures["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
    assert figures["optimizer_steps"] == 1 and figures["kl_old_k3"] > 0
    tokens = sum(len(s.turn.prompt_ids) + len(s.turn.completion_ids) for s in samples)
    assert figures["tokens_in_batch"] == tokens
    if trees:
        assert figures["tokens_computed"] < 0.75 * tokens


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "dapo", "gspo", "reinforce++"])
def test_where_micro_batches_are_cut_does_not_matter(name) -> None:
    loss = make_loss(name, entropy_bonus=0.03, clip_low=0.9, clip_high=40.0)
    want, figures = step(mixed_samples(0.8), loss)
    for budget in ({"tokens": 1, "row_tokens": 1, "predictions": 1}, {"tokens": 60, "row_tokens": 30}):
        got, others = step(mixed_samples(0.8), loss, **budget)
        assert furthest(got, want) < 1e-4
        for key in ("loss", "entropy", "ratio", "kl_old_k3", "clip_low", "grad_norm"):
            assert others[key] == pytest.approx(figures[key], rel=1e-4, abs=1e-6)


def test_dr_grpo_divides_by_a_constant_where_one_is_given() -> None:
    loss = make_loss("dr_grpo")
    longest = max(len(each.advantages) for each in mixed_samples())
    own, _ = step(mixed_samples(), loss)
    given, _ = step(mixed_samples(), loss, longest=4 * longest)
    assert furthest({key: 4 * value for key, value in given.items()}, own) < 1e-3


def test_the_gradient_is_clipped_to_its_norm() -> None:
    loss = make_loss("grpo", entropy_bonus=0.5)
    free, figures = step(mixed_samples(), loss)
    assert figures["grad_norm"] > 0.2
    clipped, _ = step(mixed_samples(), loss, max_grad_norm=0.1)
    norm = torch.sqrt(sum(moved.square().sum() for moved in clipped.values()))
    assert norm.item() == pytest.approx(0.1, rel=1e-3)
    scale = 0.1 / figures["grad_norm"]
    assert furthest(clipped, {key: scale * moved for key, moved in free.items()}) < 1e-3


def test_spc_measures_its_ratio_from_the_reference() -> None:
    """SPC's ratio is policy over reference (specs/spc.md 1.7), not over who spoke."""
    samples = mixed_samples()
    for number, each in enumerate(samples):
        size = len(each.advantages)
        each.reference = -np.random.default_rng(number).uniform(4, 6, size).astype(np.float32)
    loss = make_loss("spc", beta=0.1, clip_low=0.99, clip_high=1e4)
    adapters, total = tiny_adapters(), torch.zeros(())
    moved_by = []
    for each in samples:
        got = plain(adapters.model, each.row).logprobs
        gap = got - torch.tensor(each.reference)
        advantage = float(each.advantages[0]) - 0.1 * gap.detach().mean()
        ratio = gap.mean().exp()
        total = total - torch.minimum(ratio * advantage, ratio.clamp(0.01, 1e4 + 1) * advantage) / len(
            samples
        )
        old = got - torch.tensor(each.turn.logprobs)
        moved_by.append(old.detach())
    moved, figures = step(samples, loss)
    assert furthest(moved, gradients(adapters, total)) < 1e-4
    # What is limited is the movement since the turn was said, not the distance to the reference.
    old = torch.cat(moved_by)
    expected = {"kl_old_k1": -old, "kl_old_k2": old**2 / 2, "kl_old_k3": old.exp() - 1 - old}
    for name, values in expected.items():
        assert figures[name] == pytest.approx(values.mean().item(), rel=1e-4), name
    with pytest.raises(UpdateStopped, match="KL"):
        step(samples, loss, max_kl=figures["kl_old_k2"] * 0.99)


def test_old_log_probabilities_are_those_before_the_first_step() -> None:
    """Three passes in two steps each: the ratio is 1 before anything moved, and only then."""
    adapters, samples = tiny_adapters(), mixed_samples()
    for each in samples:
        each.turn.logprobs[:] = plain(adapters.model, each.row).logprobs.detach().numpy()
    said = [each.turn.logprobs.copy() for each in samples]
    settings = TrainSettings(epochs=3, minibatches=2, max_kl=1e9)
    seen: list[dict[str, float]] = []

    class Watched(PolicyLoss):
        def __call__(self, inputs: Any, totals: Any) -> Any:
            ratio = torch.exp(inputs.logprobs - inputs.old)[inputs.mask]
            seen.append({"furthest": float((ratio - 1).abs().max().detach())})
            return super().__call__(inputs, totals)

    optimizer = torch.optim.AdamW(adapters.activate("policy"), lr=1e-2)
    figures = train(adapters, samples, Watched(), settings, optimizer, seed=0)
    assert figures["optimizer_steps"] == 6
    assert seen[0]["furthest"] < 1e-4 and seen[-1]["furthest"] > 1e-2
    for each, before in zip(samples, said, strict=True):
        assert (each.turn.logprobs == before).all() and each.old is None


def test_steps_keep_the_samples_of_a_prompt_together() -> None:
    samples = [sample(draw(p, 6), draw(10 * p + i, 4), 1.0) for p in range(5) for i in range(4)]
    steps = plan_steps(samples, TrainSettings(epochs=2, minibatches=3), seed=1, trees=True)
    assert len(steps) == 6
    for passed in (steps[:3], steps[3:]):
        assert sorted(id(s) for one in passed for s in one.samples) == sorted(id(s) for s in samples)
        assert sorted(len(one.samples) for one in passed) == [4, 8, 8]
        homes = [{s.prompt for s in one.samples} for one in passed]
        assert sum(map(len, homes)) == len(set().union(*homes)) == 5
    for one in steps:
        assert one.totals.sequences == len(one.samples) and one.totals.tokens == 4 * len(one.samples)
    again = plan_steps(samples, TrainSettings(epochs=2, minibatches=3), seed=1, trees=True)
    assert [[id(s) for s in one.samples] for one in again] == [[id(s) for s in one.samples] for one in steps]


def test_stale_turns_get_truncated_importance_weights() -> None:
    """A turn of an older version: its ratio starts at 1, its weight is min(e^(new - said), 2)."""
    adapters, samples = tiny_adapters(), mixed_samples()[:4]
    samples[1].staleness = samples[3].staleness = 2
    figures = prepare(adapters.model, samples, TrainSettings(), exact=True, trees=True)
    assert figures["recomputed"] == 2 and samples[0].old is None and samples[0].weights is None
    gaps = []
    for each in (samples[1], samples[3]):
        now = plain(adapters.model, each.row).logprobs.detach().numpy()
        np.testing.assert_allclose(each.old, now, atol=1e-5)
        np.testing.assert_allclose(each.weights, np.minimum(np.exp(now - each.turn.logprobs), 2), rtol=1e-4)
        gaps.append(now - each.turn.logprobs)
    gap = np.concatenate(gaps)
    assert figures["engine_gap_max"] == pytest.approx(np.abs(gap).max(), abs=1e-4)
    assert figures["weights_truncated"] == pytest.approx((gap > np.log(2)).mean())
    assert prepare(adapters.model, samples, TrainSettings(), exact=False, trees=True)["recomputed"] == 4
    behaviour = TrainSettings(old="behaviour")
    assert prepare(adapters.model, samples, behaviour, exact=False, trees=True) == {"recomputed": 0.0}


# --- updates that go wrong ---------------------------------------------------------------------------


def spoiled_advantage(samples: list[Sample], adapters: Adapters) -> None:
    samples[2].advantages[1] = np.nan


def spoiled_log_probability(samples: list[Sample], adapters: Adapters) -> None:
    samples[2].turn.logprobs[0] = np.nan


def spoiled_weights(samples: list[Sample], adapters: Adapters) -> None:
    adapters.named("policy")[3][1].data[0, 0] = np.inf


def huge_advantage(samples: list[Sample], adapters: Adapters) -> None:
    samples[2].advantages[:] = 1e12


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (spoiled_advantage, "loss is nan"),
        (spoiled_log_probability, "loss is nan"),
        (spoiled_weights, "loss is nan"),
        (huge_advantage, "gradient norm"),
    ],
)
def test_an_update_that_explodes_stops_before_its_step(spoil, why, tmp_path) -> None:
    adapters, samples = tiny_adapters(), mixed_samples()
    digest = adapters.save("policy", tmp_path / "live", "base")
    spoil(samples, adapters)
    before = copies(adapters)
    with pytest.raises(UpdateStopped, match=why):
        train(adapters, samples, make_loss("grpo"), TrainSettings(), sgd(adapters), seed=0)
    for key, tensor in copies(adapters).items():
        assert torch.equal(tensor, before[key]) or not tensor.isfinite().all()
    from sparring.agents.models import adapter_hash

    assert adapter_hash(tmp_path / "live") == digest


def test_a_policy_that_runs_away_is_stopped() -> None:
    """The limit is looked at before each step, on that step's tokens only."""
    adapters, samples = tiny_adapters(), mixed_samples()
    for each in samples:
        each.turn.logprobs[:] = plain(adapters.model, each.row).logprobs.detach().numpy()
    optimizer = torch.optim.AdamW(adapters.activate("policy"), lr=0.05)
    settings = TrainSettings(epochs=4, max_kl=0.5, max_norm=1e9)
    with pytest.raises(UpdateStopped, match="nats a token"):
        train(adapters, samples, make_loss("grpo"), settings, optimizer, seed=0)


def test_a_rare_token_that_became_likely_does_not_stop_an_update() -> None:
    """By 8 nats: k3 makes thousands of it, and no policy runs away by one token."""
    adapters, samples = tiny_adapters(), mixed_samples()
    for each in samples:
        each.turn.logprobs[:] = plain(adapters.model, each.row).logprobs.detach().numpy()
    samples[0].turn.logprobs[0] -= 8
    figures = train(
        adapters, samples, make_loss("spc"), TrainSettings(max_norm=1e9), sgd(adapters, rate=1e-3), seed=0
    )
    assert figures["kl_old_k3"] > 5 > figures["kl_old_k2"]


def test_a_void_policy_begins_again_from_its_version(tmp_path) -> None:
    """After a stopped or interrupted update `add` leaves nothing of it: weights, nor gradients."""
    adapters = tiny_adapters()
    adapters.save("policy", tmp_path / "live", "base")
    settings, samples = TrainSettings(**FREE, minibatches=2), mixed_samples()

    def update() -> dict[str, torch.Tensor]:
        adapters.add("policy", LORA, 0, tmp_path / "live")
        train(adapters, samples, make_loss("grpo"), settings, sgd(adapters, rate=0.1), seed=0)
        return copies(adapters)

    want = update()
    samples[2].advantages[:] *= np.nan
    with pytest.raises(UpdateStopped):
        update()
    samples[2].advantages[:] = mixed_samples()[2].advantages
    again = update()
    assert all(torch.equal(again[key], want[key]) for key in want)
    # A policy without a version on disk begins as it first did: as the base.
    for _ in range(2):
        adapters.add("fresh", LORA, 5, None)
        first = copies(adapters, "fresh")
        assert all((tensor == 0).all() for key, tensor in first.items() if "lora_B" in key)
        for _, tensor in adapters.named("fresh"):
            tensor.data += 1
    adapters.add("fresh", LORA, 5, None)
    assert all(torch.equal(tensor, first[key]) for key, tensor in copies(adapters, "fresh").items())


def test_the_stop_event_breaks_an_update_off() -> None:
    adapters, stop = tiny_adapters(), threading.Event()
    stop.set()
    before = copies(adapters)
    with pytest.raises(UpdateInterrupted):
        train(
            adapters,
            mixed_samples(),
            make_loss("grpo"),
            TrainSettings(),
            sgd(adapters),
            seed=0,
            execution=Execution(stop=stop),
        )
    assert all(torch.equal(tensor, before[key]) for key, tensor in copies(adapters).items())


# --- who else is in the process ----------------------------------------------------------------------


def test_nothing_is_printed_and_no_generator_moves(capfd, recwarn, tmp_path, monkeypatch) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    random.seed(123), np.random.seed(123), torch.manual_seed(123)  # not what the library seeds them with
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    adapters = tiny_adapters()
    torch.set_rng_state(states[2])
    train(adapters, mixed_samples(), make_loss("grpo"), TrainSettings(), sgd(adapters), seed=0)
    adapters.save("policy", tmp_path / "saved", "no/such-base")
    assert random.getstate() == states[0] and np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in recwarn] == []
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_training_one_policy_leaves_the_other_alone() -> None:
    adapters = tiny_adapters("a", "a2")
    other = copies(adapters, "a2")
    base = {key: tensor.clone() for key, tensor in adapters.model.named_parameters() if "lora_" not in key}
    train(adapters, mixed_samples(), make_loss("grpo"), TrainSettings(), sgd(adapters, "a"), seed=0)
    assert all(torch.equal(tensor, other[key]) for key, tensor in copies(adapters, "a2").items())
    for key, tensor in adapters.model.named_parameters():
        if "lora_" not in key:
            assert torch.equal(tensor, base[key]), key


async def test_the_engine_speaks_while_the_policy_learns(tmp_path) -> None:
    """One base in memory: completions with an adapter that come during an update are what they should be."""
    torch.manual_seed(7)
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(tmp_path / "base")
    save_tokenizer(tmp_path / "base")
    engine = TransformersEngine(str(tmp_path / "base"), dtype="float32", max_batch=8)
    await engine.start()
    adapters = Adapters(await asyncio.to_thread(engine.shared_base))
    adapters.add("policy", LORA, 0, None)
    for _, tensor in adapters.named("policy"):
        tensor.data.normal_(std=0.1, generator=torch.Generator().manual_seed(tensor.numel()))
    adapters.save("policy", tmp_path / "v1", "base")
    weights = {key: tensor.clone() for key, tensor in engine.shared_base().named_parameters()}
    assert engine.shared_base().lm_head.weight.data_ptr() == adapters.model.lm_head.weight.data_ptr()
    settings = TrainSettings(epochs=12, tokens=60, row_tokens=30, **FREE)
    optimizer = torch.optim.AdamW(adapters.activate("policy"), lr=1e-3)
    learning = asyncio.create_task(
        asyncio.to_thread(
            train,
            adapters,
            mixed_samples(),
            make_loss("grpo"),
            settings,
            optimizer,
            seed=0,
            execution=Execution(lock=engine.lock),
        )
    )
    during, answers = 0, []
    while not learning.done():
        request = ask(f"Say {during}.", during, during + 1, adapter=tmp_path / "v1", max_tokens=6)
        answers += [(request, completion) for completion in await engine.generate(request)]
        during += not learning.done()
    await learning
    assert during >= 3
    for request, completion in answers:
        check(tmp_path / "base", request, completion)
    after = dict(engine.shared_base().named_parameters())
    assert all(torch.equal(after[key], tensor) for key, tensor in weights.items())
    await engine.close()

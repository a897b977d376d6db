"""Losses against hand-computed vectors (specs/comas.md 3.3, specs/spc.md 1.7), and what holds for all."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from sparring.errors import UserError
from sparring.training.losses import PRESETS, LossInputs, PolicyLoss, Totals, make_loss, means


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def one(loss: PolicyLoss, new, old, advantage, **more) -> tuple[float, torch.Tensor, dict[str, float]]:
    """Loss, gradient and statistics of a batch given as (B, T) lists without padding."""
    new = torch.tensor(new, dtype=torch.float64, requires_grad=True)
    old = torch.tensor(old, dtype=torch.float64)
    mask = torch.ones_like(new, dtype=torch.bool)
    advantages = torch.as_tensor(advantage, dtype=torch.float64).expand_as(new)
    inputs = LossInputs(new, old, advantages, mask, **more)
    out = loss(inputs, Totals.of(mask, inputs.supervised))
    out.loss.backward()
    return out.loss.item(), new.grad, means([out.stats])


def random_inputs(dtype=torch.float64, seed=0) -> LossInputs:
    """Six rows of unequal length; row 4 is supervised, row 5 has one token. Log-ratios clip often."""
    torch.manual_seed(seed)
    lengths = torch.tensor([7, 2, 5, 9, 4, 1])
    mask = torch.arange(9)[None] < lengths[:, None]
    old = -torch.rand(6, 9, dtype=dtype) * 3
    return LossInputs(
        logprobs=(old + 0.4 * torch.randn(6, 9, dtype=dtype)).requires_grad_(),
        old=old,
        advantages=torch.randn(6, 9, dtype=dtype),
        mask=mask,
        reference=old + 0.3 * torch.randn(6, 9, dtype=dtype),
        entropy=torch.rand(6, 9, dtype=dtype, requires_grad=True),
        weights=torch.rand(6, 9, dtype=dtype) * 2,
        supervised=torch.tensor([False] * 4 + [True, False]),
    )


def rows_of(inputs: LossInputs, rows: list[int], width: int | None = None) -> LossInputs:
    pick = {name: getattr(inputs, name) for name in LossInputs.__slots__}
    return LossInputs(**{k: v[rows] if v.dim() == 1 else v[rows][:, :width] for k, v in pick.items()})


EVERY = [
    *(make_loss(name, beta=0.1, entropy_bonus=0.03) for name in sorted(PRESETS)),
    make_loss("reinforce++", aggregate="sum", kl="k1", beta=0.2, kl_weighted=True, dual_clip=2.0),
    make_loss("gspo", aggregate="token", kl="k3", beta=0.2, kl_weighted=True, clip_low=0.1, clip_high=0.1),
]


# --- golden vectors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective", "slope"),
    [(1.5, 1, 1.2, 0), (1.5, -1, -1.5, -1.5), (0.5, 1, 0.5, 0.5), (0.5, -1, -0.8, 0)],
)
@pytest.mark.parametrize("name", ["reinforce++", "ppo", "grpo", "dr_grpo"])
def test_clip_golden(name, ratio, advantage, objective, slope) -> None:
    """comas.md 3.3 with epsilon .2; the gradient is A rho where the clip does not bind, else 0."""
    loss, gradient, stats = one(make_loss(name), [[math.log(ratio)]], [[0.0]], advantage)
    assert loss == pytest.approx(-objective)
    assert gradient.item() == pytest.approx(-slope)
    assert stats["clip_high"] == float(ratio > 1 and advantage > 0)
    assert stats["clip_low"] == float(ratio < 1 and advantage < 0)
    assert stats["ratio"] == pytest.approx(ratio)


def test_dapo_clips_higher() -> None:
    loss = one(make_loss("dapo"), [[math.log(1.5)]], [[0.0]], 1)[0]
    assert loss == pytest.approx(-1.28)
    assert one(make_loss("dapo"), [[math.log(0.5)]], [[0.0]], -1)[0] == pytest.approx(0.8)


def test_dual_clip_bounds_a_negative_advantage() -> None:
    loss = make_loss("ppo", dual_clip=3.0)
    assert one(loss, [[math.log(5.0)]], [[0.0]], -1)[0] == pytest.approx(3)
    assert one(loss, [[math.log(2.0)]], [[0.0]], -1)[0] == pytest.approx(2)
    assert one(loss, [[math.log(5.0)]], [[0.0]], 1)[0] == pytest.approx(-1.2)


SPC_LOW, SPC_HIGH = [-0.4, -0.5, -0.6], [-0.1, -0.2, -0.3]


@pytest.mark.parametrize(
    ("new", "reference", "advantage", "ratio", "want"),
    [
        (SPC_HIGH, SPC_LOW, 1, 1.349859, -1.2),
        (SPC_LOW, SPC_HIGH, -1, 0.740818, 0.8),
        (SPC_HIGH, SPC_LOW, -1, 1.349859, 1.349859),
        (SPC_LOW, SPC_HIGH, 1, 0.740818, -0.740818),
    ],
)
def test_spc_golden(new, reference, advantage, ratio, want) -> None:
    """spc.md 1.7, table."""
    loss, _, stats = one(make_loss("spc"), [new], [reference], advantage)
    assert loss == pytest.approx(want, abs=1e-6)
    assert stats["ratio"] == pytest.approx(ratio, abs=1e-6)


def test_spc_supervised_golden() -> None:
    """spc.md 1.7, last row: 0.15 x 0.2, and its gradient -0.15 / 3 on each token."""
    loss, gradient, stats = one(
        make_loss("spc"), [SPC_HIGH], [[float("nan")] * 3], float("nan"), supervised=torch.tensor([True])
    )
    assert loss == pytest.approx(0.03)
    torch.testing.assert_close(gradient, row(-0.05, -0.05, -0.05))
    assert stats == {"supervised_loss": pytest.approx(0.2)}  # no reward: counted in nothing else


def test_spc_mixes_reward_rows_and_supervised_rows() -> None:
    """L = 0.15 mean_sft + mean_rl, each over its own rows: .15 (.2 + .5 + .2) / 3 + (-1.2 + .8) / 2."""
    loss, _, stats = one(
        make_loss("spc"),
        [SPC_HIGH, SPC_LOW, SPC_HIGH, SPC_LOW, SPC_HIGH],
        [SPC_LOW, SPC_HIGH, SPC_LOW, SPC_LOW, SPC_LOW],
        [[1.0], [-1.0], [9.0], [9.0], [9.0]],
        supervised=torch.tensor([False, False, True, True, True]),
    )
    assert loss == pytest.approx(0.15 * 0.3 - 0.2)
    assert stats["supervised_loss"] == pytest.approx(0.3) and stats["policy_loss"] == pytest.approx(-0.2)


def test_spc_beta_is_taken_off_the_advantage() -> None:
    """spc.md 1.11: A = 1 - 0.2 x 0.3 = .94, a constant; rho 1.349859 is clipped at 1.2, and not at 1.5."""
    assert one(make_loss("spc", beta=0.2), [SPC_HIGH], [SPC_LOW], 1)[0] == pytest.approx(-1.2 * 0.94)
    loss, gradient, stats = one(make_loss("spc", beta=0.2, clip_high=0.5), [SPC_HIGH], [SPC_LOW], 1)
    assert loss == pytest.approx(-math.exp(0.3) * 0.94)
    torch.testing.assert_close(gradient, torch.full((1, 3), -math.exp(0.3) * 0.94 / 3, dtype=torch.float64))
    assert stats["kl_reference"] == pytest.approx(math.exp(-0.3) - 1 + 0.3)


def test_gspo_by_hand() -> None:
    """s = exp(mean log-ratio), clip .1: row 1 e^.2 is clipped, A 2; row 2 e^-.05, A the mean of 1 and 3."""
    loss, gradient, stats = one(
        make_loss("gspo", clip_low=0.1, clip_high=0.1),
        [[0.1, 0.3], [-0.2, 0.1]],
        [[0.0, 0.0], [0.0, 0.0]],
        [[2.0, 2.0], [1.0, 3.0]],
    )
    s = math.exp(-0.05)
    assert loss == pytest.approx(-(1.1 * 2 + s * 2) / 2)
    torch.testing.assert_close(gradient, torch.tensor([[0, 0], [-s / 2, -s / 2]], dtype=torch.float64))
    assert (stats["clip_high"], stats["clip_low"]) == (0.5, 0)  # shares of sequences
    assert stats["ratio"] == pytest.approx((math.exp(0.2) + s) / 2)


def test_kl_estimators_by_hand() -> None:
    """d = log p - log q = .3: k1 = .3, k3 = e^-.3 - 1 + .3; times the ratio where weighted."""
    k3 = math.exp(-0.3) - 1 + 0.3
    for kl, value, slope in (("k1", 0.3, 1.0), ("k3", k3, 1 - math.exp(-0.3))):
        loss = make_loss("grpo", beta=0.5, kl=kl)
        got, gradient, stats = one(loss, [[-0.2]], [[-0.2]], 0, reference=row(-0.5))
        assert got == pytest.approx(0.5 * value)
        assert gradient.item() == pytest.approx(0.5 * slope)
        assert stats["kl_reference"] == pytest.approx(k3)
        weighted = loss.model_copy(update={"kl_weighted": True})
        got, gradient, _ = one(weighted, [[-0.2]], [[-0.3]], 0, reference=row(-0.5))
        assert got == pytest.approx(0.5 * value * math.exp(0.1))
        assert gradient.item() == pytest.approx(0.5 * (slope + value) * math.exp(0.1))


def test_reinforce_is_the_plain_policy_gradient() -> None:
    loss, gradient, _ = one(make_loss("reinforce"), [[-1.0, -2.0]], [[-1.0, -2.0]], [[3.0, -5.0]])
    assert loss == pytest.approx(1)
    torch.testing.assert_close(gradient, row(-1.5, 2.5))
    assert one(make_loss("reinforce"), [[1.0]], [[0.0]], 1)[0] == pytest.approx(-math.e)


@pytest.mark.parametrize(
    ("aggregate", "want"),
    [("sequence", (1 + 2) / 2), ("token", (3 + 2) / 4), ("constant", 5 / (2 * 10)), ("sum", 5 / 2)],
)
def test_aggregates_by_hand(aggregate, want) -> None:
    """Row 1 has three tokens of loss 1, row 2 one of loss 2; the longest allowed is 10."""
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()
    zeros = torch.zeros(2, 3, requires_grad=True)
    inputs = LossInputs(zeros, zeros.detach(), -torch.tensor([[1.0], [2.0]]).expand(2, 3), mask)
    out = make_loss("ppo", aggregate=aggregate)(inputs, Totals(2, 4, 10))
    assert out.loss.item() == pytest.approx(want)
    assert means([out.stats])["policy_loss"] == pytest.approx(want)


def test_advantage_weights_and_entropy() -> None:
    """Weights multiply the policy term per token, or by their mean; the bonus is per token in any case."""
    entropy = torch.tensor([[0.5, 1.5]], dtype=torch.float64, requires_grad=True)
    for name, want in (("grpo", (2 * 1 + 0.5 * 3) / 2), ("gspo", 1.25 * 2)):
        loss = make_loss(name, entropy_bonus=0.03)
        got, _, stats = one(
            loss, [[0.0, 0.0]], [[0.0, 0.0]], [[1.0, 3.0]], weights=row(2, 0.5), entropy=entropy
        )
        assert got == pytest.approx(-want - 0.03)
        assert stats["entropy"] == pytest.approx(1)
    torch.testing.assert_close(entropy.grad, row(-0.03, -0.03))  # twice -.03 / 2


# --- what holds for all ------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", EVERY, ids=lambda loss: f"{loss.name}-{loss.aggregate}-{loss.kl}")
@pytest.mark.parametrize(
    "cuts", [[[0, 1], [2, 3, 4, 5]], [[0], [1, 5], [2], [3], [4]], [[4], [5, 3, 0, 2, 1]]]
)
def test_micro_batches_add_up_exactly(loss, cuts) -> None:
    """Loss, gradient and statistics of the whole are the sums over its parts, padded to their own width."""
    whole = random_inputs()
    totals = Totals.of(whole.mask, whole.supervised)
    assert totals == Totals(5, 24, 9, 1)
    out = loss(whole, totals)
    leaves = (whole.logprobs, whole.entropy)
    want = torch.autograd.grad(out.loss, leaves, allow_unused=True)
    parts = [rows_of(whole, rows, int(whole.mask[rows].sum(1).max())) for rows in cuts]
    counts = [Totals.of(part.mask, part.supervised) for part in parts]
    added = counts[0]
    for count in counts[1:]:
        added = added + count
    assert added == totals
    outs = [loss(part, totals) for part in parts]
    got = torch.autograd.grad(sum(part.loss for part in outs), leaves, allow_unused=True)
    torch.testing.assert_close(sum(part.loss for part in outs), out.loss, rtol=1e-13, atol=1e-14)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-14)
    assert means(part.stats for part in outs) == pytest.approx(means([out.stats]), rel=1e-12)


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), float("-inf"), 1e30])
@pytest.mark.parametrize("loss", EVERY, ids=lambda loss: f"{loss.name}-{loss.aggregate}-{loss.kl}")
def test_padding_is_never_read(loss, garbage) -> None:
    clean, dirty = random_inputs(), random_inputs()
    fields = {name: getattr(dirty, name) for name in LossInputs.__slots__}
    for name in ("logprobs", "old", "advantages", "reference", "entropy", "weights"):
        fields[name] = fields[name].detach().masked_fill(~dirty.mask, garbage)
    fields |= {name: fields[name].requires_grad_() for name in ("logprobs", "entropy")}
    dirty = LossInputs(**fields)
    outs = [loss(inputs, Totals.of(inputs.mask, inputs.supervised)) for inputs in (clean, dirty)]
    for out in outs:
        out.loss.backward()
    assert torch.equal(outs[0].loss, outs[1].loss)
    assert means([outs[0].stats]) == means([outs[1].stats])
    for name in ("logprobs", "entropy"):
        ours = getattr(dirty, name).grad
        assert torch.equal(ours, getattr(clean, name).grad)
        assert (ours[~dirty.mask] == 0).all()
    assert (dirty.logprobs.grad[dirty.mask] != 0).sum() > 3


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_huge_log_ratios_stay_finite(name, advantage) -> None:
    """exp(1000) is infinite, and 0 x infinity in a clipped branch would be NaN."""
    for new, old in (([[-1.0, -0.5]], [[-1000.0, -0.5]]), ([[-1000.0, -0.5]], [[-1.0, -0.5]])):
        loss = make_loss(name, beta=0.04)
        got, gradient, stats = one(loss, new, old, advantage, reference=torch.tensor(old).double())
        assert math.isfinite(got) and gradient.isfinite().all()
        assert all(math.isfinite(value) for value in stats.values())


def test_half_precision_is_computed_in_float32() -> None:
    """1 + 1e-3 cannot be told from 1 in bfloat16: the ratio must not be rounded there."""
    new = torch.full((1, 2), -0.001, dtype=torch.bfloat16, requires_grad=True)
    inputs = LossInputs(
        new, torch.zeros(1, 2, dtype=torch.bfloat16), torch.ones(1, 2), torch.ones(1, 2).bool()
    )
    out = make_loss("reinforce")(inputs, Totals.of(inputs.mask))
    assert out.loss.dtype == torch.float32
    assert out.loss.item() == pytest.approx(-math.exp(new[0, 0].item()), rel=1e-6)


def test_a_row_without_tokens_counts_nowhere() -> None:
    whole = random_inputs()
    empty = rows_of(whole, [0, 1])
    mask = empty.mask.clone()
    mask[1] = False
    fields = {name: getattr(empty, name) for name in LossInputs.__slots__} | {"mask": mask}
    assert Totals.of(mask) == Totals(1, 7, 7)
    alone = rows_of(whole, [0])
    for name in sorted(PRESETS):
        loss = make_loss(name)
        a, b = loss(LossInputs(**fields), Totals.of(mask)), loss(alone, Totals.of(alone.mask))
        torch.testing.assert_close(a.loss, b.loss)
        assert means([a.stats]) == pytest.approx(means([b.stats]))


def test_what_a_loss_needs() -> None:
    assert not make_loss("grpo").needs_reference and make_loss("grpo", beta=0.04).needs_reference
    assert make_loss("spc").needs_reference and make_loss("spc").denominator == "reference"
    assert not make_loss("grpo").needs_entropy and make_loss("grpo", entropy_bonus=0.03).needs_entropy
    changed = make_loss("grpo", entropy_bonus=0.03).model_copy(update={"entropy_bonus": 0.0})
    assert not changed.needs_entropy
    with pytest.raises(UserError, match=r"loss `grpo` with beta 0.04 needs a reference"):
        one(make_loss("grpo", beta=0.04), [[0.0]], [[0.0]], 1)
    with pytest.raises(UserError, match="loss `grpo` has an entropy bonus and got no entropies"):
        one(make_loss("grpo", entropy_bonus=0.03), [[0.0]], [[0.0]], 1)


def test_wrong_names_and_values_are_named() -> None:
    with pytest.raises(UserError, match="unknown loss `vpg`; known: dapo, dr_grpo, grpo"):
        make_loss("vpg")
    with pytest.raises(UserError, match="unknown option of loss `grpo` `clip`; known: aggregate, beta"):
        make_loss("grpo", clip=0.2)
    with pytest.raises(UserError, match=r"loss `grpo`, option `clip_low`: .*greater than or equal to 0"):
        make_loss("grpo", clip_low=-0.1)
    with pytest.raises(UserError, match=r"loss `spc`, option `aggregate`: .*'sequence', 'token'"):
        make_loss("spc", aggregate="mean")
    with pytest.raises(ValidationError, match="frozen"):
        make_loss("grpo").beta = 0.1

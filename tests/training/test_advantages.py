"""Advantage estimators against golden numbers (specs/comas.md 2, 3.3, 6.3) and their defining identities."""

from __future__ import annotations

import json
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring.errors import UserError
from sparring.training.advantages import ESTIMATORS, Batch, estimate

ROLES = ("solver", "evaluator", "scorer")


def batch(rewards, lengths=None, prompts=None, roles=None, kl=None) -> Batch:
    n = len(rewards)
    return Batch(
        rewards=np.array(rewards, np.float64),
        lengths=np.array(lengths or [1] * n, np.int64),
        prompts=prompts or list(range(n)),
        roles=roles or [("p", "solver")] * n,
        kl=kl,
    )


def comas_batch(lengths: tuple[int, int, int]) -> Batch:
    """Every score once, all well formed: solver (s-1)/2, evaluator (3-s)/2, scorer 0 (comas.md section 2)."""
    rows = [
        (role, reward) for score in (1, 2, 3) for role, reward in zip(ROLES, rewards_of(score), strict=True)
    ]
    sizes = dict(zip(ROLES, lengths, strict=True))
    return batch(
        [reward for _, reward in rows],
        [sizes[role] for role, _ in rows],
        roles=[("p", role) for role, _ in rows],
    )


def rewards_of(score: int) -> tuple[float, float, float]:
    return (score - 1) / 2, (3 - score) / 2, 0.0


def firsts(result) -> np.ndarray:
    return np.array([value[0] for value in result.values])


def joined(result) -> np.ndarray:
    return np.concatenate(result.values)


grouped = st.lists(
    st.tuples(st.floats(-10, 10, width=32), st.integers(0, 3)), min_size=1, max_size=30
)  # (reward, prompt)


# --- REINFORCE++ -------------------------------------------------------------------------------------


def test_reinforce_plus_plus_golden() -> None:
    """comas.md 3.3: token-weighted mean 1/6 and population variance .472222."""
    result = estimate("reinforce++", batch([1, 0, -1], [2, 3, 1]))
    want = [1.212678, 1.212678, -0.242536, -0.242536, -0.242536, -1.697749]
    np.testing.assert_allclose(joined(result), want, atol=1e-6)
    assert [len(value) for value in result.values] == [2, 3, 1]
    assert all(value.dtype == np.float32 for value in result.values)


def test_kl_in_the_return_golden() -> None:
    """comas.md 3.3: beta .1, r 1, log-ratios [.2, -.1, .3] give [.96, .98, .97] before normalisation."""
    returns = np.array([0.96, 0.98, 0.97])
    result = estimate("reinforce++", batch([1], [3], kl=[np.array([0.2, -0.1, 0.3])]), beta=0.1)
    np.testing.assert_allclose(
        joined(result), (returns - returns.mean()) / statistics.pstdev(returns), rtol=1e-5
    )
    # A second sample fixes mean and scale from outside, so that the level shows too: unnormalise by hand.
    pair = estimate(
        "reinforce++", batch([1, 0], [3, 1], kl=[np.array([0.2, -0.1, 0.3]), np.zeros(1)]), beta=0.1
    )
    tokens = np.array([0.96, 0.98, 0.97, 0.0])
    np.testing.assert_allclose(joined(pair) * tokens.std() + tokens.mean(), tokens, atol=1e-6)


def test_variance_is_floored_at_1e_8() -> None:
    result = estimate("reinforce++", batch([0.0, 1e-6]))
    np.testing.assert_allclose(firsts(result), [-0.5e-6 / 1e-4, 0.5e-6 / 1e-4], rtol=1e-5)


@pytest.mark.parametrize(("lengths", "bias"), [((1, 1, 1), -0.816497), ((400, 200, 80), -1.060660)])
def test_mixed_roles_punish_the_scorer_and_per_role_does_not(lengths, bias) -> None:
    """comas.md section 2: a well-formed score is worth `bias` when roles are normalised together."""
    played = comas_batch(lengths)
    scorer = [i for i, (_, role) in enumerate(played.roles) if role == "scorer"]
    mixed, split = estimate("reinforce++", played), estimate("reinforce++", played, per="role")
    np.testing.assert_allclose(firsts(mixed)[scorer], bias, atol=1e-6)
    assert (firsts(split)[scorer] == 0).all() and not split.informative[scorer].any()
    solver = firsts(split)[[i for i, (_, role) in enumerate(played.roles) if role == "solver"]]
    np.testing.assert_allclose(solver, [-np.sqrt(1.5), 0, np.sqrt(1.5)], rtol=1e-6)
    default = estimate("auto", played)
    np.testing.assert_array_equal(joined(default), joined(split))
    assert default.used["samples"] == {"per role": 9}


# --- group and leave-one-out -------------------------------------------------------------------------


def test_group_by_hand() -> None:
    """(r - mean) / (sample standard deviation + 1e-4), as TRL's GRPO; one sample has no baseline."""
    played = batch([1, 0, 0, 5, 0.5], [1, 2, 1, 1, 1], prompts=["a", "b", "a", "b", "c"])
    result = estimate("group", played)
    a, b = 0.5 / (np.sqrt(0.5) + 1e-4), 2.5 / (np.sqrt(12.5) + 1e-4)
    np.testing.assert_allclose(firsts(result), [a, -b, -a, b, 0], rtol=1e-6)
    assert result.used["samples"] == {"group": 4, "alone": 1}
    assert result.informative.tolist() == [True, True, True, True, False]
    assert result.values[1].tolist() == [pytest.approx(-b), pytest.approx(-b)]
    plain = estimate("group", played, scale="none")
    np.testing.assert_allclose(firsts(plain), [0.5, -2.5, -0.5, 2.5, 0])
    whole = estimate("group", played, scale="batch")
    spread = statistics.stdev([1, 0, 0, 5, 0.5]) + 1e-4
    np.testing.assert_allclose(firsts(whole), np.array([0.5, -2.5, -0.5, 2.5, 0]) / spread, rtol=1e-6)


@given(grouped)
def test_advantages_of_a_prompt_sum_to_zero(rows) -> None:
    rewards, prompts = [row[0] for row in rows], [row[1] for row in rows]
    for scale in ("group", "batch", "none"):
        values = firsts(estimate("group", batch(rewards, prompts=prompts), scale=scale))
        for prompt in set(prompts):
            assert abs(values[np.array(prompts) == prompt].sum()) < 1e-3


@given(grouped)
def test_leave_one_out_compares_with_the_others(rows) -> None:
    rewards, prompts = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    played = batch(rewards.tolist(), prompts=prompts.tolist())
    values, plain = firsts(estimate("leave_one_out", played)), firsts(estimate("group", played, scale="none"))
    for i, (reward, prompt) in enumerate(zip(rewards, prompts, strict=True)):
        others = rewards[(prompts == prompt) & (np.arange(len(rows)) != i)]
        want = reward - others.mean() if len(others) else 0.0
        assert values[i] == pytest.approx(want, abs=1e-5, rel=1e-5)
        n = len(others) + 1
        assert values[i] == pytest.approx(plain[i] * n / max(n - 1, 1), abs=1e-5, rel=1e-5)


def test_leave_one_out_counts_those_without_a_baseline() -> None:
    result = estimate("leave_one_out", batch([1, 0, 1, 1], prompts=["a", "a", "a", "b"]))
    np.testing.assert_allclose(firsts(result), [0.5, -1, 0.5, 0])
    assert result.used["samples"] == {"leave_one_out": 3, "alone": 1}


# --- moving baseline per role ------------------------------------------------------------------------


def test_role_baseline_is_read_before_it_is_updated() -> None:
    """comas.md 6.3: A = r - b_old, only then b <- .95 b + .05 r; by hand over two batches."""
    roles = [("p", "white"), ("p", "black"), ("p", "white")]
    first = estimate("role", batch([1, -1, 1], roles=roles))
    np.testing.assert_allclose(firsts(first), [1, -1, 0.95], rtol=1e-6)
    state = json.loads(json.dumps(first.state))
    assert state == {"baselines": pytest.approx({'["p", "white"]': 0.0975, '["p", "black"]': -0.05})}
    second = estimate("role", batch([0, 1], roles=[("p", "white"), ("p", "black")]), state)
    np.testing.assert_allclose(firsts(second), [-0.0975, 1.05], rtol=1e-5)
    assert state["baselines"]['["p", "black"]'] == pytest.approx(
        -0.05
    )  # the caller's state is not changed in place
    faster = estimate("role", batch([1, 1]), decay=0.5)
    np.testing.assert_allclose(firsts(faster), [1, 0.5])


def test_state_passes_through_estimators_that_keep_none() -> None:
    state = {"baselines": {"x": 0.5}}
    assert estimate("group", batch([1, 0]), state).state == state


# --- auto --------------------------------------------------------------------------------------------


def test_auto_takes_the_group_where_there_is_one() -> None:
    played = batch(
        [1, 0, 1, 0, 0.5, 3, 0.25],
        [1, 1, 3, 1, 1, 1, 2],
        prompts=["a", "a", "b", "c", "d", "e", "f"],
        roles=[("p", "s"), ("p", "s"), ("p", "s"), ("p", "s"), ("p", "j"), ("p", "j"), ("q", "j")],
    )
    result = estimate("auto", played)
    np.testing.assert_array_equal(firsts(result)[:2], firsts(estimate("group", played))[:2])
    spread = np.sqrt(0.75 * 0.25)  # three tokens of 1 and one of 0
    np.testing.assert_allclose(firsts(result)[2:], [0.25 / spread, -0.75 / spread, -1, 1, 0], rtol=1e-6)
    assert result.used == {
        "estimator": "auto",
        "options": {},
        "samples": {"group": 2, "per role": 4, "alone": 1},
    }
    assert [len(value) for value in result.values] == [1, 1, 3, 1, 1, 1, 2]


# --- what holds for all ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_equal_rewards_teach_nothing(name) -> None:
    """0.1 cannot be written in binary, and its mean over three is not 0.1: still exactly 0, no NaN."""
    played = batch([0.1] * 6, [3, 1, 2, 1, 1, 5], prompts=[0, 0, 0, 1, 1, 2])
    result = estimate(name, played)
    if name == "role":  # no scale and no group: it measures against what went before
        assert np.isfinite(joined(result)).all() and result.informative.all()
    else:
        assert (joined(result) == 0).all() and not result.informative.any()


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_empty_batch_and_empty_completion(name) -> None:
    assert estimate(name, batch([])).values == []
    result = estimate(name, Batch(np.array([1.0, 0.0]), np.array([0, 2]), ["a", "b"], ["r", "r"]))
    assert [len(value) for value in result.values] == [0, 2] and not result.informative[0]
    assert np.isfinite(joined(result)).all()


@given(grouped, st.sampled_from(sorted(ESTIMATORS)))
def test_always_finite_and_named(rows, name) -> None:
    played = batch([row[0] for row in rows], prompts=[row[1] for row in rows])
    result = estimate(name, played)
    assert np.isfinite(joined(result)).all()
    assert sum(result.used["samples"].values()) == len(rows)
    json.dumps([result.used, result.state])


def test_wrong_names_and_batches_are_named() -> None:
    with pytest.raises(UserError, match="unknown advantage estimator `gae`; known: auto, group"):
        estimate("gae", batch([1]))
    with pytest.raises(UserError, match=r"option of advantage estimator `group` `beta`; known: scale"):
        estimate("group", batch([1]), beta=1)
    with pytest.raises(UserError, match="option `scale` `token`; known: batch, group, none"):
        estimate("auto", batch([1]), scale="token")
    with pytest.raises(UserError, match="known: all, role"):
        estimate("reinforce++", batch([1]), per="policy")
    with pytest.raises(UserError, match="needs the log-ratios"):
        estimate("reinforce++", batch([1]), beta=0.1)
    with pytest.raises(UserError, match=r"`decay`: 1.0 is not in"):
        estimate("role", batch([1]), decay=1.0)
    with pytest.raises(ValueError, match="not finite"):
        batch([float("nan")])
    with pytest.raises(ValueError, match="differ in number"):
        batch([1, 2], prompts=["a"])
    with pytest.raises(ValueError, match="numbers of tokens"):
        batch([1], [2], kl=[np.zeros(3)])

"""Prefix trees hold every sequence exactly once, within their budgets; each token sees its own past only."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer_support import draw, ids

from sparring.training.packing import PAD, Budget, MicroBatch, Row, pack

few = st.integers(0, 3)
"""Few different tokens, so that random sequences share beginnings."""
rows = st.lists(
    st.builds(
        lambda prompt, completion, temperature: Row(ids(*prompt), ids(*completion), temperature),
        st.lists(few, min_size=1, max_size=6),
        st.lists(few, min_size=1, max_size=6),
        st.sampled_from([1.0, 0.7]),
    ),
    min_size=1,
    max_size=14,
)
budgets = st.builds(Budget, st.integers(1, 60), st.integers(1, 30), st.integers(1, 20))


def paths(batch: MicroBatch) -> list[tuple[int, list[int]]]:
    """(row, tokens it was given in the order of their depth) behind each member's last prediction."""
    found = []
    ends = np.cumsum(batch.predicting.sum(axis=1))
    columns = [np.flatnonzero(mask) + batch.input_ids.shape[1] - mask.shape[0] for mask in batch.predicting]
    for where in batch.where:
        number = int(np.searchsorted(ends, where[-1], side="right"))
        start = 0 if number == 0 else int(ends[number - 1])
        last = columns[number][where[-1] - start]
        seen = np.flatnonzero(batch.visible[number, last])
        order = seen[np.argsort(batch.positions[number, seen])]
        assert batch.positions[number, order].tolist() == list(range(len(order)))
        # Each predicting position is on the path, one a completion token, the deepest last.
        mine = columns[number][where - start]
        assert order[-len(mine) :].tolist() == mine.tolist()
        for depth, place in enumerate(order):  # an ancestor sees what is above it, nothing else
            assert set(np.flatnonzero(batch.visible[number, place])) == set(order[: depth + 1])
        found.append((number, batch.input_ids[number, order].tolist()))
    return found


@given(rows, budgets, st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_sequence_is_there_once_and_sees_itself(rows, budget, share) -> None:
    batches = pack(rows, budget, share=share)
    members = np.concatenate([batch.members for batch in batches])
    assert sorted(members.tolist()) == list(range(len(rows)))
    for batch in batches:
        for member, target, (number, path) in zip(batch.members, batch.targets, paths(batch), strict=True):
            row = rows[member]
            assert path == [*row.prompt, *row.completion[:-1]]
            assert target.tolist() == row.completion.tolist()
            assert batch.temperatures[number] == np.float32(row.temperature)


@given(rows, budgets, st.booleans())
@settings(max_examples=60, deadline=None)
def test_budgets_hold_unless_one_sequence_is_larger(rows, budget, share) -> None:
    longest = max(len(row.prompt) + len(row.completion) - 1 for row in rows)
    most = max(len(row.completion) for row in rows)
    for batch in pack(rows, budget, share=share):
        count, length = batch.input_ids.shape
        assert count == 1 or count * length <= budget.tokens
        assert count == 1 or count * batch.predicting.shape[1] <= budget.predictions
        assert length <= max(budget.row_tokens, longest)
        assert batch.predicting.shape[1] <= max(budget.predictions, most)


@given(rows)
@settings(max_examples=50, deadline=None)
def test_every_distinct_token_is_one_position(rows) -> None:
    """With room enough a temperature's sequences are one tree: as many positions as distinct prefixes."""
    prefixes = set()
    for row in rows:
        whole = (*row.prompt, *row.completion[:-1])
        prefixes |= {(row.temperature, whole[: i + 1]) for i in range(len(whole))}
    batches = pack(rows, Budget(10_000, 10_000, 10_000))
    assert sum(batch.computed for batch in batches) == len(prefixes)


@given(rows, budgets)
@settings(max_examples=50, deadline=None)
def test_unshared_rows_are_plain_causal(rows, budget) -> None:
    for batch in pack(rows, budget, share=False):
        count, length = batch.input_ids.shape
        assert count == len(batch.members)
        for number, member in enumerate(batch.members):
            row = rows[member]
            size = len(row.prompt) + len(row.completion) - 1
            pad = length - size
            assert batch.positions[number].tolist() == [-1] * pad + list(range(size))
            assert (batch.input_ids[number, :pad] == PAD).all()
            assert (batch.visible[number, pad:, pad:] == np.tri(size, dtype=bool)).all()
            assert not batch.visible[number, pad:, :pad].any()
            # What predicts is the end of the row, so that `logits_to_keep` is a number.
            assert batch.predicting[number].sum() == len(row.completion)
            assert batch.predicting[number, -len(row.completion) :].all()


def test_eight_samples_of_a_prompt_cost_it_once() -> None:
    prompt = draw(0, 90)
    rows = [Row(prompt, draw(1 + i, 30)) for i in range(8)]
    (batch,) = pack(rows)
    assert batch.input_ids.shape == (1, 90 + 8 * 29) and batch.computed == 90 + 8 * 29
    # The last token of the prompt predicts the first of every completion.
    assert batch.predicting.sum() == 1 + 8 * 29 and len({int(where[0]) for where in batch.where}) == 1


def test_a_turn_that_continues_another_costs_what_is_new() -> None:
    prompt, said = draw(1, 20), draw(2, 10)
    rows = [Row(prompt, said), Row(np.concatenate([prompt, said, draw(3, 5)]), draw(4, 6))]
    (batch,) = pack(rows)
    assert batch.computed == 20 + 10 + 5 + 5


def test_a_tree_that_is_full_is_followed_by_another() -> None:
    prompt = draw(0, 40)
    batches = pack([Row(prompt, draw(1 + i, 21)) for i in range(6)], Budget(2048, 100, 1024))
    assert [batch.input_ids.shape for batch in batches] == [(2, 100)]
    assert sorted(batches[0].members.tolist()) == list(range(6))


@pytest.mark.parametrize("row", [([], [1]), ([1], [])])
def test_a_sequence_without_prompt_or_completion_is_refused(row) -> None:
    with pytest.raises(ValueError, match="at least one"):
        Row(ids(*row[0]), ids(*row[1]))


def test_nothing_is_no_micro_batch() -> None:
    assert pack([]) == []


def test_the_samples_of_a_prompt_are_not_torn_apart() -> None:
    """Two groups of 8 that do not fit into one tree are two trees; each prompt is computed once."""
    rows = [Row(draw(p, 96), draw(10 * p + i, 32)) for p in (1, 2, 3) for i in range(8)]
    batches = pack(rows)
    assert sum(batch.computed for batch in batches) == 3 * (96 + 8 * 31)
    wide = pack(rows, Budget(4096, 1200, 4096))  # where all fit into one, they are in one
    assert [batch.input_ids.shape for batch in wide] == [(1, 3 * (96 + 8 * 31))]

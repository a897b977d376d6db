"""Prompt ids survive being stored by reference, and cost only what is new."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_helpers import TASK, Model, drive, made, one
from sqlalchemy import select

from sparring.memory.journal import Journal
from sparring.memory.queries import training_turns
from sparring.memory.schema import Turn
from sparring.memory.tokens import PrefixIndex, Stored, StoredTurn, resolve

Ids = Any
ids = st.lists(st.integers(0, 3) | st.sampled_from([2**31 - 1, 49_151]), max_size=12)
trees = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 40), ids, ids), min_size=1, max_size=30)
"""Each turn continues an earlier one's ids up to somewhere, then adds some; and then a completion."""


def array(values: list[int]) -> Ids:
    return np.array(values, np.int32)


def play(tree: list[tuple[int, int, list[int], list[int]]]) -> list[tuple[Ids, Ids]]:
    turns: list[tuple[Ids, Ids]] = []
    for parent, keep, new, completion in tree:
        before = np.concatenate(turns[parent % len(turns)]) if turns else array([])
        turns.append((np.concatenate([before[:keep], array(new)]).astype(np.int32), array(completion)))
    return turns


def shared(left: Ids, right: Ids) -> int:
    size = min(len(left), len(right))
    return next((n for n in range(size) if left[n] != right[n]), size)


def store(index: PrefixIndex, turn: int, prompt: Ids, completion: Ids) -> tuple[Stored, StoredTurn]:
    stored = index.store(prompt)
    index.add(turn, prompt, completion)
    row = StoredTurn(stored.prefix_turn_id, stored.prefix_length, stored.tail.tobytes(), completion.tobytes())
    return stored, row


@settings(max_examples=300, deadline=None)
@given(trees)
def test_round_trip_and_longest_prefix(tree: list[tuple[int, int, list[int], list[int]]]) -> None:
    index, rows, turns = PrefixIndex(), {}, play(tree)
    for number, (prompt, completion) in enumerate(turns, 1):
        earlier = [np.concatenate(turn) for turn in turns[: number - 1]]
        longest = max((shared(prompt, other) for other in earlier), default=0)
        stored, rows[number] = store(index, number, prompt, completion)
        assert stored.prefix_length == longest and len(stored.tail) == len(prompt) - longest
        assert (stored.prefix_turn_id is None) == (longest == 0)
    for number, (prompt, _) in enumerate(turns, 1):
        assert resolve(number, rows).tolist() == prompt.tolist()


def test_a_history_costs_its_new_tokens_only() -> None:
    index, history, tails = PrefixIndex(), array([]), []
    random = np.random.default_rng(0)
    for turn in range(1, 301):
        history = np.concatenate([history, random.integers(0, 49_000, 30, np.int32)])
        completion = random.integers(0, 49_000, 200, np.int32)
        tails.append(len(store(index, turn, history, completion)[0].tail))
        history = np.concatenate([history, completion])
    assert tails == [30] * 300


def test_samples_of_one_prompt_store_it_once() -> None:
    index, prompt = PrefixIndex(), np.arange(200, dtype=np.int32)
    tails = [len(store(index, turn, prompt, array([turn]))[0].tail) for turn in range(1, 9)]
    assert tails == [200] + [0] * 7


@settings(max_examples=15, deadline=None)
@given(trees)
def test_round_trip_through_a_database(tree: list[tuple[int, int, list[int], list[int]]]) -> None:
    import asyncio

    turns = play(tree)

    async def through(journal: Journal) -> None:
        run = drive(journal)
        for number, (prompt, completion) in enumerate(turns):
            if number % 7 == 3:  # continued by a process that knows only what is stored
                run.release()
                run = drive(journal)
            fields = {"prompt_ids": prompt, "completion_ids": completion, "logprobs": completion / -7}
            await one(
                run.episode(TASK, seats={}), journal, f"s/{number}", Model(lambda p, f=fields: made(p, **f))
            )
        samples = training_turns(journal, run="r")
        assert [s.prompt_ids.tolist() for s in samples] == [prompt.tolist() for prompt, _ in turns]
        assert [s.completion_ids.tolist() for s in samples] == [
            completion.tolist() for _, completion in turns
        ]
        for sample, (_, completion) in zip(samples, turns, strict=True):
            assert sample.logprobs is not None
            assert np.array_equal(sample.logprobs, (completion / -7).astype(np.float32))
        with journal.engine.connect() as connection:
            tails = connection.execute(select(Turn.prompt_tail)).scalars()
            index = PrefixIndex()
            new = [len(store(index, n, prompt, c)[0].tail) for n, (prompt, c) in enumerate(turns, 1)]
            assert sum(len(tail) for tail in tails) == sum(new)

    with Journal.open("sqlite://") as journal:
        asyncio.run(through(journal))

"""What preference training takes from the journal, and how pairs are made of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from preference_support import REWARD, STOP, Book, draw, ids

from sparring.errors import UserError
from sparring.memory.journal import Journal
from sparring.memory.schema import Policy, Update, UpdateTurn
from sparring.training.experience import Source
from sparring.training.preference_data import Pair, RewardedTurn, pairs, rewarded_turns, samples
from sparring.training.rewards.base import RewardRef


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    with Journal.open(tmp_path / "journal.db") as journal:
        yield Book(journal)


def test_turns_come_as_they_were_said(book: Book) -> None:
    prompt = draw(0, 6)
    cut, whole = ids(5, 6, 7), ids(5, 6, STOP)
    first = book.say([(prompt, cut, 0.25), (np.concatenate([prompt, cut, ids(9)]), whole, 1.0)])
    turns = rewarded_turns(book.journal, "solver", REWARD)
    assert [turn.id for turn in turns] == first and [turn.reward for turn in turns] == [0.25, 1.0]
    assert turns[0].completion_ids.tolist() == [5, 6, 7]  # no stop token added to what was cut
    assert turns[1].completion_ids.tolist() == [5, 6, STOP]
    assert turns[1].prompt_ids.tolist() == [*prompt.tolist(), 5, 6, 7, 9]  # put together from the turn before


def test_only_what_may_be_trained_on_is_taken(book: Book) -> None:
    prompt, said = draw(0, 6), ids(1, STOP)
    [kept] = book.say([(prompt, said, 1.0)])
    [judge] = book.say([(prompt, said, 1.0)], role="judge", run="r2")
    book.say([(prompt, said, None)])  # masked
    book.say([(prompt, said, 1.0)], policy="other")
    book.say([(prompt, said, 1.0)], run="held out", kind="evaluation")
    book.say([(prompt, said, 1.0)], status="failed")
    book.say([(prompt, said, 1.0)], final=False)
    book.say([(prompt, None, 1.0)])  # an engine without token ids
    book.say([(prompt, ids(), 1.0)])
    [trained] = book.say([(prompt, said, 1.0)])
    unpaid = book.say([(prompt, said, None), (prompt, ids(3), None)], run="r3")
    book.pay({unpaid[0]: 1.0}, RewardRef("verifier", "2", "c0"))
    book.pay({unpaid[1]: 1.0}, span=0)
    update = {"id": 1, "policy": "solver", "step": 0, "status": "done", "config": {}, "created_at": 0.0}
    book.journal.execute(book.journal.insert(Update), [update])
    book.journal.execute(book.journal.insert(UpdateTurn), [{"update_id": 1, "turn_id": trained}])

    def found(**how: Any) -> list[int]:
        return [turn.id for turn in rewarded_turns(book.journal, "solver", REWARD, **how)]

    assert found() == [kept, judge]
    assert found(role="judge") == [judge]
    assert found(source=Source(runs=("r",))) == [kept]
    assert found(versions=[]) == []
    assert [t.id for t in rewarded_turns(book.journal, "solver", RewardRef("verifier", "2", "c0"))] == unpaid[
        :1
    ]


def test_a_wrong_name_is_told(book: Book) -> None:
    book.say([(draw(0, 3), ids(1), 1.0)])
    with pytest.raises(UserError, match="unknown policy `solvre`; known: solver"):
        rewarded_turns(book.journal, "solvre", REWARD)
    with pytest.raises(UserError, match="unknown reward `verifier@2#c0`; known: verifier@1#c0"):
        rewarded_turns(book.journal, "solver", RewardRef("verifier", "2", "c0"))
    with pytest.raises(UserError, match="unknown run `s`"):
        rewarded_turns(book.journal, "solver", REWARD, source=Source(runs=("s",)))


def turn(number: int, said: int, reward: float, prompt: int = 0, task: str = "a") -> RewardedTurn:
    return RewardedTurn(number, task, reward, ids(prompt, 8), ids(said, STOP))


def places(found: list[Pair]) -> list[tuple[int, int]]:
    return [(pair.chosen.turn_ids[0], pair.rejected.turn_ids[0]) for pair in found]


def test_pairs_are_best_against_worst_and_spread_over_completions() -> None:
    graded = [turn(1, 11, 0.5), turn(2, 12, 1.0), turn(3, 13, 0.0), turn(4, 14, 0.75)]
    assert places(pairs(graded)) == [(2, 3), (4, 1), (4, 3), (2, 1)]
    assert places(pairs(graded, margin=0.5)) == [(2, 3), (4, 3), (2, 1), (1, 3)]
    assert places(pairs(graded[::-1], per_prompt=1)) == [(2, 3)]  # whatever order they come in
    one_right = [turn(1, 11, 1.0), *(turn(n, 10 + n, 0.0) for n in range(2, 8))]
    assert places(pairs(one_right, per_prompt=3)) == [(1, 7), (1, 6), (1, 5)]
    assert pairs([turn(1, 11, 1.0), turn(2, 12, 1.0)]) == []  # nothing is better, at margin 0 either


def test_pairs_share_prompt_and_task_and_never_repeat_a_completion() -> None:
    apart = [turn(1, 11, 1.0), turn(2, 12, 0.0, prompt=1), turn(3, 12, 0.0, task="b")]
    assert pairs(apart) == []
    doubled = [turn(1, 11, 1.0), turn(2, 12, 0.0), turn(3, 11, 1.0), turn(4, 12, 0.0)]
    [only] = pairs(doubled)
    assert only.turn_ids == (1, 3, 2, 4)  # all four are its lineage
    contradicted = [turn(1, 11, 1.0), turn(2, 11, 0.0), turn(3, 12, 0.4)]  # a judge of two minds: 0.5
    assert pairs(contradicted, margin=0.2) == [] and places(pairs(contradicted)) == [(1, 3)]


def test_samples_are_distinct_and_good_enough() -> None:
    turns = [turn(1, 11, 1.0), turn(2, 12, 0.0), turn(3, 11, 1.0), turn(4, 11, 1.0, prompt=1)]
    assert [sample.turn_ids for sample in samples(turns)] == [(1, 3), (2,), (4,)]
    assert [sample.turn_ids for sample in samples(turns, minimum=0.5)] == [(1, 3), (4,)]


def test_rewards_of_a_policy_that_does_not_exist_yet(book: Book) -> None:
    book.journal.execute(
        book.journal.insert(Policy),
        [{"name": "new", "live_version_id": None, "training_version_id": None, "created_at": 0.0}],
    )
    book.say([(draw(0, 3), ids(1), 1.0)])
    assert rewarded_turns(book.journal, "new", REWARD) == []

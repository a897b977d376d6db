"""The corrupter: every wrong step is wrong, of its kind, in range; no held-out kind leaks into training."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from sparring.agents.steps import ERROR_TYPES
from sparring.errors import UserError
from sparring.tools.chains import Chain, Step, exact_continuation, first_error, follow, generate, stated
from sparring.tools.corrupt import (
    HELD_OUT,
    KINDS,
    TRAINING,
    corrupt,
    critique,
    kind_of,
    pairs,
    wrong_solution,
    wrong_steps,
)

CHAIN = Chain.parse("Start with 7. Add 5. Subtract 3. Add 8. Add 2.")  # 12, 9, 17, 19
CHAINS = generate(400, 11)


def made(kind: str, index: int, chain: Chain = CHAIN, results: tuple[int, int] = (0, 20)) -> list[str]:
    return sorted(wrong_steps(chain, index, results)[kind])


def test_each_kind_by_hand() -> None:
    assert made("slip", 1) == [
        "12 - 3 = 10",
        "12 - 3 = 11",
        "12 - 3 = 12",
        "12 - 3 = 6",
        "12 - 3 = 7",
        "12 - 3 = 8",
    ]
    assert made("slip", 3) == ["17 + 2 = 16", "17 + 2 = 17", "17 + 2 = 18", "17 + 2 = 20"]  # 21, 22: out
    assert made("operator", 1) == ["12 + 3 = 15"]
    assert made("misread", 1) == ["12 - 2 = 10", "12 - 5 = 7", "12 - 7 = 5", "12 - 8 = 4"]
    assert made("skip", 1) == ["12 + 8 = 20"]
    assert made("carry", 1) == ["12 - 3 = 19"] and made("carry", 2) == ["9 + 8 = 7"]
    assert made("stale", 1) == ["7 - 3 = 4"] and made("stale", 2) == ["12 + 8 = 20"]
    assert made("repeat", 1) == ["12 + 5 = 17"]
    assert made("restart", 2) == ["7 + 8 = 15"]
    assert made("transpose", 2) == [] and made("transpose", 2, results=(0, 99)) == ["9 + 8 = 71"]


def test_a_step_that_two_kinds_make_counts_as_the_first() -> None:
    assert made("skip", 2) == [] and "9 + 2 = 11" in made(
        "misread", 2
    )  # the next one differs in its number only
    assert made("restart", 1) == [] and made("stale", 1) == ["7 - 3 = 4"]  # the value before is the start
    slow = Chain.parse("Start with 5. Add 1. Add 4.")
    assert made("stale", 1, slow) == ["5 + 4 = 9"] and made("slip", 1, slow).count("6 + 4 = 9") == 1
    for chain in CHAINS[:100]:
        for index in range(len(chain.steps)):
            every = [step for steps in wrong_steps(chain, index).values() for step in steps]
            assert len(every) == len(set(every))


@pytest.mark.parametrize("kind", KINDS)
def test_every_wrong_step_is_wrong_and_leads_to_a_wrong_answer(kind: str) -> None:
    results = (0, 99) if kind == "transpose" else (0, 20)
    rng, count = random.Random(0), 0
    for chain in CHAINS[:120]:
        for index in range(len(chain.steps)):
            pair = corrupt(chain, index, kind, rng, results)
            if pair is None:
                continue
            count += 1
            assert (pair.prefix, pair.correct) == (chain.steps[:index], chain.steps[index])
            assert (
                pair.wrong != pair.correct and follow(chain.problem, [*pair.prefix, pair.wrong])[-1] is False
            )
            step = Step.parse(pair.wrong)
            assert step is not None and results[0] <= step.result <= results[1]
            assert step.consistent == (kind not in ("slip", "carry", "transpose"))
            assert exact_continuation(chain.problem, [*pair.prefix, pair.wrong]) != chain.answer
            assert kind_of(chain.problem, pair.prefix, pair.wrong) == kind
            whole = wrong_solution(pair)
            assert len(whole) == len(chain.steps) and first_error(chain.problem, whole) == index
            assert stated(whole[-1]) == int(exact_continuation(chain.problem, whole[: index + 1]) or "")
    assert count > 50


def test_kinds_that_do_not_apply_give_nothing() -> None:
    rng, one = random.Random(0), Chain.parse("Start with 7. Add 5.")
    assert [corrupt(CHAIN, 0, kind, rng) for kind in ("stale", "repeat", "restart")] == [None] * 3
    assert corrupt(one, 0, "skip", rng) is None and corrupt(one, 0, "slip", rng) is not None
    assert corrupt(one, 1, "slip", rng) is None and corrupt(one, -1, "slip", rng) is None
    assert pairs([one], 0, ["skip", "stale"]) == []
    with pytest.raises(UserError, match="unknown kind of error `slop`"):
        corrupt(one, 0, "slop", rng)
    with pytest.raises(UserError, match="kind of error"):
        pairs([one], 0, ["slop"])


def test_held_out_kinds_are_in_no_training_row() -> None:
    assert set(TRAINING) == {"slip", "operator", "misread", "skip"}
    assert set(HELD_OUT) == set(KINDS) - set(TRAINING)
    for pair in pairs(CHAINS, 0, HELD_OUT):
        found = wrong_steps(Chain.parse(pair.problem), len(pair.prefix), (-99, 99))
        assert not any(pair.wrong in found[kind] for kind in TRAINING)
    assert {pair.kind for pair in pairs(CHAINS, 0)} == set(TRAINING)


def test_pairs_are_even_over_kinds_spread_over_places_and_repeatable() -> None:
    found = pairs(CHAINS, 4)
    assert found == pairs(CHAINS, 4) != pairs(CHAINS, 5)
    assert [pair.problem for pair in found] == [chain.problem for chain in CHAINS]
    counts = Counter(pair.kind for pair in found)
    assert max(counts.values()) - min(counts.values()) <= 2
    assert set(Counter(len(pair.prefix) for pair in found)) == {0, 1, 2, 3, 4}


def test_thoughts_name_the_type_of_the_taxonomy() -> None:
    names = {error.id: error.name for error in ERROR_TYPES}
    for pair in pairs(CHAINS, 0, list(KINDS)):
        assert pair.error_id == KINDS[pair.kind].error_id
        assert pair.thought.startswith(f"{names[pair.error_id]}. ")
        values = {str(stated(pair.wrong)), str(stated(pair.correct))}
        assert values <= set(pair.thought.replace(".", " ").replace(",", " ").replace(":", " ").split())


def test_critiques_state_the_right_step_then_the_verdict() -> None:
    problem, prefix = CHAIN.problem, CHAIN.steps[:1]
    assert critique(problem, prefix, "12 - 3 = 9") == "12 - 3 = 9. <Answer>Correct</Answer>"
    assert critique(problem, prefix, "12 - 3 = 8") == "12 - 3 = 9, not 8. <Answer>Incorrect</Answer>"
    assert critique(problem, prefix, "7 - 3 = 4") == "12 - 3 = 9, not 4. <Answer>Incorrect</Answer>"
    said = critique(problem, prefix, "6 + 3 = 9")
    assert said == "12 - 3 = 9, not 6 + 3 = 9. <Answer>Incorrect</Answer>"
    assert critique(problem, prefix, "no\nidea") == "12 - 3 = 9, not no idea. <Answer>Incorrect</Answer>"
    with pytest.raises(UserError, match="none after them"):
        critique(problem, CHAIN.steps, "1 + 1 = 2")
    with pytest.raises(UserError, match="none after them"):
        kind_of(problem, CHAIN.steps, "1 + 1 = 2")
    assert kind_of(problem, prefix, "12 - 3 = 9") is None and kind_of(problem, prefix, "6 + 3 = 9") is None
    assert kind_of(problem, prefix, "what") is None and kind_of(problem, prefix, "12-3=  8") == "slip"

"""Step-error metrics against SPC's golden rows (specs/spc.md 1.9) and ProcessBench's F1 by hand."""

from __future__ import annotations

import pytest

from sparring.agents.parsing import ParseError, parser
from sparring.graphs.stats import wilson
from sparring.graphs.step_errors import (
    Item,
    Solution,
    figures,
    first_error,
    first_rejected,
    harmonic,
    measured,
    recalls,
)

OUTPUTS = [
    (True, "<Answer>Correct</Answer>"),
    (True, "<Answer>incorrect</Answer>"),
    (False, "<Answer>Incorrect</Answer>"),
    (False, "no tag"),
    (False, "<Answer> Incorrect </Answer>"),
    (False, "<Answer>Incorrect</Answer> ... <Answer>Correct</Answer>"),
    (True, "<Answer>CORRECT</Answer>"),
]


def verdict(text: str) -> bool | None:
    try:
        return bool(parser("verdict/official")(text).correct)
    except ParseError:
        return None


def test_the_golden_example_of_prm800k() -> None:
    items = [Item(right, verdict(text)) for right, text in OUTPUTS]
    assert sum(item.verdict is not None for item in items) / 7 == pytest.approx(0.714, abs=5e-4)
    found = recalls(items, valid=True)
    assert found.correct.mean == pytest.approx(0.667, abs=5e-4) and found.error.mean == 1.0
    assert found.average == pytest.approx(0.833, abs=5e-4) and found.harmonic == pytest.approx(0.8)


def test_unreadable_verdicts_counted_as_wrong() -> None:
    found = recalls([Item(right, verdict(text)) for right, text in OUTPUTS], valid=False)
    assert (found.correct.mean, found.error.mean) == (pytest.approx(2 / 3), 0.5)
    assert found.average == pytest.approx(7 / 12) and found.harmonic == pytest.approx(4 / 7)
    assert found.error == wilson(2, 4) and found.correct == wilson(2, 3)


def test_the_golden_example_of_processbench() -> None:
    items = [Item(True, True, "gsm8k"), Item(True, False, "gsm8k"), Item(False, False, "math")]
    found = recalls(items, valid=True)
    assert {name: share.mean for name, share in found.accuracy.items()} == {"gsm8k": 0.5, "math": 1.0}
    assert found.macro == 0.75


def test_a_false_alarm_is_not_silence() -> None:
    items = [Item(True, True), Item(True, False), Item(True, None), Item(True, None), Item(False, False)]
    counted, valid = recalls(items, valid=False), recalls(items, valid=True)
    assert (counted.correct.mean, counted.false_alarm.mean) == (0.25, 0.25)
    assert (valid.correct.mean, valid.false_alarm.mean) == (0.5, 0.5)


def test_a_missing_class_has_no_mean() -> None:
    found = recalls([Item(True, True)], valid=False)
    assert (found.average, found.harmonic, found.error.n, found.macro) == (None, None, 0, 1.0)
    nothing = recalls([], valid=True)
    assert (nothing.average, nothing.macro, nothing.accuracy, nothing.kinds) == (None, None, {}, {})
    assert figures(measured([])) == {}
    sound = figures(measured([Solution(-1, [True, False])]))
    assert (sound["correct_recall"], sound["false_alarm"]) == (0.5, 0.5)
    assert "error_recall" not in sound, "a recall of nothing is none, and not 0"


def test_a_critic_that_always_says_the_same_has_a_balanced_accuracy_of_one_half() -> None:
    solutions = [Solution(-1, [True] * 9), Solution(2, [True] * 3), Solution(0, [True])]
    always = measured(solutions).counted
    assert (always.correct.mean, always.error.mean, always.average, always.harmonic) == (1.0, 0.0, 0.5, 0.0)
    assert always.macro == pytest.approx(11 / 13)  # what plain accuracy would have said


def test_only_steps_up_to_the_first_error_are_items() -> None:
    items = Solution(1, [True, False, False, None], "s", "slip").items
    assert items == [Item(True, True, "s"), Item(False, False, "s", "slip")]
    assert Solution(-1, [True, None], "s", "slip").items == [Item(True, True, "s"), Item(True, None, "s")]
    assert Solution(1, [True, False]).items == Solution(1, [True, False, True]).items


def test_first_rejected() -> None:
    cases = [([], -1), ([True], -1), ([True, False, None], 1), ([None, False], None), ([True, None], None)]
    assert [first_rejected(verdicts) for verdicts, _ in cases] == [index for _, index in cases]


def test_processbench_f1_by_hand() -> None:
    solutions = [
        Solution(1, [True, False]),  # found
        Solution(2, [True, False, False]),  # too early
        Solution(0, [True, False]),  # too late
        Solution(0, [None]),  # not readable
        Solution(-1, [True, True]),  # found free of error
        Solution(-1, [True, False]),  # false alarm
        Solution(-1, [True]),
    ]
    found = first_error(solutions)
    assert found.error == wilson(1, 4) and found.correct == wilson(2, 3)
    assert found.f1 == pytest.approx(2 * (1 / 4) * (2 / 3) / (1 / 4 + 2 / 3))
    assert first_error(solutions[:4]).f1 is None and first_error(solutions[4:]).f1 is None
    assert first_error([Solution(0, [True]), Solution(-1, [False])]).f1 == 0.0


def test_subsets_weigh_the_same_and_kinds_are_apart() -> None:
    solutions = [
        Solution(0, [False], "a", "slip"),
        Solution(0, [True], "a", "skip"),
        Solution(0, [None], "a", "skip"),
        Solution(-1, [True, True, True], "a"),
        Solution(0, [False], "b", "slip"),
        Solution(-1, [True], "b"),
    ]
    found = measured(solutions)
    assert (found.solutions, found.items, found.unreadable) == (6, 8, 1)
    assert found.counted.macro == pytest.approx((4 / 6 + 1) / 2)
    assert found.valid.macro == pytest.approx((4 / 5 + 1) / 2)
    assert found.counted.kinds == {"slip": wilson(2, 2), "skip": wilson(0, 2)}
    assert found.valid.kinds["skip"] == wilson(0, 1)
    assert found.first["a"].f1 == pytest.approx(harmonic(1.0, 1 / 3)) and found.first["b"].f1 == 1.0
    assert found.f1 == pytest.approx((0.5 + 1) / 2)
    row = figures(found)
    assert next(iter(row)) == "balanced_accuracy" and row["balanced_accuracy"] == pytest.approx((1 + 0.5) / 2)
    assert (row["unreadable"], row["error_recall/skip"], row["f1"]) == (1 / 8, 0.0, pytest.approx(0.75))
    assert row["valid_balanced_accuracy"] == pytest.approx((1 + 2 / 3) / 2)

"""SE-Agent's scores, selection and choice of parents, without anybody who speaks."""

from __future__ import annotations

from typing import Any

import pytest

from sparring.agents.parsing import ParseError, attempt_summary
from sparring.errors import UserError
from sparring.graphs.catalogue import make_protocol
from sparring.graphs.protocols.se_pool import Member, kept, mix, recombinations, rules, scored, stalled
from sparring.graphs.protocols.software_attempts import Attempt

WEIGHTS = {"value": 0.6, "patch": 0.2, "edits": 0.1, "length": 0.1}


def made(name: str, change: str, steps: int = 4) -> Attempt:
    patch = f"diff --git a/a b/a\n--- a/a\n+++ b/a\n@@ -1 +1 @@\n-x\n+{change}\n" if change else ""
    ending: dict[str, Any] = {"exit_status": "submitted", "reason": "", "steps": steps}
    return Attempt(name=name, strategy="", patch=patch, base="t0", tree="t1", **ending)


def one(name: str, score: float, change: str = "y") -> Member:
    rest: dict[str, Any] = {"operator": "pilot", "parents": [], "summary": None, "value": None, "parts": {}}
    return Member(name=name, score=score, attempt=made(name, change), capped=None, **rest)


def test_the_rules_count_edits_and_length_and_run_no_test() -> None:
    steps = [{"tree": tree} for tree in ("t0", "t1", "t1", None)]
    found = rules(made("a", "y"), steps, 3, 30)
    assert found == {"patch": 1.0, "edits": 0.25, "length": 1.0}
    assert rules(made("a", ""), steps[:2], 3, 30) == {"patch": 0.0, "edits": 0.5, "length": 0.0}
    assert rules(made("a", ""), [], 0, 30)["edits"] == 0.0
    assert rules(made("a", ""), steps, 3, 3)["length"] == 0.0


def test_an_unreadable_value_earns_nothing() -> None:
    parts = {"patch": 1.0, "edits": 0.5, "length": 1.0}
    assert scored(parts, 100, WEIGHTS) == pytest.approx(0.95)
    assert scored(parts, 0, WEIGHTS) == pytest.approx(0.65)
    assert scored(parts, None, WEIGHTS) == scored(parts, -100, WEIGHTS) == pytest.approx(0.35)
    assert scored(parts, 100, {**WEIGHTS, "value": 6.0}) == pytest.approx(6.35 / 6.4), "a weighted mean"


def test_the_best_stay_and_of_equals_another_change() -> None:
    pool = [one("a", 0.5), one("b", 0.5), one("c", 0.5, "z"), one("d", 0.9, "w"), one("e", 0.1, "v")]
    assert [member["name"] for member in kept(pool, 3)] == ["d", "a", "c"]
    assert [member["name"] for member in kept(pool, 9)] == ["d", "a", "c", "b", "e"]


def test_two_two_one_of_five_and_in_scale() -> None:
    assert mix(5) == (2, 2, 1) and mix(10) == (4, 4, 2) and mix(3) == (1, 1, 1) and mix(2) == (1, 1, 0)
    assert all(min(mix(n)) >= 0 and sum(mix(n)) == n for n in range(1, 50))


def test_parents() -> None:
    chosen = [one("a", 0.9), one("b", 0.8), one("c", 0.7, "z"), one("d", 0.6), one("e", 0.5)]
    births = [(birth["name"], birth["parents"]) for birth in recombinations(chosen, 5, 2)]
    assert births == [
        ("2.crossover.0", ["a", "c"]),  # a and b make the same change
        ("2.crossover.1", ["b", "c"]),
        ("2.transfer.2", ["a", "b"]),
        ("2.transfer.3", ["a", "c"]),
        ("2.restructure.4", ["a", "b", "c", "d", "e"]),
    ]
    alone = recombinations(chosen[:1], 3, 1)
    assert [birth["operator"] for birth in alone] == ["restructure"] * 3


def test_rounds_without_a_gain_are_counted_from_the_end() -> None:
    assert stalled([0.5], 0.01) == 0 and stalled([0.5, 0.6], 0.01) == 0
    assert stalled([0.5, 0.505], 0.01) == 1 and stalled([0.1, 0.5, 0.5, 0.5], 0.01) == 2
    assert stalled([0.5, 0.5, 0.6], 0.01) == 0 and stalled([0.5, 0.5], 0.0) == 0


def test_a_summary_is_read_strictly() -> None:
    with pytest.raises(ParseError, match="missing_field"):
        attempt_summary('{"approach_summary": "It was changed."}')
    with pytest.raises(ParseError, match="missing"):
        attempt_summary("The engineer changed a line.")


def test_no_weight_makes_a_score_that_is_no_number() -> None:
    for protocol, option in (("se_agent", "weigh_value"), ("software_search", "alpha")):
        with pytest.raises(UserError, match=f"`{option}`: Input should be a finite number"):
            make_protocol(protocol, {option: "inf"})

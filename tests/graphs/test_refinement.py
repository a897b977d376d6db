"""CL, CS and RSS against the released script, and the identities that they satisfy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring.graphs.refinement import refinement

GOLDEN: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "cl_cs_rss.json").read_text()
)["rows"]
BITS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=10)


@pytest.mark.parametrize("row", GOLDEN, ids=range(len(GOLDEN)))
def test_as_the_released_script_computes_them(row: dict[str, Any]) -> None:
    found = refinement(row["rows"])
    assert found is not None
    names = (found.first, found.second, found.confidence, found.critique, found.rss)
    assert names == pytest.approx([row[name] for name in ("acc1", "acc2", "cl", "cs", "rss")], rel=1e-12)


def test_the_example_of_the_spec() -> None:
    rows = [("1100", "1010"), ("1111", "1110"), ("0000", "0010")]
    found = refinement([([int(c) for c in a], [int(c) for c in b]) for a, b in rows])
    assert found is not None
    assert (found.first, found.second, found.rss) == (0.5, 0.5, 0.5)
    assert (found.confidence, found.critique) == pytest.approx((2 / 3, 1 / 3))


@given(st.lists(BITS, min_size=1, max_size=8))
def test_the_second_accuracy_is_made_of_both(questions: list[list[tuple[int, int]]]) -> None:
    found = refinement([tuple(zip(*pairs, strict=True)) for pairs in questions])  # type: ignore[misc]  # zip of pairs is a pair
    assert found is not None
    made = found.first * (found.confidence or 0) + (1 - found.first) * (found.critique or 0)
    assert found.second == pytest.approx(made)
    assert found.rss is None or 2 * found.first * (1 - found.first) > 0


def test_where_there_is_nothing_to_share() -> None:
    assert refinement([]) is None
    all_right, all_wrong = refinement([([1, 1], [1, 0])]), refinement([([0, 0], [1, 0])])
    assert all_right is not None and all_right.critique is None and all_right.rss is None
    assert all_wrong is not None and all_wrong.confidence is None and all_wrong.rss is None
    with pytest.raises(ValueError, match="come in pairs"):
        refinement([([1], [1, 0])])

"""The task files of examples/chains: what the script writes, disjoint, rightly labelled, small."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from example_scripts import EXAMPLES, writes_what_is_kept
from example_scripts import rows as example_rows

from sparring.memory.tasks import load_tasks
from sparring.tools.chains import Chain, first_error
from sparring.tools.corrupt import HELD_OUT, TRAINING, kind_of, wrong_steps

FOLDER = EXAMPLES / "chains"
FILES = {
    "solve_train.jsonl": 600,
    "solve_dev.jsonl": 200,
    "pairs_train.jsonl.gz": 2400,
    "pairs_dev.jsonl": 200,
    "check_known.jsonl": 400,
    "check_new.jsonl": 400,
    "check_dev.jsonl": 200,
    "pairs_start.jsonl": 32,
}


def rows(name: str) -> list[dict[str, Any]]:
    return example_rows(FOLDER / name)


def problem(row: dict[str, Any]) -> str:
    return str(row.get("question", row.get("problem")))


def test_the_files_are_what_the_script_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes_what_is_kept("chains/make_tasks.py", FILES, tmp_path, monkeypatch)


def test_no_problem_is_in_two_places() -> None:
    seen = Counter(problem(row) for name in FILES for row in rows(name))
    assert len(seen) == sum(FILES.values()) and set(seen.values()) == {1}
    ids = Counter(row["id"] for name in FILES for row in rows(name))
    assert set(ids.values()) == {1}


def test_every_file_loads_and_is_small() -> None:
    for name, count in FILES.items():
        assert len(load_tasks(FOLDER / name)) == count
        assert (FOLDER / name).stat().st_size < 150_000


def test_solutions_are_right() -> None:
    for name in (name for name in FILES if not name.startswith("check")):
        for row in rows(name):
            chain = Chain.parse(row["question"])
            assert (tuple(row["steps"]), row["answer"]) == (chain.steps, chain.answer)


def test_pairs_are_of_training_kinds_only() -> None:
    for name in (name for name in FILES if name.startswith("pairs")):
        counts = Counter(row["kind"] for row in rows(name))
        assert set(counts) == set(TRAINING) and max(counts.values()) - min(counts.values()) <= 2
        for row in rows(name):
            prefix = row["steps"][: row["step"]]
            assert row["correct"] == row["steps"][row["step"]]
            assert kind_of(row["question"], prefix, row["wrong"]) == row["kind"]
            assert row["critique_correct"].endswith("<Answer>Correct</Answer>")
            assert row["critique_wrong"].endswith("<Answer>Incorrect</Answer>")


@pytest.mark.parametrize(
    ("name", "kinds"), [("check_known", TRAINING), ("check_new", HELD_OUT), ("check_dev", TRAINING)]
)
def test_solutions_to_check_are_balanced_and_labelled(name: str, kinds: tuple[str, ...]) -> None:
    made = rows(f"{name}.jsonl")
    for row in made:
        assert row["label"] == first_error(row["problem"], row["steps"])
        assert ("kind" in row) == (row["label"] >= 0)
    wrong = [row for row in made if row["label"] >= 0]
    assert len(wrong) * 2 == len(made)
    counts = Counter(row["kind"] for row in wrong)
    assert set(counts) <= set(kinds) and len(counts) == 4 and max(counts.values()) - min(counts.values()) <= 2
    for row in wrong:
        place = row["label"]
        step = row["steps"][place]
        assert kind_of(row["problem"], row["steps"][:place], step) == row["kind"]
        if name == "check_new":
            found = wrong_steps(Chain.parse(row["problem"]), place)
            assert not any(step in found[kind] for kind in TRAINING)

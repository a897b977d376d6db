"""The task files of examples/comas: what the scripts write, disjoint, rightly labelled, and readable."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from example_scripts import EXAMPLES, rows, writes_what_is_kept

from sparring.agents.parsing import answer_format
from sparring.agents.scores import score
from sparring.memory.tasks import load_tasks
from sparring.tools.chains import Chain

FOLDER = EXAMPLES / "comas"
TAUGHT = ("lessons.jsonl.gz", "lessons_dev.jsonl", "votes.jsonl.gz", "votes_dev.jsonl")
FILES = {
    **dict(zip(TAUGHT, (216, 24, 96, 24), strict=True)),
    "train.jsonl": 400,
    "held_out.jsonl": 100,
    "probe.jsonl": 40,
}
WORDS = {"lessons.jsonl.gz": 120, "lessons_dev.jsonl": 12, "train.jsonl": 48}
WITH_LESSONS = [*(FOLDER / n for n in TAUGHT), *(FOLDER / "words" / n for n in WORDS if "lessons" in n)]
DATA = Path(__file__).parents[3] / "shared" / "data"


def test_the_files_are_what_the_script_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes_what_is_kept("comas/make_tasks.py", FILES, tmp_path, monkeypatch)


@pytest.mark.skipif(not (DATA / "svamp_dev.jsonl").is_file(), reason="the folder of shared data is absent")
def test_word_problems_are_what_the_script_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes_what_is_kept("comas/words/make_words.py", WORDS, tmp_path, monkeypatch, DATA)


@pytest.mark.parametrize(("folder", "files"), [(FOLDER, FILES), (FOLDER / "words", WORDS)])
def test_no_problem_is_in_two_places(folder: Path, files: dict[str, int]) -> None:
    for name, count in files.items():
        assert len(load_tasks(folder / name)) == count and (folder / name).stat().st_size < 150_000
    seen = Counter(row["question"] for name in files for row in rows(folder / name))
    assert len(seen) == sum(files.values())


@pytest.mark.parametrize("path", WITH_LESSONS)
def test_a_teacher_is_right_and_can_be_read(path: Path) -> None:
    for row in rows(path):
        told = row["lessons"]
        assert {lesson["variables"]["question"] for lesson in told} == {row["question"]}
        for lesson in told:
            if lesson["role"] == "solver":
                assert answer_format("line")(lesson["text"]).answer == row["answer"]
                continue
            right = lesson["variables"]["solution"].endswith(f"Answer: {row['answer']}")
            if lesson["role"] == "scorer":
                assert score(1, 3)(lesson["text"]).score == (3 if right else 1)
            elif right:
                assert lesson["text"].startswith("Every step is right.")
            else:
                assert_true(lesson["text"], lesson["variables"]["solution"])


def assert_true(said: str, solution: str) -> None:
    """`4 + 5 = 9, but the solution says 4 + 5 = 10. <...>`, of word problems only the result."""
    found = re.match(r"([-+*/\d. ]+) = (\d+), but the solution says ([^.]+)\.", said)
    assert found is not None, said
    step, result, quoted = found.groups()
    assert eval(step) == int(result)
    assert quoted in solution.splitlines() or re.search(rf"{re.escape(step)} = \$?{quoted}\b", solution)


def test_half_of_the_labelled_solutions_are_wrong() -> None:
    labels = Counter()  # type: Counter[str]
    for row in rows(FOLDER / "probe.jsonl"):
        labels[row["answer"]] += 1
        right = row["solution"].endswith(f"Answer: {Chain.parse(row['question']).answer}")
        assert right == (row["answer"] == "right")
    assert labels == {"right": 20, "wrong": 20}

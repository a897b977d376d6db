"""Task files: what is accepted, and that every mistake is one line that says where it is."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from sparring.errors import UserError
from sparring.memory import tasks
from sparring.memory.records import TaskRecord
from sparring.memory.tasks import load_tasks, save_tasks

CHECKS = ("math", "exact", "choice", "code", "any_of")


def line(**fields: Any) -> dict[str, Any]:
    return {"id": "q1", "question": "2 + 2?", "answer": "4"} | fields


def save(path: Path, *values: Any) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


def refused(path: Path | str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_tasks(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_fields_and_order(tmp_path: Path) -> None:
    path = save(
        tmp_path / "t.jsonl",
        line(id="b", check="math", level=3, choices=["A", "B"]),
        line(id=7, answer=4),
        line(id="c", check="any_of", answer=["4", "four"], each="exact"),
        {"id": "d", "question": "write f", "check": "code", "test": "assert f()"},
        line(id="e", answer=None),
    )
    loaded = load_tasks(path, checks=CHECKS)
    assert [task.id for task in loaded] == ["b", "7", "c", "d", "e"]
    assert loaded[0].check == "math" and loaded[0].meta == {"level": 3, "choices": ["A", "B"]}
    assert loaded[1].check == "exact" and loaded[1].answer == 4 and loaded[1].meta is None
    assert loaded[2].answer == ["4", "four"]
    assert loaded[3].answer is None and loaded[4].answer is None
    assert len({task.key for task in loaded}) == 5


def test_blank_lines_bom_and_gzip(tmp_path: Path) -> None:
    text = (
        "\ufeff"
        + json.dumps(line(question="Größe?"), ensure_ascii=False)
        + "\r\n\n  \n"
        + json.dumps(line(id="q2"))
    )
    plain = tmp_path / "t.jsonl"
    plain.write_bytes(text.encode())
    packed = tmp_path / "t.jsonl.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    assert load_tasks(plain) == load_tasks(packed) == load_tasks(str(plain))
    assert load_tasks(plain)[0].question == "Größe?"


def test_limit_reads_no_further(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(line()) + "\n" + json.dumps(line(id="q2")) + "\nnot JSON\n")
    assert [task.id for task in load_tasks(path, 1)] == ["q1"]
    assert len(load_tasks(path, 2)) == 2
    assert "line 3" in refused(path, limit=3)
    assert len(load_tasks(save(path, line()), 100)) == 1
    for limit in (0, -1):
        assert f"limit {limit}" in refused(path, limit=limit)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"question": "x", "answer": "1"}, "field `id` is missing"),
        ({"id": "a", "answer": "1"}, "field `question` is missing"),
        ({"id": "a", "question": "x"}, "field `answer` is missing"),
        (line(id=["a"]), "`id` must be text or a whole number, not a list"),
        (line(id=True), "`id` must be text or a whole number, not true or false"),
        (line(id=" "), "`id` must be text or a whole number, not a blank text"),
        (line(question=5), "`question` must be text, not a number"),
        (line(question=""), "`question` must be text, not an empty text"),
        (line(question=None), "`question` must be text, not null"),
        (line(answer={}), "not an empty object"),
        (line(answer=["4"]), "`answer` must be text, a number or null, not a list"),
        (line(answer=False), "not true or false"),
        (line(answer=""), "`answer` is empty"),
        (line(check="any_of", answer="4"), "`answer` of an `any_of` task must be a list"),
        (line(check="any_of", answer=[]), "not an empty list"),
        (line(check=1), "`check` must be text"),
        (line(check="maths"), "unknown check `maths`; known: any_of, choice, code, exact, math"),
        ([1], "a task is a JSON object, not a list"),
        ("x", "a task is a JSON object, not text"),
    ],
)
def test_wrong_line_is_named(tmp_path: Path, wrong: Any, words: str) -> None:
    message = refused(save(tmp_path / "t.jsonl", line(id="fine"), wrong), checks=CHECKS)
    assert "line 2" in message and words in message


def test_any_check_passes_where_none_are_given(tmp_path: Path) -> None:
    assert load_tasks(save(tmp_path / "t.jsonl", line(check="maths")))[0].check == "maths"


@pytest.mark.parametrize("text", ['{"id": ', '{"id": "a"} x', '{"id": "a", "question": NaN}', "[" * 100_000])
def test_malformed_json(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(line()) + "\n" + text)
    message = refused(path)
    assert "line 2" in message and "malformed JSON" in message


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(json.dumps(line()).encode() + b'\n{"id": "\xff"}')
    assert "line 2: not UTF-8" in refused(path)
    path.write_bytes(json.dumps(line()).encode("utf-16"))
    assert "line 1: not UTF-8" in refused(path)


def test_duplicate_ids_name_both_lines(tmp_path: Path) -> None:
    path = save(tmp_path / "t.jsonl", line(id=1), line(id="b"), line(id="1"))
    message = refused(path)
    assert "`1`" in message and "line 1 " in message and "line 3" in message


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("\n\n")
    assert "holds no task" in refused(path)


def test_broken_gzip(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(line()).encode() * 9)[:-12])
    assert "cannot be read" in refused(path)
    path.write_bytes(b'{"id": 1}')
    assert "cannot be read" in refused(path)


def test_names_of_shipped_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "SHIPPED", tmp_path / "sets")
    assert "shipped sets: none" in refused("demo")
    (tmp_path / "sets").mkdir()
    save(tmp_path / "sets" / "demo.jsonl", line())
    (tmp_path / "sets" / "more.jsonl.gz").write_bytes(gzip.compress(json.dumps(line()).encode()))
    save(tmp_path / "outside.jsonl", line())
    assert load_tasks("demo") == load_tasks("more")
    assert "shipped sets: demo, more" in refused("dem")
    assert "no such file" in refused("../outside")
    assert "is a folder" in refused(tmp_path)


def test_shipped_sets_load() -> None:
    for name in tasks.shipped_tasks():
        assert load_tasks(name, checks=CHECKS)


def labelled(**fields: Any) -> dict[str, Any]:
    return {"id": "gsm8k-0", "problem": "2 + 2?", "steps": ["2 + 2 = 5", "So 5."], "label": 0} | fields


def test_rows_of_processbench_are_tasks(tmp_path: Path) -> None:
    more = {"generator": "m", "final_answer_correct": False}
    path = save(tmp_path / "t.jsonl", labelled(**more), labelled(id="b", label=-1), line(id="c", label=7))
    first, second, third = load_tasks(path, checks=CHECKS)
    assert (first.question, first.answer, first.check) == ("2 + 2?", 0, "exact")
    assert first.meta == {"steps": ["2 + 2 = 5", "So 5."]} | more
    assert second.answer == -1
    assert (third.answer, third.meta) == ("4", {"label": 7})  # a question of its own is no such row
    mixed = labelled(question="Mine?", answer="x")
    assert load_tasks(save(path, mixed))[0].question == "Mine?"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"label": 2}, "`label` must be -1 or the index of one of 2 steps"),
        ({"label": -2}, "`label` must be"),
        ({"label": "0"}, "`label` must be"),
        ({"label": True}, "`label` must be"),
        ({"label": None}, "`label` must be"),
        ({"steps": []}, "`steps` must be a list of texts, not an empty list"),
        ({"steps": "2 + 2 = 4"}, "`steps` must be a list of texts, not text"),
        ({"problem": " "}, "`question` must be text"),
    ],
)
def test_rows_of_processbench_that_are_wrong(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    path = save(tmp_path / "t.jsonl", labelled(id="a"), labelled(**fields))
    message = refused(path)
    assert said in message and "line 2" in message


@pytest.mark.parametrize("field", ["steps", "solution", "lessons", "responses", "choices"])
def test_what_is_asked_about_is_part_of_a_task(field: str) -> None:
    """Two labelled solutions of one question are two tasks; a note beside a question makes no other one."""
    one, other = (TaskRecord("p", "2 + 2?", "right", meta={field: [said]}) for said in ("4", "5"))
    assert one.key != other.key
    assert TaskRecord("p", "2 + 2?", meta={"note": 1}).key == TaskRecord("p", "2 + 2?", meta={"note": 2}).key


@pytest.mark.parametrize("name", ["tasks.jsonl", "tasks.jsonl.gz"])
def test_saved_tasks_are_loaded_again_and_the_same_bytes(tmp_path: Path, name: str) -> None:
    kept = [{"id": str(n), "question": f"{n} ü?\n", "answer": "4", "more": [n]} for n in range(3)]
    first, second = tmp_path / name, tmp_path / f"again-{name}"
    assert save_tasks(first, kept) == 3 == save_tasks(second, iter(kept))
    assert first.read_bytes() == second.read_bytes()
    found = load_tasks(first)
    assert [(task.id, task.question, task.answer) for task in found] == [
        (row["id"], row["question"], "4") for row in kept
    ]
    assert [task.meta for task in found] == [{"more": [n]} for n in range(3)]


@pytest.mark.parametrize(
    ("row", "said"), [({"id": "a", "answer": float("nan")}, "no JSON"), ({"id": {1}}, "no JSON")]
)
def test_a_row_that_no_task_file_can_hold(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        save_tasks(tmp_path / "tasks.jsonl", [row])
    assert not (tmp_path / "tasks.jsonl").exists()
    with pytest.raises(UserError, match="cannot be written"):
        save_tasks(tmp_path / "absent" / "tasks.jsonl", [])

"""Instances in their three forms, and every mistake as a line that says where it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sparring.errors import UserError
from sparring.tools.swe.instances import Environment, load_instances, row_of, save_instances

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROW: dict[str, Any] = {
    "instance_id": "astropy__astropy-1",
    "repo": "astropy/astropy",
    "base_commit": COMMIT,
    "problem_statement": "It breaks.\u2028Always.",
    "hints_text": "",
    "created_at": "2020-01-01T00:00:00Z",
    "version": "4.3",
    "patch": "diff --git a/a b/a\n",
    "test_patch": "diff --git a/t b/t\n",
    "FAIL_TO_PASS": ["t.py::test[a - b [c]]"],
    "PASS_TO_PASS": ["t.py::test_b", "t.py::test_c"],
    "environment_setup_commit": COMMIT,
}
OURS = {**ROW, "source": "repo.tar", "environment": {"test_command": "pytest -q 'a b'"}}


def written(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def one(tmp_path: Path, row: Any) -> Any:
    (found,) = load_instances(written(tmp_path / "a.jsonl", row))
    return found


def test_lists_and_encoded_lists_are_the_same(tmp_path: Path) -> None:
    encoded = {**ROW, **{name: json.dumps(ROW[name]) for name in ("FAIL_TO_PASS", "PASS_TO_PASS")}}
    assert one(tmp_path, ROW) == one(tmp_path, encoded)
    assert one(tmp_path, encoded).fail_to_pass == ("t.py::test[a - b [c]]",)
    assert one(tmp_path, ROW).problem == "It breaks.\u2028Always."


def test_verified_and_multimodal(tmp_path: Path) -> None:
    verified = one(tmp_path, {**ROW, "difficulty": "15 min - 1 hour", "hints_text": None})
    assert verified.meta == {"difficulty": "15 min - 1 hour", "environment_setup_commit": COMMIT}
    assets = {"test_patch": [{"path": "a.png", "url": "x"}]}
    for given in (assets, json.dumps(assets)):
        assert one(tmp_path, {**ROW, "image_assets": given}).meta["image_assets"] == assets
    assert one(tmp_path, {**ROW, "image_assets": ""}).meta["image_assets"] == {}
    assert one(tmp_path, {**ROW, "eval_type": "fail_only"}).eval_type == "fail_only"


def test_json_list_and_map(tmp_path: Path) -> None:
    other = {**ROW, "instance_id": "b"}
    for value in ([ROW, other], {"x": ROW, "y": other}):
        (tmp_path / "a.json").write_text(json.dumps(value))
        assert [found.id for found in load_instances(tmp_path / "a.json")] == ["astropy__astropy-1", "b"]


def test_our_own_rows(tmp_path: Path) -> None:
    found = one(tmp_path, OURS)
    assert found.source == tmp_path / "repo.tar"
    assert found.environment == Environment(("pytest", "-q", "a b"))
    environment = {
        "test_command": ["python", "-m", "unittest", "discover"],
        "pip": ["numpy==1.26.4", "pytest-asyncio[x]==1.1"],
        "python": "/usr/bin/python3",
        "python_path": ["src", "lib/inner"],
        "timeout": 60,
    }
    assert one(tmp_path, {**OURS, "environment": environment}).environment == Environment(
        ("unittest", "discover"),
        ("numpy==1.26.4", "pytest-asyncio[x]==1.1"),
        "/usr/bin/python3",
        ("src", "lib/inner"),
        60.0,
    )
    plain = {name: value for name, value in OURS.items() if name != "base_commit"}
    assert one(tmp_path, plain).base_commit == ""


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    rows = [OURS | {"difficulty": "easy"}, ROW | {"instance_id": "b"}]
    found = load_instances(written(tmp_path / "a.jsonl", *rows))
    save_instances(tmp_path / "b.jsonl", found)
    assert load_instances(tmp_path / "b.jsonl") == found
    assert row_of(found[1]) == rows[1] | {"eval_type": "pass_and_fail"}


def task_folder(folder: Path, **change: Any) -> Path:
    task = {"instance_id": folder.name, "repo": "a/b", "version": 1.2, "base_commit": COMMIT, "split": "test"}
    task |= {"image": "x", "log_parser": "parse_log_pytest", "eval_type": "pass_and_fail"}
    files = {
        "task.yaml": yaml.safe_dump(task | change),
        "tests.json": json.dumps({"FAIL_TO_PASS": ["a [b"], "PASS_TO_PASS": []}),
        "problem_statement.md": "It breaks.\n",
        "gold.patch": "diff --git a/a b/a\r\n",
        "test.patch": "diff\n",
        "eval.sh": "#!/bin/bash\n",
        "Dockerfile": "FROM scratch\n",
    }
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text, newline="")
    return folder


def test_task_folders(tmp_path: Path) -> None:
    task_folder(tmp_path / "set" / "tasks" / "b__b-2")
    alone = task_folder(tmp_path / "set" / "tasks" / "a__a-1")
    (alone / "hints.md").write_text("Look there.\n")
    found = load_instances(tmp_path / "set")
    assert [one.id for one in found] == ["a__a-1", "b__b-2"]
    assert (found[0].hints, found[1].hints) == ("Look there.\n", "")
    assert (found[0].patch, found[0].version, found[0].fail_to_pass) == (
        "diff --git a/a b/a\r\n",
        "1.2",
        ("a [b",),
    )
    assert found[0].meta["image"] == "x" and found[0].meta["eval_script"] == "#!/bin/bash\n"
    assert load_instances(alone) == found[:1]


def test_broken_task_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must hold task\.yaml, or tasks/ID/task\.yaml"):
        load_instances(tmp_path)
    folder = task_folder(tmp_path / "a", instance_id="b")
    with pytest.raises(UserError, match="instance_id `b` is not the folder's name"):
        load_instances(folder)
    (folder / "task.yaml").write_text("a: [")
    with pytest.raises(UserError, match=r"a/task\.yaml: malformed YAML"):
        load_instances(folder)
    folder = task_folder(tmp_path / "c")
    (folder / "tests.json").write_text("[]")
    with pytest.raises(UserError, match=r"tests\.json: an object of test lists is needed, not an empty list"):
        load_instances(folder)
    (folder / "gold.patch").unlink()
    with pytest.raises(UserError, match=r"gold\.patch` cannot be read: No such file"):
        load_instances(folder)


def environment(**change: Any) -> dict[str, Any]:
    return {"environment": {"test_command": "pytest", **change}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch": ...}, "field `patch` is missing"),
        ({"FAIL_TO_PASS": ...}, "field `FAIL_TO_PASS` is missing"),
        ({"patch": 7}, "`patch` must be text, not a number"),
        ({"problem_statement": " "}, "`problem_statement` is empty"),
        ({"PASS_TO_PASS": {"a": 1}}, "`PASS_TO_PASS` must be a list of texts, or one encoded as JSON"),
        ({"PASS_TO_PASS": ["a", 1]}, "`PASS_TO_PASS` must be a list of texts"),
        ({"FAIL_TO_PASS": "t.py::a"}, "`FAIL_TO_PASS`: malformed JSON"),
        ({"instance_id": "../x"}, "cannot name a folder"),
        ({"instance_id": ".x"}, "cannot name a folder"),
        ({"instance_id": ""}, "cannot name a folder"),
        ({"base_commit": "main"}, "base_commit `main` is no full commit hash"),
        ({"base_commit": "--upload-pack=x"}, "is no full commit hash"),
        ({"base_commit": ...}, "field `base_commit` is missing"),
        ({"eval_type": "all"}, "unknown eval_type in .*line 2: `all`; known: fail_only, pass_and_fail"),
        ({"source": "https://x.org/a.git"}, "must be a file or folder on this machine"),
        ({"source": 3}, "`source` must be text"),
        ({"environment": []}, "`environment` must be an object, not an empty list"),
        ({"environment": {}}, "`test_command` must begin with pytest or unittest"),
        (environment(test_command="tox -e py"), "`test_command` must begin with pytest or unittest"),
        (environment(test_command="pytest 'a"), "`test_command` cannot be split into words"),
        (environment(pip=["numpy>=1"]), "requirement `numpy>=1` is not pinned"),
        (environment(pip=["-r x==1"]), "is not pinned"),
        (environment(python_path=["../lib"]), "python_path `../lib` leaves the tree"),
        (environment(python_path=["/lib"]), "python_path `/lib` leaves the tree"),
        (environment(timeout=0), "`timeout` must be seconds"),
        (environment(timeout=True), "`timeout` must be seconds"),
        (environment(speed=1), "unknown field of `environment` in .*line 2: `speed`; known: pip, python,"),
    ],
)
def test_a_bad_row(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    row = {name: value for name, value in {**ROW, "instance_id": "b", **change}.items() if value is not ...}
    path = written(tmp_path / "a.jsonl", ROW, row)
    with pytest.raises(UserError, match=message) as caught:
        load_instances(path)
    assert "line 2" in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "holds no row"),
        (b"\n{\n", "line 2: malformed JSON"),
        (b"[]\n", "line 1: a row is a JSON object, not an empty list"),
        (b"\n\n7", "line 3: a row is a JSON object, not a number"),
        (b'{"a": "\xff"}', "line 1: not UTF-8"),
        (b'{"a": NaN}', "line 1: malformed JSON, NaN is no JSON value"),
        (b"[" * 100_000, "line 1: malformed JSON"),
    ],
)
def test_a_bad_file(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(data)
    with pytest.raises(UserError, match=message):
        load_instances(tmp_path / "a.jsonl")


def test_twins_and_nothing(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", ROW, {**ROW, "instance_id": "b"}, ROW)
    with pytest.raises(UserError, match=r"id `astropy__astropy-1` is given twice \(line 1 and line 3\)"):
        load_instances(path)
    with pytest.raises(UserError, match=r"cannot be read: No such file"):
        load_instances(tmp_path / "none.jsonl")
    (tmp_path / "a.json").write_text("3")
    with pytest.raises(UserError, match="a list of rows is needed, not a number"):
        load_instances(tmp_path / "a.json")

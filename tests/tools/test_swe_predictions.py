"""Predictions and reports, against the loaders and the grading of the official package where it is installed.

The comparisons with `swebench` skip without it. They were run with swebench 5.0.2.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from sparring.errors import UserError
from sparring.tools.swe.instances import load_instances
from sparring.tools.swe.predictions import (
    Evaluation,
    Prediction,
    gold_predictions,
    instance_report,
    load_predictions,
    report_name,
    run_report,
    save_predictions,
)
from sparring.tools.swe.resolution import Status, Tally, Verdict, judge

PATCH = 'diff --git "a/\\303\\251" b/b\r\n+\u2028é\n'
ROWS = [Prediction("a__a-1", "org/m", PATCH), Prediction("b", "org/m", ""), Prediction("c", "org/m", None)]
SHIPPED = Path(__file__).parents[2] / "examples" / "swe" / "instances.jsonl"


@pytest.mark.parametrize("name", ["p.jsonl", "p.json"])
def test_what_is_saved_is_loaded(tmp_path: Path, name: str) -> None:
    assert save_predictions(tmp_path / name, ROWS) == 3
    assert list(load_predictions(tmp_path / name).values()) == ROWS
    assert (tmp_path / name).read_bytes().isascii(), "the official loader reads in the locale's encoding"
    assert [row.empty for row in ROWS] == [False, True, True]


def test_other_forms_are_read(tmp_path: Path) -> None:
    rows = [{"instance_id": "a", "model_name_or_path": "m", "model_patch": "x", "cost": 3}]
    (tmp_path / "p.json").write_text(json.dumps(rows))
    assert load_predictions(tmp_path / "p.json") == {"a": Prediction("a", "m", "x")}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instance_id": "a", "model_name_or_path": "m"}, "line 2: field `model_patch` is missing"),
        (
            {"instance_id": 1, "model_name_or_path": "m", "model_patch": ""},
            "line 2: `instance_id` must be text",
        ),
        (
            {"instance_id": "a", "model_name_or_path": "m", "model_patch": 1},
            "line 2: `model_patch` must be text",
        ),
        (
            {"instance_id": "a", "model_name_or_path": "..", "model_patch": ""},
            "line 2: .*is no name for a model",
        ),
        (
            {"instance_id": "z", "model_name_or_path": "m", "model_patch": ""},
            "`z` is given twice .line 1 and line 2.",
        ),
    ],
)
def test_bad_rows(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    first = {"instance_id": "z", "model_name_or_path": "m", "model_patch": ""}
    (tmp_path / "p.jsonl").write_text(f"{json.dumps(first)}\n{json.dumps(row)}\n")
    with pytest.raises(UserError, match=message):
        load_predictions(tmp_path / "p.jsonl")


def test_what_cannot_be_submitted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not UTF-8 text"):
        Prediction("a", "m", b"\xff".decode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"must end in \.jsonl or \.json"):
        save_predictions(tmp_path / "p.txt", ROWS)
    with pytest.raises(UserError, match=r"`b` is given twice \(1 and 2\)"):
        save_predictions(tmp_path / "p.jsonl", [ROWS[1], ROWS[1]])
    with pytest.raises(UserError, match="cannot be written"):
        save_predictions(tmp_path / "none" / "p.jsonl", ROWS)


GOOD = judge({"f": Status.PASSED, "p": Status.SKIPPED}, ["f"], ["p"])
BAD = judge({"f": Status.SKIPPED, "p": Status.PASSED}, ["f"], ["p"])
NOTHING = Verdict(found=False, reason="no results")
EVALUATIONS = {
    "good": Evaluation(GOOD),
    "bad": Evaluation(BAD),
    "infra": Evaluation(NOTHING, infra="out_of_memory"),
    "unclear": Evaluation(NOTHING, infra="missing_module", ambiguous=True),
}
PREDICTIONS = {
    name: Prediction(name, "org/m", patch)
    for name, patch in {**dict.fromkeys([*EVALUATIONS, "crash"], "x"), "empty": "", "null": None}.items()
}
IDS = [*PREDICTIONS, "unasked"]


def test_instance_report() -> None:
    assert instance_report(PREDICTIONS["good"], EVALUATIONS["good"]) == {
        "good": {
            "patch_is_None": False,
            "patch_exists": True,
            "patch_successfully_applied": True,
            "resolved": True,
            "infra_failure": False,
            "tests_status": {
                "FAIL_TO_PASS": {"success": ["f"], "failure": []},
                "PASS_TO_PASS": {"success": ["p"], "failure": []},
                "FAIL_TO_FAIL": {"success": [], "failure": []},
                "PASS_TO_FAIL": {"success": [], "failure": []},
            },
        }
    }
    assert instance_report(PREDICTIONS["bad"], EVALUATIONS["bad"])["bad"]["resolved"] is False
    assert instance_report(PREDICTIONS["null"])["null"]["patch_is_None"] is True
    infra = instance_report(PREDICTIONS["infra"], EVALUATIONS["infra"])["infra"]
    assert (infra["infra_failure"], infra["infra_failure_reason"]) == (True, "out_of_memory")
    assert not infra["patch_successfully_applied"] and "tests_status" not in infra
    assert (
        instance_report(PREDICTIONS["unclear"], EVALUATIONS["unclear"])["unclear"]["infra_failure"] is False
    )


def test_run_report() -> None:
    report = run_report(IDS, PREDICTIONS, EVALUATIONS)
    assert report["schema_version"] == 2
    assert report["resolved_ids"] == ["good"] and report["resolved_instances"] == 1
    assert report["unresolved_ids"] == ["bad", "infra", "unclear"]
    assert report["error_ids"] == ["crash"] and report["incomplete_ids"] == ["unasked"]
    assert report["empty_patch_ids"] == ["empty", "null"]
    assert report["failure_reasons"] == {"infra": "out_of_memory", "unclear": "missing_module"}
    assert (report["total_instances"], report["submitted_instances"], report["completed_instances"]) == (
        8,
        7,
        4,
    )
    assert report_name("org/m", "r1") == "org__m.r1.json"


# --- the official package ---------------------------------------------------------------------------

ABSENT = "the swebench package is not installed here"


def test_the_official_loader_reads_our_predictions(tmp_path: Path) -> None:
    utils = pytest.importorskip("swebench.harness.utils", reason=ABSENT)
    expected = [vars(row) for row in ROWS]
    for name in ("p.jsonl", "p.json"):
        save_predictions(tmp_path / name, ROWS)
        assert utils.get_predictions_from_file(str(tmp_path / name), "", "test") == expected


def test_the_official_loader_reads_our_instances() -> None:
    utils = pytest.importorskip("swebench.harness.utils", reason=ABSENT)
    ours = load_instances(SHIPPED)
    theirs = utils.load_swebench_dataset(str(SHIPPED))
    assert [row["instance_id"] for row in theirs] == [one.id for one in ours]
    gold = utils.get_predictions_from_file("gold", str(SHIPPED), "test")
    made = gold_predictions({one.id: one.patch for one in ours})
    assert sorted(gold, key=str) == sorted((vars(row) for row in made), key=str)


def test_the_official_summary_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reporting = pytest.importorskip("swebench.harness.reporting", reason=ABSENT)
    monkeypatch.chdir(tmp_path)
    logs = {"infra": "Killed\n", "unclear": "ModuleNotFoundError: No module named 'x'\n"}
    for name, evaluation in EVALUATIONS.items():
        folder = reporting.RUN_EVALUATION_LOG_DIR / "r1" / "org__m" / name
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(json.dumps(instance_report(PREDICTIONS[name], evaluation)))
        (folder / "test_output.txt").write_text(logs.get(name, ""))
    rows = {name: vars(row) for name, row in PREDICTIONS.items()}
    path = reporting.make_run_report(
        rows, [{"instance_id": name} for name in IDS], "r1", report_dir=str(tmp_path)
    )
    assert path.name == report_name("org/m", "r1")
    assert json.loads(path.read_text()) == run_report(IDS, PREDICTIONS, EVALUATIONS)


def test_the_official_rule_is_ours() -> None:
    """3000 random maps of statuses, cut ids and tests that fail only among them."""
    grading = pytest.importorskip("swebench.harness.grading", reason=ABSENT)
    draw = random.Random(7)
    names = ["a", "t[x - y]", "t[x - z", "t[x", "t[x]", "t[", "b [c"]
    statuses = [status for status in Status if status is not Status.XPASS]
    seen = set()
    for _ in range(3000):
        given = {name: draw.choice(statuses) for name in names if draw.random() < 0.7}
        lists = [draw.sample(names, draw.randrange(4)) for _ in range(2)]
        for kind in grading.EvalType:
            report = grading.get_eval_tests_report(
                {name: str(status) for name, status in given.items()},
                {"FAIL_TO_PASS": lists[0], "PASS_TO_PASS": lists[1]},
                eval_type=kind,
            )
            verdict = judge(given, lists[0], lists[1], kind.value)
            for name, tally in (
                ("FAIL_TO_PASS", verdict.fail_to_pass),
                ("PASS_TO_PASS", verdict.pass_to_pass),
            ):
                assert Tally(tuple(report[name]["success"]), tuple(report[name]["failure"])) == tally
            assert grading.get_resolution_status(report) == verdict.resolution
            seen.add(verdict.resolution)
    assert len(seen) == 3


def test_official_task_folders_are_ours(tmp_path: Path) -> None:
    tasks = pytest.importorskip("swebench.task.repo", reason=ABSENT)
    folder = tmp_path / "tasks" / "a__a-1"
    folder.mkdir(parents=True)
    meta = {"instance_id": "a__a-1", "repo": "a/a", "version": "1.10", "base_commit": "1" * 40, "image": "x"}
    (folder / "task.yaml").write_text(tasks.dump_yaml(meta))
    (folder / "tests.json").write_text(tasks.dump_tests({"FAIL_TO_PASS": ["é [1"], "PASS_TO_PASS": ["no"]}))
    for name in (*tasks.AS_FILE.values(), "hints.md"):
        (folder / name).write_text(f"{name}\r\n", newline="")
    (row,) = tasks.load_task_repo(tmp_path)
    (ours,) = load_instances(tmp_path)
    assert (ours.id, ours.version, ours.patch, ours.hints) == tuple(
        row[name] for name in ("instance_id", "version", "patch", "hints_text")
    )
    assert [list(ours.fail_to_pass), list(ours.pass_to_pass)] == [row["FAIL_TO_PASS"], row["PASS_TO_PASS"]]
    assert ours.meta == {"image": "x", "eval_script": row["eval_script"]}

"""`sparring swe` through `main`: figures, predictions, the official summary, going on, bad input."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]
sys.path += [str(TESTS / "graphs"), str(TESTS / "tools")]
from engineer import DONE, make_instance, repository, said  # noqa: E402 - the paths first
from example_scripts import EXAMPLES, script  # noqa: E402 - the paths first
from swe_tasks import task  # noqa: E402 - the paths first

from sparring import cli  # noqa: E402 - the paths first
from sparring.graphs.display import SCRIPTED  # noqa: E402 - the paths first
from sparring.tools.swe.grades import Grade, GradeStatus  # noqa: E402 - the paths first
from sparring.tools.swe.instances import save_instances  # noqa: E402 - the paths first
from sparring.tools.swe.predictions import Evaluation, load_predictions  # noqa: E402 - the paths first
from sparring.tools.swe.resolution import Tally, Verdict  # noqa: E402 - the paths first
from sparring.tools.swe.workshop import Workshop  # noqa: E402 - the paths first

LANDLOCK = ("--set", "sandbox=landlock", "--durability", "normal", "--quiet")
FULL = Verdict(Tally(("f",)), Tally(("p",)))
"""Of a patch that resolves."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPARRING_MEMORY", raising=False)
    return tmp_path


def swe(*more: str, instances: str = "instances.jsonl", engine: str = "script.jsonl") -> int:
    engines = () if engine == "" else ("--engine", f"scripted:{engine}?call_log=calls.jsonl")
    return cli.main(["swe", instances, *engines, *LANDLOCK, *more])


def write(file: str, *rules: dict[str, Any]) -> None:
    Path(file).write_text("".join(json.dumps(rule) + "\n" for rule in rules))


def calls() -> int:
    return len(Path("calls.jsonl").read_text().splitlines())


def runs() -> list[str]:
    if not Path("sparring.db").exists():
        return []
    with closing(sqlite3.connect("sparring.db")) as database:
        return [name for (name,) in database.execute("SELECT id FROM runs")]


# --- the real grader ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of the shipped instances, built, and the script of an engineer that mends the first of them."""
    engineers = script("swe/engineer.py")
    place = tmp_path_factory.mktemp("shipped")
    found = [task("larder"), task("parking")]
    save_instances(place / "instances.jsonl", found)
    rules = list(engineers.recorded(found))
    rules[2]["replies"] = [said(f"touch junk {engineers.FIXED}")]
    (place / "script.jsonl").write_text("".join(json.dumps(rule) + "\n" for rule in rules))
    return place


def test_patches_are_graded_and_handed_over(shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ("--out", "predictions.jsonl", "--report", "report.json", "--run", "r")
    where = {"instances": str(shipped / "instances.jsonl"), "engine": str(shipped / "script.jsonl")}
    assert swe(*files, **where) == 0
    shown = capsys.readouterr().out
    assert SCRIPTED in shown and "resolved    1 of 2  0.500  0.095 0.905" in shown
    assert "attempts: 1 resolved, 1 unresolved" in shown and "ended by: 2 submitted" in shown

    predictions = load_predictions("predictions.jsonl")
    assert [one.model_name_or_path for one in predictions.values()] == ["scripted:script.jsonl"] * 2
    assert all(one.model_patch for one in predictions.values())
    summary = json.loads(Path("report.json").read_text())
    assert summary["resolved_ids"] == ["sparring__larder-1"]
    assert summary["unresolved_ids"] == ["sparring__parking-1"] and summary["schema_version"] == 2

    before, said_before = Path("predictions.jsonl").read_bytes(), calls()
    assert swe(*files, **where) == 0
    assert Path("predictions.jsonl").read_bytes() == before and calls() == said_before == 6
    assert capsys.readouterr().out == shown, "the same command again has nothing left to do"

    assert cli.main(["report", "r"]) == 0
    again = capsys.readouterr().out
    assert all(line in again for line in shown.split("\n\n")[2:])


def test_the_official_loader_takes_the_predictions(shipped: Path) -> None:
    utils = pytest.importorskip("swebench.harness.utils")
    where = {"instances": str(shipped / "instances.jsonl"), "engine": str(shipped / "script.jsonl")}
    assert swe("--out", "p.jsonl", "--set", "grade=false", **where) == 0
    found = utils.get_predictions_from_file("p.jsonl", "unused", "test")
    assert [one["instance_id"] for one in found] == ["sparring__larder-1", "sparring__parking-1"]


# --- a grader that says what it is told to ---------------------------------------------------------------


class Told:
    """Stands in for the grader: the status is the patch's own first new line, `+status`."""

    def key(self, instance: Any, patch: str | None) -> str:
        return f"{instance.id} {patch}"

    async def grade(self, instance: Any, patch: str | None) -> Grade:
        lines = [line[1:] for line in (patch or "").splitlines() if line.startswith("+")]
        status = GradeStatus(lines[1]) if len(lines) > 1 else GradeStatus.EMPTY
        judged = {
            GradeStatus.RESOLVED: FULL,
            GradeStatus.UNRESOLVED: Verdict(Tally((), ("f",))),
            GradeStatus.TAMPERED: Verdict(found=False, reason="tampered"),
            GradeStatus.TIMEOUT: Verdict(found=False, reason="timeout"),
        }
        verdict = judged.get(status)
        return Grade(status, Evaluation(verdict) if verdict else None, reason=f"it was {status}")

    def close(self) -> None:
        pass


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Writes instances and a script whose engineer gets these statuses, one each."""
    monkeypatch.setattr(Workshop, "grader", Told())

    def make(*statuses: str) -> None:
        source = repository(Path("source").resolve())
        names = [f"calc-{place}" for place in range(len(statuses))]
        save_instances("instances.jsonl", [make_instance(source, name) for name in names])
        rules = [{"match": "# made", "within": "conversation", "replies": [said(DONE)]}]
        for name, status in zip(names, statuses, strict=True):
            line = "true" if status == "empty" else f"echo {status} > new"
            rules.append({"match": rf"double\({name}\)", "replies": [said(f"{line}  # made")]})
        write("script.jsonl", *rules)

    yield make


def test_statuses_are_told_apart_and_what_is_masked_counts_neither_way(
    told: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    told("resolved", "unresolved", "empty", "patch_failed", "tampered", "timeout", "infra", "infra")
    assert swe("--out", "p.jsonl", "--report", "r.json", "--run", "r") == 0
    shown = capsys.readouterr().out
    assert "resolved    1 of 6  0.167" in shown
    counts = "1 resolved, 1 unresolved, 1 empty, 1 patch failed, 1 tampered, 1 timeout, 2 masked"
    assert f"attempts: {counts}" in shown and "this machine failed to grade 2" in shown
    assert "it was tampered" in shown
    summary = json.loads(Path("r.json").read_text())
    assert summary["total_instances"] == summary["submitted_instances"] == 8
    assert summary["error_ids"] == [f"calc-{place}" for place in (3, 5, 6, 7)], "as the harness counts them"
    assert summary["infra_failure_ids"] == ["calc-6", "calc-7"]
    assert summary["failure_reasons"] == {"calc-6": "environment", "calc-7": "environment"}
    assert summary["unresolved_ids"] == ["calc-1", "calc-4"] and summary["empty_patch_ids"] == ["calc-2"]
    assert cli.main(["report", "r", "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    found = whole["software"]
    assert (found["resolved"], found["judged"], found["attempts"]) == (1, 6, 8)
    assert found["statuses"]["masked"] == 2 and whole["scripted"] is True


def test_a_run_is_paid_by_its_grades(told: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    told("resolved", "tampered", "infra")
    assert swe("--run", "r") == 0
    capsys.readouterr()
    derive = ("rewards", "r", "--function", "software")
    assert cli.main([*derive]) == cli.main([*derive]) == 0
    assert cli.main([*derive, "--set", "tampered=-1"]) == 0
    first, again, other = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["episodes"], first["added"], first["null"]) == (3, 6, 2)
    assert (again["added"], again["already"], other["added"]) == (0, 6, 6)
    with closing(sqlite3.connect("sparring.db")) as database:
        found = database.execute("SELECT value, reason FROM rewards ORDER BY id").fetchall()
    assert sorted({(value, reason.partition(":")[0]) for value, reason in found if value is not None}) == [
        (-1.0, "tampered"),
        (0.0, "tampered"),
        (1.0, "resolved"),
    ]


def test_several_attempts_give_pass_at_1_and_resolved_by_any(
    told: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    told("resolved", "unresolved")
    change = {
        "match": r"double\(calc-1\)",
        "replies": [said(f"echo {s} > new # made") for s in ("resolved", "unresolved")],
    }
    lines = [json.loads(line) for line in Path("script.jsonl").read_text().splitlines()]
    write("script.jsonl", lines[0], lines[1], change)
    for seed in range(20):  # which of its replies a script gives depends on the seed
        assert swe("--copies", "3", "--seed", str(seed), "--run", f"r{seed}", "--out", "p.jsonl") == 0
        shown = capsys.readouterr().out
        hits = int(shown.partition("pass@1")[2].split()[0])
        if hits == 4:
            break
    assert hits == 4 and "resolved by any of 3    2 of 2  1.000" in shown
    assert "pass@1                  4 of 6  0.667" in shown
    files = ["p.jsonl", "p.1.jsonl", "p.2.jsonl"]
    patches = [load_predictions(file)["calc-1"].model_patch for file in files]
    assert sum("+resolved" in (patch or "") for patch in patches) == 1


def test_nothing_judged_is_said(told: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    told("infra")
    assert swe() == 0
    assert "nothing was judged" in capsys.readouterr().out


def test_progress_says_what_is_resolved_over_all_processes(
    told: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    told("resolved", "infra", "empty")
    engine = ("--engine", "scripted:script.jsonl", *LANDLOCK[:-1], "--run", "r")
    said = r"r: 3/3 attempts, \d+:\d\d in all, 1 resolved, 1 masked, 6 steps"
    assert cli.main(["swe", "instances.jsonl", *engine]) == 0
    assert re.search(said, capsys.readouterr().err)
    assert cli.main(["swe", "instances.jsonl", *engine]) == 0
    assert re.search(said, capsys.readouterr().err)


def test_chosen_instances(told: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    told("resolved", "unresolved", "empty")
    assert swe("--instance", "calc-2", "--instance", "calc-0", "--out", "p.jsonl") == 0
    assert list(load_predictions("p.jsonl")) == ["calc-0", "calc-2"]


# --- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "say"),
    [
        (("--instance", "calc"), "unknown instance `calc`; known: calc-0"),
        (("--out", "p.txt"), "must end in .jsonl or .json"),
        (("--out", "none/p.jsonl"), "`--out none/p.jsonl` cannot be written"),
        (("--report", "none/r.json"), "`--report none/r.json` cannot be written"),
        (("--report", "script.jsonl"), "would overwrite `script.jsonl`"),
        (("--out", "instances.jsonl"), "would overwrite `instances.jsonl`"),
        (("--out", "p.json", "--report", "p.json"), "name two files"),
        (("--set", "stepps=3"), "unknown option of protocol `software` `stepps`"),
        (("--set", "tasks=a"), "use the first argument"),
        (("--role", "solver=scripted:hash"), "unknown role of protocol `software` `solver`"),
        (("--model", "../up"), "is no name for a model"),
        (("--durability", "half"), "use `full` or `normal`"),
        (("--limit", "0"), "greater than or equal to 1"),
    ],
)
def test_bad_usage_is_one_line(
    told: Callable[..., None], capsys: pytest.CaptureFixture[str], more: tuple[str, ...], say: str
) -> None:
    told("resolved")
    refused(capsys, say, lambda: swe(*more))


def refused(capsys: pytest.CaptureFixture[str], say: str, call: Callable[[], int]) -> None:
    assert call() == 2
    shown = capsys.readouterr()
    assert say in shown.err and len(shown.err.splitlines()) == 1 and shown.out == ""
    assert runs() == [], "no run is left in the way"


def test_instances_that_nobody_can_work_on(
    told: Callable[..., None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told("resolved")
    refused(capsys, "No such file", lambda: swe(instances="none.jsonl"))
    refused(capsys, "has no engine", lambda: swe(engine=""))
    refused(capsys, "unknown script", lambda: swe(engine="none.jsonl"))
    refused(capsys, "unknown engine `no:such`", lambda: swe("--role", "engineer=no:such", engine=""))
    container = ("--engine", "scripted:script.jsonl", "--set", "sandbox=container")
    refused(capsys, "no image is named", lambda: cli.main(["swe", "instances.jsonl", *container]))
    with monkeypatch.context() as without:
        without.setenv("PATH", "/nonexistent")
        refused(capsys, "git is not installed", swe)
    shutil.rmtree("source")
    refused(capsys, "source", swe)


def test_the_shipped_instances_say_how_they_are_made(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(EXAMPLES / "swe" / "instances.jsonl", folder)
    write("script.jsonl", {"replies": [said(DONE)]})
    refused(capsys, "make it with `python examples/swe/build.py`", swe)

"""An archive from first to last, without a model: its engineer does what its prompt says."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))

from archive_support import (
    BROKEN,
    CARE,
    HIDDEN,
    NEEDS,
    PROOF,
    change,
    config,
    engineers,
    improvers,
    system,
)
from engineer import rows, said
from grader_stand import StandGrader

import sparring
from sparring import cli
from sparring.graphs.display import SCRIPTED
from sparring.graphs.report import report
from sparring.memory.journal import Journal
from sparring.tools.swe.workshop import Workshop
from sparring.training.archive.archive import ArchiveResult
from sparring.training.archive.console import lineage

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def grader(monkeypatch: pytest.MonkeyPatch) -> StandGrader:
    """The real one has tests of its own."""
    made = StandGrader()
    monkeypatch.setattr(Workshop, "grader", made)
    return made


def bred(folder: Path, **over: Any) -> ArchiveResult:
    return sparring.archive(config(folder, **over), memory=folder / "j.db")


def calls(folder: Path) -> int:
    [(count,)] = rows(folder / "j.db", "SELECT count(*) FROM turns")
    return int(count)


def test_better_words_resolve_more_and_a_bad_child_stays_out(tmp_path: Path) -> None:
    found = bred(tmp_path, generations=3)
    archive = found.archive
    assert found.unfinished is None and archive.status == "done"
    assert [sorted(member.resolved) for member in archive.members] == [
        sorted(name for name, hint in NEEDS.items() if hint in known)
        for known in (("",), ("", CARE), ("", CARE, PROOF))
    ]
    first, second, third = archive.members
    assert (first.parent, second.parent, third.parent) == (None, first.id, second.id)
    assert second.changes == ("system",) and second.topic in ("empty_patches", "unresolved", "stochasticity")
    assert archive.best is third and third.accuracy.mean == 1.0 and third.accuracy.low < 0.7
    assert [(child.parent, child.generation) for child in archive.failed] == [(third.id, 3)]
    assert "missing: no complete JSON object" in archive.failed[0].failure
    assert [line.strip().split()[0] for line in lineage(archive)] == [first.id, second.id, third.id]
    assert [path.name for path in found.plots] == ["archive.png"] and found.plots[0].stat().st_size > 5000

    before = calls(tmp_path)
    again = bred(tmp_path, generations=3)
    assert again.archive.to_json() == archive.to_json() and calls(tmp_path) == before
    longer = bred(tmp_path, generations=4)
    assert len(longer.archive.failed) == 2 and calls(tmp_path) == before + 2, "a run can be bred on"


def test_an_evaluation_is_an_ordinary_run_in_stages(tmp_path: Path) -> None:
    first = bred(tmp_path, generations=1).archive.made[0]
    with Journal.open(tmp_path / "j.db") as journal:
        stages = [journal.run_row(run) for run in first.runs]
        assert [(row.kind, row.parent_id, row.protocol, row.status) for row in stages] == [
            ("play", "bred", "software", "done")
        ] * 2
        names = [[task["id"] for task in row.config["tasks"]] for row in stages]
        assert [len(part) for part in names] == [3, 3] and sorted(names[0] + names[1]) == sorted(NEEDS)
        assert report(journal, first.runs[0]).tasks == 3
    with pytest.raises(sparring.UserError, match="sparring evolve` that began it"):
        sparring.resume("bred", tmp_path / "j.db")


def test_a_result_that_shows_too_little_ends_the_evaluation(tmp_path: Path) -> None:
    archive = bred(
        tmp_path, rule="share", stages=[{"instances": 3, "threshold": 0.9}, 6], generations=1
    ).archive
    assert [len(member.evaluations) for member in archive.made] == [1, 1]
    assert not archive.made[0].evaluations[0].passed and archive.made[0].evaluations[0].threshold == 0.9
    assert rows(tmp_path / "j.db", "SELECT count(*) FROM runs WHERE protocol='software' AND kind='play'") == [
        (2,)
    ]


def test_hidden_tests_and_reference_patches_are_in_no_message(tmp_path: Path) -> None:
    bred(tmp_path, generations=2)
    memory = tmp_path / "j.db"
    texts = [content for (content,) in rows(memory, "SELECT content FROM messages")]
    assert HIDDEN in str(rows(memory, "SELECT meta FROM tasks")), "it is there to be found"
    assert not [text for text in texts if HIDDEN in text]
    asked = [text for text in texts if "These are logs of one agent" in text]
    assert len(asked) == 2 and all(
        "is off by one" in text and "echo SPARRING_SUBMIT" in text for text in asked
    )
    assert all("did not resolve the issue" in text and "stand-in" not in text for text in asked)


def test_children_that_cannot_be_are_named_and_cost_no_evaluation(tmp_path: Path) -> None:
    replies = [
        BROKEN,
        change(options={"sandbox": 0}),
        change(task="Resolve it. {{ question }}"),
        change(system="{{ nobody }}"),
        change(system=system(CARE)),
        change(system=system(CARE)),
    ]
    rules = [*engineers(), *improvers(replies)]
    archive = bred(tmp_path, rules=rules, generations=3, children=2).archive
    assert sorted(child.failure.split(":")[0] for child in archive.failed) == [
        "bad_prompt", "bad_prompt", "duplicate", "unknown_option", "unreadable",
    ]  # fmt: skip
    assert [child.generation for child in archive.failed] == [1, 1, 2, 2, 3]
    assert len(archive.members) == 2
    assert rows(tmp_path / "j.db", "SELECT count(*) FROM runs WHERE protocol='software' AND kind='play'") == [
        (4,)
    ]


def test_without_an_improver_the_first_is_evaluated_again(tmp_path: Path) -> None:
    archive = bred(tmp_path, improver=None, generations=2, children=2, parents="last", stages=[3]).archive
    assert len({member.agent.id for member in archive.members}) == 1 and len(archive.members) == 5
    assert [member.parent for member in archive.made[3:]] == [archive.made[2].id] * 2
    assert {member.accuracy.n for member in archive.members} == {3}
    assert len({member.accuracy.mean for member in archive.members}) == 1
    seeds = rows(
        tmp_path / "j.db", "SELECT DISTINCT seed FROM runs WHERE protocol='software' AND kind='play'"
    )
    assert len(seeds) == 5, "each of the five has seeds of its own"


def test_what_the_grader_could_not_judge_is_in_no_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Workshop, "grader", StandGrader(infra=True))
    archive = bred(tmp_path, generations=1).archive
    first, child = archive.made
    assert (first.accuracy.n, first.masked, first.entered) == (0, 3, True)
    assert (child.entered, child.reason) == (False, "nothing of it could be judged")


def test_an_outage_stops_the_run_and_the_same_command_goes_on(tmp_path: Path) -> None:
    outage = {"match": r"double\(calc-3\)", "within": "conversation", "error": "engine_error", "times": 2}
    engine = {"rules": [outage, *engineers(), *improvers()], "generations": 1}
    given = config(tmp_path, **engine)
    given["engine"] += "?tries=1"
    stopped = sparring.archive(given, memory=tmp_path / "j.db")
    assert stopped.unfinished is not None and "1 attempts of run `bred.agents/" in stopped.unfinished
    assert stopped.archive.status == "failed" and not stopped.archive.made[0].entered
    config(tmp_path)  # the engine is well again
    whole = sparring.archive(given, memory=tmp_path / "j.db")
    assert whole.unfinished is None and whole.archive.made[0].masked == 0 and len(whole.archive.members) == 2


def test_a_limit_on_time_holds_and_is_what_is_looked_into(tmp_path: Path) -> None:
    """In the original a time-out is asked for once the work is over."""
    sleeper = [
        {"role": "engineer who", "match": r"double\(calc", "replies": [said("sleep 100  # applied the fix")]},
        *engineers(),
    ]
    improver = {"chances": {"limits": 1.0}}
    agent = {"options": {"timeout": 0.5}}
    replies = improvers([change(options={"steps": 20})])
    began = time.monotonic()
    archive = bred(
        tmp_path, rules=[*sleeper, *replies], agent=agent, improver=improver, stages=[3], generations=1
    )
    assert time.monotonic() - began < 60
    [first, child] = archive.archive.made
    assert (child.topic, child.changes) == ("limits", ("options.steps unset -> 20",))
    assert first.entered and not child.entered and child.reason == "no attempt left a patch"
    texts = [content for (content,) in rows(tmp_path / "j.db", "SELECT content FROM messages")]
    assert any("ended by its limit on wall" in text for text in texts)


def test_given_up_attempts_are_masked(tmp_path: Path) -> None:
    outage = {"match": r"double\(calc-3\)", "within": "conversation", "error": "engine_error"}
    given = config(tmp_path, [outage, *engineers(), *improvers()], generations=1, give_up=True)
    given["engine"] += "?tries=1"
    archive = sparring.archive(given, memory=tmp_path / "j.db").archive
    assert [(member.masked, member.accuracy.n) for member in archive.made] == [(1, 5), (1, 5)]


def test_other_instances_are_refused(tmp_path: Path) -> None:
    given = config(tmp_path, generations=1)
    sparring.archive(given, memory=tmp_path / "j.db")
    file = Path(given["tasks"])
    file.write_text(file.read_text().replace("is off by one", "is wrong"))
    with pytest.raises(sparring.UserError, match="exists with another tasks"):
        sparring.archive(given, memory=tmp_path / "j.db")


# --- the command line ----------------------------------------------------------------------------------


def test_the_command_evolves_and_reports(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = config(tmp_path, generations=1) | {"tasks": "instances.jsonl", "engine": "scripted:script.jsonl"}
    (tmp_path / "archive.yaml").write_text(json.dumps(given))
    assert cli.main(["evolve", "archive.yaml", "--memory", "j.db"]) == 0
    out, err = capsys.readouterr()
    assert (
        SCRIPTED in out
        and "highest lower end: " in out
        and "measure it on others" in out
        and "child of" in err
        and "plot: " in err
    )
    assert cli.main(["report", "bred", "--memory", "j.db", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [member["accuracy"]["mean"] for member in told["made"]] == [2 / 6, 4 / 6]
    assert CARE in told["made"][1]["agent"]["prompt"]
    assert cli.main(["report", "bred", "--memory", "j.db"]) == 0
    printed = capsys.readouterr().out
    assert "stage 2" in printed and f"{told['spent']['tokens']} tokens with all runs" in printed
    assert told["spent"]["tokens"] > 0 and told["spent"]["cost"] is None
    (tmp_path / "archive.yaml").write_text(json.dumps({**given, "kind": "zoo"}))
    assert cli.main(["evolve", "archive.yaml", "--memory", "j.db"]) == 2
    assert "`kind`: `archive`, or no such field" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"stages": [3, 60]}, "`stages` end with 60 instances"),
        ({"engine": None}, "role `engineer` has no engine"),
        ({"improver": {"prompts": {"judge": "x.md"}}}, "role of protocol `improve` in `prompts` `judge`"),
        ({"options": {"stepz": 3}}, "option of protocol `software` `stepz`"),
        ({"agent": {"prompt": "enginer"}}, "unknown prompt"),
    ],
)
def test_what_cannot_work_leaves_no_run(tmp_path: Path, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(sparring.UserError, match=said):
        bred(tmp_path, **wrong)
    memory = tmp_path / "j.db"
    assert not memory.exists() or not rows(memory, "SELECT id FROM runs")

"""The commands a user types, through `main`: what goes where, exit statuses, resume, report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sparring import cli

FIELDS = {"task_id", "answer", "correct", "calls", "prompt_tokens", "completion_tokens", "status"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a task file and a script; the journal is its `sparring.db`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPARRING_MEMORY", raising=False)
    rows = [{"id": f"t{i}", "question": f"{i} + 1?", "answer": str(i + 1), "check": "math"} for i in range(3)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "script.jsonl").write_text('{"replies": ["Answer: 1", "Answer: 2"]}\n')
    return tmp_path


def run(*arguments: str) -> int:
    return cli.main(list(arguments))


def play(*more: str, protocol: str = "sample", engine: str = "scripted:script.jsonl") -> int:
    return run("play", protocol, "--tasks", "tasks.jsonl", "--engine", engine, *more)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_results_go_to_standard_output_and_the_rest_to_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert play("--run", "r") == 0
    said = capsys.readouterr()
    rows = lines(said.out)
    assert [row["task_id"] for row in rows] == ["t0", "t1", "t2"]
    assert all(row.keys() >= FIELDS and row["status"] == "done" for row in rows)
    assert "r: 3/3 episodes" in said.err


def test_out_takes_the_results_and_quiet_the_progress(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert play("--out", "results.jsonl", "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert len(lines((folder / "results.jsonl").read_text())) == 3
    assert (folder / "sparring.db").exists()
    assert [path.name for path in folder.glob(".results*")] == []


def test_the_same_command_again_continues_the_same_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = "scripted:script.jsonl?call_log=calls.jsonl"
    assert play(engine=engine) == play(engine=engine) == 0
    assert len(lines((folder / "calls.jsonl").read_text())) == 3
    first, second = capsys.readouterr().out.splitlines()[:3], capsys.readouterr().out
    assert len(first) == 3 and second == ""


def test_memory_comes_from_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARRING_MEMORY", "elsewhere.db")
    assert play("--quiet", "--out", "o") == 0
    assert (folder / "elsewhere.db").exists() and not (folder / "sparring.db").exists()


def test_options_reach_protocol_roles_and_sampling(capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--set", "n=3", "--set", "max_tokens=9", "--role", "solver=scripted:hash", "--seed", "5")
    assert run("play", "sample", "--tasks", "tasks.jsonl", *given, "--limit", "2", "--copies", "2") == 0
    rows = lines(capsys.readouterr().out)
    assert [(row["task_id"], row["copy"], row["calls"]) for row in rows] == [
        ("t0", 0, 3), ("t0", 1, 3), ("t1", 0, 3), ("t1", 1, 3),
    ]  # fmt: skip


def test_caps_end_an_episode_cleanly(capsys: pytest.CaptureFixture[str]) -> None:
    assert play("--max-calls", "2", protocol="debate") == 0
    assert {(row["status"], row["answer"]) for row in lines(capsys.readouterr().out)} == {("capped", None)}


def test_a_table_for_people_with_the_comparison_beneath(capsys: pytest.CaptureFixture[str]) -> None:
    assert play("--table", "--baseline", protocol="debate") == 0
    said = capsys.readouterr()
    for word in ("question", "verdict", "self-consistency, equal", "total tokens", "does not beat"):
        assert word in said.out
    assert "baseline: drawing samples of 3 tasks" in said.err


def test_report_of_a_finished_run_as_table_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    play("--run", "r", "--quiet", "--out", "o")
    assert run("report", "r") == 0
    assert "no baseline" in capsys.readouterr().out
    assert run("report", "r", "--json", "--memory", "sparring.db") == 0
    [found] = lines(capsys.readouterr().out)
    assert found["run"] == "r" and found["tasks"] == 3 and found["baseline"] is None


def test_failed_episodes_exit_with_1_and_resume_mends_them(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = folder / "script.jsonl"
    script.write_text('{"match": "1 [+] 1", "error": "engine_error"}\n{"replies": ["Answer: 1"]}\n')
    assert play("--run", "r", "--quiet") == 1
    said = capsys.readouterr()
    assert [row["status"] for row in lines(said.out)] == ["done", "failed", "done"]
    assert "1 of 3 episodes failed (first: " in said.err
    assert "`sparring resume r --memory sparring.db`" in said.err
    assert len(said.err.splitlines()) == 1
    assert run("resume", "r", "--quiet") == 1, "the script still says so"
    assert len(lines(capsys.readouterr().out)) == 3


def test_resume_can_draw_a_baseline_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    play("--run", "r", "--quiet", "--out", "o")
    assert run("resume", "r", "--baseline", "--quiet", "--table") == 0
    assert "self-consistency at equal calls" in capsys.readouterr().out
    assert run("resume", "r", "--baseline", "--quiet", "--out", "o") == 0


def test_models_doctor_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "list") == 0 and "smollm2-135m" in capsys.readouterr().out
    assert run("models", "list", "--json") == 0
    assert lines(capsys.readouterr().out)[0]["name"] == "smollm2-135m"
    assert run("doctor") == 0
    found = capsys.readouterr().out
    assert "ok     torch: " in found and "sandbox" in found and "does not exist yet" in found
    assert run("play", "--help") == 0 and "--durability" in capsys.readouterr().out


def test_memory_carries_a_run_to_another_journal(capsys: pytest.CaptureFixture[str]) -> None:
    play("--run", "r", "--quiet", "--out", "o")
    assert run("memory", "stats") == 0
    [held] = lines(capsys.readouterr().out)
    assert held["rows"]["episodes"] == 3 and [row["id"] for row in held["runs"]] == ["r"]
    assert run("memory", "export", "runs.export", "--run", "r") == 0
    assert run("memory", "import", "runs.export", "--memory", "other.db") == 0
    added = lines(capsys.readouterr().out)[-1]
    assert added["turns"] == 3
    assert run("report", "r", "--json", "--memory", "other.db") == 0
    theirs = lines(capsys.readouterr().out)
    assert run("report", "r", "--json") == 0
    assert lines(capsys.readouterr().out) == theirs
    assert run("memory", "delete", "r") == 0
    assert lines(capsys.readouterr().out)[0]["rows"]["turns"] == 3
    assert run("report", "r") == 2 and "unknown run `r`" in capsys.readouterr().err
    assert run("memory", "upgrade") == 0 and "already" in capsys.readouterr().out


def test_a_bug_is_one_line_with_its_type_and_how_to_see_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("sparring.graphs.report.report", broken)
    play("--run", "r", "--quiet", "--out", "o")
    assert run("report", "r") == 1
    assert capsys.readouterr().err.splitlines() == [
        "sparring: unexpected ZeroDivisionError: oh; set SPARRING_DEBUG=1 for the traceback"
    ]
    monkeypatch.setenv("SPARRING_DEBUG", "1")
    assert run("report", "r") == 1
    assert "Traceback" in capsys.readouterr().err


def test_help_and_import_load_nothing_heavy() -> None:
    code = (
        "import sys, sparring; from sparring.cli import main; assert main(['--help']) == 0; "
        "heavy = {'langgraph', 'langchain_core', 'sqlalchemy', 'torch', 'transformers', 'numpy'}; "
        "sys.exit(str(sorted(heavy & set(sys.modules))) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "resume" in done.stdout


def test_a_closed_pipe_is_quiet(folder: Path) -> None:
    play("--run", "r", "--quiet", "--out", "o", "--copies", "120")
    command = f"{sys.executable} -m sparring resume r --quiet | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert json.loads(done.stdout)["task_id"] == "t0"
    assert done.stderr == ""


@pytest.mark.model
@pytest.mark.timeout(400)
def test_a_real_model_debates_and_is_compared(capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--set", "agents=2", "--set", "max_tokens=24", "--set", "baseline.most=6", "--limit", "2")
    assert (
        play("--baseline", "--run", "r", "--out", "o", *small, protocol="debate", engine="smollm2-135m") == 0
    )
    assert run("report", "r", "--json") == 0
    [found] = lines(capsys.readouterr().out)
    assert found["usage"]["calls"] == 8 and found["baseline"]["samples"] >= 8
    assert 0 < found["usage"]["completion_tokens"] <= 8 * 24


def test_what_a_tool_prints_and_where_it_goes_touches_no_results(folder: Path) -> None:
    """It prints, has a child print, and changes the working folder, to which names of files are relative."""
    (folder / "noisy.py").write_text(
        "import os, subprocess\n\n\n"
        'def shout(word: str) -> str:\n    """Shout a word."""\n    print(word)\n'
        '    subprocess.run(["echo", "child"], check=True)\n    os.chdir("/")\n    return word\n'
    )
    call = '```tool\n{"name": "shout", "arguments": {"word": "hey"}}\n```'
    rules = [{"match": "returned", "replies": ["Answer: 1"]}, {"replies": [call]}]
    (folder / "caller.jsonl").write_text("".join(json.dumps(rule) + "\n" for rule in rules))
    command = [sys.executable, "-m", "sparring", "play", "tool_use", "--tasks", "tasks.jsonl", "--limit", "1"]
    command += ["--engine", "scripted:caller.jsonl", "--set", "tools=noisy:shout"]
    done = subprocess.run([*command, "--run", "a"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [row["answer"] for row in lines(done.stdout)] == ["1"]
    assert done.stderr.splitlines().count("hey") == done.stderr.splitlines().count("child") == 1
    done = subprocess.run(
        [*command, "--run", "b", "--out", "o.jsonl", "--table"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert len((folder / "o.jsonl").read_text().splitlines()) == 1

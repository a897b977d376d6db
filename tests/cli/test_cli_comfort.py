"""Comfort: completion, JSON everywhere, a page that lists it all, budgets by command, small screens."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cli_page
import pytest

from sparring import __version__, cli
from sparring.memory.journal import Journal
from sparring.memory.shipped import shipped_tasks

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8")
PRICED = "scripted:script.jsonl?price_in=1000&price_out=1000"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPARRING_MEMORY", raising=False)
    rows = [{"id": f"t{i}", "question": f"{i} + 1?", "answer": str(i + 1), "check": "math"} for i in range(6)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "script.jsonl").write_text('{"replies": ["Answer: 1", "Answer: 2"]}\n')
    return tmp_path


def play(*more: str, engine: str = "scripted:script.jsonl") -> int:
    return cli.main(["play", "sample", "--tasks", "tasks.jsonl", "--engine", engine, "--quiet", *more])


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# --- completion --------------------------------------------------------------------------------------

WITNESS = """
import os, sys
os.environ.update(_SPARRING_COMPLETE="complete_bash", COMP_WORDS=sys.argv[1], COMP_CWORD=sys.argv[2])
from sparring import cli
try:
    cli.main([])
finally:
    heavy = [name for name in ("torch", "sqlalchemy", "langgraph", "numpy") if name in sys.modules]
    print("heavy:", heavy, file=sys.stderr)
"""


def completed(words: str, **variables: str) -> list[str]:
    """What Tab offers after some words, in a process of its own that imports nothing heavy."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    asked = [sys.executable, "-c", WITNESS, words, str(len(words.split(" ")) - 1)]
    done = subprocess.run(asked, capture_output=True, text=True, env=environment, timeout=60)
    assert "heavy: []" in done.stderr, done.stderr
    return done.stdout.split()


def test_completion_knows_the_names_there_are(folder: Path) -> None:
    assert play("--run", "first") == play("--run", "fine", "--memory", "other.db") == 0
    assert completed("sparring report f") == ["first"]
    assert completed("sparring resume --memory other.db ") == ["fine"]
    assert completed("sparring resume ", SPARRING_MEMORY="other.db") == ["fine"]
    assert completed("sparring play de") == ["debate"]
    assert completed("sparring play sample --tasks ") == shipped_tasks()
    assert "smollm2-135m" in completed("sparring play sample --engine smol")
    assert "policy:scripted:script.jsonl" in completed("sparring play sample --engine po")
    assert completed("sparring report --memory o") == ["other.db"]
    assert completed("sparring repo") == ["report"]


def test_completion_is_silent_where_there_is_nothing_to_read(folder: Path) -> None:
    (folder / "sparring.db").write_text("no journal")
    assert completed("sparring report ") == completed("sparring report --memory absent.db ") == []
    assert not (folder / "absent.db").exists()


def test_completion_can_be_shown_and_installed() -> None:
    words = ["bash", "-c", f"{sys.executable} -m sparring --show-completion; exit $?"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0 and "_SPARRING_COMPLETE=complete_bash" in done.stdout


# --- the page ----------------------------------------------------------------------------------------


def test_the_page_has_every_command_and_option() -> None:
    generated = PAGE.split(cli_page.BEGIN)[1].split(cli_page.END)[0].strip()
    assert generated == cli_page.markdown(), "run `python tests/cli/cli_page.py`"


def asked_for(tree: ast.AST) -> Iterator[str]:
    """Names of environment variables that a module reads or sets."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            named = [word.value for word in node.keywords if word.arg == "envvar"]
            called = ast.unparse(node.func)
            read = called in ("os.environ.get", "os.environ.setdefault", "os.environ.pop", "os.getenv")
            yield from map(_name, [*named, *(node.args[:1] if read else ())])
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            yield _name(node.slice)


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return str(ast.literal_eval(node.values[0])) + "*"
    return str(node.value) if isinstance(node, ast.Constant) else ""


def test_the_page_has_every_environment_variable() -> None:
    table = PAGE.split("## Environment")[1].split("## Commands")[0]
    known = {
        name for row in re.findall(r"^\|(.*?)\|", table, re.M) for name in re.findall(r"`([A-Z_*]+)`", row)
    }
    found = {
        name
        for path in (ROOT / "sparring").rglob("*.py")
        for name in asked_for(ast.parse(path.read_text(encoding="utf-8")))
        if name
    }
    assert {"SPARRING_MEMORY", "SPARRING_CACHE", "ACCELERATE_USE_*"} <= found, "the search finds something"
    assert found <= known, f"docs/command_line.md lacks {sorted(found - known)}"


def test_every_command_that_shows_something_has_json() -> None:
    without = {name for name, command in cli_page.commands() if "--json" not in cli_page.options(command)}
    assert without == {
        "sparring play",  # JSON lines, unless --table
        "sparring resume",
        "sparring view",
        "sparring models pull",  # prints a path
        "sparring memory trace",  # OTLP/JSON lines
    }


# --- budgets -----------------------------------------------------------------------------------------


def test_a_budget_stops_a_run_that_resume_goes_on_with(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert play("--run", "r", "--max-run-cost", "0.1", "--concurrency", "1", engine=PRICED) == 1
    said = capsys.readouterr()
    assert said.out == "" and "of 0.1 in money" in said.err and "episodes of `r` are finished" in said.err
    assert "`sparring resume r --memory sparring.db --max-run-cost MORE`" in said.err
    with Journal.open("sparring.db") as journal:
        assert journal.run_row("r").status == "interrupted"
    assert cli.main(["resume", "r", "--max-run-cost", "0.1", "-q"]) == 1
    capsys.readouterr()
    assert cli.main(["resume", "r", "--max-run-cost", "1000", "-q"]) == 0
    assert len(lines(capsys.readouterr().out)) == 6
    assert cli.main(["report", "r", "--json"]) == 0
    [found] = lines(capsys.readouterr().out)
    [bill] = found["bills"]
    assert bill["cost"] == pytest.approx(found["spent"]["cost"]) and bill["cost"] > 0.1
    assert bill["calls"] == 6 and found["status"] == "done"


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--max-run-cost", "0", "must be above 0"),
        ("--max-run-cost", "1", "none of its engines has a price"),
        ("--max-run-cost", "much", "--max-run-cost"),
        ("--max-run-tokens", "0", "--max-run-tokens"),
    ],
)
def test_budgets_that_cannot_be(
    folder: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, said: str
) -> None:
    assert play(option, value) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert said in line


# --- the response cache ------------------------------------------------------------------------------


def test_the_cache_by_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The seed is in the key: the same run asks nothing again, another seed asks anew."""
    engine = "scripted:script.jsonl?cache=answers.sqlite&price_out=1000&call_log=calls.jsonl"

    def asked(run: str, *more: str) -> int:
        log = folder / "calls.jsonl"
        before = len(log.read_text().splitlines()) if log.exists() else 0
        assert play("--run", run, *more, engine=engine) == 0
        return len(log.read_text().splitlines()) - before

    assert asked("first") == 6
    assert asked("second") == 0
    assert asked("third", "--seed", "1") == 6
    capsys.readouterr()
    found = {}
    for run in ("first", "second"):
        assert cli.main(["report", run, "--json"]) == 0
        [found[run]] = lines(capsys.readouterr().out)
    assert (found["first"]["usage"]["cache_hits"], found["second"]["usage"]["cache_hits"]) == (0, 6)
    assert found["first"]["spent"]["cost"] > 0 == found["second"]["spent"]["cost"]
    assert found["first"]["accuracy"] == found["second"]["accuracy"]


# --- two runs, and screens ---------------------------------------------------------------------------


def test_two_runs_by_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert play("--run", "a") == play("--run", "b", "--seed", "1", "--limit", "4") == 0
    capsys.readouterr()
    assert cli.main(["report", "a", "b", "--json"]) == 0
    [found] = lines(capsys.readouterr().out)
    assert found["tasks"] == 4 and found["only_first"] == ["t4", "t5"] and found["difference"]["n"] == 4
    assert cli.main(["report", "a", "b"]) == 0
    said = capsys.readouterr().out
    assert "only in a: 2 tasks (t4, t5)" in said and "cannot be told from `a`" in said
    assert cli.main(["report", "a", "nope"]) == 2
    assert "unknown run `nope`; known: a, b" in capsys.readouterr().err


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"sparring {__version__}\n"


def test_a_narrow_screen_without_colour_and_a_reader_that_leaves(folder: Path) -> None:
    assert play("--run", "a") == 0
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "40", "NO_COLOR": "1"}
    line = f"{sys.executable} -m sparring report a | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment, timeout=60)
    assert (
        done.returncode in (0, 1) and "Traceback" not in done.stderr and done.stdout.startswith("a: sample")
    )
    assert "\x1b" not in done.stdout

"""examples/tools as it stands: a function, the interpreter and an MCP server answer three questions."""

from __future__ import annotations

import importlib.util
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

import sparring
from sparring.errors import SandboxUnavailable, UserError
from sparring.tools import programs

pytest.importorskip("mcp")
EXAMPLE = Path(__file__).parents[2] / "examples" / "tools"


def example() -> Any:
    """`run.py` as a module."""
    found = importlib.util.spec_from_file_location("tools_example", EXAMPLE / "run.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_example_runs_and_is_not_played_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        programs.box()
    except SandboxUnavailable as error:
        pytest.skip(f"no sandbox holds here: {error}")
    monkeypatch.syspath_prepend(str(EXAMPLE))
    memory = str(tmp_path / "tools.db")
    example().main(f"scripted:{EXAMPLE / 'script.jsonl'}", memory)
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "hours 391 True {'calculate': 1}",
        "primes 168 True {'python': 1}",
        "miles 41842 True {'convert': 1}",
    ]
    with sparring.Journal.open(memory) as journal:
        [run] = journal.runs()
        assert sparring.resume(run, journal).complete, "by specs alone"
        figures = sparring.report(journal, run).figures
    assert figures == {"calls": 1.0, "errors": 0.0, "format_errors": 0.0, "answered": 1.0}
    connection = sqlite3.connect(memory)
    made = [
        json.loads(row[0]) for row in connection.execute("SELECT payload FROM events WHERE kind = 'tool'")
    ]
    connection.close()
    assert sorted(one["name"] for one in made) == ["calculate", "convert", "python"]


@pytest.mark.parametrize("wrong", ["import os", "x + 1", "2 ** 9", "'a' * 9", "print(1)"])
def test_the_calculator_takes_numbers_only(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    from calculator import calculate

    assert calculate("-(3 + 4) * 2 / 7") == -2
    with pytest.raises((ValueError, SyntaxError)):
        calculate(wrong)


def test_a_mistyped_tool_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"module `calculator` has no `calcluate`|No module named 'calculator'"
    ):
        sparring.play(
            "tool_use",
            str(EXAMPLE / "tasks.jsonl"),
            tools="calculator:calcluate",
            engine="scripted:hash",
            memory=str(tmp_path / "j.db"),
        )

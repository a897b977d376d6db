"""Journals that something else has changed: pages say so, and import nothing that a journal names."""

from __future__ import annotations

import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from view_support import browser  # isort: skip - it makes the paths
from league_support import small

from sparring import play
from sparring.agents.engines.scripted import ScriptedEngine
from sparring.errors import JournalError
from sparring.graphs.protocols.debate import Debate
from sparring.memory.journal import Journal
from sparring.memory.messages import path
from sparring.memory.removal import remove
from sparring.training.league.tournament import tournament
from sparring.view.export import export
from sparring.view.facts import Facts
from sparring.view.runs import episode_list
from sparring.view.text import link, pretty

TASKS = [{"id": f"t{number}", "question": "q", "answer": "1"} for number in range(3)]
ENGINE = ScriptedEngine(lambda request, seed: f"words\nAnswer: {seed % 3}")
ODD = (
    *("null", "5", '"text"', "[]", '[1, "a", null, {"type": "blob", "media_type": "image/png"}]', "{}"),
    *('{"a": NaN, "scores": {"left": NaN}, "answer": 1e999, "round": "x", "rivals": 1, "policies": 2}',),
    *('{"options": [3], "tasks": 5, "scores": {"left": "a"}, "answer": {"a": []}, "reason": [], "get": 1}',),
    "[" * 400 + "]" * 400,
)
UNREADABLE = ("{no json", "[" * 100_000, "1" * 5000)
COLUMNS = ("runs.config", "events.payload", "messages.content", "matches.result")
SELDOM = (
    *("runs.driver", "tasks.question", "tasks.answer", "tasks.meta", "episodes.outcome", "turns.parsed"),
    *("policy_versions.metrics", "matches.players"),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tournament, and a run beside it."""
    folder = tmp_path_factory.mktemp("odd")
    tournament(small(folder, plots=str(folder / "plots")), folder / "j.db")
    play("debate", TASKS, engine=ENGINE, memory=folder / "j.db", run="plain", answer="number")
    return folder / "j.db"


@pytest.fixture
def odd(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(whole, tmp_path / "odd.db"))


def write(file: Path, statement: str, *values: Any) -> list[Any]:
    with sqlite3.connect(file) as database:
        found = database.execute(statement, values).fetchall()
    database.close()
    return found


def pages(file: Path) -> Iterator[str]:
    yield from ("/", "/policies", link("/run", name="plain", q="q"))
    yield from (link("/run", name=run) for (run,) in write(file, "SELECT id FROM runs"))
    for run in ("plain", "cup"):
        query = (
            "SELECT e.id FROM episodes e JOIN runs r ON r.id = run_id WHERE ? IN (r.id, r.parent_id) LIMIT 1"
        )
        yield from (link("/episode", id=episode) for (episode,) in write(file, query, run))
    for policy, number in write(file, "SELECT policy, number FROM policy_versions LIMIT 1"):
        yield link("/policy", name=policy)
        yield link("/version", policy=policy, number=number)


@pytest.mark.parametrize(
    "column", [*COLUMNS, *(pytest.param(column, marks=pytest.mark.slow) for column in SELDOM)]
)
def test_no_page_fails_over_odd_data(odd: Path, column: str) -> None:
    table, name = column.split(".")
    asked = list(pages(odd))
    rows = [row for (row,) in write(odd, f"SELECT rowid FROM {table}")]
    for place, row in enumerate(rows):  # one journal with all of them
        write(odd, f"UPDATE {table} SET {name} = ? WHERE rowid = ?", ODD[place % len(ODD)], row)
    with browser(odd) as seen:
        for page in asked:
            assert seen.get(page).text


@pytest.mark.parametrize("value", UNREADABLE)
def test_what_is_no_json_is_said_and_the_rest_is_shown(odd: Path, value: str) -> None:
    write(odd, "UPDATE events SET payload = ? WHERE kind = 'verdict'", value)
    write(odd, "UPDATE turns SET parsed = ?", value + '"answer"')
    [(episode,)] = write(odd, "SELECT id FROM episodes WHERE run_id = 'plain' LIMIT 1")
    with browser(odd) as seen:
        assert "3" in seen.get("/").row("plain")
        assert "cannot be read" in seen.get("/episode", 503, id=episode).text


def test_a_fault_of_ours_is_said_on_a_page(odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any) -> Any:
        raise ZeroDivisionError("<b>")

    monkeypatch.setattr("sparring.view.app.read_transcript", fail)
    with browser(odd) as seen:
        page = seen.get("/episode", 500, id="x")
        assert "ZeroDivisionError" in page.text and "Nothing to show" in page.text and "b" not in page.tags


def test_conversations_that_run_in_a_circle_end(odd: Path) -> None:
    write(odd, "UPDATE messages SET parent_id = id")
    [(episode,)] = write(odd, "SELECT id FROM episodes WHERE run_id = 'plain' LIMIT 1")
    with browser(odd) as seen:
        assert "saw" in seen.get("/episode", id=episode).text


def test_a_path_ends_at_a_root_a_gap_or_where_it_began() -> None:
    class Row:
        def __init__(self, parent: int) -> None:
            self.parent_id = parent

    assert path({1: Row(0), 2: Row(1)}, 2) == [1, 2]
    assert path({2: Row(9)}, 2) == [2]
    assert path({1: Row(2), 2: Row(1)}, 1) == [2, 1]
    assert path({}, 3) == []


def test_data_that_is_nested_too_deeply_is_said() -> None:
    value: Any = []
    for _ in range(5000):
        value = [value]
    assert "too deeply" in pretty(value)


@pytest.mark.parametrize("options", ["{}", '{"of": "trap_of_the_viewer:X"}'])
def test_no_module_that_a_journal_names_is_imported(
    odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trap_of_the_viewer.py").write_text("open('sprung', 'w')\n")
    protocol = "trap_of_the_viewer:X" if options == "{}" else "lesson"
    config = f'{{"options": {options}}}'
    write(odd, "UPDATE runs SET protocol = ?, config = ? WHERE id = 'plain'", protocol, config)
    [(episode,)] = write(odd, "SELECT id FROM episodes WHERE run_id = 'plain' LIMIT 1")
    with browser(odd) as seen:
        seen.get("/run", name="plain")
        assert "not at hand" in seen.get("/episode", id=episode).text
    export(str(odd), "plain", tmp_path / "out.html")
    assert not (tmp_path / "sprung").exists()
    export(str(odd), "plain", tmp_path / "out.html", own=True)
    assert (tmp_path / "sprung").exists()
    sys.modules.pop("trap_of_the_viewer", None)


def test_a_protocol_of_ones_own_is_drawn_when_asked_for(
    odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_for_the_viewer.py").write_text(
        f"from {Debate.__module__} import Debate\n\nclass Own(Debate):\n    pass\n"
    )
    write(odd, "UPDATE runs SET protocol = 'own_for_the_viewer:Own' WHERE id = 'plain'")
    export(str(odd), "plain", tmp_path / "without.html")
    export(str(odd), "plain", tmp_path / "with.html", own=True)
    sys.modules.pop("own_for_the_viewer", None)
    assert 'class="machine"' not in (tmp_path / "without.html").read_text()
    assert 'class="machine"' in (tmp_path / "with.html").read_text()


def test_a_journal_whose_file_is_another_one_is_said(odd: Path, whole: Path) -> None:
    with Journal.open(odd, read_only=True) as journal:
        facts = Facts(journal)
        facts.look()
        odd.rename(odd.with_suffix(".old"))
        with pytest.raises(JournalError, match="replaced or deleted"):
            facts.look()
        shutil.copy(whole, odd)
        with pytest.raises(JournalError, match="replaced or deleted"):
            facts.look()
        facts.close()


def test_as_many_episodes_that_come_as_went_are_noticed(tmp_path: Path) -> None:
    file = tmp_path / "j.db"
    play("debate", TASKS, engine=ENGINE, memory=file, run="first", answer="number")
    with Journal.open(file) as journal:
        facts = Facts(journal)
        facts.look()
        remove(journal, "first")
        play("debate", TASKS, engine=ENGINE, memory=file, run="second", answer="number")
        facts.look()
        assert {row["run"] for row in facts.ask("SELECT run FROM facts")} == {"second"}
        assert facts.known == facts.total == 3
        facts.close()


def test_the_comparison_appears_when_the_pool_has_been_drawn(tmp_path: Path) -> None:
    file = tmp_path / "j.db"
    play("debate", TASKS, engine=ENGINE, memory=file, run="r", answer="number")
    with browser(file) as seen:
        assert "By these" not in seen.get("/run", name="r").text
        play("debate", TASKS, engine=ENGINE, memory=file, run="r", answer="number", baseline=True)
        write(file, "UPDATE runs SET epoch = 1 WHERE id = 'r'")  # only the pool is new
        deadline = time.monotonic() + 30
        while "By these" not in (page := seen.get("/run", name="r")).text and time.monotonic() < deadline:
            time.sleep(0.1)
        assert "By these 3 questions" in page.text
        write(file, "UPDATE runs SET status = 'open' WHERE id = 'r.baseline'")
        assert "data-live" in seen.get("/run", name="r").html


def test_a_read_only_look_at_an_empty_database_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    with pytest.raises(Exception, match="holds no journal"):
        Journal.open(tmp_path / "empty.db", read_only=True)
    assert (tmp_path / "empty.db").stat().st_size == 0


def test_a_search_finds_what_json_writes_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "j.db"
    tasks = [{"id": "a", "question": 'say "hi"\nto C:\\x'}, {"id": "b", "question": "say nothing"}]
    play("debate", tasks, engine=ENGINE, memory=file, run="r")
    with Journal.open(file, read_only=True) as journal:
        facts = Facts(journal)
        facts.look()
        for words in ('"hi"', '"hi"\nto', "C:\\x"):
            found = episode_list(journal, facts, "r", {"q": words}, 1)
            assert [row["task"] for row, _ in found.rows] == ["a"] and not found.partial
        monkeypatch.setattr("sparring.view.runs.SOUGHT", 1)
        assert episode_list(journal, facts, "r", {"q": "say"}, 1).partial
        facts.close()

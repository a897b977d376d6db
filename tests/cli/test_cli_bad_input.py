"""Bad input: one clear line, exit status 2, and no run in the journal that was not there before."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from sparring import cli
from sparring.graphs.catalogue import PROTOCOLS
from sparring.graphs.play import play as sdk_play

TASK = '{"id": "a", "question": "1 + 1?", "answer": "2"}\n'
GOOD = {"protocol": "sample", "--tasks": "tasks.jsonl", "--engine": "scripted:hash"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPARRING_MEMORY", raising=False)
    (tmp_path / "tasks.jsonl").write_text(TASK)
    return tmp_path


def runs(path: Path) -> list[str]:
    if not path.exists():
        return []
    with closing(sqlite3.connect(path)) as database:
        return [name for (name,) in database.execute("SELECT id FROM runs")]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a bad call leaves; nothing else happened."""
    assert cli.main(list(arguments)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1, said.err
    assert said.err.startswith("sparring: ") and "Traceback" not in said.err
    assert runs(Path("sparring.db")) == []
    return said.err


def command(changed: dict[str, str | None], *more: str) -> list[str]:
    options = {**GOOD, **changed}
    words = ["play", str(options.pop("protocol"))]
    for name, value in options.items():
        words += [] if value is None else [name, value]
    return [*words, *more]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (TASK + "{oops\n", "line 2: malformed JSON"),
        (TASK + '{"id": "b", "answer": "2"}\n', "line 2: field `question` is missing"),
        (TASK + "\n" + TASK, "id `a` is on line 1 and again on line 3"),
        (
            TASK.replace("}", ', "check": "maths"}'),
            "line 1: unknown check `maths`; known: any_of, choice, code",
        ),
        (TASK.replace("}", ', "check": "code"}'), "the reference of a `code` task must be"),
        ("", "holds no task"),
        ("\n\n", "holds no task"),
    ],
)
def test_task_files(folder: Path, capsys: pytest.CaptureFixture[str], content: str, said: str) -> None:
    (folder / "tasks.jsonl").write_text(content)
    assert said in refused(capsys, *command({}))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"--tasks": "absent.jsonl"}, "there is no such file; shipped sets: "),
        ({"--tasks": "."}, "is a folder"),
        ({"--tasks": None}, "Missing option '--tasks'"),
        ({"protocol": "debat"}, "unknown protocol `debat`; known: "),
        ({"--role": "judge=scripted:hash"}, "unknown role of protocol `sample` `judge`; known: solver"),
        ({"--role": "solver"}, "write it as `--role ROLE=SPEC`"),
        ({"--set": "rounds=2"}, "unknown option of protocol `sample` `rounds`; known: answer, n, prompt"),
        ({"--set": "n"}, "write it as `--set OPTION=VALUE`"),
        ({"--set": "=3"}, "write it as `--set OPTION=VALUE`"),
        ({"--set": "n=many"}, "option `n`: "),
        ({"--set": "n=-1"}, "option `n`: "),
        ({"--set": "seed=3"}, "use `--seed`"),
        ({"--set": "temperature=hot"}, "`hot` is no number"),
        ({"--set": "temperature=-1"}, "temperature"),
        ({"--set": "baseline.mostly=3"}, "option of the baseline `mostly`; known: answer, engine, margin"),
        ({"--engine": None}, "has no engine: give `--engine SPEC`"),
        ({"--engine": "scripted:absent.jsonl"}, "known: echo, hash"),
        ({"--engine": "carrier:pigeon"}, "unknown engine `carrier:pigeon`; known forms: "),
        ({"--engine": "scripted:hash?colour=red"}, "unknown option `colour` of a scripted engine; known: "),
        ({"--engine": "http://127.0.0.1:9/v1#m?tries=1"}, "is the server running?"),
        ({"--engine": "./model"}, "it lacks a tokenizer"),
        ({"--memory": "no/such/folder/j.db"}, "cannot be opened"),
        ({"--memory": "mysql://host/db"}, "`mysql` is not supported"),
        ({"--memory": "postgresql://u:secret@127.0.0.1:9/db"}, "cannot be opened"),
        ({"--limit": "0"}, "--limit"),
        ({"--limit": "-3"}, "--limit"),
        ({"--copies": "0"}, "--copies"),
        ({"--concurrency": "0"}, "--concurrency"),
        ({"--max-calls": "-1"}, "--max-calls"),
        ({"--max-seconds": "0"}, "cap on seconds must be above 0"),
        ({"--max-cost": "-2"}, "--max-cost"),
        ({"--seed": "x"}, "--seed"),
        ({"--durability": "none"}, "use `full` or `normal`"),
        ({"--out": "no/such/folder/out.jsonl"}, "`--out no/such/folder/out.jsonl` cannot be written"),
        ({"--colour": "red"}, "known: --baseline, --concurrency"),
    ],
)  # fmt: skip
def test_options(
    folder: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, str | None], said: str
) -> None:
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"")
    line = refused(capsys, *command(changed))
    assert said in line
    assert "secret" not in line


def test_an_option_set_twice(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, *command({}, "--set", "n=2", "--set", "n=3"))
    assert "`--set n=...` is given twice, with `2` and `3`" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plya"], "known: "),
        (["models", "pull", "gpt-9"], "unknown model `gpt-9`; known: smollm2-135m"),
        (["report", "x"], "memory `sparring.db` does not exist"),
        (["resume", "x"], "memory `sparring.db` does not exist"),
        (["memory", "stats"], "memory `sparring.db` does not exist"),
        (["memory", "import", "absent"], "there is no such file"),
    ],
)  # fmt: skip
def test_commands(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert said in refused(capsys, *words)
    assert not Path("sparring.db").exists(), "a command that only reads makes no journal"


def journal_with_a_run() -> None:
    sdk_play("sample", "tasks.jsonl", engine="scripted:hash", memory="sparring.db", run="first")


@pytest.mark.parametrize("words", [["report", "x"], ["resume", "x"], ["memory", "delete", "x"]])
def test_unknown_runs_list_those_that_exist(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    journal_with_a_run()
    assert cli.main(words) == 2
    assert "unknown run `x`; known: first" in capsys.readouterr().err


def test_another_configuration_under_the_same_name(capsys: pytest.CaptureFixture[str]) -> None:
    journal_with_a_run()
    assert cli.main(command({"--set": "n=2"}, "--run", "first")) == 2
    said = capsys.readouterr().err
    assert "run `first` exists with another options" in said and "`sparring resume first`" in said
    assert runs(Path("sparring.db")) == ["first"]


def test_a_journal_from_a_newer_version(capsys: pytest.CaptureFixture[str]) -> None:
    journal_with_a_run()
    with closing(sqlite3.connect("sparring.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    for words in (command({}), ["report", "first"], ["resume", "first"]):
        assert cli.main(words) == 2
        assert "written by a newer version" in capsys.readouterr().err


def test_a_file_that_is_no_journal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "notes.txt").write_text("these are notes, not a database " * 40)
    assert cli.main(command({"--memory": "notes.txt"})) == 2
    assert "notes.txt" in capsys.readouterr().err
    assert (folder / "notes.txt").read_text().startswith("these are notes")


def test_the_real_command_says_it_on_standard_error(folder: Path) -> None:
    words = [sys.executable, "-m", "sparring", *command({"protocol": "debat"})]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    known = ", ".join(sorted([*PROTOCOLS, "module:Class"]))
    assert done.stderr == f"sparring: unknown protocol `debat`; known: {known}\n"
    assert json.loads(TASK)["id"] == "a" and list(folder.iterdir()) == [folder / "tasks.jsonl"]

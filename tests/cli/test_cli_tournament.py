"""`sparring tournament` and its report: the shipped examples, what goes where, and mistakes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sparring import cli
from sparring.agents.engines.registry import make_engine
from sparring.memory.journal import Journal
from sparring.memory.policies import move_head, register
from sparring.training.league.config import load_tournament

Capture = pytest.CaptureFixture[str]
EXAMPLES = Path(__file__).parents[2] / "examples" / "tournament"
RPS = str(EXAMPLES / "rock_paper_scissors.yaml")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPARRING_MEMORY", raising=False)
    return tmp_path


def test_rock_paper_scissors_shows_what_one_number_hides(capsys: Capture, folder: Path) -> None:
    assert cli.main(["tournament", RPS, "--out", "standings.jsonl"]) == 0
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]
    for player in ("rock", "paper", "scissors"):
        row = next(line for line in lines if line[:1] == [player])
        assert row[1:4] == ["1500", "[1500,", "1500]"] and row[-6:] == ["48", "24", "0", "24", "0", "12-0-12"]
    start = lines.index(["points", "from", "rock", "paper", "scissors"])
    matrix = [
        ["rock", "-", "0.00", "1.00"],
        ["paper", "1.00", "-", "0.00"],
        ["scissors", "0.00", "1.00", "-"],
    ]
    assert lines[start + 1 : start + 4] == matrix
    assert "one rating explains 0% of the spread" in out and "`first` gets 0.50 [0.50, 0.50]" in out
    assert "the field is cyclic: rock beats scissors, scissors beats paper, paper beats rock" in out
    assert err.count("against") == 3 and "round 1: 0 of 72 games" in err
    plot = err.splitlines()[-1].removeprefix("plot: ")
    assert Path(plot).is_file() and Path(plot).parent == folder / "rock-paper-scissors.plots"
    _same_told_again(capsys, out)


def _same_told_again(capsys: Capture, out: str) -> None:
    """By the report, as JSON, and by the same command, which plays nothing more."""
    written = Path("standings.jsonl").read_text()
    rows = [json.loads(line) for line in written.splitlines()]
    assert [row["kind"] for row in rows] == ["tournament"] + ["player"] * 3 + ["pairing"] * 6
    assert rows[0]["cycle"]["players"] == ["rock", "scissors", "paper"] and rows[0]["status"] == "done"
    assert cli.main(["report", "rock-paper-scissors"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(out)
    assert re.fullmatch(r"\d+ tokens with all runs that belong to it, cost -", told[len(out) :].strip())
    assert cli.main(["report", "rock-paper-scissors", "--json"]) == 0
    assert capsys.readouterr().out == written
    assert cli.main(["tournament", RPS, "--quiet"]) == 0
    again, err = capsys.readouterr()
    assert again == out and len(err.splitlines()) == 1 and err.startswith("plot: ")
    assert cli.main(["report", "rock-paper-scissors.games/1/rock vs paper"]) == 0  # the games are runs too
    assert "12" in capsys.readouterr().out
    assert cli.main(["resume", "rock-paper-scissors"]) == 2
    assert "go on with the `sparring tournament` that began it" in capsys.readouterr().err


def test_the_versions_of_an_evolution_compete(capsys: Capture, folder: Path) -> None:
    """examples/tournament/versions.yaml, its policy's versions being scripts that know ever more answers."""
    tasks = [json.loads(line) for line in (EXAMPLES.parent / "arithmetic" / "digits.jsonl").open()][:12]
    with Journal.open("digits.db") as journal:
        for number in range(22):
            known = tasks[: number // 2 + 1]
            rules = [
                {"match": f"^{t['question']}".replace("+", r"\+"), "replies": [t["answer"]]} for t in known
            ]
            path = folder / f"v{number}.jsonl"
            path.write_text(
                "".join(json.dumps(r) + "\n" for r in [*rules, {"replies": [f"{1000 + number}"]}])
            )
            base = make_engine(spec := f"scripted:{path}").capabilities().base
            version = register(journal, policy="solver", base_hash=base, base_spec=spec)
        move_head(journal, "solver", "training", version.id, by="hand", reason="test")
    Path("short.yaml").write_text(f"extends: {EXAMPLES / 'versions.yaml'}\nlimit: 12\n")
    assert cli.main(["tournament", "short.yaml", "--memory", "digits.db", "--quiet", "--out", "o.jsonl"]) == 0
    rows = [json.loads(line) for line in Path("o.jsonl").read_text().splitlines()]
    players = [row for row in rows if row["kind"] == "player"]
    assert [row["player"] for row in players] == ["after-20", "latest", "after-10", "untrained"]
    won = {
        (row["player"], row["opponent"]): row["points"]["mean"] for row in rows if row["kind"] == "pairing"
    }
    assert won["after-20", "untrained"] == pytest.approx(0.5 + 10 / 24)  # right on ten tasks more, of twelve
    assert won["after-20", "latest"] == 0.5 and rows[0]["cycle"] is None


def test_the_examples_can_be_read() -> None:
    from sparring.training.config import load_config

    for name in ("rock_paper_scissors", "versions"):
        config = load_tournament(EXAMPLES / f"{name}.yaml")
        assert Path(config.tasks).is_file()
    assert load_config(EXAMPLES / "digits.yaml").keep == 100


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"protocol": "du", "options": {}}, "protocol `du` is no game"),
        ({"schedule": {"name": "swiss", "rounds": 9}}, "9 swiss rounds"),
        ({"players": {"rock": "policy:nobody", "paper": "scripted:hash"}}, "nobody"),
        ({"roles": {}}, "seat `judge` has no engine"),
        ({"roles": {"judge": f"scripted:{EXAMPLES / 'rock.jsonl'}"}}, "has the weights of player `rock`"),
        ({"tasks": "none"}, "there is no such file"),
        ({"playerz": {}}, "`playerz`: there is no such field"),
    ],
)
def test_a_mistake_is_one_line_and_no_run(changes: dict[str, Any], said: str, capsys: Capture) -> None:
    Path("t.yaml").write_text(yaml.safe_dump({"extends": RPS, "run": "cup", "seed": 1}))
    whole = load_tournament("t.yaml").model_dump(mode="json")
    Path("t.yaml").write_text(yaml.safe_dump({**whole, **changes}))
    assert cli.main(["tournament", "t.yaml"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and said in err and "Traceback" not in err
    if Path("sparring.db").exists():
        with Journal.open("sparring.db") as journal:
            assert journal.runs() == []


def test_failed_games_are_an_incomplete_end(capsys: Capture, folder: Path) -> None:
    Path("away.jsonl").write_text('{"error": "engine_error"}\n')
    whole = load_tournament(RPS).model_dump(mode="json")
    whole["players"]["rock"] = {"engine": "scripted:away.jsonl?tries=1"}
    Path("t.yaml").write_text(yaml.safe_dump({**whole, "limit": 2}))
    assert cli.main(["tournament", "t.yaml", "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert "8 games failed; try them again with `sparring tournament t.yaml --memory sparring.db`" in err
    assert "the tournament is failed: these are the games so far" in out
    for arguments in (["--out", "t.yaml"], ["--memory", ":memory:"], ["--memory", "sqlite://"]):
        assert cli.main(["tournament", "t.yaml", *arguments]) == 2
        assert "would" in capsys.readouterr().err

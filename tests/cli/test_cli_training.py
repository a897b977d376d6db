"""`sparring evolve` and `sparring rewards`: what they print where, and what is said to one who mistypes."""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from sparring import cli
from sparring.graphs.play import play

sys.path.append(str(Path(__file__).parents[1] / "training"))

from evolve_support import save_model, small

Capture = pytest.CaptureFixture[str]
TASKS = [{"id": f"q{n}", "question": f"{n} + {n}?", "answer": str(2 * n)} for n in range(4)]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPARRING_MEMORY", raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The spec of a tiny random llama."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    save_model(folder)
    return f"{folder}?dtype=float32"


def runs(memory: str = "sparring.db") -> list[str]:
    if not Path(memory).exists():
        return []
    with closing(sqlite3.connect(memory)) as database:
        return [name for (name,) in database.execute("SELECT id FROM runs")]


def refused(capsys: Capture, *arguments: str) -> str:
    """The one line that a bad call leaves; no run was begun."""
    before = runs()
    assert cli.main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1, err
    assert err.startswith("sparring: ") and "Traceback" not in err and runs() == before
    return err


# --- rewards --------------------------------------------------------------------------------------------


def derived(capsys: Capture, *arguments: str, status: int = 0) -> dict[str, Any]:
    assert cli.main(["rewards", *arguments]) == status
    [line] = capsys.readouterr().out.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def test_rewards_of_an_old_run_under_other_formulas(capsys: Capture) -> None:
    play("sample", TASKS, engine="scripted:hash", memory="sparring.db", run="old")
    capsys.readouterr()
    first = derived(capsys, "old")
    assert {
        name: first[name] for name in ("function", "version", "episodes", "added", "null", "already")
    } == {
        "function": "verifier",
        "version": "1",
        "episodes": 4,
        "added": 4,
        "null": 0,
        "already": 0,
    }
    again = derived(capsys, "old", "--function", "verifier")
    assert (again["added"], again["already"], again["config"]) == (0, 4, first["config"])
    other = derived(capsys, "old", "--set", "wrong=-1", "--set", "right=2", "--memory", "sparring.db")
    assert other["added"] == 4 and other["config"] != first["config"]
    with closing(sqlite3.connect("sparring.db")) as database:
        assert database.execute("SELECT count(*) FROM rewards").fetchone() == (8,)
        database.execute("UPDATE rewards SET value = 7 WHERE config_hash = ?", (first["config"],))
        database.commit()
    assert cli.main(["rewards", "old"]) == 1
    out, err = capsys.readouterr()
    assert len(json.loads(out)["changed"]) == 4
    assert "4 stored rewards differ from what `verifier` gives now" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none"], "none"),
        (["old", "--function", "verifer"], "unknown reward function `verifer`; known:"),
        (["old", "--function", "no_such_module:X"], "cannot be imported"),
        (["old", "--function", "pathlib:Path"], "is no subclass of"),
        (["old", "--set", "wrong"], "OPTION=VALUE"),
        (["old", "--set", "=1"], "OPTION=VALUE"),
        (["old", "--set", "rong=1"], "unknown option of reward function `verifier` `rong`"),
        (["old", "--set", "wrong=bad"], "option `wrong`"),
        (["old", "--set", "fault=1"], "`fault` 1 pays more than `wrong` 0"),
        (["old", "--memory", "none.db"], "does not exist"),
        (["old", "extra"], "extra"),
        ([], "RUN"),
    ],
)
def test_mistakes_about_rewards(arguments: list[str], said: str, capsys: Capture) -> None:
    play("sample", TASKS[:1], engine="scripted:hash", memory="sparring.db", run="old")
    capsys.readouterr()
    assert cli.main(["rewards", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and said in err and "Traceback" not in err
    assert not Path("none.db").exists()
    with closing(sqlite3.connect("sparring.db")) as database:
        assert database.execute("SELECT count(*) FROM rewards").fetchone() == (0,)


# --- evolve ---------------------------------------------------------------------------------------------


def test_an_evolution_prints_results_and_progress_apart(capsys: Capture, tiny: str, folder: Path) -> None:
    config = small(folder, tiny, steps=2)
    (folder / "evolve.yaml").write_text(yaml.safe_dump(config))
    assert cli.main(["evolve", "evolve.yaml", "--json"]) == 0
    out, err = capsys.readouterr()
    [found] = [json.loads(line) for line in out.splitlines()]
    assert set(found) >= {"run", "status", "before", "after", "gate", "stopped", "heads", "plots"}
    assert (found["run"], found["status"], found["stopped"]) == ("small", "done", {})
    assert found["heads"]["solver"]["training"] == 2
    assert found["before"]["step"] == 0 and found["after"]["step"] == 2
    assert [row["step"] for row in found["gate"]] == [1, 2]
    assert all(Path(plot).is_file() for plot in found["plots"]) and len(found["plots"]) == 2
    lines = err.splitlines()
    assert (
        sum("accuracy after" in line for line in lines) == 3 and sum("gate:" in line for line in lines) == 2
    )
    table = next(line.split() for line in lines if line.split()[:2] == ["time", "step"])
    assert {"policy", "reward", "entropy", "KL", "clipped", "length"} <= set(table)
    assert [line.split()[1] for line in lines if " solver " in line and "gate" not in line] == ["1", "2"]
    _again(capsys, found)


def _again(capsys: Capture, found: dict[str, Any]) -> None:
    """A finished run is told again and nothing is played; without `--json` it is a table."""
    assert cli.main(["evolve", "evolve.yaml", "--json", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == found and "accuracy" not in err
    assert cli.main(["evolve", "evolve.yaml", "-q"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0][:3] == ["readable:", "solver", "1.000;"]
    assert ["before", "after"] in rows
    heads = found["heads"]["solver"]
    assert ["solver,", "training", "head", "@0", "@2"] in rows
    assert ["solver,", "live", "head", "@0", f"@{heads['live']}"] in rows


GOOD = {
    "run": "r",
    "tasks": "demo",
    "policies": {"solver": {"roles": ["solver"]}},
    "steps": 1,
}


def policy(**changes: Any) -> dict[str, Any]:
    return {**GOOD, "policies": {"solver": {"roles": ["solver"], **changes}}}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({**GOOD, "steps": 0}, "`steps`"),
        ({**GOOD, "stepz": 1}, "`stepz`: there is no such field"),
        ({**GOOD, "tasks": "none.jsonl"}, "none.jsonl"),
        ({**GOOD, "protocol": "smaple"}, "smaple"),
        ({**GOOD, "options": {"m": 3}}, "`m`"),
        (policy(loss="grop"), "grop"),
        (policy(loss={"name": "grpo", "bta": 1}), "bta"),
        (policy(advantage="grup"), "grup"),
        (policy(advantage={"name": "group", "scale": "x"}), "x"),
        (policy(reward="verifer"), "verifer"),
        (policy(reward={"name": "verifier", "fault": 1}), "`fault` 1 pays more"),
        (policy(train={"learning": 1}), "learning"),
        (policy(lora={"rnk": 1}), "rnk"),
        (policy(roles=["slover"]), "slover"),
        ({**GOOD, "monitors": ["entropi"]}, "entropi"),
    ],
)
def test_a_wrong_configuration_is_one_line_and_no_run(
    config: dict[str, Any], said: str, capsys: Capture, tiny: str
) -> None:
    Path("c.yaml").write_text(yaml.safe_dump({**config, "engine": tiny}))
    assert said in refused(capsys, "evolve", "c.yaml")


def test_what_is_no_configuration_file(capsys: Capture, folder: Path) -> None:
    assert "cannot be read" in refused(capsys, "evolve", "none.yaml")
    assert "cannot be read" in refused(capsys, "evolve", str(folder))
    Path("list.yaml").write_text("- a\n")
    assert "expected fields" in refused(capsys, "evolve", "list.yaml")
    Path("c.yaml").write_text(yaml.safe_dump(GOOD))
    for memory in (":memory:", "sqlite://"):
        assert "would be lost" in refused(capsys, "evolve", "c.yaml", "--memory", memory)
    assert not Path("sparring.db").exists()

"""`sparring policy`: what a user sees and moves, and what is said to one who mistypes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select

from sparring.agents.engines.registry import EnginePool
from sparring.agents.models import adapter_hash
from sparring.cli import main
from sparring.graphs.play import play
from sparring.memory import policies
from sparring.memory.journal import Journal
from sparring.memory.schema import Reward, Turn, Update, UpdateTurn

Capture = pytest.CaptureFixture[str]
TASKS = [{"id": f"q{n}", "question": f"{n} + {n}?", "answer": str(2 * n)} for n in range(4)]


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A journal with policy `solver`: base, two updates of run `evo` on two turns each, and `judge`."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "j.db"
    monkeypatch.setenv("SPARRING_MEMORY", str(file))
    base = {"base_hash": EnginePool().get("scripted:hash").capabilities().base, "base_spec": "scripted:hash"}
    with Journal.open(file) as journal:
        last = policies.register(journal, policy="solver", **base)
        policies.register(journal, policy="judge", **base)
    play("sample", TASKS, engine="policy:solver", memory=file, run="evo")
    with Journal.open(file) as journal:
        turns = [row[0] for row in journal.read(select(Turn.id).order_by(Turn.id))]
        for step in (1, 2):
            last = update(journal, step, last.id, turns[2 * step - 2 : 2 * step])
    return file


def update(journal: Journal, step: int, origin: int, turns: list[int]) -> policies.Version:
    """A version whose weights are files, if not of a model."""
    number = journal.ids.take("updates")
    row = {"id": number, "run_id": "evo", "policy": "solver", "step": step, "from_version_id": origin}
    journal.execute(insert(Update).values(**row, status="training", config={}, created_at=1.0))
    journal.execute(insert(UpdateTurn), [{"update_id": number, "turn_id": turn} for turn in turns])
    paid = {"function": "verifier", "version": "1", "config_hash": "c", "reason": "", "read_ids": []}
    for place, turn in enumerate(turns):
        reward = {"id": turn, "turn_id": turn, "span_start": -1, "span_end": -1, "value": place or None}
        journal.execute(insert(Reward).values(**paid, **reward))
    folder = policies.store_folder(journal) / f"solver-{step}"
    folder.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).write_text(f"{name} {step}")
    return policies.publish(
        journal,
        update_id=number,
        adapter_path=folder,
        adapter_hash=adapter_hash(folder),
        metrics={"reward_mean": 0.25 * step, "entropy": 3.0},
    )


def run(*arguments: str) -> int:
    return main(["policy", *arguments])


def told(capsys: Capture, *arguments: str) -> list[Any]:
    """The JSON lines of a command."""
    capsys.readouterr()
    assert run(*arguments, "--json") == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def heads(capsys: Capture) -> tuple[int, int]:
    [found] = told(capsys, "show", "solver")
    return found["live"], found["training"]


def test_list_names_every_policy_and_its_heads(capsys: Capture) -> None:
    judge, solver = told(capsys, "list")
    assert judge == {"name": "judge", "live": 0, "training": 0, "versions": 1, "base_spec": "scripted:hash"}
    assert (solver["name"], solver["live"], solver["training"], solver["versions"]) == ("solver", 0, 2, 3)
    assert run("list") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["policy", "live", "training", "versions", "base"]
    assert out[2].split() == ["solver", "0", "2", "3", "scripted:hash"]


def test_show_tells_heads_versions_and_moves(capsys: Capture, memory: Path) -> None:
    shutil.rmtree(memory.with_name("j.db.policies") / "solver-1")
    assert run("show", "solver") == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert "solver: live 0, training 2" in out
    assert "live" in rows["0"] and "base" in rows["0"] and "present" in rows["0"]
    assert "evo 1" in rows["1"] and "reward_mean 0.25" in rows["1"] and "gone" in rows["1"]
    assert "training" in rows["2"] and "reward_mean 0.5" in rows["2"] and "present" in rows["2"]
    assert "0 -> 1" in out and "update 2" in out and "entropy" not in out
    [found] = told(capsys, "show", "solver@1")
    [one] = found["versions"]
    assert (one["version"], one["parent"], one["run"], one["step"], one["present"]) == (
        "solver@1",
        0,
        "evo",
        1,
        False,
    )
    assert one["metrics"] == {"reward_mean": 0.25, "entropy": 3.0}


def test_lineage_goes_down_to_the_words(capsys: Capture) -> None:
    top, middle, base = told(capsys, "lineage", "solver@training", "--turns", "1")
    assert [step["version"] for step in (top, middle, base)] == ["solver@2", "solver@1", "solver@0"]
    assert [step["turns"] for step in (top, middle, base)] == [2, 2, 0] and base["update"] is None
    assert (middle["update"]["run_id"], middle["update"]["step"]) == ("evo", 1)
    [turn] = middle["trained_on"]
    assert turn["task"] == "q0" and turn["role"] == "solver" and "Answer:" in turn["text"]
    assert turn["rewards"][0]["value"] is None
    assert run("lineage", "solver@2", "--turns", "2") == 0
    out = capsys.readouterr().out
    assert "solver@1: 2 of 2 turns that trained it" in out
    assert "verifier 1" in out and "verifier masked" in out and "Answer:" in out
    assert [step["version"] for step in told(capsys, "lineage", "solver")] == ["solver@0"]  # the live one


def test_promote_and_rollback_move_a_head_and_leave_a_reason(capsys: Capture) -> None:
    assert run("promote", "solver", "1", "--because", "looked better") == 0
    assert "live is now at 1" in capsys.readouterr().out
    assert run("promote", "solver@training") == 0 and heads(capsys) == (2, 2)
    assert run("promote", "solver@2") == 0 and "already at 2" in capsys.readouterr().out
    assert run("rollback", "solver") == 0 and heads(capsys) == (1, 2)
    assert run("rollback", "solver") == 0 and heads(capsys) == (0, 2)
    assert run("rollback", "solver", "--to", "2") == 0 and heads(capsys) == (2, 2)
    assert run("rollback", "solver", "--head", "training") == 0 and heads(capsys) == (2, 1)
    moves = [move for move in told(capsys, "show", "solver")[0]["moves"] if move["by"] == "hand"]
    assert [(m["head"], m["origin"], m["target"]) for m in moves] == [
        ("live", 0, 1),
        ("live", 1, 2),
        ("live", 2, 1),
        ("live", 1, 0),
        ("live", 0, 2),
        ("training", 2, 1),
    ]
    assert moves[0]["reason"] == "looked better" and moves[0]["run"] == "policy/solver"


def test_what_is_promoted_is_what_plays(capsys: Capture) -> None:
    with Journal.open("j.db") as journal:
        known = policies.find(journal, "solver", 0)
        spare = policies.register(
            journal,
            policy="solver",
            base_hash=known.base_hash,
            base_spec="scripted:hash",
            update_id=77,
        )
    assert run("promote", "solver", str(spare.number)) == 0
    Path("t.jsonl").write_text(json.dumps(TASKS[0]) + "\n")
    command = ["play", "sample", "--tasks", "t.jsonl", "--engine", "policy:solver", "-q", "--run", "p"]
    assert main(command) == 0
    with Journal.open("j.db") as journal:
        [row] = journal.read(select(Turn.policy_version_id).order_by(Turn.id.desc()).limit(1))
    assert row[0] == spare.id


@pytest.mark.parametrize("damage", ["gone", "altered"])
def test_no_head_moves_to_weights_that_are_not_those_registered(
    damage: str, capsys: Capture, memory: Path
) -> None:
    folder = memory.with_name("j.db.policies") / "solver-1"
    if damage == "gone":
        shutil.rmtree(folder)
    else:
        (folder / "adapter_model.safetensors").write_text("other")
    for command in (["promote", "solver@1"], ["rollback", "solver", "--to", "1"]):
        assert run(*command) == 2
        said = capsys.readouterr().err
        assert "solver@1" in said and ("is gone" in said or "not the weights" in said)
    assert heads(capsys) == (0, 2)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["show", "slover"], "unknown policy `slover`; known: judge, solver"),
        (["show", "solver@9"], "`solver` has no version 9; it has 0, 1, 2"),
        (["lineage", "solver@x"], "write a policy as NAME"),
        (["promote", "solver"], "promote solver VERSION"),
        (["promote", "solver@1", "2"], "name one policy and one version"),
        (["promote", "judge", "solver@1"], "name one policy and one version"),
        (["promote", "solver", "1", "--head", "best"], "known: live, training"),
        (["rollback", "solver"], "no earlier version"),
        (["rollback", "slover"], "unknown policy `slover`"),
        (["rollback", "solver", "--head", "best"], "known: live, training"),
        (["rollback", "solver", "--to", "9"], "has no version 9"),
        (["list", "--memory", "none.db"], "does not exist"),
        (["demote", "solver"], "known: list, show, lineage, promote, rollback"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(command: list[str], said: str, capsys: Capture) -> None:
    assert run(*command) == 2
    out, err = capsys.readouterr()
    assert out == "" and said in err and err.count("\n") == 1
    assert heads(capsys) == (0, 2) and not Path("none.db").exists()


def test_the_run_of_a_move_is_no_run_to_resume(capsys: Capture) -> None:
    assert run("promote", "solver", "1") == 0
    assert main(["resume", "policy/solver"]) == 2
    assert "was not begun by `play`" in capsys.readouterr().err

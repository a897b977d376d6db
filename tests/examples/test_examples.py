"""Every example as its reader would run it: a process of its own, and what it printed and journaled."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from sparring.memory.journal import Journal
from sparring.memory.schema import Episode, PolicyVersion, Reward, Run, Turn

ROOT = Path(__file__).parents[2]
SPARRING = ("-m", "sparring")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that has the examples as a clone has them, and keeps what they write."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SPARRING_")}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "LANGSMITH_TRACING": "false"}


def run(folder: Path, *arguments: str, status: int = 0, timeout: float = 600) -> str:
    """What `python ARGUMENTS` prints to standard output."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def count(memory: Path, table: Any, *conditions: Any) -> int:
    with Journal.open(memory, read_only=True) as journal:
        return int(journal.read(select(func.count()).select_from(table).where(*conditions))[0][0])


def test_a_debate_waits_for_a_human_and_is_not_paid_twice(folder: Path) -> None:
    app = "examples/langgraph_app.py"
    waiting = run(folder, app, "ask", "What is 17 + 25?").splitlines()
    assert re.fullmatch(r"waiting: publish `.+`\?", waiting[0])
    assert waiting[1] == "model calls in the journal: 6", "three agents, two rounds"
    published = run(folder, app, "answer", "yes").splitlines()
    answer = waiting[0].split("`")[1]
    assert published == [f"published: {answer}", "model calls in the journal: 6"]
    assert count(folder / "app.db", Turn) == 6 and count(folder / "app.db", Episode) == 1


def test_the_scripted_tournament(folder: Path) -> None:
    command = (*SPARRING, "tournament", "examples/tournament/rock_paper_scissors.yaml", "--memory", "rps.db")
    first = run(folder, *command, "--out", "standings.jsonl")
    assert "the field is cyclic: rock beats scissors, scissors beats paper, paper beats rock" in first
    rows = [json.loads(line) for line in (folder / "standings.jsonl").read_text().splitlines()]
    assert [row["rating"]["mean"] for row in rows if row["kind"] == "player"] == [1500.0] * 3
    turns = count(folder / "rps.db", Turn)
    assert count(folder / "rps.db", Episode) == 72
    assert run(folder, *command) == first and count(folder / "rps.db", Turn) == turns


def test_a_protocol_of_ones_own_on_the_command_line(folder: Path) -> None:
    assert len((ROOT / "examples" / "quorum.py").read_text().splitlines()) < 100
    where = ("--memory", "q.db")
    play = ("play", "examples.quorum:Quorum", "--tasks", "demo", "--limit", "3", "--engine", "scripted:hash")
    told = run(folder, *SPARRING, *play, "--set", "most=8", "--run", "q", "-q", *where)
    lines = [json.loads(line) for line in told.splitlines()]
    assert len(lines) == 3 and all(2 <= line["calls"] <= 8 for line in lines)
    early = all(max(line["outcome"]["detail"]["totals"].values()) == 2 for line in lines if line["calls"] < 8)
    assert early, "two who agree are enough"
    turns = count(folder / "q.db", Turn)
    assert run(folder, *SPARRING, "resume", "q", "-q", *where) == told
    paid = json.loads(run(folder, *SPARRING, "rewards", "q", "--function", "examples.quorum:Early", *where))
    assert paid["function"] == "early" and paid["added"] == count(folder / "q.db", Turn) == turns


@pytest.mark.model
@pytest.mark.timeout(700)
def test_a_protocol_of_ones_own_learns_from_its_own_reward(folder: Path) -> None:
    lines = run(folder, "examples/quorum.py").splitlines()
    assert len(lines) == 6 and all(
        re.search(r" = \S+: (right|wrong), [2-4] calls", line) for line in lines[:4]
    )
    assert lines[4].startswith("Derived(episodes=4, rewards=")
    assert lines[5].endswith("heads {'live': 0, 'training': 1}")
    memory = folder / "quorum.db"
    with Journal.open(memory, read_only=True) as journal:
        runs = {row.id: row.protocol for row in journal.read(select(Run.id, Run.protocol))}
    assert set(runs.values()) == {"examples.quorum:Quorum"}, "a script's class is found again by its path"
    assert count(memory, Reward, Reward.function == "early", Reward.value > 0) > 0
    assert "quorum" in run(folder, *SPARRING, "report", "quorum", "--memory", "quorum.db")


def test_chat_models_of_langchain_debate(folder: Path) -> None:
    lines = run(folder, "examples/chat_model.py").splitlines()
    assert lines == ["months 12 right 3 calls", "legs 12 wrong 3 calls"]
    memory = folder / "chat_model.db"
    assert count(memory, Turn) == count(memory, Turn, Turn.engine == "langchain:FakeListChatModel:") == 6
    refused = subprocess.run(
        [sys.executable, "examples/chat_model.py", "nobody:model"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert refused.returncode and "nobody" in refused.stderr


def test_spans_of_a_run(folder: Path) -> None:
    lines = run(folder, "examples/spans.py").splitlines()
    turns = [line for line in lines if line.startswith("   chat hash ")]
    assert lines[0] == "15 spans" and lines[1].strip() == "run spans"
    assert sum(line.strip() == "invoke_workflow debate" for line in lines) == 2
    assert len(turns) == count(folder / "spans.db", Turn) == 12
    trace = (*SPARRING, "memory", "trace", "spans", "--memory", "spans.db")
    requests = [json.loads(line) for line in run(folder, *trace).splitlines()]
    sent = [span for request in requests for span in request["resourceSpans"][0]["scopeSpans"][0]["spans"]]
    assert len(sent) == 15 and all(re.fullmatch("[0-9a-f]{16}", span["spanId"]) for span in sent)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_software_demo_as_make_runs_it(folder: Path) -> None:
    """`make swe-demo`, in a copy, on this interpreter instead of `.venv`."""
    clone = folder / "clone"
    (clone / "examples").mkdir(parents=True)
    shutil.copytree(
        ROOT / "examples" / "swe", clone / "examples" / "swe", ignore=shutil.ignore_patterns("build")
    )
    shutil.copy(ROOT / "Makefile", clone)
    bin = clone / "bin"
    bin.mkdir()
    for name, more in (("python", ""), ("sparring", "-m sparring ")):
        (bin / name).write_text(f'#!/bin/sh\nexec {sys.executable} {more}"$@"\n')
        (bin / name).chmod(0o755)
    make = ["make", "-o", ".venv/.ready", "BIN=bin", "swe-demo"]
    done = subprocess.run(
        make, cwd=clone, env=environment(), capture_output=True, text=True, timeout=800, check=False
    )
    assert done.returncode == 0, done.stderr
    predictions = [
        json.loads(line) for line in (clone / "examples/swe/build/predictions.jsonl").read_text().splitlines()
    ]
    assert len(predictions) == 12 and count(clone / "swe-demo.db", Episode, Episode.status == "done") == 12


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_critic_evolves_for_one_round(folder: Path) -> None:
    command = ("evolve", "examples/chains/quick.yaml", "--memory", "critic.db")
    told = run(folder, *SPARRING, *command)
    assert "critic" in told
    memory = folder / "critic.db"
    assert count(memory, Run, Run.kind == "evolve", Run.status == "done") == 1
    versions = count(memory, PolicyVersion, PolicyVersion.policy == "critic")
    assert versions == 2, "the base, and what it learned"
    turns = count(memory, Turn)
    run(folder, *SPARRING, *command)
    assert count(folder / "critic.db", Turn) == turns, "nothing is played twice"


def test_the_page_lists_every_example() -> None:
    page = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\.\./(examples/[^)#]*)", page))
    assert all((ROOT / target).exists() for target in linked)
    entries = {path.name for path in (ROOT / "examples").iterdir() if path.name != "__pycache__"}
    assert entries <= {target.split("/")[1] for target in linked}, "an example that the page leaves out"

"""Forks and replays: another attempt begins where one was, and pays for what is new alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from engineer import (
    commands,
    engineer,
    events,
    last_message,
    make_instance,
    number_of,
    repository,
    rows,
    work,
)

from sparring.agents.engines.base import Request
from sparring.agents.engines.scripted import ScriptedEngine
from sparring.errors import UserError
from sparring.graphs.forks import fork
from sparring.graphs.play import play
from sparring.memory.journal import Journal
from sparring.memory.transfer import export, import_
from sparring.tools.swe.instances import Instance

LINES = ("echo a >> log; mkdir empty", "echo b >> log", "echo c >> log")


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    return make_instance(repository(tmp_path / "source"))


@pytest.fixture
def parent(memory: Path, instance: Instance) -> Any:
    [line] = work(memory, instance, commands(*LINES))
    return line


def heard(*lines: str) -> tuple[ScriptedEngine, list[Request]]:
    """An engineer who runs these lines, and what it was asked."""
    seen: list[Request] = []
    return engineer(*commands(*lines), log=seen.append), seen


def test_a_fork_shares_the_first_steps_and_the_tree(memory: Path, parent: Any) -> None:
    engine, seen = heard(*LINES[:2], "cat log; ls -d empty; echo other >> log")
    [line] = fork(parent.episode, 2, memory, engine=engine)
    assert [number_of(request) for request in seen] == [2, 3], "what was said is not asked again"
    assert line.calls == 2 and line.outcome["detail"]["steps"] == 4
    made = events(memory)[4]
    assert made["observation"] == "a\nb\nempty\n"
    assert "+a\n+b\n+other\n" in line.answer and "+c" not in line.answer
    query = "SELECT parent_id, forked_from_turn_id, run_id FROM episodes WHERE parent_id IS NOT NULL"
    turn = rows(memory, "SELECT id FROM turns WHERE key = 'step/1'")[0][0]
    assert rows(memory, query) == [(parent.episode, turn, line_run(memory))]
    assert len(rows(memory, "SELECT id FROM turns")) == 4 + 2, "shared turns are not copied"
    child = [last_message(request) for request in seen]
    assert child[0].startswith("Exit status 0.\nIt printed nothing.")


def line_run(memory: Path) -> str:
    [(name,)] = rows(memory, "SELECT id FROM runs WHERE id <> 'r'")
    return str(name)


def test_a_fork_of_a_fork_goes_on_though_every_folder_is_gone(memory: Path, parent: Any) -> None:
    first, _ = heard(*LINES[:2], "echo d >> log")
    [child] = fork(parent.episode, 2, memory, engine=first, run="child")
    shutil.rmtree(memory.with_name("journal.db.swe"))
    second, seen = heard(*LINES, "cat log; ls")
    [grandchild] = fork(child.episode, 3, memory, engine=second, run="grandchild")
    assert len(seen) == 2 and "empty" in events(memory)[-2]["observation"]
    assert events(memory)[-2]["observation"].startswith("a\nb\nd\n")
    again, asked = heard("never")
    [same] = fork(child.episode, 3, memory, engine=again, run="grandchild")
    assert same == grandchild and not asked, "the same call continues the run"


def test_copies_of_a_fork_have_seeds_of_their_own(memory: Path, parent: Any) -> None:
    seeds: list[int] = []

    def reply(request: Request, seed: int) -> str:
        seeds.append(seed)
        return commands(*LINES)[number_of(request)]

    result = fork(parent.episode, 3, memory, engine=ScriptedEngine(reply, ids=False), copies=3)
    known = {seed for (seed,) in rows(memory, "SELECT seed FROM turns WHERE id <= 4")}
    assert len(result) == 3 and len(set(seeds)) == 3 and not known & set(seeds)


def test_another_prompt_and_temperature_may_go_on(memory: Path, tmp_path: Path, parent: Any) -> None:
    own = tmp_path / "own.md"
    text = "{% block system %}You are another one.{% endblock %}"
    own.write_text(f'{{% extends "engineer.md" %}}{text}')
    engine, seen = heard(*LINES[:2], "ls")
    options: dict[str, Any] = {"prompts": {"engineer": str(own)}, "temperature": 0.3, "steps": 9}
    [line] = fork(parent.episode, 2, memory, engine=engine, **options)
    assert line.status == "done" and seen[0].messages[0]["content"] == "You are another one."


def test_a_fork_at_0_plays_anew(memory: Path, parent: Any) -> None:
    engine, seen = heard("ls")
    [line] = fork(parent.episode, 0, memory, engine=engine)
    assert len(seen) == 2 and line.calls == 2 and "log" not in line.answer


def test_the_recorded_replies_make_the_same_trajectory(
    memory: Path, tmp_path: Path, instance: Instance, parent: Any
) -> None:
    """Replay: what an episode said, said again by a script, on another journal."""
    query = "SELECT json_extract(content, '$[0].text') FROM messages JOIN turns ON output_id = messages.id"
    replies = [text for (text,) in rows(memory, f"{query} ORDER BY turns.id")]
    other = tmp_path / "other.db"
    [line] = work(other, instance, replies)
    assert line.outcome == parent.outcome
    same = ("action", "observation", "returncode", "tree", "delta", "submitted")
    assert [[made[name] for name in same] for made in events(other)] == [
        [made[name] for name in same] for made in events(memory)
    ]


def test_a_fork_travels_with_the_episode_it_began_in(memory: Path, tmp_path: Path, parent: Any) -> None:
    engine, _ = heard(*LINES[:2], "echo d >> log")
    fork(parent.episode, 2, memory, engine=engine, run="child")
    other = tmp_path / "other.db"
    with Journal.open(memory) as journal, Journal.open(other) as target:
        export(journal, None, tmp_path / "all.jsonl")
        import_(target, tmp_path / "all.jsonl")
    [(child,)] = rows(other, "SELECT id FROM episodes WHERE run_id = 'child'")
    engine, seen = heard("x", "x", "x", "cat log")
    fork(child, 3, other, engine=engine, run="again")
    assert len(seen) == 2 and events(other)[-2]["observation"] == "a\nb\nd\n"


def test_what_cannot_be_forked_is_refused(memory: Path, parent: Any) -> None:
    with pytest.raises(UserError, match=r"unknown episode `nobody`; known: .*" + parent.episode):
        fork("nobody", 1, memory)
    with pytest.raises(UserError, match="has not come as far as `step/4`"):
        fork(parent.episode, 5, memory, engine=engineer("x"))
    with pytest.raises(UserError, match="0 steps or more"):
        fork(parent.episode, -1, memory, engine=engineer("x"))
    with pytest.raises(UserError, match="was a Python object"):
        fork(parent.episode, 1, memory)
    with pytest.raises(UserError, match="unknown option of protocol `software` `stepz`"):
        fork(parent.episode, 1, memory, engine=engineer("x"), stepz=3)
    [line] = play("sample", [{"id": "q", "question": "?"}], engine="scripted:hash", memory=memory, run="s")
    with pytest.raises(UserError, match="episodes of protocol `sample` cannot be forked"):
        fork(line.episode, 1, memory)

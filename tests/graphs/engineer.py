"""A small repository, an instance of it, and engineers that say what they are told to."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparring.agents.engines.base import Request
from sparring.agents.engines.script import text_of
from sparring.agents.engines.scripted import ScriptedEngine
from sparring.graphs.play import PlayResult, play
from sparring.graphs.protocols.software import MARKER
from sparring.tools.swe.instances import Instance, instance_of

FILES = {"calc.py": "def double(x):\n    return x + x + 1\n", "notes.txt": "one\r\ntwo\r\n"}
DONE = f"echo {MARKER}"


def said(command: str, thought: str = "Well.") -> str:
    """A reply with one command."""
    return f"{thought}\n\n````bash\n{command}\n````"


def repository(folder: Path, files: Mapping[str, str] = FILES) -> Path:
    """Plain files, a source without history."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_bytes(text.encode())
    return folder


def make_instance(source: Path, name: str = "calc-1") -> Instance:
    row: dict[str, Any] = {
        "instance_id": name,
        "repo": "own/calc",
        "problem_statement": f"double({name}) is off by one",
        "patch": "",
        "test_patch": "",
        "FAIL_TO_PASS": ["test_calc.py::test_double"],
        "PASS_TO_PASS": [],
        "source": str(source),
    }
    return instance_of(row)


def number_of(request: Request) -> int:
    """Which step is asked for, from 0: how many replies the conversation has."""
    return sum(message["role"] == "assistant" for message in request.messages)


def engineer(*replies: str, log: Callable[[Request], object] = lambda request: None) -> ScriptedEngine:
    """Says one thing after another, whatever it reads; the last one again and again."""

    def reply(request: Request, seed: int) -> str:
        log(request)
        return replies[min(number_of(request), len(replies) - 1)]

    return ScriptedEngine(reply, ids=False)


def commands(*lines: str) -> list[str]:
    """Replies that run these commands and then submit."""
    return [said(line) for line in (*lines, DONE)]


def work(memory: Path, instance: Instance, replies: Sequence[str], **options: Any) -> PlayResult:
    """Play one instance; Landlock, which starts faster, and no grade unless asked for."""
    given: dict[str, Any] = {"grade": False, "sandbox": "landlock", "memory": memory, "run": "r"}
    engine = options.pop("engine", None) or engineer(*replies)
    return play("software", [instance], engine=engine, **{**given, **options})


def rows(memory: Path, query: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(memory)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def events(memory: Path, kind: str = "step") -> list[dict[str, Any]]:
    """Payloads in the order in which they were journaled."""
    return [
        json.loads(p) for (p,) in rows(memory, f"SELECT payload FROM events WHERE kind='{kind}' ORDER BY id")
    ]


def last_message(request: Request) -> str:
    return text_of(request.messages[-1])

"""Scripted seats for searches: engineers who follow a plan, valuers with a list, debaters with an eye."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from engineer import DONE, last_message, make_instance, repository, rows, said

from sparring.agents.engines.base import Request
from sparring.agents.engines.script import text_of
from sparring.agents.engines.scripted import ScriptedEngine
from sparring.agents.shell import shell_blocks
from sparring.graphs.play import PlayResult, play
from sparring.tools.swe.instances import Instance

GOOD, BAD = "sed -i 's/ + 1//' calc.py", "sed -i 's/x + x/x/' calc.py"
RIGHT = "+    return x + x\n"
Log = Callable[[str, Request], object]
Plan = Mapping[tuple[str, ...], Sequence[str]]
"""Commands so far -> what is said there, first, second, ... ; the last one again and again."""
SECRETS = ("SECRET_GOLD", "SECRET_TEST", "test_secret.py::test_hidden", "test_secret.py::test_kept")


def secret_instance(folder: Path) -> Instance:
    """An instance whose hidden parts can be looked for."""
    one = make_instance(repository(folder))
    return replace(
        one, patch=SECRETS[0], test_patch=SECRETS[1], fail_to_pass=SECRETS[2:3], pass_to_pass=SECRETS[3:]
    )


def silent(seat: str, request: Request) -> None:
    pass


def way_of(request: Request) -> tuple[str, ...]:
    """The commands that the engineer said before."""
    said = [text_of(m) for m in request.messages if m["role"] == "assistant"]
    return tuple(block for text in said for block in shell_blocks(text))


def planner(plan: Plan, log: Log = silent) -> ScriptedEngine:
    """Says what the plan has for the place; which child it makes, it reads in what was tried before."""

    def reply(request: Request, seed: int) -> str:
        log("engineer", request)
        told = last_message(request).partition("From this very point")[2]
        choices = plan[way_of(request)]
        number = len(re.findall(r"^\d+\. ", told, re.MULTILINE))
        words = choices[min(number, len(choices) - 1)]
        return words if words.startswith("!") else said(words)

    return ScriptedEngine(reply, ids=False)


def valuer(values: Mapping[str, int | str], log: Log = silent) -> ScriptedEngine:
    """The value of the last command, by the longest end of the work shown that is listed; a text is said."""

    def reply(request: Request, seed: int) -> str:
        log("valuer", request)
        work = last_message(request).partition("<work>")[2].partition("</work>")[0]
        commands = " | ".join(re.findall(r"^\$ (.*)$", work, re.MULTILINE))
        value = next(values[end] for end in sorted(values, key=len, reverse=True) if commands.endswith(end))
        return value if isinstance(value, str) else f"Because of {value}.\n<score>{value}</score>"

    return ScriptedEngine(reply, ids=False)


def letter_of(request: Request, line: str) -> str:
    """The letter of the first patch with this line."""
    shown = "\n".join(text_of(message) for message in request.messages)
    for letter, patch in re.findall(r"Patch \((.)\):\n\n<patch>\n(.*?)</patch>", shown, re.DOTALL):
        if line in patch:
            return str(letter)
    return "none"


def chooser(line: str = RIGHT, log: Log = silent, seat: str = "debater") -> ScriptedEngine:
    """Is for the patch with a line."""

    def reply(request: Request, seed: int) -> str:
        log(seat, request)
        return f"I have looked.\nAnswer: ({letter_of(request, line)})"

    return ScriptedEngine(reply, ids=False)


def search(memory: Path, instance: Instance, roles: Mapping[str, Any], **options: Any) -> PlayResult:
    """Play a protocol over one instance; Landlock, which starts faster, and no grade unless asked for."""
    given: dict[str, Any] = {"grade": False, "sandbox": "landlock", "memory": memory, "run": "r"}
    given["durability"] = "normal"
    protocol = options.pop("protocol", "software_search")
    return play(protocol, [instance], roles=dict(roles), **{**given, **options})


def turn_keys(memory: Path) -> list[str]:
    """In the order in which they were journaled."""
    return [key for (key,) in rows(memory, "SELECT key FROM turns ORDER BY id")]


def places(memory: Path, kind: str = "node") -> list[str]:
    query = f"SELECT key FROM events WHERE kind = '{kind}' ORDER BY id"
    return [key for (key,) in rows(memory, query)]


TWO = {(): (GOOD, BAD), (GOOD,): (DONE,), (BAD,): (DONE,)}
"""A good fix and a bad one, each of which is submitted."""
TWO_VALUES: dict[str, int | str] = {GOOD: 40, BAD: 50, f"{GOOD} | {DONE}": 10, f"{BAD} | {DONE}": 90}
"""By which the bad one is the better one."""


def two(log: Log = silent) -> dict[str, ScriptedEngine]:
    """All seats for `TWO`; the debaters are for the good one."""
    return {"engineer": planner(TWO, log), "valuer": valuer(TWO_VALUES, log), "solver": chooser(log=log)}

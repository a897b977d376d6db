"""What a step of the software engineer costs beside its command, and which part costs what.

    python -m benchmarks.swe_steps [--steps 60] [--files 200] [--kind landlock] [--search] [--out FILE]

A scripted engineer changes one file of a tree with that many files at each step, in an episode that is
played as users play it (journal on disk, trees beside it). The same commands are timed plain: `bash -c` in a
copy of the tree, between the steps, so that both see the same machine. Medians count. Required (issue 7): a
step under 60 ms above its command.

    step      from one reply of the engine to the next request, all that is ours
    command   the same line by `bash -c`, plain
    sandbox   `Sandbox.arun`, the command inside included
    snapshot  looking through the tree and keeping what changed
    delta     the step's changes, compressed for the journal
    turn      the turn's way into the journal, its prompt rendered and its reply parsed (engine included)
    event     the step's way into the journal
    rest      what is left of a step: graph, threads, state

With `--search` the steps are nodes of `software_search`, one below the other: each lays its tree out anew
(`layout`) and is valued, by a script too, so its budget is not that of a step.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.budgets import finish, judged
from sparring.agents.engines.base import Request
from sparring.agents.engines.scripted import ScriptedEngine
from sparring.graphs.context import Context
from sparring.graphs.play import aplay, plan
from sparring.graphs.protocols.software import MARKER
from sparring.memory.episode import EpisodeHandle
from sparring.tools.sandbox import Sandbox
from sparring.tools.swe.instances import instance_of
from sparring.tools.swe.trees import WorkTree
from sparring.tools.swe.workshop import Bench

LINE = "sed -i 's/^number = .*/number = {}/' package/module_0.py; cat package/module_0.py | head -3"


class Clock:
    """Seconds by part, and the moments at which the engine was asked."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = defaultdict(list)
        self.asked: list[float] = []

    def wrap(self, owner: type, name: str, part: str, keep: Callable[..., bool] = lambda *_: True) -> None:
        """Time a method, coroutine or not."""
        inner = getattr(owner, name)

        async def timed_async(*given: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return await inner(*given, **options)
            finally:
                if keep(*given):
                    self.spent[part].append(time.perf_counter() - began)

        def timed(*given: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return inner(*given, **options)
            finally:
                self.spent[part].append(time.perf_counter() - began)

        setattr(owner, name, timed_async if asyncio.iscoroutinefunction(inner) else timed)


def tree(folder: Path, files: int) -> Path:
    """A package of so many modules of about 2 kB."""
    for number in range(files):
        path = folder / "package" / (f"part_{number % 10}" if number else "") / f"module_{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"number = {number}\n" + "".join(f"value_{n} = {n * number}\n" for n in range(100)))
    return folder


async def measure(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Play one episode with a clock in it."""
    clock, copy = Clock(), tree(folder / "plain", given.files)
    row = {"instance_id": "bench", "repo": "own/bench", "problem_statement": "Change it.", "patch": ""}
    row |= {"test_patch": "", "FAIL_TO_PASS": [], "PASS_TO_PASS": []}
    instance = instance_of({**row, "source": str(tree(folder / "source", given.files))})

    async def reply(request: Request, seed: int) -> str:
        number = sum(message["role"] == "assistant" for message in request.messages)
        line = LINE.format(number) if number < given.steps else f"echo {MARKER}"
        began = time.perf_counter()
        clock.asked.append(began)
        process = await asyncio.create_subprocess_exec(
            "/bin/bash", "-c", LINE.format(number), cwd=copy, stdout=asyncio.subprocess.PIPE
        )
        await process.communicate()
        clock.spent["command"].append(time.perf_counter() - began)
        return f"Change it.\n```bash\n{line}\n```"

    clock.wrap(Sandbox, "arun", "sandbox")
    clock.wrap(WorkTree, "snapshot", "snapshot")
    clock.wrap(Bench, "delta", "delta")
    clock.wrap(Context, "act", "turn")
    clock.wrap(Bench, "at", "layout")
    clock.wrap(EpisodeHandle, "event", "event", lambda handle, kind, *_: kind in ("step", "node"))
    options: dict[str, Any] = {"sandbox": given.kind, "grade": False, "steps": given.steps + 1}
    engine, protocol = ScriptedEngine(reply, ids=False), "software"
    if given.search:
        count, valuer = options.pop("steps"), ScriptedEngine(lambda *_: "Fine.\n<score>10</score>", ids=False)
        options |= {"depth": count, "expansions": count, "children": 1, "select": "value"}
        options["roles"], protocol = {"valuer": valuer}, "software_search"
    play = plan(protocol, [instance], engine=engine, **options)
    [line] = await aplay(play, folder / "bench.db", run="bench", durability=given.durability)
    detail = line.outcome["detail"]
    assert detail.get("exit_status") == "submitted" or detail.get("nodes") == given.steps + 1, line
    return table(clock, given)


def table(clock: Clock, given: argparse.Namespace) -> dict[str, Any]:
    """Medians in milliseconds; the first two steps, in which everything is read once, do not count."""
    count = given.steps
    between = [later - sooner for sooner, later in zip(clock.asked, clock.asked[1:], strict=False)]
    plain = clock.spent["command"][:count]
    steps = [whole - command for whole, command in zip(between, plain, strict=True)]
    turns = [whole - command for whole, command in zip(clock.spent["turn"][:count], plain, strict=True)]
    named = ("sandbox", "layout", "event") if given.search else ("sandbox", "snapshot", "delta", "event")
    parts = {} if given.search else {"turn": turns}  # a node has two turns, and two snapshots
    parts |= {name: clock.spent[name][-count - 1 : -1] for name in named}

    def median(values: list[float]) -> float:
        return round(1000 * statistics.median(values[2:]), 2)

    found: dict[str, Any] = {"step": median(steps), "command": median(plain)}
    found |= {name: median(values) for name, values in parts.items()}
    found["rest"] = round(found["step"] - sum(found[name] for name in parts), 2)
    found["overhead"] = median([whole - command for whole, command in zip(steps, plain, strict=True)])
    found |= {"n": len(steps) - 2, "load": round(os.getloadavg()[0], 1)}
    return found | {name: getattr(given, name) for name in ("files", "kind", "durability")}


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--kind", default="landlock", help="of sandbox")
    parser.add_argument("--durability", choices=("full", "normal"), default="full")
    parser.add_argument("--search", action="store_true", help="nodes of a search in place of steps")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="sparring-swe-steps-"))
    try:
        found = asyncio.run(measure(given, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for name, value in found.items():
        print(f"{name:10} {value}")
    rows = [] if given.search else judged("swe_steps", {"a step above its command": found["overhead"]})
    return finish(rows, found, given.out)


if __name__ == "__main__":
    sys.exit(main())

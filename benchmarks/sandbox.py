"""What the sandbox adds to a command: start cost of each mechanism beside the bare program.

    python benchmarks/sandbox.py [--rounds 30] [--out FILE]

Each round runs `date` plain (asyncio's subprocess) and in every mechanism that holds here, in turn; medians
count. `start` ends when `date` reads the clock, `whole` when the call is back and nothing is left. Required
(issue 7): a start under 60 ms, as the difference to the plain run. The machine's load is printed beside, and
how long a bare Python takes to start, which is what a sandbox without a zygote would have to add.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import get_args

from sparring.errors import SandboxUnavailable
from sparring.tools.sandbox import Sandbox
from sparring.tools.sandbox.base import Kind

BUDGET = 0.060
PLAIN, PYTHON = "plain", "python -I -S"
DATE = ("/bin/date", "+%s.%N")


async def plain(*command: str) -> str:
    """A command without a sandbox; its output."""
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    return (await process.communicate())[0].decode()


def candidates(folder: str) -> dict[str, Callable[[], Awaitable[str]]]:
    """What is timed, by name; each prints the time. The self-tests are made here, before any timing."""
    code = "import time; print(time.time())"
    python = [os.path.realpath(sys.executable), "-I", "-S", "-c", code]
    found: dict[str, Callable[[], Awaitable[str]]] = {
        PLAIN: functools.partial(plain, *DATE),
        PYTHON: functools.partial(plain, *python),
    }

    async def inside(box: Sandbox) -> str:
        return (await box.arun(DATE, work=folder)).stdout

    for kind in get_args(Kind):
        if kind in ("landlock", "bwrap"):
            try:
                box = Sandbox.open(kind)
            except SandboxUnavailable as error:
                print(f"{kind}: left out, {error}", file=sys.stderr)
                continue
            found[box.describe().mechanism] = functools.partial(inside, box)
    return found


async def measure(
    runs: dict[str, Callable[[], Awaitable[str]]], rounds: int
) -> dict[str, tuple[float, float]]:
    """Median seconds (start, whole) of each, interleaved; one round does not count."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            began = time.time()
            said = await run()
            if number:
                spent[name].append((float(said) - began, time.time() - began))
    return {
        name: (statistics.median(start for start, _ in each), statistics.median(whole for _, whole in each))
        for name, each in spent.items()
    }


def main() -> None:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        # outside the loop: the self-test would run a loop of its own within it
        figures = asyncio.run(measure(candidates(folder), options.rounds))
    fits = len(figures) > 2
    for name, (start, whole) in figures.items():
        added = start - figures[PLAIN][0]
        judged = "" if name in (PLAIN, PYTHON) else "pass" if added <= BUDGET else "SHORT"
        fits &= judged != "SHORT"
        timed = f"start {1e3 * start:6.1f} ms (+{1e3 * added:5.1f})  whole {1e3 * whole:6.1f} ms"
        print(f"{name:24} {timed}  {judged}")
    print(f"load {load:.1f} on {os.cpu_count()} cores")
    if options.out:
        options.out.write_text(
            json.dumps({"rounds": options.rounds, "load": load, "seconds": figures}) + "\n"
        )
    sys.exit(not fits)


if __name__ == "__main__":
    main()

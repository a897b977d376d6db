"""What the sandbox adds to a command: start cost of each mechanism beside the bare program.

    python -m benchmarks.sandbox [--rounds 30] [--out FILE]

Each round runs `date` plain (asyncio's subprocess) and in every mechanism that holds here, in turn; medians
count. `start` ends when `date` reads the clock, `whole` when the call is back and nothing is left. Required
(issue 7): a start under 60 ms, as the difference to the plain run. The machine's load is printed beside, and
how long a bare Python takes to start, which is what a sandbox without a zygote would have to add.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks.budgets import finish, judged
from sparring.errors import SandboxUnavailable
from sparring.tools.sandbox import Sandbox

KINDS = ("landlock", "bwrap")
PLAIN, PYTHON = "plain", "python -I -S"
DATE = ("/bin/date", "+%s.%N")


async def plain(*command: str) -> str:
    """A command without a sandbox; its output."""
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    return (await process.communicate())[0].decode()


def candidates(folder: str) -> tuple[dict[str, Callable[[], Awaitable[str]]], dict[str, str]]:
    """What is timed, by name; each prints the time. The self-tests are made here, before any timing. And
    the mechanisms that do not hold here, with the reason."""
    code = "import time; print(time.time())"
    python = [os.path.realpath(sys.executable), "-I", "-S", "-c", code]
    found: dict[str, Callable[[], Awaitable[str]]] = {
        PLAIN: functools.partial(plain, *DATE),
        PYTHON: functools.partial(plain, *python),
    }

    async def inside(box: Sandbox) -> str:
        return (await box.arun(DATE, work=folder)).stdout

    missing: dict[str, str] = {}
    for kind in KINDS:
        try:
            found[kind] = functools.partial(inside, Sandbox.open(kind))  # type: ignore[arg-type]  # two of the kinds
        except SandboxUnavailable as error:
            missing[kind] = f"not run: {error}"
    return found, missing


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


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        runs, missing = candidates(folder)  # outside the loop: the self-test would run one of its own in it
        figures = asyncio.run(measure(runs, options.rounds))
    added: dict[str, float | str] = dict(missing)
    for name, (start, whole) in figures.items():
        above = 1e3 * (start - figures[PLAIN][0])
        print(f"{name:14} start {1e3 * start:6.1f} ms (+{above:5.1f})  whole {1e3 * whole:6.1f} ms")
        if name in KINDS:
            added[name] = above
    print(f"load {load:.1f} on {os.cpu_count()} cores")
    rows = judged("sandbox", {f"start in {kind} above a plain command's": added[kind] for kind in KINDS})
    return finish(rows, {"rounds": options.rounds, "load": load, "seconds": figures}, options.out)


if __name__ == "__main__":
    sys.exit(main())

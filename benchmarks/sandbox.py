"""What the sandbox adds to a command: start cost of each mechanism beside the bare program.

    python benchmarks/sandbox.py [--rounds 30] [--out FILE]

Each round runs `/bin/true` plain (asyncio's subprocess) and in every mechanism that holds here, in turn;
medians count. Required (issue 7): a start under 60 ms, as the difference of the medians. The load of the
machine is printed beside, and Python's own bare start, of which a mechanism needs one (Landlock) or two
(bubblewrap).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from sparring.errors import SandboxUnavailable
from sparring.tools.sandbox import Sandbox

BUDGET = 0.060
PLAIN, PYTHON = "plain", "python -I -S"


def bare(*command: str) -> Callable[[], Awaitable[object]]:
    """A command without a sandbox."""

    async def run() -> None:
        process = await asyncio.create_subprocess_exec(*command)
        await process.wait()

    return run


def candidates(folder: str) -> dict[str, Callable[[], Awaitable[object]]]:
    """What is timed, by name."""
    found = {PLAIN: bare("/bin/true"), PYTHON: bare(os.path.realpath(sys.executable), "-I", "-S", "-c", "")}
    for kind in ("landlock", "bwrap"):
        try:
            box = Sandbox.open(kind)  # type: ignore[arg-type]  # one of its names
        except SandboxUnavailable as error:
            print(f"{kind}: left out, {error}", file=sys.stderr)
            continue
        found[box.describe().mechanism] = lambda box=box: box.arun(["/bin/true"], work=folder)  # type: ignore[misc]  # early binding
    return found


async def measure(rounds: int) -> dict[str, float]:
    """Median seconds of each, interleaved; one round does not count."""
    with tempfile.TemporaryDirectory() as folder:
        runs = candidates(folder)
        spent: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(rounds + 1):
            for name, run in runs.items():
                began = time.perf_counter()
                await run()
                if number:
                    spent[name].append(time.perf_counter() - began)
    return {name: statistics.median(each) for name, each in spent.items()}


def main() -> None:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    # the self-tests come first, outside the loop, as they do in a run
    for kind in ("landlock", "bwrap"):
        try:
            Sandbox.open(kind)  # type: ignore[arg-type]  # one of its names
        except SandboxUnavailable:
            continue
    load = os.getloadavg()[0]
    figures = asyncio.run(measure(options.rounds))
    fits = len(figures) > 2
    for name, seconds in figures.items():
        added = seconds - figures[PLAIN]
        judged = "" if name in (PLAIN, PYTHON) else "pass" if added <= BUDGET else "SHORT"
        fits &= judged != "SHORT"
        ratio = seconds / figures[PYTHON]
        print(
            f"{name:24}{1e3 * seconds:7.1f} ms, +{1e3 * added:5.1f} ms, {ratio:4.1f} python starts  {judged}"
        )
    print(f"load {load:.1f} on {os.cpu_count()} cores")
    if options.out:
        options.out.write_text(
            json.dumps({"rounds": options.rounds, "load": load, "seconds": figures}) + "\n"
        )
    sys.exit(not fits)


if __name__ == "__main__":
    main()

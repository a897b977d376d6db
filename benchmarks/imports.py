"""What `import sparring` and the command line's start cost, beside `import pydantic, typer`.

    python -m benchmarks.imports [--rounds 15] [--out FILE]

Each round starts one fresh interpreter for each line, in turn; medians count. An interpreter that imports
nothing is subtracted from all. Required (DESIGN section 10): at most 3 times `import pydantic, typer`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.budgets import finish, judged

NOTHING, BASE = "pass", "import pydantic, typer"
MEASURED = ("import sparring", "import sparring.cli")


def seconds(code: str) -> float:
    """Wall seconds of a fresh interpreter running `code`."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started


def measure(rounds: int) -> dict[str, float]:
    """Median seconds above an interpreter that imports nothing, interleaved; one round does not count."""
    lines = (NOTHING, BASE, *MEASURED)
    passes: dict[str, list[float]] = {line: [] for line in lines}
    for number in range(rounds + 1):
        for line in lines:
            spent = seconds(line)
            if number:
                passes[line].append(spent)
    medians = {line: statistics.median(spent) for line, spent in passes.items()}
    return {line: medians[line] - medians[NOTHING] for line in (BASE, *MEASURED)}


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    figures = measure(options.rounds)
    for line, spent in figures.items():
        print(f"{line:24}{1e3 * spent:8.0f} ms")
    rows = judged("imports", {f"{line} / {BASE}": figures[line] / figures[BASE] for line in MEASURED})
    return finish(rows, {"rounds": options.rounds, "seconds": figures}, options.out)


if __name__ == "__main__":
    sys.exit(main())

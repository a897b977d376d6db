"""What `import sparring` and the command line's start cost, beside `import pydantic, typer`.

    python benchmarks/imports.py [--rounds 15] [--out FILE]

Each round starts one fresh interpreter for each line, in turn; medians count. An interpreter that imports
nothing is subtracted from all. Required (DESIGN section 10): at most 3 times `import pydantic, typer`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

NOTHING, BASE = "pass", "import pydantic, typer"
MEASURED = ("import sparring", "import sparring.cli")
BUDGET = 3.0


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


def main() -> None:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    figures = measure(options.rounds)
    fits = True
    for line, spent in figures.items():
        ratio = spent / figures[BASE]
        fits &= ratio <= BUDGET
        print(f"{line:24}{1e3 * spent:8.0f} ms{ratio:7.2f} x  {'pass' if ratio <= BUDGET else 'SHORT'}")
    if options.out:
        options.out.write_text(json.dumps({"rounds": options.rounds, "seconds": figures}, indent=2) + "\n")
    sys.exit(not fits)


if __name__ == "__main__":
    main()

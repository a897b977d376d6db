"""Run every benchmark, one after the other, and say which budgets hold.

    python -m benchmarks [--quick] [--out FOLDER]

Quick leaves out what takes more than a few minutes: the million turns become 50,000, the kills 20.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
FULL = {
    "imports": [],
    "sandbox": [],
    "overhead": ["--rounds", "3"],
    "engine_bench": ["--dtype", "bfloat16", "--repeats", "3"],
    "engine_bench float32": ["--dtype", "float32", "--repeats", "3"],
    "journal_million": ["--turns", "1000000"],
    "experience": ["--turns", "1000000"],
    "trainer_bench": [],
    "kill": ["--kills", "100"],
}
QUICK = {
    "imports": [],
    "sandbox": ["--rounds", "10"],
    "overhead": ["--rounds", "1"],
    "engine_bench": ["--dtype", "bfloat16", "--repeats", "1", "--conversations", "16"],
    "journal_million": ["--turns", "50000"],
    "experience": ["--turns", "60000"],
    "trainer_bench": ["--repeats", "1", "--scale", "0.25"],
    "kill": ["--kills", "20"],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, help="folder for each benchmark's figures as JSON")
    options = parser.parse_args()
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    verdicts: dict[str, str] = {}
    for name, arguments in (QUICK if options.quick else FULL).items():
        script = HERE / f"{name.split()[0]}.py"
        out = ["--out", str(options.out / f"{name.replace(' ', '_')}.json")] if options.out else []
        print(f"\n== {name}: python benchmarks/{script.name} {' '.join(arguments)}", flush=True)
        begun = time.monotonic()
        status = subprocess.run([sys.executable, str(script), *arguments, *out], check=False).returncode
        verdict = "pass" if status == 0 else "short" if status == 1 else f"broken (exit status {status})"
        verdicts[name] = f"{verdict}, {time.monotonic() - begun:.0f} s"
    print("\n" + "\n".join(f"{name:24}{verdict}" for name, verdict in verdicts.items()))
    return int(any(not verdict.startswith("pass") for verdict in verdicts.values()))


if __name__ == "__main__":
    sys.exit(main())

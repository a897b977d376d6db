"""The budgets, one table of them, and how a benchmark says whether it kept its own.

A benchmark measures, calls `judged` with what it found and ends with `finish`, which prints its rows, writes
them with its other figures as JSON and gives the exit status. `python -m benchmarks` runs all of them
and puts their rows into one table. A row is

    {"what", "measured": number or null, "unit", "budget": in words, "pass",
     "verdict": "pass", "short" or why there is neither}

Nothing but the standard library is imported: `vllm_bench` runs in an environment of its own.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
HOLDS = {"at least": operator.ge, "at most": operator.le, "under": operator.lt}


@dataclass(frozen=True, slots=True)
class Budget:
    """What must hold of one figure."""

    what: str
    sense: str
    """One of `HOLDS`."""
    bound: float
    unit: str = ""

    def row(self, measured: float) -> Row:
        fits = bool(HOLDS[self.sense](measured, self.bound))
        return self._row(measured, "pass" if fits else "short")

    def missed(self, why: str) -> Row:
        """The row of a figure that there is not; never a pass."""
        return self._row(None, why)

    def _row(self, measured: float | None, verdict: str) -> Row:
        told = f"{self.sense} {self.bound:g} {self.unit}".strip()
        row = {"what": self.what, "measured": measured, "unit": self.unit, "budget": told}
        return row | {"verdict": verdict, "pass": verdict == "pass"}


def _engine(static: float) -> tuple[Budget, ...]:
    """Those of the embedded engine, which differ between the number types in the first only."""
    return (
        Budget("64 debates / static batches", "at least", static),
        Budget("64 at once / one static batch", "at least", 1.3),
        Budget("debates / one call at a time", "at least", 8),
        Budget("8 samples / 8 other requests", "at least", 3),
        Budget("8 samples / 8 calls in turn", "at least", 3),
        Budget("64 packed / plain weights", "at least", 1.1),  # an issue's, as the next
        Budget("1 packed / plain weights", "at least", 1.1),
        Budget("4 adapters over 1", "at most", 1.5),
        Budget("adapter swap", "under", 1, "s"),
    )


_KILL = (
    Budget("turns lost", "at most", 0),
    Budget("turns doubled", "at most", 0),
    Budget("results unlike the undisturbed run's, calls too many", "at most", 0),
    Budget("of before-commit, after-commit, between-episodes: hit", "at least", 3),
)
BUDGETS: dict[str, tuple[Budget, ...]] = {
    # DESIGN section 10
    "overhead": (
        Budget("journal, NORMAL / no journal", "at least", 0.8),
        Budget("journal, FULL / no journal", "at least", 0.65),
        Budget("journal, NORMAL / LangGraph's checkpointer", "at least", 3),
        Budget("journal, FULL / LangGraph's checkpointer", "at least", 3),
    ),
    "engine_bench bfloat16": _engine(1.0),
    "engine_bench float32": _engine(0.9),
    "vllm_bench": (Budget("64 debates / vLLM's offline batch", "at least", 0.9),),
    "journal_million": (
        Budget("appending, empty / full journal", "at most", 1.3),
        Budget("newest 4,096 turns of a policy", "under", 1, "s"),
        Budget("file / (distinct texts + 4 B an id, 4 B a log-probability)", "at most", 2),
        Budget("bytes a turn, 300-turn / 30-turn episodes", "at most", 1.2),
    ),
    "experience": (
        Budget("4,096 untrained turns of the newest version", "under", 1, "s"),
        Budget("oldest 4,096 turns of five versions", "under", 1, "s"),
    ),
    "trainer_bench": (
        Budget("mixed lengths, ours / TRL", "at least", 1.3),
        Budget("8 samples share each prompt, ours / TRL", "at least", 3),
        Budget("peak memory of an update, 16 prompts x 8 samples", "at most", 4, "GB"),  # an issue's
    ),
    "imports": (
        Budget("import sparring / import pydantic, typer", "at most", 3),
        Budget("import sparring.cli / import pydantic, typer", "at most", 3),
    ),
    "kill": _KILL,
    "kill postgresql": _KILL,
    # of single issues
    "swe_steps": (Budget("a step above its command", "under", 60, "ms"),),
    "sandbox": (
        Budget("start in landlock above a plain command's", "under", 60, "ms"),
        Budget("start in bwrap above a plain command's", "under", 60, "ms"),
    ),
    "grading": (Budget("a later grade of an instance / the first", "under", 1),),
    "view_pages": (
        Budget("slowest page, journal read", "under", 300, "ms"),
        Budget("worst page while it is read", "under", 300, "ms"),
    ),
    "games": (Budget("games a minute, at once / one by one", "at least", 5),),
    "discussions": (Budget("discussions a minute, at once / one call at a time", "at least", 6),),
}
"""By benchmark, as `python -m benchmarks` calls them."""


def judged(benchmark: str, found: Mapping[str, float | str]) -> list[Row]:
    """The rows of what was found: a figure in the budget's unit, or why there is none ("not run: ...").

    Raises:
        ValueError: a figure that has no budget.
    """
    budgets = {budget.what: budget for budget in BUDGETS[benchmark]}
    if strange := found.keys() - budgets.keys():
        raise ValueError(f"{benchmark} has no budget for {sorted(strange)}; it has {sorted(budgets)}")
    return [
        budgets[what].missed(value) if isinstance(value, str) else budgets[what].row(value)
        for what, value in found.items()
    ]


def finish(rows: Sequence[Row], figures: Mapping[str, Any], out: Path | None) -> int:
    """Print the rows, write them and the figures; the exit status: 1 where a budget was missed or, of some,
    none could be judged."""
    if rows:
        print("\n" + table([told(row) for row in rows], HEAD))
    if out:
        out.write_text(json.dumps({**figures, "rows": list(rows)}, indent=1, default=str) + "\n")
    verdicts = {row["verdict"] for row in rows}
    return int("short" in verdicts or (bool(rows) and "pass" not in verdicts))


HEAD = ("what", "measured", "budget", "")


def told(row: Row) -> tuple[str, str, str, str]:
    """A row in words, as `HEAD` has them; what is not a pass is bold."""
    value, verdict = row["measured"], row["verdict"]
    measured = "" if value is None else f"{value}" if isinstance(value, int) else f"{value:.3f}"
    return (
        row["what"],
        f"{measured} {row['unit']}".strip() if measured else "",
        row["budget"],
        verdict if row["pass"] else f"**{verdict}**",
    )


def table(rows: Iterable[Sequence[str]], head: Sequence[str]) -> str:
    """A Markdown table whose columns are also even to the eye."""
    cells = [list(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(lines)

"""`sparring report`: what a run came to, or two of them beside each other, read from the journal."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Annotated

import typer

from sparring.cli import complete
from sparring.cli.options import DEFAULT_MEMORY, Json, Memory, RunName
from sparring.graphs.console import existing, write_lines

if TYPE_CHECKING:
    from sparring.memory.journal import Journal

Other = Annotated[
    str | None,
    typer.Argument(
        metavar="[OTHER]", help="A second run, to compare task by task.", autocompletion=complete.runs
    ),
]
OWN_REPORTS = {
    "evolve": "sparring.training.console:report_evolution",
    "archive": "sparring.training.archive.console:report_archive",
    "tournament": "sparring.training.league.console:report_tournament",
}
"""Kind of run -> who writes its report, where that is not the one of `play`."""


def report(run: RunName, other: Other = None, memory: Memory = DEFAULT_MEMORY, as_json: Json = False) -> None:
    """Accuracy, cost, rewards, signs of collapse; of two runs what the second has over the first."""
    existing(memory)
    from sparring.memory.journal import Journal

    with Journal.open(memory) as journal:
        if other is not None:
            return _compare(journal, run, other, as_json)
        kind = journal.run_row(run).kind
        if kind in OWN_REPORTS:
            module, _, name = OWN_REPORTS[kind].partition(":")
            getattr(import_module(module), name)(journal, run, as_json=as_json)
            return
        from sparring.graphs.report import report as read_report
        from sparring.training.health import health, health_parts

        found, state = read_report(journal, run), health(journal, run)
    if as_json:
        return write_lines([found.to_json() | state.to_json()], None)
    from sparring.graphs.display import report_tables, show

    show(*report_tables(found), *health_parts(state))


def _compare(journal: Journal, run: str, other: str, as_json: bool) -> None:
    from sparring.graphs.paired import compare_runs

    found = compare_runs(journal, run, other)
    if as_json:
        return write_lines([found.to_json()], None)
    from sparring.graphs.display import show
    from sparring.graphs.paired_display import comparison_parts

    show(*comparison_parts(found))

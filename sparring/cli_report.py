"""`sparring report`: what a run came to, read from its journal."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated

import typer

from sparring.cli_options import DEFAULT_MEMORY, Json, Memory, RunName
from sparring.graphs.console import existing, write_lines

OWN_REPORTS = {
    "evolve": "sparring.training.console:report_evolution",
    "archive": "sparring.training.archive.console:report_archive",
    "tournament": "sparring.training.league.console:report_tournament",
}
"""Kind of run -> who writes its report, where that is not the one of `play`."""


def report(run: RunName, memory: Memory = DEFAULT_MEMORY, as_json: Json = False) -> None:
    """Accuracy, cost and comparison of a run, read from the journal."""
    existing(memory)
    from sparring.graphs.display import report_tables, show
    from sparring.graphs.report import report as read_report
    from sparring.memory.journal import Journal

    with Journal.open(memory) as journal:
        kind = journal.run_row(run).kind
        if kind in OWN_REPORTS:
            module, _, name = OWN_REPORTS[kind].partition(":")
            getattr(import_module(module), name)(journal, run, as_json=as_json)
            return
        found = read_report(journal, run)
    if as_json:
        write_lines([found.to_json()], None)
    else:
        show(*report_tables(found))

"""Options that several commands have, each written once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sparring.cli import complete

if TYPE_CHECKING:
    from sparring.agents.engines.budget import Budget

DEFAULT_MEMORY = "sparring.db"
Memory = Annotated[
    str,
    typer.Option(
        envvar="SPARRING_MEMORY",
        metavar="URL",
        help="Journal: a file or a postgresql:// URL.",
        autocompletion=complete.journals,
    ),
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="Name of the run.", autocompletion=complete.runs)]
PolicyName = Annotated[
    str,
    typer.Argument(
        metavar="NAME[@VERSION]",
        help="A policy, or a version: 7, live, training.",
        autocompletion=complete.policies,
    ),
]
Tasks = Annotated[
    str,
    typer.Option(
        metavar="FILE|NAME", help="A task file, or a shipped set.", autocompletion=complete.task_sets
    ),
]
Engine = Annotated[
    str | None,
    typer.Option(metavar="SPEC", help="Engine of every role.", autocompletion=complete.engines),
]
Roles = Annotated[
    list[str] | None,
    typer.Option("--role", metavar="ROLE=SPEC", help="Engine of one role; may be repeated."),
]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Durability = Annotated[str, typer.Option(metavar="full|normal", help="What a commit survives on SQLite.")]
MaxRunCost = Annotated[
    float | None,
    typer.Option(min=0, help="Budget of the whole run, in money, in all its lives: it stops there."),
]
MaxRunTokens = Annotated[
    int | None, typer.Option(min=1, help="Budget of the whole run, in tokens: it stops there.")
]


def budget_of(cost: float | None, tokens: int | None) -> Budget | None:
    """The budget that the two options give; None where there is none."""
    if cost is None and tokens is None:
        return None
    from sparring.agents.engines.budget import Budget

    return Budget(cost, tokens)

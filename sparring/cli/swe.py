"""`sparring swe`: engineers resolve the issues of repositories, and their patches are graded."""

from __future__ import annotations

import json
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from sparring.cli.options import (
    DEFAULT_MEMORY,
    Durability,
    Engine,
    Json,
    MaxRunCost,
    MaxRunTokens,
    Memory,
    Quiet,
    Roles,
    budget_of,
)
from sparring.errors import UserError, unknown
from sparring.graphs.console import (
    RESERVED,
    check_out,
    conduct,
    lasting,
    options,
    pairs,
    scripts,
    write_lines,
)

if TYPE_CHECKING:
    from sparring.graphs.display import Display
    from sparring.graphs.play import Play, PlayResult
    from sparring.graphs.report import Report
    from sparring.graphs.software_report import Attempt

PROTOCOL = "software"
NO_OPTIONS = {
    **RESERVED,
    "limits": "`--max-tokens` and `--max-cost`",
    "tasks": "the first argument",
    "protocol": "`sparring play`",
    "baseline": "`sparring play software_best_of`, in a run of its own",
}
File = Path | None


def swe(  # noqa: PLR0913 - a parameter for each option
    instances: Annotated[
        Path, typer.Argument(metavar="INSTANCES", help="Rows of SWE-bench or our own, or task folders.")
    ],
    engine: Engine = None,
    role: Roles = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="OPTION=VALUE", help="Option of `software`, or of sampling."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--instance", metavar="ID", help="Only this one; may be repeated.")
    ] = None,
    memory: Memory = DEFAULT_MEMORY,
    run: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the run.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N instances.")] = None,
    copies: Annotated[int, typer.Option(min=1, help="Independent attempts at each instance.")] = 1,
    seed: int = 0,
    concurrency: Annotated[
        int, typer.Option(min=1, help="Attempts at a time; commands and grades: see option `workers`.")
    ] = 16,
    out: Annotated[
        File, typer.Option(metavar="FILE", help="Predictions for the official harness (.jsonl or .json).")
    ] = None,
    report: Annotated[
        File, typer.Option(metavar="FILE", help="Summary in the official harness's schema, as JSON.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="What predictions call the model; else by its engine.")
    ] = None,
    durability: Durability = "full",
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Cap of one attempt, prompts too.")] = None,
    max_cost: Annotated[float | None, typer.Option(min=0, help="Cap of one attempt.")] = None,
    max_run_cost: MaxRunCost = None,
    max_run_tokens: MaxRunTokens = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Resolve the issues of repositories and grade the patches; the same command again continues the run."""
    given = options(set_ or [], NO_OPTIONS)
    roles = {name: str(text) for name, text in pairs(role or [], "--role", "ROLE=SPEC").items()}
    lasting(memory)
    _check_files(out, report, memory, str(instances), *scripts((engine, *roles.values())))
    from sparring.graphs.context import Limits
    from sparring.graphs.play import aplay, plan
    from sparring.graphs.software_display import SoftwareDisplay
    from sparring.graphs.software_report import watch
    from sparring.memory.journal import Journal

    tasks: Any = _chosen(instances, only) if only else instances
    limits, lasts = Limits(tokens=max_tokens, cost=max_cost), cast(Any, durability)
    known = {"engine": engine, "roles": roles, "seed": seed, "copies": copies, "limits": limits}
    planned = plan(PROTOCOL, tasks, limit=limit, **known, **given)
    named, budget = _model(planned, model), budget_of(max_run_cost, max_run_tokens)
    name = run or planned.default_name

    def shown(silent: bool) -> Display:
        return SoftwareDisplay(silent)

    def job(display: Display) -> Coroutine[Any, Any, PlayResult]:
        async def work() -> PlayResult:
            with Journal.at(memory, lasts) as journal:
                display.look = watch(journal, name)  # type: ignore[attr-defined]  # made by `shown`
                how: dict[str, Any] = {"concurrency": concurrency, "budget": budget}
                return await aplay(planned, journal, run=name, on_progress=display, **how)

        return work()

    def deliver(result: PlayResult) -> None:
        found, figures = _read(result.run, memory)
        _write(found, planned, out, report, named)
        _show(found, figures, as_json)

    conduct(job, name, memory, quiet=quiet, deliver=deliver, shown=shown)


def _check_files(out: Path | None, report: Path | None, memory: str, *others: str) -> None:
    """Refuse before the work what could not be written after it."""
    for option, file in (("--out", out), ("--report", report)):
        check_out(file, memory, *others, option=option)
    if out is not None and out.suffix not in (".jsonl", ".json"):
        raise UserError(
            f"`--out {out}`: the name must end in .jsonl or .json, the official harness goes by it"
        )
    if out is not None and report is not None and out.expanduser().resolve() == report.expanduser().resolve():
        raise UserError(f"`--out` and `--report` are both `{out}`; name two files")


def _chosen(file: Path, ids: list[str]) -> list[Any]:
    """The instances of these ids, in the file's order."""
    from sparring.tools.swe.instances import load_instances

    found = {one.id: one for one in load_instances(file)}
    for name in ids:
        if name not in found:
            raise unknown("instance", name, found)
    return [one for name, one in found.items() if name in ids]


def _model(planned: Play, name: str | None) -> str:
    """What predictions call the model; refused now where no prediction could hold it."""
    from sparring.graphs.cast import policy_name
    from sparring.graphs.protocols.software import SEAT
    from sparring.tools.swe.predictions import Prediction

    made = name or policy_name(str(planned.roles.get(SEAT) or planned.engine)).lstrip(".")
    try:
        return Prediction("any", made, None).model_name_or_path
    except UserError:
        raise UserError(f"`{made}` is no name for a model; name it otherwise with `--model NAME`") from None


def _read(run: str, memory: str) -> tuple[list[Attempt], Report]:
    from sparring.graphs.report import report as read_report
    from sparring.graphs.software_report import attempts
    from sparring.memory.journal import Journal

    with Journal.open(memory) as journal:
        return attempts(journal, run), read_report(journal, run)


def _show(found: list[Attempt], figures: Report, as_json: bool) -> None:
    """The tables, or the report with its attempts as one JSON line, to standard output."""
    if as_json:
        return write_lines([figures.to_json() | {"attempts": [one.to_json() for one in found]}], None)
    from sparring.graphs.display import report_tables, show
    from sparring.graphs.software_display import attempts_table

    head, *rest = report_tables(figures)
    show(head, attempts_table(found), *rest)


def _write(found: list[Attempt], planned: Play, out: Path | None, report: Path | None, model: str) -> None:
    """A file for each copy: the harness takes one prediction for each instance."""
    from sparring.graphs.software_report import evaluated, predicted
    from sparring.tools.swe.predictions import run_report, save_predictions

    copies, ids = planned.copies, [task.id for task in planned.tasks]
    for copy, (rows, grades) in enumerate(
        zip(predicted(found, model, copies), evaluated(found, copies), strict=True)
    ):
        if out is not None:
            file = _numbered(out.expanduser(), copy)
            print(f"predictions: {file} ({save_predictions(file, rows)})", file=sys.stderr)
        if report is not None:
            file = _numbered(report.expanduser(), copy)
            summary = run_report(ids, {row.instance_id: row for row in rows}, grades)
            file.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
            print(f"report: {file}", file=sys.stderr)


def _numbered(file: Path, copy: int) -> Path:
    """`out.jsonl`, `out.1.jsonl`, ..."""
    return file if copy == 0 else file.with_name(f"{file.stem}.{copy}{file.suffix}")

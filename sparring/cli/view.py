"""`sparring view`: the journal as local web pages, or a run as one file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sparring.cli.options import DEFAULT_MEMORY, Memory
from sparring.errors import UserError
from sparring.graphs.console import check_out, existing


def view(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Whose page to open, or to export.")
    ] = None,
    memory: Memory = DEFAULT_MEMORY,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on loopback; 0 takes a free one.")] = 8765,
    export: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the run as one HTML file, and end.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Export the first N episodes.")] = None,
    own: Annotated[
        bool,
        typer.Option(
            "--own", help="Import protocols of your own (module:Class) for their drawings and figures."
        ),
    ] = False,
) -> None:
    """Look at the journal in a browser: on loopback, with a token, without writing a thing."""
    existing(memory)
    if limit is not None and export is None:
        raise UserError("`--limit` is about `--export FILE`: the pages show all episodes")
    try:
        import sparring.view.app  # noqa: F401 - what it needs is an extra
    except ModuleNotFoundError as error:
        raise UserError(f"the viewer needs {error.name}: pip install 'sparring[view]'") from None
    if export is None:
        return _serve(memory, port, run, own)
    check_out(export, memory, option="--export")
    from sparring.view.export import export as write
    from sparring.view.export import runs

    if run is None:
        known = ", ".join(runs(memory)) or "none yet"
        raise UserError(f"`--export` needs a run: `sparring view RUN --export {export}`; known: {known}")
    made = write(memory, run, export, limit, own)
    said = (
        f"{made.episodes} episodes"
        if made.episodes == made.total
        else f"{made.episodes} of {made.total} episodes"
    )
    print(f"{export}: {said} of run `{run}`", file=sys.stderr)


def _serve(memory: str, port: int, run: str | None, own: bool) -> None:
    from sparring.view.serve import serve

    def ready(address: str) -> None:
        print(f"{address}\nCtrl-C ends it", file=sys.stderr, flush=True)

    try:
        serve(memory, port, ready, run, own)
    except KeyboardInterrupt:
        return

"""`sparring view`: the journal as local web pages."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from sparring.cli_options import DEFAULT_MEMORY, Memory
from sparring.errors import UserError
from sparring.graphs.console import existing


def view(
    memory: Memory = DEFAULT_MEMORY,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on loopback; 0 takes a free one.")] = 8765,
) -> None:
    """Look at the journal in a browser: on loopback, with a token, without writing a thing."""
    existing(memory)
    try:
        from sparring.view.serve import serve
    except ModuleNotFoundError as error:
        raise UserError(f"the viewer needs {error.name}: pip install 'sparring[view]'") from None
    try:
        serve(memory, port, lambda address: print(f"{address}\nCtrl-C ends it", file=sys.stderr, flush=True))
    except KeyboardInterrupt:
        return

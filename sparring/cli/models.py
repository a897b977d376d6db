"""`sparring models`: the models of the catalogue."""

from __future__ import annotations

from typing import Annotated

import typer

from sparring.cli import complete
from sparring.cli.options import Json
from sparring.graphs.console import write_lines

models_app = typer.Typer(no_args_is_help=True, help="The models that Sparring can fetch.")


@models_app.command("list")
def list_models(as_json: Json = False) -> None:
    """The models of the catalogue, fetched or not."""
    from sparring.agents.models import installed

    rows = installed()
    if as_json:
        fields = [
            {"name": m.name, "path": m.path and str(m.path), "bytes": m.bytes, "about": m.about} for m in rows
        ]
        return write_lines(fields, None)
    from sparring.graphs.display import columns, show

    shown = [(m.name, f"{m.bytes / 1e6:.0f} MB" if m.path else "not fetched", m.about) for m in rows]
    show(columns(("model", "on disk", "about"), shown))


@models_app.command()
def pull(
    name: Annotated[
        str, typer.Argument(help="A name of `sparring models list`.", autocompletion=complete.models)
    ],
) -> None:
    """Fetch a model into the cache; prints its folder."""
    from sparring.agents.models import pull as fetch

    print(fetch(name))

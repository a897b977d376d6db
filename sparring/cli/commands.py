"""Every command of `sparring`, each from its own file."""

from __future__ import annotations

from typing import Annotated

import typer

from sparring import __version__
from sparring.cli.compare import compare
from sparring.cli.doctor import doctor
from sparring.cli.memory import memory_app
from sparring.cli.models import models_app
from sparring.cli.play import play, resume
from sparring.cli.policy import policy
from sparring.cli.report import report
from sparring.cli.swe import swe
from sparring.cli.training import evolve, rewards, tournament
from sparring.cli.view import view

app = typer.Typer(no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})
for group, name in ((models_app, "models"), (memory_app, "memory"), (policy, "policy")):
    app.add_typer(group, name=name)
for command in (play, resume, report, view, evolve, tournament, compare, swe, rewards, doctor):
    app.command()(command)


def _version(asked: bool) -> None:
    if asked:
        print(f"sparring {__version__}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")
    ] = False,
) -> None:
    """Language-model agents debate, criticise and refine; every word goes into a journal."""

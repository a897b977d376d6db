"""The commands and options of the command line as Markdown: the generated part of docs/command_line.md.

PYTHONPATH=. python tests/cli/cli_page.py        # writes it into the page
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from sparring import cli

PAGE = Path(__file__).parents[2] / "docs" / "command_line.md"
BEGIN, END = "<!-- commands: generated -->", "<!-- commands: end -->"


def commands() -> Iterator[tuple[str, Any]]:
    """Every command by its words, groups left out."""

    def below(name: str, command: Any) -> Iterator[tuple[str, Any]]:
        if not hasattr(command, "commands"):
            yield name, command
            return
        for word, inner in sorted(command.commands.items()):
            yield from below(f"{name} {word}", inner)

    yield from below("sparring", typer.main.get_command(cli.app))


def options(command: Any) -> set[str]:
    """Long names of a command's options."""
    return {name for one in command.params for name in one.opts if name.startswith("--")} - {"--help"}


def markdown() -> str:
    """A heading and a list for each command."""
    return "\n".join(part for name, command in commands() for part in _section(name, command)).strip()


def _section(name: str, command: Any) -> list[str]:
    given = [one for one in command.params if one.param_type_name == "argument"]
    words = " ".join(_shown(one) for one in given)
    about = " ".join((command.help or "").split("\n\n")[0].split())
    lines = [f"### `{f'{name} {words}'.strip()}`", "", about, ""]
    rows = [_option(one) for one in command.params if one.param_type_name == "option" and one.name != "help"]
    return [*lines, *rows, ""] if rows else lines


def _shown(argument: Any) -> str:
    word = argument.metavar or argument.name.upper()
    return word if argument.required or word.startswith("[") else f"[{word}]"


def _option(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in option.opts)
    takes = "" if option.is_flag else f" {option.metavar or _kind(option)}"
    must = " Required." if option.required else ""
    default = option.default
    stated = "" if default in (None, False, (), []) or option.required else f" Default {default}."
    variable = f" Also `{option.envvar}`." if option.envvar else ""
    about = (option.help or "").strip().rstrip(".")
    said = f": {about}." if about else ":"
    return re.sub(r":$", "", f"* {names}{takes}{said}{stated}{must}{variable}".replace(":. ", ": "))


def _kind(option: Any) -> str:
    """What an option without a name for it takes."""
    described = getattr(option, "type_descriptor", None)  # typer's own, or click's before typer had its own
    shown = str(described.annotation if described else option.type).lower()
    return "NUMBER" if "float" in shown else "N"


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{markdown()}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Prompts are files: Jinja templates whose blocks are the occasions on which a role speaks.

`prompts/solver.md` has a block `question` (the first answer), a block `others` (after reading the
others' answers), and so on; a block `system`, where there is one, opens the conversation. To change a
prompt, copy the file, or extend it and override one block:

    {% extends "solver.md" %}
    {% block question %}{{ question }} Think of a lazy professor. {{ instruction }}{% endblock %}
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import BaseLoader, Environment, StrictUndefined, Template, TemplateNotFound, meta
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sparring.errors import UserError, unknown

SHIPPED = Path(__file__).parent / "prompts"


class _Files(BaseLoader):
    """The given file first, then what it extends: beside it or among the shipped prompts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get_source(self, environment: Environment, template: str) -> tuple[str, str | None, Any]:
        for folder in (self.folder, SHIPPED):
            path = folder / template
            # A copy named like the shipped file may extend the shipped one.
            if path.is_file() and (folder == SHIPPED or not self._extends_itself(path, template)):
                return path.read_text(encoding="utf-8"), str(path), None
        raise TemplateNotFound(template)

    @staticmethod
    def _extends_itself(path: Path, template: str) -> bool:
        return f'extends "{template}"' in path.read_text(encoding="utf-8")


@dataclass(frozen=True)
class Prompt:
    """A compiled prompt file."""

    name: str
    source: dict[str, str]
    """File name -> text, of the file and of all it extends: what the journal keeps."""
    template: Template
    path: Path

    def occasions(self) -> list[str]:
        """The blocks this prompt has, besides `system`."""
        return sorted(name for name in self.template.blocks if name != "system")

    def has(self, occasion: str) -> bool:
        return occasion in self.template.blocks

    def render(self, occasion: str, variables: dict[str, Any]) -> str:
        """The text of one block, stripped.

        Raises:
            UserError: the prompt has no such block, or uses a variable that this occasion lacks.
        """
        context = self.template.new_context(variables)
        if occasion not in context.blocks:
            raise unknown(f"occasion of prompt `{self.name}`", occasion, self.occasions())
        try:
            return "".join(context.blocks[occasion][0](context)).strip()
        except (TemplateError, SecurityError) as error:
            raise UserError(f"prompt `{self.path}`, block `{occasion}`: {error}") from None


@lru_cache(maxsize=64)
def load_prompt(name: str | Path) -> Prompt:
    """A shipped prompt by role name, or a prompt file by path.

    Raises:
        UserError: no such prompt, or the file is no valid template.
    """
    path = Path(name) if str(name).endswith((".md", ".jinja")) else SHIPPED / f"{name}.md"
    if not path.is_file():
        raise unknown("prompt", name, (file.stem for file in SHIPPED.glob("*.md")))
    environment = ImmutableSandboxedEnvironment(
        loader=_Files(path.parent),
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    try:
        source = path.read_text(encoding="utf-8")
        template = environment.from_string(source)
        files = {path.name: source, **dict(_parents(environment, source))}
    except (TemplateError, UnicodeDecodeError) as error:
        raise UserError(f"prompt `{path}` is no valid template: {error}") from None
    return Prompt(path.stem, files, _flat(environment, template, source), path)


def _parents(environment: Environment, source: str) -> Iterator[tuple[str, str]]:
    for name in meta.find_referenced_templates(environment.parse(source)):
        if name is not None:
            assert environment.loader is not None
            text, _, _ = environment.loader.get_source(environment, name)
            yield f"{name} (extended)", text
            yield from _parents(environment, text)


def _flat(environment: Environment, template: Template, source: str) -> Template:
    """Blocks of extended templates join the child's, the child's own winning, as rendering would do."""
    for name in meta.find_referenced_templates(environment.parse(source)):
        if name is None:
            continue
        assert environment.loader is not None
        text, _, _ = environment.loader.get_source(environment, name)
        parent = _flat(environment, environment.from_string(text), text)
        template.blocks = {**parent.blocks, **template.blocks}
    return template

"""Prompts are files: Jinja templates whose blocks are the occasions on which a role speaks.

`prompts/solver.md` has a block `question` (the first answer), a block `others` (after reading the
others' answers), and so on; a block `system`, where there is one, opens the conversation. Only blocks
are sent. To change a prompt, copy the file, or extend it and override one block:

    {% extends "solver.md" %}
    {% block question %}{{ question }} Think of a lazy professor. {{ instruction }}{% endblock %}

Templates run in Jinja's sandbox. What they are given (a question, a model's words) is text to them and
is never itself read as a template.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template, meta, nodes
from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sparring.errors import UserError, unknown

SHIPPED = Path(__file__).parent / "prompts"
SUFFIXES = (".md", ".jinja")
TEXT = Path("(text)")
"""Stands for the file of a prompt that is given as its text."""
_JINJA = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


@dataclass(frozen=True)
class Prompt:
    """A compiled prompt file."""

    name: str
    path: Path
    source: dict[str, str]
    """File name -> text, of the file and of all it extends: what the journal keeps."""
    templates: tuple[Template, ...]
    """The file, what it extends, what that extends, ..."""
    variables: dict[str, frozenset[str]]
    """Occasion -> the names that its block uses without setting them."""

    def occasions(self) -> list[str]:
        """The blocks this prompt has, besides `system`."""
        return sorted({name for template in self.templates for name in template.blocks} - {"system"})

    def has(self, occasion: str) -> bool:
        return any(occasion in template.blocks for template in self.templates)

    def check(self, occasions: Collection[str], variables: Collection[str]) -> None:
        """See to it, before any work, that a role can speak with this prompt.

        Raises:
            UserError: an occasion has no block, or a block uses a variable that will not be there.
        """
        if missing := sorted(set(occasions) - set(self.occasions())):
            raise UserError(
                f"prompt `{self.path}` has no block `{missing[0]}`; its role speaks on: "
                f"{', '.join(sorted(occasions))} (copy a shipped prompt, or extend it)"
            )
        for occasion in ("system", *occasions):
            if strange := sorted(self.variables.get(occasion, frozenset()) - set(variables)):
                raise unknown(
                    f"variable in block `{occasion}` of prompt `{self.path}`", strange[0], variables
                )

    def render(self, occasion: str, variables: dict[str, Any]) -> str:
        """The text of one block, stripped; `super()` is the block that it overrides.

        Raises:
            UserError: there is no such block, or the template fails.
        """
        context = self.templates[0].new_context(variables)
        for parent in self.templates[1:]:
            for name, block in parent.blocks.items():
                context.blocks.setdefault(name, []).append(block)
        if occasion not in context.blocks:
            raise unknown(f"occasion of prompt `{self.name}`", occasion, self.occasions())
        try:
            return "".join(context.blocks[occasion][0](context)).strip()
        except Exception as error:  # whatever it is, it comes from the template
            raise UserError(f"prompt `{self.path}`, block `{occasion}`: {error}") from None


def load_prompt(name: str | Path) -> Prompt:
    """A shipped prompt by role name, a prompt file by path (ending in .md or .jinja), or a prompt by its own
    text: a name that has a block. Such a text can extend shipped prompts only.

    Raises:
        UserError: no such prompt, or it is no valid template.
    """
    if isinstance(name, str) and "{%" in name:
        return _compiled(TEXT, tuple(_chain(TEXT, name)))
    path = Path(name) if str(name).endswith(SUFFIXES) else SHIPPED / f"{name}.md"
    if not path.is_file():
        raise unknown("prompt (no such file either)", name, (file.stem for file in SHIPPED.glob("*.md")))
    return _compiled(path, tuple(_texts(path)))


def _texts(path: Path, seen: tuple[Path, ...] = ()) -> Iterator[tuple[str, str]]:
    """Name and text of the file, then of what it extends: a file beside it, or a shipped one.

    A file named like the shipped one extends the shipped one.
    """
    if path.resolve() in seen:
        raise UserError(f"prompt `{path}` extends itself in a circle")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"prompt `{path}` is no valid template: {error}") from None
    yield from _chain(path, text, seen)


def _chain(path: Path, text: str, seen: tuple[Path, ...] = ()) -> Iterator[tuple[str, str]]:
    """A text as that of a file, then those of what it extends."""
    try:
        parsed = _parsed(text)
    except TemplateError as error:
        raise UserError(f"prompt `{path}` is no valid template: {error}") from None
    yield f"{path.name} (extended)" if seen else path.name, text
    if any(parsed.find(kind) for kind in (nodes.Include, nodes.Import, nodes.FromImport)):
        raise UserError(f"prompt `{path}`: a prompt can extend another one, but not include or import")
    for extends in parsed.find_all(nodes.Extends):
        parent = getattr(extends.template, "value", None)
        if not isinstance(parent, str) or Path(parent).name != parent:
            raise UserError(f"prompt `{path}` must extend a file by its plain name, such as `solver.md`")
        beside = path.with_name(parent)
        own = path is not TEXT and beside != path and beside.is_file()
        found = beside if own else SHIPPED / parent
        if not found.is_file():
            raise unknown(f"prompt that `{path}` extends", parent, (f.name for f in SHIPPED.glob("*.md")))
        yield from _texts(found, (*seen, path.resolve()))


@lru_cache(maxsize=64)
def _parsed(text: str) -> nodes.Template:
    return _JINJA.parse(text)


@lru_cache(maxsize=64)
def _compiled(path: Path, texts: tuple[tuple[str, str], ...]) -> Prompt:
    """Cached by the texts, so that an edited file is another prompt."""
    try:
        # `extends` is done here, over files that are known, not by the template itself.
        templates = tuple(_JINJA.from_string(text) for _, text in texts)
    except TemplateError as error:
        raise UserError(f"prompt `{path}` is no valid template: {error}") from None
    variables: dict[str, frozenset[str]] = {}
    for _, text in reversed(texts):
        for block in _parsed(text).find_all(nodes.Block):
            body = nodes.Template(block.body, lineno=block.lineno)
            body.set_environment(_JINJA)
            variables[block.name] = frozenset(meta.find_undeclared_variables(body) - {"super"})
    return Prompt(path.stem, path, dict(texts), templates, variables)

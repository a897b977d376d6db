"""Configurations of runs: YAML files, read strictly, and what makes two of them the same run.

A mistake is one line that says which field is wrong. Paths in a file are relative to it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from sparring.agents.engines.registry import lasting
from sparring.errors import UserError
from sparring.graphs.cast import SCRIPT
from sparring.graphs.own import spec_of
from sparring.memory.types import digest

S = TypeVar("S", bound="Strict")
Placing = Callable[[dict[str, Any], Path], dict[str, Any]]
"""From fields and the folder of the file they stand in to fields whose files are found."""


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RunConfig(Strict):
    """The whole configuration of a run."""

    changeable: ClassVar[frozenset[str]] = frozenset()
    """Fields that may be changed in a run that goes on."""

    def identity(self) -> dict[str, Any]:
        """What makes the run what it is: with anything else changed it may go on as the same one, from
        wherever its files now lie."""
        fields = self.model_dump(mode="json").items()
        return {name: _by_content(value) for name, value in fields if name not in self.changeable}

    @classmethod
    def reread(cls, identity: dict[str, Any]) -> dict[str, Any]:
        """An identity that was journaled, as this code would write it: a field that has come since counts as
        its default. What cannot be read any more stays as it is."""
        fields = {name: value for name, value in identity.items() if name not in cls.changeable}
        try:
            return cls(**fields).identity()
        except ValidationError as error:
            wrong = {at["loc"][0] for at in error.errors() if at["loc"]}
            lost = {name: value for name, value in fields.items() if name in wrong}
            rest = {name: value for name, value in fields.items() if name not in wrong}
            return {**cls.reread(rest), **lost} if lost else identity


def _by_content(value: Any) -> Any:
    """A value in which every file is named by its last name and a hash of what is in it; a script is an
    engine, which may be mended, and goes by its name alone. Of an engine's options those that change no
    answer are left out."""
    if isinstance(value, dict):
        return {name: _by_content(held) for name, held in value.items()}
    if isinstance(value, list):
        return [_by_content(held) for held in value]
    if not isinstance(value, str):
        return value
    value = lasting(value)
    script = SCRIPT if value.startswith(SCRIPT) else ""
    name, mark, options = value.removeprefix(script).partition("?")
    file = Path(name)
    if not file.is_absolute() or not file.is_file():
        return value
    content = "" if script else f"#{digest(file.read_bytes(), size=8).hex()}"
    return f"{script}{file.name}{content}{mark}{options}"


def read_config(kind: type[S], source: str | Path | dict[str, Any], placed: Placing) -> S:
    """Read a configuration: a YAML file, or what would stand in one.

    `extends: FILE` takes another file's fields and overrides those that are given, mapping by mapping; of
    what has names of its own (`NAMED`) a null takes one away.

    Args:
        placed: finds the files that fields name beside the one that names them.

    Raises:
        UserError: no such file, no YAML, or a field that is wrong; the message names it.
    """
    if isinstance(source, dict):
        return _checked(kind, placed(_spelt(source), Path.cwd()), "configuration")
    values = _read(Path(source).expanduser(), placed, ())
    return _checked(kind, values, f"configuration `{source}`")


def _spelt(value: Any) -> Any:
    """A configuration from Python as it would stand in a file: a class by what finds it again."""
    if isinstance(value, dict):
        return {name: _spelt(held) for name, held in value.items()}
    return spec_of(value) if isinstance(value, type) else value


def kind_of(path: str | Path) -> Any:
    """The field `kind` of a file, or of the one that it extends; None where there is none.

    Raises:
        UserError: no such file, or no YAML.
    """
    return _read(Path(path).expanduser(), lambda values, _: dict(values), ()).get("kind")


class _Unique(yaml.SafeLoader):
    """YAML in which a key stands once in a mapping; PyYAML would keep the last and say nothing."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        found = set()
        for key, _ in node.value:  # not merged yet: what overrides a key of `<<: *anchor` is no second one
            name = key.tag, key.value if isinstance(key, yaml.ScalarNode) else id(key)
            if name in found and key.tag != "tag:yaml.org,2002:merge":
                line = key.start_mark.line + 1
                raise UserError(
                    f"configuration `{self.name}`, line {line}: key `{key.value}` is there already; keep one"
                )
            found.add(name)
        return node


def _read(path: Path, placed: Placing, above: tuple[Path, ...]) -> dict[str, Any]:
    """The fields of a file and of what it extends."""
    try:
        with path.open(encoding="utf-8") as file:
            values = yaml.load(file, _Unique)
    except OSError as error:
        raise UserError(f"configuration `{path}` cannot be read: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"configuration `{path}` is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise UserError(f"configuration `{path}`: expected fields such as `run: NAME`")
    values = placed(values, path.resolve().parent)
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str) or path.resolve() in above:
        raise UserError(
            f"configuration `{path}`, `extends`: name another file, and none that extends this one"
        )
    return _merged(_read(path.parent / base, placed, (*above, path.resolve())), values)


NAMED = ("policies", "prompts", "roles", "sampling")
"""Mappings whose keys are names; elsewhere they are fields, and a null may be a field's value."""


def _merged(base: dict[str, Any], over: dict[str, Any], name: str = "") -> dict[str, Any]:
    """`over` on top of `base`: what is a mapping in both is merged, anything else replaced."""
    both = {
        key: _merged(base[key], value, key)
        for key, value in over.items()
        if isinstance(value, dict) and isinstance(base.get(key), dict)
    }
    merged = {**base, **over, **both}
    gone = {key for key, value in over.items() if value is None and name in NAMED}
    return {key: value for key, value in merged.items() if key not in gone}


def _checked(kind: type[S], values: dict[str, Any], where: str) -> S:
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole"
        said = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            said = "there is no such field"
        raise UserError(f"{where}, `{field}`: {said}") from None


def beside(folder: Path, name: Any) -> Any:
    """A file's name as found in the folder of the file that names it; anything else as it is."""
    if not isinstance(name, str) or "\n" in name:  # a text is no name, and may be too long for one
        return name
    return str(folder / name) if (folder / name).is_file() else name


def script_beside(folder: Path, spec: Any) -> Any:
    """The spec of a scripted engine with its file found; any other as it is."""
    if not isinstance(spec, str) or not spec.startswith(SCRIPT):
        return spec
    name, mark, options = spec.removeprefix(SCRIPT).partition("?")
    return f"{SCRIPT}{beside(folder, name)}{mark}{options}"


def what_is_played(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The values with their task file and prompts found."""
    values = dict(values)
    if "tasks" in values:
        values["tasks"] = beside(folder, values["tasks"])
    options = values.get("options")
    if isinstance(options, dict) and isinstance(options.get("prompts"), dict):
        prompts = {name: beside(folder, file) for name, file in options["prompts"].items()}
        values["options"] = {**options, "prompts": prompts}
    return values

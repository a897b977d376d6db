"""What others build on says what it is: docstrings, annotations, array shapes; and the project's papers."""

from __future__ import annotations

import ast
import inspect
import pydoc
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import sparring

ROOT = Path(__file__).parents[1]
NAMES = [name for name in dir(sparring) if not name.startswith("_")]
ARRAY = re.compile(r"\b(NDArray|ndarray|Tensor|Floats|Ids)\b")
CONTAINERS = ("list[", "dict[")
"""Parameters of a model by the dozen, each of a shape of its own."""
SIZE = r"\w+(?: [-+*/] \w+)*"
SHAPE = re.compile(rf"\({SIZE},(?: {SIZE},?)*\)|\bscalar\b|\bsame shape\b")


def callables(kind: type[Any]) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that a class defines itself."""
    for name, member in vars(kind).items():
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            yield name, member.fget
        elif isinstance(member, classmethod | staticmethod):
            yield name, member.__func__
        elif inspect.isfunction(member):
            yield name, member


def unannotated(function: Any) -> list[str]:
    signature = inspect.signature(function)
    lacking = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.annotation is parameter.empty and parameter.name not in ("self", "cls")
    ]
    return lacking + ["return"] * (signature.return_annotation is signature.empty)


def test_names_are_those_that_type_checkers_see() -> None:
    tree = ast.parse((ROOT / "sparring" / "__init__.py").read_text())
    seen = {
        alias.asname for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert set(NAMES) <= seen | {"annotations"} and (ROOT / "sparring" / "py.typed").is_file()


def test_help_and_star_show_every_public_name() -> None:
    everything: dict[str, object] = {}
    exec("from sparring import *", everything)
    assert everything.keys() - {"__builtins__"} == set(NAMES) == set(sparring.__all__)
    told = pydoc.plain(pydoc.render_doc(sparring))
    assert not [name for name in NAMES if not re.search(rf"\b{name}\b", told)]


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_says_what_it_is(name: str) -> None:
    found = getattr(sparring, name)
    members = list(callables(found)) if inspect.isclass(found) else [(name, found)]
    wrong = [f"{name}: no docstring"] if not (inspect.getdoc(found) or "").strip() else []
    for member, function in members:
        said = inspect.getdoc(getattr(found, member)) if inspect.isclass(found) else inspect.getdoc(found)
        wrong += [f"{name}.{member}: no docstring"] if not (said or "").strip() else []
        wrong += [f"{name}.{member}: `{argument}` has no annotation" for argument in unannotated(function)]
    assert not wrong, "\n".join(wrong)


def functions(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, str]]:
    """Public functions and methods of a module, each with the docstring of its class."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, ast.get_docstring(tree) or ""
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            held = (one for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef))
            yield from ((one, ast.get_docstring(node) or "") for one in held)


def without_shapes(path: Path) -> Iterator[str]:
    """Functions that take or give arrays and say nowhere what shapes these have."""
    for function, above in functions(ast.parse(path.read_text())):
        arguments = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
        annotated = [argument.annotation for argument in arguments] + [function.returns]
        texts = [ast.unparse(found) for found in annotated if found is not None]
        arrays = any(ARRAY.search(text) and not text.startswith(CONTAINERS) for text in texts)
        said = ast.get_docstring(function) or ""
        if arrays and not function.name.startswith("_") and not SHAPE.search(said + above):
            yield f"{path.relative_to(ROOT)}:{function.lineno} {function.name}"


def test_functions_on_arrays_give_their_shapes() -> None:
    found = [line for path in sorted((ROOT / "sparring").rglob("*.py")) for line in without_shapes(path)]
    assert not found, "\n".join(found)


def test_a_function_that_hides_its_shapes_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_public.ROOT", tmp_path)
    file = tmp_path / "a.py"
    file.write_text(
        'def f(x: Tensor) -> None:\n    """Nothing."""\n\n\ndef g(x: Tensor) -> Tensor:\n    """(B, T)."""\n'
    )
    assert list(without_shapes(file)) == ["a.py:1 f"]


def test_the_citation_is_complete() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()  # what the format requires
    assert cited["cff-version"] == "1.2.0" and cited["type"] == "software"
    assert cited["version"] == sparring.__version__
    assert all(author.keys() & {"name", "family-names"} for author in cited["authors"])


def test_hooks_fetch_nothing() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert {repo["repo"] for repo in hooks["repos"]} == {"local"}
    entries = [hook["entry"].split()[0] for repo in hooks["repos"] for hook in repo["hooks"]]
    assert all(entry.startswith(".venv/bin/") for entry in entries)


def test_the_changelog_knows_this_version() -> None:
    log = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(sparring.__version__)}\b", log, re.MULTILINE)


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "CHANGELOG.md", "docs/examples.md"])
def test_links_of_a_page_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target

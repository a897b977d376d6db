"""The rules every module keeps: who may import whom, how long a file may be, what an import may do."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sparring"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "migrations" not in path.parts)
SOURCES = sorted(
    path
    for folder in ("sparring", "tests", "benchmarks", "scripts", "examples")
    for path in (ROOT / folder).rglob("*.py")
)
MAY_IMPORT = {
    "memory": set(),
    "tools": set(),
    "agents": {"memory", "tools"},
    "graphs": {"agents", "memory", "tools"},
    "training": {"graphs", "agents", "memory", "tools"},
    "view": {"training", "graphs", "agents", "memory", "tools"},
    "cli": {"view", "training", "graphs", "agents", "memory", "tools"},
    "__init__": {"training", "graphs", "agents", "memory", "tools"},  # lazy names, never on import
    "__main__": {"cli"},
    "errors": set(),
}
HEAVY = ("langgraph", "sqlalchemy", "torch", "transformers")
NAME = re.compile(r"sparring(\.\w+)+(:\w+)?")


def room(module: str) -> str | None:
    """The room of a dotted name; None for `sparring` itself, `sparring.errors` and everything foreign."""
    parts = re.split(r"[.:]", module)
    return parts[1] if parts[0] == "sparring" and len(parts) > 1 and parts[1] != "errors" else None


def imported(tree: ast.AST, package: list[str]) -> Iterator[tuple[int, str]]:
    """Line and absolute name of every import in a module, inside functions too, and of every module name
    that is kept in a string for a lazy import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield node.lineno, stem
            if stem == "sparring":  # `from sparring import memory` and `from .. import memory`
                yield from ((node.lineno, f"sparring.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and NAME.fullmatch(node.value):
            yield node.lineno, node.value


def wrong_imports(source: str, path: Path) -> list[str]:
    """The imports of a module that run against the direction of the rooms."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    own = parts[1]
    package = parts[:-1]
    rooms = {name for name in MAY_IMPORT if not name.startswith("_") and name != "errors"}
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for line, name in imported(ast.parse(source), package)
        if (other := room(name)) in rooms and other != own and other not in MAY_IMPORT[own]
    ]


def test_imports_run_one_way() -> None:
    found = [wrong for path in PACKAGE.rglob("*.py") for wrong in wrong_imports(path.read_text(), path)]
    assert not found, "\n".join(found)


def test_every_room_is_known() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    entries = rooms | {path.stem for path in PACKAGE.glob("*.py")}
    assert entries <= MAY_IMPORT.keys(), f"a new room: {entries - MAY_IMPORT.keys()}"


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("memory/a.py", "from sparring.tools.checks import check"),
        ("memory/a.py", "from ..agents import roles"),
        ("memory/a.py", "from .. import agents"),
        ("memory/sub/a.py", "from ...tools import checks"),
        ("tools/a.py", "def f():\n    import sparring.memory.journal"),
        ("agents/a.py", "from sparring import graphs"),
        ("agents/a.py", "if TYPE_CHECKING:\n    from sparring.graphs.play import Play"),
        ("graphs/a.py", "import_module('sparring.training.losses:ppo')"),
    ],
)
def test_the_rule_sees_each_way_to_import(place: str, source: str) -> None:
    assert wrong_imports(source, PACKAGE / place)


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("memory/a.py", "from ..errors import UserError\nfrom .. import __version__\nfrom .seeds import x"),
        ("memory/sub/a.py", "from ..seeds import derive_seed"),
        ("graphs/a.py", "import sparring.memory.journal, sparring.agents.roles"),
        ("cli/a.py", "from sparring.graphs.play import play"),
    ],
)
def test_the_rule_lets_pass_what_it_should(place: str, source: str) -> None:
    assert not wrong_imports(source, PACKAGE / place)


def test_no_module_is_longer_than_400_lines() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in PACKAGE.rglob("*.py")}
    assert not {path: lines for path, lines in lengths.items() if lines > 400}


IGNORE = re.compile(r"#\s*(type:\s*ignore(\[[^\]]*\])?|noqa(:\s*[A-Z]+[0-9]+(,\s*[A-Z]+[0-9]+)*)?)")


def without_reason(path: Path) -> Iterator[str]:
    """Comments that switch a check off and do not say why, on the same line."""
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type != tokenize.COMMENT or not IGNORE.search(token.string):
                continue
            said = IGNORE.sub("", token.string)
            if len(re.findall(r"[^\W\d_]{2,}", said)) < 2:
                yield f"{path.relative_to(ROOT)}:{token.start[0]} {token.string}"


def test_every_ignore_says_why() -> None:
    found = [line for path in SOURCES for line in without_reason(path)]
    assert not found, "\n".join(found)


def test_a_bare_ignore_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    ignore, noqa = "type: ignore", "noqa"  # spelled apart, or they would be comments of this file
    file = tmp_path / "a.py"
    file.write_text(f"a = 1  # {ignore}[x]\nb = 2  # {noqa}: E501\nc = 3  # {ignore}[x]  # because of that\n")
    assert len(list(without_reason(file))) == 2


# --- what an import does ----------------------------------------------------------------------------


def python(code: str, folder: Path) -> str:
    """Run code in a fresh interpreter whose home, temporary and working folders are empty; its output."""
    environment = {
        "HOME": folder,
        "TMPDIR": folder,
        "XDG_CACHE_HOME": folder / "cache",
        "PATH": "/usr/bin:/bin",
    }
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": ROOT}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={name: str(value) for name, value in environment.items()},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


LOADED = f"import sys, json; print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"


def test_import_sparring_loads_nothing_heavy(tmp_path: Path) -> None:
    assert json.loads(python(f"import sparring; {LOADED}", tmp_path)) == []


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    code = f"""
import sys
sys.argv = ["sparring", "--help"]
from sparring.cli import main
try:
    main()
except SystemExit as end:
    assert end.code in (0, None), end.code
{LOADED}
"""
    out = python(code, tmp_path).strip().splitlines()
    assert "Usage" in "\n".join(out)
    assert json.loads(out[-1]) == []


def test_importing_every_module_does_no_work(tmp_path: Path) -> None:
    """No file, no thread, no engine, no connection; whatever is heavy is loaded when it is used."""
    names = [".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for p in MODULES]
    names = [name for name in names if not name.endswith("__main__")]
    code = f"""
import importlib, json, os, sys, threading
connected = []
def hook(event, _):
    if event in ("socket.connect", "sqlite3.connect"):
        connected.append(event)
sys.addaudithook(hook)
for name in {names}:
    importlib.import_module(name)
files = [os.path.join(d, f) for d, _, fs in os.walk(".") for f in fs]
print(json.dumps([files, [t.name for t in threading.enumerate()], connected]))
"""
    files, threads, connected = json.loads(python(code, tmp_path).splitlines()[-1])
    assert files == []
    assert threads == ["MainThread"]
    assert connected == []

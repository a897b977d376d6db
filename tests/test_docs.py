"""The documentation is whole: the site builds, loads nothing from elsewhere, and says what the code says."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest
import typer

from sparring import cli, make_engine
from sparring.graphs.catalogue import make_protocol

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
NAME = re.compile(r"`(sparring(?:\.\w+)+):([\w.]+)`")
PATH = re.compile(r"\b((?:sparring|benchmarks|tests|examples|scripts)/[\w/.-]+\.(?:py|sh|yaml|md))\b")


@pytest.fixture(scope="module")
def drawn() -> ModuleType:
    """scripts/draw_graphs.py."""
    spec = importlib.util.spec_from_file_location("draw_graphs", ROOT / "scripts" / "draw_graphs.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_drawings_are_those_of_the_compiled_protocols(drawn: ModuleType) -> None:
    wanted = drawn.drawings()
    assert set(wanted) == set(drawn.GRAPHS.glob("*.svg"))
    stale = [path.name for path, text in wanted.items() if path.read_text(encoding="utf-8") != text]
    assert not stale, f"python scripts/draw_graphs.py draws {stale} anew"


def test_drawings_are_pictures(drawn: ModuleType) -> None:
    """Well-formed SVG files that show their nodes: a browser shows nothing of anything else."""
    for path in drawn.GRAPHS.glob("*.svg"):
        root = ElementTree.parse(path).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg", path.name
        shown = {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}
        nodes = make_protocol(path.stem, drawn.NEEDED.get(path.stem)).compile().get_graph().nodes
        assert shown == {key.strip("_") for key in nodes}, path.name


def test_tables_of_options_are_those_of_the_classes(drawn: ModuleType) -> None:
    shown: set[str] = set()
    for path in sorted((ROOT / "docs" / "protocols").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        assert text == drawn.page(text), f"python scripts/draw_graphs.py writes {path.name} anew"
        shown |= set(re.findall(r"<!-- options: (\w+) -->", text))
    assert shown == set(drawn.PROTOCOLS) - {"du", "mad", "reconcile"}, "every protocol has a table"


def test_every_option_is_described(drawn: ModuleType) -> None:
    for name in drawn.PROTOCOLS:
        for row in drawn.options(name).splitlines()[2:]:
            assert not row.endswith("|  |"), f"{name}: no text below the field: {row}"


def test_every_protocol_is_on_a_page_with_its_drawing(drawn: ModuleType) -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "protocols").glob("*.md"))
    for name in set(drawn.PROTOCOLS) - {"debate"}:
        assert f"figures/graphs/{name}.svg" in text, name


def test_steps_of_a_recipe_are_nodes_of_the_graph(drawn: ModuleType) -> None:
    for path in sorted((ROOT / "docs" / "protocols").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        nodes = "".join(drawn.drawing(name) for name in re.findall(r"graphs/(\w+)\.svg", text))
        for step in re.findall(r"^\d+\. `(\w+)`[:,]", text, re.MULTILINE):
            assert f">{step}<" in nodes, f"{path.name}: no node `{step}`"
        for node in set(re.findall(r">(\w+)</text>", nodes)) - {"start", "end"}:
            assert f"`{node}`" in text, f"{path.name} says nothing of node `{node}`"


def test_every_name_and_file_that_is_named_exists() -> None:
    named = 0
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for module, name in NAME.findall(text):
            found: Any = import_module(module)
            for part in name.split("."):
                assert hasattr(found, part), f"{path.name}: {module}:{name}"
                found = getattr(found, part)
            named += 1
        for file in PATH.findall(text):
            if "CONFIG" not in file and not file.startswith("examples/swe/build/"):
                assert (ROOT / file).exists(), f"{path.name}: {file}"
    assert named > 30, "the map names functions"


def commands_of(text: str) -> Iterator[list[str]]:
    """The words after `sparring` of every command in a page's blocks and code spans."""
    shown = [block.replace("\\\n", " ") for block in re.findall(r"```(?:sh)?\n(.*?)```", text, re.DOTALL)]
    shown += [" ".join(span.split()) for span in re.findall(r"`(sparring [^`]+)`", text)]
    for line in "\n".join(shown).splitlines():
        for part in re.split(r"&&|\|", re.sub(r"(^|\s)#.*", "", line)):
            found = re.match(r"\s*(?:[$.\w-]*\s)*?(?:\S*/|-m )?sparring ((?!examples).*)", part)
            if found and "pip" not in part:
                yield re.findall(r"\"[^\"]*\"|'[^']*'|\S+", found[1])


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda page: page.name
)
def test_commands_and_options_that_are_shown_exist(page: Path) -> None:
    for words in commands_of(page.read_text(encoding="utf-8")):
        command: Any = typer.main.get_command(cli.app)
        known = {"--help", "--install-completion"}
        rest = iter(words)
        while hasattr(command, "commands"):
            name = next(rest)
            if name in known:
                return
            assert name in command.commands, f"sparring {' '.join(words)}"
            command = command.commands[name]
        known |= {
            option for parameter in command.params for option in parameter.opts + parameter.secondary_opts
        }
        for word in rest:
            option = word.strip("[]()").split("=")[0]
            if re.match(r"--?[a-z]", option):
                assert option in known, f"sparring {' '.join(words)}"


def test_servers_that_are_shown_are_specs_of_engines() -> None:
    shown = "".join(page.read_text(encoding="utf-8") for page in [ROOT / "README.md", *PAGES])
    specs = set(re.findall(r"(?<![(<])https?://[^\s`\"')]*#[^\s`\"')]*", shown))
    assert len(specs) > 5
    for spec in specs:
        make_engine(spec)


class Loads(HTMLParser):
    """Addresses that a browser loads by itself, and those in scripts of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self._script = tag == "script"
        if tag == "link" and given.get("rel") == "canonical":
            return
        if tag in ("script", "img", "link", "iframe", "source", "video", "audio", "object", "embed"):
            self.found += [given[name] for name in ("src", "href", "data") if name in given]

    def handle_data(self, data: str) -> None:
        if self._script:
            self.found += re.findall(r"https?://[^\s\"']+", data)
            self._script = False


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it: a warning is an error."""
    pytest.importorskip("mkdocs")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    before = logging.getLogger("mkdocs").level
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    logging.getLogger("mkdocs").setLevel(before)
    return folder


def test_the_site_is_built_without_a_warning(site: Path) -> None:
    for page in PAGES:
        assert (site / page.relative_to(ROOT / "docs")).with_suffix(".html").is_file(), page
    assert (site / "source/sparring/graphs/context.py.html").is_file(), "links out of docs/ lead to pages"


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loads = Loads()
        loads.feed(page.read_text(encoding="utf-8"))
        assert loads.found, page
        for address in loads.found:
            assert not re.match(r"(\w+:)?//", address), f"{page.name} loads {address}"
    for style in site.rglob("*.css"):
        for address in re.findall(r"url\(([^)]*)\)|@import ([^;]*)", style.read_text(encoding="utf-8")):
            assert not re.match(r"""["']?(\w+:)?//""", "".join(address)), f"{style.name}: {address}"

"""What docs/quickstart.md, concepts.md and extend.md show runs as it stands, in the order of the page."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the repository's examples, in which `sparring` and `python` are this tree's."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, command in {
        "python": f'"{sys.executable}"',
        "sparring": f'"{sys.executable}" -m sparring',
        "make": f'"{shutil.which("make")}" -n -C "{ROOT}"',  # says what it would do: this is what it made
    }.items():
        (tools / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (tools / name).chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    (work / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(work)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("SPARRING_MEMORY", raising=False)
    monkeypatch.syspath_prepend(work)
    return work


def play_page(name: str) -> str:
    """Run a page's blocks; everything that they printed."""
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    names: dict[str, object] = {"__name__": "__main__"}
    blocks = BLOCK.findall(page)
    assert len(blocks) == page.count("\n```") / 2, "every block is read"
    said = []
    for language, title, text in blocks:
        if title:
            Path(title).write_text(text, encoding="utf-8")
        elif language == "python":
            exec(compile(text, f"docs/{name}", "exec"), names)
        elif text.strip() == "sparring view":
            said.append(visit())
        else:
            assert language == "sh", (
                f"{name}: a block of `{language}` without a title is neither run nor a file"
            )
            done = subprocess.run(["bash", "-e", "-c", text], capture_output=True, text=True, timeout=500)
            assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
            said.append(done.stdout)
    return "\n".join(said)


def visit() -> str:
    """Open the viewer, ask for its first page at the address that it prints, and interrupt it."""
    view = subprocess.Popen(["sparring", "view", "--port", "0"], stderr=subprocess.PIPE, text=True)
    assert view.stderr is not None
    try:
        address = next(line for line in view.stderr if line.startswith("http")).split()[0]
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        for _ in range(100):
            try:
                with opener.open(address, timeout=60) as page:
                    return str(page.read().decode())
            except urllib.error.URLError:  # printed a moment before it listens
                time.sleep(0.2)
        raise AssertionError(f"nobody answers at {address}")
    finally:
        view.send_signal(signal.SIGINT)
        assert view.wait(60) == 0
        view.stderr.close()


@pytest.mark.model
@pytest.mark.timeout(900)
def test_quickstart(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = play_page("quickstart.md")
    turns = re.findall(r"^[01]/solver\.[012] solver ", capsys.readouterr().out, re.MULTILINE)
    assert len(turns) == 6, "three agents, two rounds"
    assert "self-consistency, equal" in said
    assert re.search(r"^killed$", said, re.MULTILINE), "the run was not over when it was killed"
    assert len((folder / "killed.jsonl").read_text().splitlines()) == 24
    assert re.search(r"solver@1 ", said), "the lineage of the version that one step made"


def test_concepts(folder: Path) -> None:
    play_page("concepts.md")


def test_extend(folder: Path) -> None:
    play_page("extend.md")

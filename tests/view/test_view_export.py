"""A run as one file: whole, alone, and from the same templates as the pages."""

from __future__ import annotations

import base64
import hashlib
import re
from html import unescape
from pathlib import Path
from typing import Any

import hostile
import pytest
from sqlalchemy import select

import sparring
from sparring.agents.engines.scripted import ScriptedEngine
from sparring.cli import main
from sparring.errors import UserError
from sparring.memory.journal import Journal
from sparring.memory.schema import Episode, Turn
from sparring.view import export as module
from sparring.view.export import export
from sparring.view.offline import Offline

TASKS = [
    {"id": f"t{number}", "question": f"{number} + 1?", "answer": str(number + 1)} for number in range(60)
]
FREE = re.compile(r"<(script|style)>.*?</\1>", re.DOTALL)


@pytest.fixture
def run(memory: str) -> str:
    engine = ScriptedEngine(lambda request, seed: f"I say {seed}.\nAnswer: {seed % 4}")
    sparring.play("du", TASKS, engine=engine, memory=memory, run="r", rounds=1, agents=2)
    return "r"


def written(memory: str, run: str, tmp_path: Path, limit: int | None = None) -> str:
    out = tmp_path / "run.html"
    export(memory, run, out, limit)
    return out.read_text("utf-8")


def alone(page: str) -> None:
    """Nothing refers to anything that is not in the file."""
    tags = FREE.sub("", page)
    ids = set(re.findall(r'\bid="([^"]+)"', tags))
    assert len(ids) == len(re.findall(r'\bid="([^"]+)"', tags)), "an id is there twice"
    for address in map(unescape, re.findall(r'\b(?:href|src|action)="([^"]*)"', tags)):
        assert address.startswith("data:image/") or unescape(address.removeprefix("#")) in map(
            unescape, ids
        ), address
    assert not re.search(r"<(form|link(?! rel=\"icon\")|iframe|base|object|embed)\b", tags)


def test_every_episode_is_in_it(run: str, memory: str, journal: Journal, tmp_path: Path) -> None:
    page = written(memory, run, tmp_path)
    alone(page)
    for row in journal.read(select(Episode.id)):
        assert page.count(f'id="episode-{row.id}"') == 1 and f'href="#episode-{row.id}"' in page
    for row in journal.read(select(Turn.id)):
        assert page.count(f'id="turn-{row.id}"') == 1
    assert page.count('id="machine"') == 1 and page.count('<use href="#machine"/>') == len(TASKS)
    assert page.count("<marker ") == 1  # drawn once
    assert "left out" not in page and page.rstrip().endswith("</html>")


def test_what_is_left_out_is_said(run: str, memory: str, tmp_path: Path) -> None:
    page = written(memory, run, tmp_path, limit=51)
    alone(page)
    assert page.count('class="page" id="episode-') == 51
    assert "The first 51 of 60 episodes are here; the other 9 are left out." in page
    assert "60 of 60 done" in page


def test_its_scripts_and_styles_are_those_it_allows(run: str, memory: str, tmp_path: Path) -> None:
    page = written(memory, run, tmp_path, limit=1)
    found = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert found is not None
    policy = dict(part.strip().split(" ", 1) for part in unescape(found[1]).split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["img-src"] == "data:" and "unsafe" not in found[1] and "http" not in found[1]
    for kind, text in re.findall(r"<(script|style)>(.*?)</\1>", page, re.DOTALL):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy[f"{kind}-src"]
    assert "uPlot=" not in page  # no chart, no library for it
    for name in ("uPlot.iife.min.js", "view.js"):
        text = module._static(name)
        assert "</script" not in text and "<!--" not in text and "\r" not in text


def test_charts_bring_their_library() -> None:
    plain, charts = (Offline("r", (), lambda _: None) for _ in range(2))
    assert "".join(plain(["<p>", "data-chart=&#34;in a text&#34;"])) and not plain.charts
    assert "".join(charts(['<figure data-chart="{}">'])) and charts.charts


def test_links_lead_to_what_is_there() -> None:
    def fetch(name: str) -> tuple[str, bytes] | None:
        return ("image/png", b"x") if name == "aa" else None

    offline = Offline("my run", {"e1"}, fetch)
    given = {
        '<a class="item" href="/episode?id=e1">x</a>': '<a class="item" href="#episode-e1">x</a>',
        '<a href="/episode?id=e1#turn-7">': '<a href="#turn-7">',
        '<a href="/episode?id=e2">x</a>': "<a>x</a>",
        '<a href="/run?name=my+run">': '<a href="#run">',
        '<a href="/run?name=my+run&amp;q=1">': "<a>",
        '<a href="/policies">': "<a>",
        '<a href="#a&#34;b">': '<a href="#a&quot;b">',
        '<a href="javascript:x">': "<a>",
        '<img src="/blob/aa" alt="p">': '<img id="picture-aa" src="data:image/png;base64,eA==" alt="p">',
        '<img src="/blob/aa">': '<a href="#picture-aa">the picture aa</a>',
        '<img src="/blob/zz">': "<span>the picture zz</span>",
        "&lt;a href=&#34;/x&#34;&gt;": "&lt;a href=&#34;/x&#34;&gt;",
    }
    whole = "".join(given)
    pieces = [whole[start : start + 7] for start in range(0, len(whole), 7)]
    assert "".join(offline(pieces)) == "".join(given.values())


def test_text_comes_in_pieces() -> None:
    offline = Offline("r", {f"e{number}" for number in range(9000)}, lambda _: None)
    pieces = [f'<a href="/episode?id=e{number}">' for number in range(9000)]
    made = list(offline("".join(pieces)))
    assert len(made) > 5 and max(map(len, made)) < 40_000
    assert "".join(made) == "".join(pieces).replace("/episode?id=", "#episode-")


def test_memory_does_not_grow_with_the_run(
    run: str, memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transcripts are read one after the other, each after the one before it has been handed on."""
    read: list[str] = []
    reader = module.read_transcript
    monkeypatch.setattr(
        module, "read_transcript", lambda journal, one: read.append(one) or reader(journal, one)
    )
    with Journal.open(memory, read_only=True) as journal:
        viewer = module.Viewer(journal, "", [run], wait_s=None)
        viewer.facts.look()
        given, early = 0, 0
        for piece in module.Export(viewer, journal.run_row(run), None).text():
            given += piece.count('class="page" id="episode-')
            early = max(early, len(read) - given)
            assert len(piece) < 60_000
        viewer.close()
    assert len(read) == given == 60
    assert early <= 12  # pieces are of 20 kB, an episode here of some


def test_hostile_text(cruel: str, tmp_path: Path) -> None:
    from test_view_pages import inside

    page = written(cruel, hostile.RUN, tmp_path)
    alone(page)
    body = FREE.sub("", page).replace('http-equiv="Content-Security-Policy"', "")
    assert not [found for found in inside(body) if not found.startswith("data:image/")]
    assert page.count(base64.b64encode(hostile.PNG).decode()) == 1
    assert page.count("{{7*7}}") > 20  # and no template took it for its own


def test_the_command(run: str, memory: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.html"
    ask = ["view", "--memory", memory]
    assert main([*ask, run, "--export", str(out), "--limit", "2"]) == 0
    assert f"{out}: 2 of 60 episodes of run `r`" in capsys.readouterr().err
    for wrong, said in (
        ([*ask, "--export", str(out)], "needs a run"),
        ([*ask, "nope", "--export", str(out)], "known: r"),
        ([*ask, "nope", "--port", "0"], "known: r"),
        ([*ask, run, "--limit", "2"], "--export"),
        ([*ask, run, "--export", str(tmp_path)], "cannot be written"),
        ([*ask, run, "--export", str(tmp_path / "none" / "x.html")], "cannot be written"),
    ):
        assert main(wrong) == 2
        assert said in capsys.readouterr().err
    if "://" not in memory:
        assert main([*ask, run, "--export", memory]) == 2
        assert "would overwrite" in capsys.readouterr().err


def test_a_file_appears_whole_or_not_at_all(
    run: str, memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run.html"
    out.write_text("the last one")

    def broken(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "read_transcript", broken)
    with pytest.raises(KeyboardInterrupt):
        export(memory, run, out)
    assert out.read_text() == "the last one" and not list(tmp_path.glob(".run.html*"))
    with pytest.raises(UserError, match="unknown run"):
        export(memory, "nope", out)

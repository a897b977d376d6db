"""A run as one HTML file: its page and every transcript from the templates of the pages, readable offline."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

from markupsafe import Markup
from sqlalchemy import select

from sparring import __version__
from sparring.errors import UserError
from sparring.graphs.console import whole
from sparring.memory.database import transact
from sparring.memory.journal import Journal
from sparring.memory.removal import family
from sparring.memory.schema import Blob
from sparring.view.app import Viewer
from sparring.view.episode import read_transcript
from sparring.view.offline import Offline, data_uri
from sparring.view.runs import Page, all_episodes
from sparring.view.text import PICTURES, clock

STYLES = ("uPlot.min.css", "view.css")
CHARTS, KEYS = "uPlot.iife.min.js", "view.js"


@dataclass(frozen=True)
class Exported:
    """What became of it."""

    episodes: int
    """Those in the file."""
    total: int
    """Those of the run."""


def export(memory: str, run: str, out: Path, limit: int | None = None, own: bool = False) -> Exported:
    """Write a run to a file that needs nothing else; the file appears when it is whole.

    Args:
        limit: The first so many episodes; the page says how many are left out.
        own: Whether a protocol from elsewhere (`module:Class`) is imported, for its drawing and its figures.

    Raises:
        UserError: there is no such run.
    """
    with Journal.open(memory, read_only=True) as journal:
        row = journal.run_row(run)
        ours = transact(journal.engine, lambda connection: family(connection, run), write=False)
        viewer = Viewer(journal, "", ours, wait_s=None, own=own)
        try:
            viewer.facts.look()
            made = Export(viewer, row, limit)
            with whole(out) as file:
                file.writelines(made.text())
        finally:
            viewer.close()
    return made.done


def runs(memory: str) -> list[str]:
    """Names of the newest runs of a journal."""
    with Journal.open(memory, read_only=True) as journal:
        return journal.runs()[-20:]


class Export:
    """The text of the file, made while it is written: one transcript at a time is in memory."""

    def __init__(self, viewer: Viewer, run: Any, limit: int | None) -> None:
        self._viewer, self._run = viewer, run
        ids = [
            row["id"]
            for row in viewer.facts.ask("SELECT id FROM facts WHERE run = ? ORDER BY number", (run.id,))
        ]
        self._shown = ids[:limit]
        self.done = Exported(len(self._shown), len(ids))
        self._offline = Offline(run.id, set(self._shown), self._fetch)
        self._graph = viewer.graph(run)
        self._templates = viewer.templates
        self._templates.filters["ago"] = clock  # it will be read another day

    def text(self) -> Iterator[str]:
        """The document in pieces."""
        style = "\n".join(_static(name) for name in STYLES)
        scripts = {name: _static(name) for name in (CHARTS, KEYS)}
        yield from self._templates.get_template("export.html").generate(
            run=self._run,
            graph=self._graph,
            moment=time.time(),
            version=__version__,
            icon=data_uri("image/svg+xml", _static("icon.svg").encode()),
            style=Markup(style),
            policy=_policy(style, *scripts.values()),
            pieces=map(Markup, self._offline(self._pages())),
            scripts=lambda: [
                Markup(text) for name, text in scripts.items() if name != CHARTS or self._offline.charts
            ],
        )

    def _pages(self) -> Iterator[str]:
        """The run's page, then each transcript."""
        viewer, run = self._viewer, self._run
        rows = islice(all_episodes(viewer.journal, viewer.facts, run.id), self.done.episodes)
        about = viewer.about(run) | {
            "found": Page(rows if self._shown else (), self.done.total, 1),
            "left_out": self.done.total - self.done.episodes,
            "wanted": {},
        }
        yield from self._page("run.html", "run", about)
        # Each refers to the one drawing of what they all played.
        graph = self._graph and self._graph.frame(Markup('<use href="#machine"/>'))
        for episode in self._shown:
            try:
                found = read_transcript(viewer.journal, episode)
            except UserError:  # deleted meanwhile
                continue
            yield from self._page(
                "episode.html",
                f"episode-{episode}",
                {"found": found, "run": run, "graph": graph, "wanted": {}},
            )

    def _page(self, template: str, anchor: str, values: dict[str, Any]) -> Iterator[str]:
        made = self._templates.get_template(template)
        return made.generate(values, layout="page.html", anchor=anchor, offline=True)

    def _fetch(self, name: str) -> tuple[str, bytes] | None:
        rows = self._viewer.journal.read(
            select(Blob.media_type, Blob.data).where(Blob.hash == name, Blob.media_type.in_(PICTURES))
        )
        return (rows[0].media_type, rows[0].data) if rows else None


def _static(name: str) -> str:
    return files("sparring.view").joinpath("static", name).read_text("utf-8")


def _policy(style: str, *scripts: str) -> str:
    """What the file may do: be styled by this, run these, show pictures that are in it."""
    allowed = " ".join(map(_hash, scripts))
    return (
        f"default-src 'none'; style-src {_hash(style)}; script-src {allowed}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

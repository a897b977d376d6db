"""A browser without a screen: pages of a journal through the real application, and what stands on them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urldefrag

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / room) for room in ("training", "memory", "agents")]

from starlette.testclient import TestClient  # noqa: E402 - the paths first

from sparring.memory.journal import Journal  # noqa: E402 - the paths first
from sparring.view.app import make_app  # noqa: E402 - the paths first

PORT, TOKEN = 8765, "the-token"
HOSTILE = "</script><script>alert('x')</script><img src=x onerror=alert(1)>\"'&"


class Page(HTMLParser):
    """What stands on a page: words, links, tags, and the rows of its tables."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.links: list[str] = []
        self.tags: list[str] = []
        self.ids: set[str] = set()
        self.rows: list[list[str]] = []
        self.charts: list[str] = []
        self._words: list[str] = []
        self._cell: list[str] | None = None
        self.feed(html)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self._words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.ids.add(given.get("id") or "")
        if tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))
        if given.get("data-chart"):
            self.charts.append(str(given["data-chart"]))
        assert not [name for name in given if name.startswith("on") or name == "style"], (tag, given)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._cell = []

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None:
            self.rows[-1].append(" ".join(" ".join(self._cell).split()))
            self._cell = None

    def handle_data(self, data: str) -> None:
        self._words.append(data)
        if self._cell is not None:
            self._cell.append(data)

    def row(self, *begins: str) -> list[str]:
        """The one row whose first cells begin with these words."""
        found = [
            row
            for row in self.rows
            if len(row) >= len(begins)
            and all(cell.startswith(b) for cell, b in zip(row, begins, strict=False))
        ]
        assert len(found) == 1, (begins, self.rows)
        return found[0]


class Browser:
    """Pages by address, with the token."""

    def __init__(self, client: TestClient) -> None:
        self.client = client

    def get(self, address: str, status: int = 200, **query: object) -> Page:
        """A page; one that still computes something is asked for again until it has it."""
        deadline = time.monotonic() + 30
        while True:
            answer = self.client.get(address, params=query or None)
            assert answer.status_code == status, (address, answer.status_code, answer.text[:2000])
            waiting = any(f"being {what}" in answer.text for what in ("computed", "read", "searched"))
            if not waiting or time.monotonic() > deadline:
                return Page(answer.text)
            time.sleep(0.05)

    def follow(self, page: Page) -> set[str]:
        """Open every link of a page once; those that were opened, and their places on the page are there."""
        opened = {}
        for link in page.links:
            address, place = urldefrag(link)
            if address:
                assert address.startswith("/") and not address.startswith("//"), link
                if address not in opened:
                    opened[address] = self.get(address)
            target = opened[address] if address else page
            assert not place or place in target.ids, (link, "leads to no place of the page")
        return set(opened)


@contextmanager
def browser(memory: Journal | str | Path) -> Iterator[Browser]:
    """A browser on the pages of a journal that is read only, its episodes all known."""
    if not isinstance(memory, Journal):
        with Journal.open(str(memory), read_only=True) as journal, browser(journal) as made:
            yield made
        return
    app = make_app(memory, "a journal", TOKEN, PORT)
    cookies = {f"sparring-view-{PORT}": TOKEN}
    with TestClient(app, base_url=f"http://127.0.0.1:{PORT}", cookies=cookies) as client:
        made = Browser(client)
        while "Reading the journal" in made.get("/").text:
            time.sleep(0.05)
        yield made

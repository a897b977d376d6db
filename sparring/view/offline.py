"""A page without its server: what it refers to is in the file, or is no link."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from html import escape, unescape
from urllib.parse import parse_qsl, urlsplit

TAG = re.compile(r"<(a|img)\b[^<>]*>")
ADDRESS = re.compile(r' (href|src)="([^"]*)"')
Fetch = Callable[[str], tuple[str, bytes] | None]
"""Kind and bytes of a file of the journal, by hash."""


def data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


class Offline:
    """Rewrites the tags of rendered pages. Templates escape every value, so a tag there is one of theirs.

    Args:
        run: The run whose page is at `#run`.
        episodes: Those that are at `#episode-ID`.
        fetch: Gives a picture.
    """

    def __init__(self, run: str, episodes: Collection[str], fetch: Fetch) -> None:
        self._run, self._episodes, self._fetch = run, episodes, fetch
        self._drawn: set[str] = set()
        self.charts = False
        """Whether there was a chart."""

    def __call__(self, pieces: Iterable[str]) -> Iterator[str]:
        """The same text with other addresses, in pieces that end with a tag."""
        held = ""
        for piece in pieces:
            held = "".join((held, piece))  # not `+`, which escapes once more what follows Markup
            if len(held) < 20_000:
                continue
            cut = held.rfind(">") + 1
            ready, held = held[:cut], held[cut:]
            yield self._rewritten(ready)
        yield self._rewritten(held)

    def _rewritten(self, text: str) -> str:
        self.charts = self.charts or " data-chart=" in text
        return TAG.sub(self._tag, text)

    def _tag(self, found: re.Match[str]) -> str:
        if found[1] == "img":
            return self._picture(found[0])
        return ADDRESS.sub(lambda address: self._link(unescape(address[2])), found[0])

    def _link(self, address: str) -> str:
        """What leads nowhere here stays as text."""
        if address.startswith("#"):
            return f' href="{escape(address)}"'
        parts = urlsplit(address)
        asked = dict(parse_qsl(parts.query))
        if parts.path == "/run" and asked == {"name": self._run}:
            return ' href="#run"'
        if parts.path == "/episode" and asked.get("id") in self._episodes:
            return f' href="#{escape(parts.fragment or "episode-" + asked["id"])}"'
        return ""

    def _picture(self, tag: str) -> str:
        found = ADDRESS.search(tag)
        address = unescape(found[2]) if found else ""
        name = address.removeprefix("/blob/")
        if found is None or name == address:
            return tag  # its data is in it
        if name in self._drawn:
            return f'<a href="#picture-{escape(name)}">the picture {escape(name)}</a>'
        file = self._fetch(name)
        if file is None:
            return f"<span>the picture {escape(name)}</span>"
        self._drawn.add(name)
        return tag.replace(found[0], f' id="picture-{escape(name)}" src="{data_uri(*file)}"')

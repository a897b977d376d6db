"""How values are shown: template filters, which leave escaping to the templates or do it themselves.

They take whatever a journal can hold: a payload is what a protocol, a model or an import wrote there.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from math import isfinite
from typing import Any, TypeGuard
from urllib.parse import urlencode

from markupsafe import Markup

DIFF_CLASSES = {"+": "added", "-": "removed", "@": "hunk"}
DIFF_HEADS = ("diff --git ", "+++ ", "--- ", "index ", "new file ", "deleted file ")
LONG = 200_000
"""Characters of one text that a page shows; the rest is counted."""
PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")
"""What is shown as a picture. Others (SVG) can hold scripts."""
FENCED = re.compile(
    r"^ {0,3}(`{3,}|~{3,})[^`\n]*\n.*?(?:^ {0,3}\1[`~]*[ \t]*$\n?|\Z)", re.MULTILINE | re.DOTALL
)
"""A block of code in Markdown; one that is never closed goes on to the end."""
PICTURE_URI = re.compile(rf"data:({'|'.join(PICTURES)});base64,[A-Za-z0-9+/]+=*")


def is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 10**300)  # a float holds it


def count(value: Any) -> str:
    """1234567 as 1.23M; small numbers as they are; nothing where there is none."""
    if not is_number(value):
        return ""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1000 if sign == 'k' else size):.3g}{sign}"
    return f"{value:.0f}"


def number(value: Any, digits: int = 3) -> str:
    """A figure with so many decimals; nothing where there is none."""
    return f"{value:.{digits}f}" if is_number(value) else ""


def figure(value: Any) -> str:
    """A figure with four digits that count, whatever its size."""
    if not is_number(value):
        return ""
    whole = isfinite(value) and value == int(value) and abs(value) < 1e6
    return f"{value:.0f}" if whole else f"{value:.4g}"


def signed(value: Any) -> str:
    return (f"{value:+.3g}" if value else "0") if is_number(value) else ""


def many(number: int, what: str) -> str:
    """How many there are of something."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def estimate(value: Any) -> str:
    """Mean, interval and n."""
    if value is None:
        return ""
    get = value.get if isinstance(value, dict) else lambda name: getattr(value, name)
    return f"{get('mean'):.3f} [{get('low'):.3f}, {get('high'):.3f}] of {get('n')}"


def ago(moment: float | None) -> str:
    """How long ago a moment was."""
    return "" if moment is None else f"{span(max(0.0, time.time() - moment))} ago"


def span(seconds: Any) -> str:
    """Seconds in the largest fitting unit."""
    if not is_number(seconds):
        return ""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.2g} s"


def clock(moment: float | None) -> str:
    """A moment in local time."""
    return "" if moment is None else time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(moment))


def pretty(value: Any) -> str:
    """Plain JSON, indented."""
    try:
        return json.dumps(value, indent=1, ensure_ascii=False, default=str)
    except RecursionError:
        return "data that is nested too deeply to be shown"


def cut(value: Any, most: int = LONG) -> str:
    """A text, or other data as JSON, that is at most so long, and says what is missing."""
    text = value if isinstance(value, str) else "" if value is None else pretty(value)
    if len(text) <= most:
        return text
    return f"{text[:most]}\n… {len(text) - most:,} more characters"


def is_diff(text: Any) -> bool:
    """Whether a text is a unified diff."""
    return isinstance(text, str) and ("diff --git " in text[:4000] or text.startswith("--- "))


def code(text: Any, kind: str = "code") -> Markup:
    """A text of letters of one width; lines of one that is a unified diff, or holds one, are marked."""
    words = cut(text)
    if not is_diff(words):
        return Markup('<pre class="{}">{}</pre>').format(kind, words)
    marked = Markup('<span class="{}">{}\n</span>')  # the line break inside, or an empty line has no height
    lines = [marked.format(_of_diff(line), line) for line in words.splitlines()]
    return Markup('<pre class="{} diff">{}</pre>').format(kind, Markup().join(lines))


def _of_diff(line: str) -> str:
    if line.startswith(DIFF_HEADS):
        return "file"
    return DIFF_CLASSES.get(line[:1], "same")


def said(text: Any) -> Markup:
    """What an agent said: its words, and its fenced blocks of code as `code` shows them, fences and all."""
    words, shown, end = cut(text), list[Markup](), 0
    plain = Markup('<pre class="said">{}</pre>')
    for block in FENCED.finditer(words):
        if before := words[end : block.start()].strip("\n"):
            shown.append(plain.format(before))
        shown.append(code(block[0].strip("\n"), "block"))
        end = block.end()
    rest = words[end:].lstrip("\n") if shown else words
    if rest or not shown:
        shown.append(plain.format(rest))
    return Markup().join(shown)


def link(path: str, **query: Any) -> str:
    """A path with those parts of a query that are set."""
    given = {
        name: value
        for name, value in query.items()
        if value is not None and value is not False and value != ""
    }
    return f"{path}?{urlencode(given, errors='replace')}" if given else path


def picture(part: Any) -> str | None:
    """The address of a message's part that is a picture of the journal, or comes with it; None: it is not."""
    if part.get("type") == "blob" and part.get("size") is not None and part.get("media_type") in PICTURES:
        return f"/blob/{part['hash']}"
    given = part.get("image_url")
    uri = given.get("url") if isinstance(given, dict) else given
    return uri if isinstance(uri, str) and PICTURE_URI.fullmatch(uri) else None


def mark(value: Any) -> Markup:
    """Right, wrong or nothing, told by a sign as well as by colour."""
    if not isinstance(value, bool):
        return Markup("")
    kind, sign, said = ("right", "✓", "right") if value else ("wrong", "✗", "wrong")
    return Markup('<span class="{}" title="{}">{}<span class="unseen"> {}</span></span>').format(
        kind, said, sign, said
    )


def chip(status: Any) -> Markup:
    """A status in the colour of its kind."""
    kind = status if isinstance(status, str) and status.isidentifier() else ""
    return Markup('<span class="chip {}">{}</span>').format(kind, cut(status, 80))


def pair(value: str) -> tuple[str, str]:
    """A choice whose value and words are the same."""
    return value, value


def simple(value: Any) -> bool:
    """Whether a value fits into one line."""
    return (
        value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) < 80)
    )


FILTERS: dict[str, Callable[..., Any]] = {
    made.__name__: made
    for made in (
        count,
        figure,
        number,
        signed,
        estimate,
        ago,
        span,
        clock,
        pretty,
        code,
        cut,
        many,
        said,
        mark,
        chip,
        pair,
    )
}
GLOBALS: dict[str, Callable[..., Any]] = {"link": link, "is_diff": is_diff, "picture": picture}
TESTS: dict[str, Callable[..., bool]] = {"simple": simple}

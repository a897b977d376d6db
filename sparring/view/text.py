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

DIFF_CLASSES = {"+": "added", "-": "removed", "@": "hunk", "d": "file"}
LONG = 200_000
"""Characters of one text that a page shows; the rest is counted."""
PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")
"""What is shown as a picture. Others (SVG) can hold scripts."""
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
    return f"{value:+.3g}" if is_number(value) else ""


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
    return "" if moment is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


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


def diff(text: Any) -> Markup:
    """A unified diff with its lines marked by kind, everything in it escaped."""
    lines = []
    for line in cut(text).splitlines():
        kind = DIFF_CLASSES.get(line[:1], "same")
        if line.startswith(("+++", "---", "index ", "new file", "deleted file")):
            kind = "file"
        lines.append(Markup('<span class="{}">{}</span>').format(kind, line))
    return Markup('<pre class="diff">{}</pre>').format(Markup("\n").join(lines))


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
        cut,
        diff,
        mark,
        chip,
        pair,
    )
}
GLOBALS: dict[str, Callable[..., Any]] = {"link": link, "is_diff": is_diff, "picture": picture}
TESTS: dict[str, Callable[..., bool]] = {"simple": simple}

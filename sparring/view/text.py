"""How values are shown: template filters, which leave escaping to the templates or do it themselves."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from math import isfinite
from typing import Any
from urllib.parse import urlencode

from markupsafe import Markup, escape

DIFF_CLASSES = {"+": "added", "-": "removed", "@": "hunk", "d": "file"}
LONG = 200_000
"""Characters of one text that a page shows; the rest is counted."""


def count(value: float | None) -> str:
    """1234567 as 1.23M; small numbers as they are."""
    if value is None:
        return ""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1000 if sign == 'k' else size):.3g}{sign}"
    return f"{value:.0f}"


def number(value: float | None, digits: int = 3) -> str:
    """A figure with so many decimals; nothing where there is none."""
    return "" if value is None else f"{value:.{digits}f}"


def figure(value: float | None) -> str:
    """A figure with four digits that count, whatever its size."""
    if value is None:
        return ""
    whole = isfinite(value) and value == int(value) and abs(value) < 1e6
    return f"{value:.0f}" if whole else f"{value:.4g}"


def signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.3g}"


def estimate(value: Any) -> str:
    """Mean, interval and n."""
    if value is None:
        return ""
    get = value.get if isinstance(value, dict) else lambda name: getattr(value, name)
    return f"{get('mean'):.3f} [{get('low'):.3f}, {get('high'):.3f}] of {get('n')}"


def ago(moment: float | None) -> str:
    """How long ago a moment was."""
    return "" if moment is None else f"{span(max(0.0, time.time() - moment))} ago"


def span(seconds: float | None) -> str:
    """Seconds in the largest fitting unit."""
    if seconds is None:
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
    return json.dumps(value, indent=1, ensure_ascii=False, default=str)


def cut(text: str | None, most: int = LONG) -> str:
    """A text that is at most so long, and says what is missing."""
    if not text or len(text) <= most:
        return text or ""
    return f"{text[:most]}\n… {len(text) - most:,} more characters"


def is_diff(text: Any) -> bool:
    """Whether a text is a unified diff."""
    return isinstance(text, str) and ("diff --git " in text[:4000] or text.startswith("--- "))


def diff(text: str) -> Markup:
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
    return f"{path}?{urlencode(given)}" if given else path


def mark(value: bool | None) -> Markup:
    """Right, wrong or nothing, told by a sign as well as by colour."""
    if value is None:
        return Markup("")
    kind, sign, said = ("right", "✓", "right") if value else ("wrong", "✗", "wrong")
    return Markup('<span class="{}" title="{}">{}<span class="unseen"> {}</span></span>').format(
        kind, said, sign, said
    )


def chip(status: str | None) -> Markup:
    """A status in the colour of its kind."""
    return Markup('<span class="chip {}">{}</span>').format(
        escape((status or "").replace(" ", "-")), status or ""
    )


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
GLOBALS: dict[str, Callable[..., Any]] = {"link": link, "is_diff": is_diff}
TESTS: dict[str, Callable[..., bool]] = {"simple": simple}

"""What HTTP status codes and headers say about trying again."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}
"""The same call may succeed later."""
DOWN = {502, 503, 504}
"""The server is not there behind its proxy."""


def retry_after(headers: dict[str, str]) -> float | None:
    """Seconds that the server asks to wait (`Retry-After` as a number or a date), or None."""
    named = {name.lower(): value for name, value in headers.items()}
    try:
        if "retry-after-ms" in named:
            return max(0.0, float(named["retry-after-ms"]) / 1000)
        text = named.get("retry-after", "")
        if not text:
            return None
        if text.replace(".", "", 1).isdigit():
            return float(text)
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None

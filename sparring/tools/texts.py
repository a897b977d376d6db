"""Texts of any length, as a model or a person is shown them."""

from __future__ import annotations


def clipped(text: str, most: int) -> str:
    """A text, or of a longer one head and tail, `most` characters of it, and what was left out."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"

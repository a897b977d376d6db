"""Sparring: language-model agents that debate, criticise and refine, remember every word, and improve.

Names are resolved on first use, so that `import sparring` stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME: dict[str, str] = {}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name], __name__), name)
    raise AttributeError(f"module `sparring` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted([*_HOME, "__version__"])

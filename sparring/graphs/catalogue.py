"""The protocols by name, imported when asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sparring.errors import unknown
from sparring.graphs.protocol import Protocol

PROTOCOLS = {
    "sample": "sparring.graphs.sample:Sample",
    "debate": "sparring.graphs.debate:Debate",
    "du": "sparring.graphs.debate:Debate",
    "mad": "sparring.graphs.debate:Debate",
    "reconcile": "sparring.graphs.debate:Debate",
}
"""Name -> class; a module's `PRESETS` hold the options that a name stands for."""


def make_protocol(name: str, options: dict[str, Any] | None = None) -> Protocol:
    """A protocol by name.

    Raises:
        UserError: unknown name or option (those that exist are listed), or a value that does not fit.
    """
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    module_name, class_name = PROTOCOLS[name].split(":")
    module = import_module(module_name)
    kind: type[Protocol] = getattr(module, class_name)
    preset: dict[str, Any] = getattr(module, "PRESETS", {}).get(name, {})
    return kind.configure({**preset, **(options or {})})

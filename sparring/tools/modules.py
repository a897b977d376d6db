"""Modules of a user's own, by their names: of tools, protocols, reward functions."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType


def own_module(name: str) -> ModuleType:
    """A module from where Python looks, and last from the working folder, which a command's own folder would
    not be. Whatever it raises on import is raised."""
    here = str(Path.cwd())
    if not {"", here} & set(sys.path):
        sys.path.append(here)  # last, so that nothing installed is hidden by a file that lies here
    return import_module(name)

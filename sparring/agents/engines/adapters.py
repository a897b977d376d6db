"""Adapter folders that an engine may serve: what lies there is what the policy version recorded."""

from __future__ import annotations

import os
from pathlib import Path

from sparring.agents.engines.base import PolicyVersion
from sparring.agents.models import adapter_hash
from sparring.errors import UserError


def check_base(version: PolicyVersion, base: str, spec: str) -> None:
    """Raise `UserError` where a policy version belongs to another base than the one an engine serves."""
    if version.base and version.base != base:
        raise UserError(f"policy {version.label} belongs to base {version.base[:12]}, {spec} is {base[:12]}")


class AdapterFolders:
    """Content hashes of adapter folders, computed again only when a file's time or size changed."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], str] = {}

    def digest(self, folder: str, expected: str | None) -> str:
        """The hash of what is in a folder now.

        Raises:
            UserError: missing, or not the adapter the policy version recorded.
        """
        stats = [os.stat(file) for file in sorted(Path(folder).glob("adapter_*")) if file.is_file()]
        key = (folder, *(f"{stat.st_mtime_ns}:{stat.st_size}" for stat in stats))
        if key not in self._known:
            self._known[key] = adapter_hash(folder)
        digest = self._known[key]
        if expected is not None and digest != expected:
            raise UserError(
                f"adapter {folder} has hash {digest[:12]}, the policy version recorded {expected[:12]}; "
                "its files changed: restore them or register a new version"
            )
        return digest

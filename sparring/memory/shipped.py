"""The task sets that come with Sparring, by name; nothing is read."""

from __future__ import annotations

from pathlib import Path

SHIPPED = Path(__file__).parent / "tasksets"


def shipped_tasks(folder: Path = SHIPPED) -> list[str]:
    """Names of the task sets that come with Sparring."""
    return sorted(path.name.split(".")[0] for path in folder.glob("*.jsonl*"))

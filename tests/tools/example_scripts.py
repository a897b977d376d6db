"""Scripts of the examples as modules, and whether what they write is what is kept."""

from __future__ import annotations

import gzip
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def script(path: str) -> ModuleType:
    """A script by its path below `examples`."""
    spec = importlib.util.spec_from_file_location(path.replace("/", "_").removesuffix(".py"), EXAMPLES / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def unpacked(path: Path) -> bytes:
    """zlib's own versions may pack the same text differently."""
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in unpacked(path).decode().splitlines()]


def writes_what_is_kept(
    path: str, files: Iterable[str], folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: Path
) -> None:
    module = script(path)
    kept = module.HERE
    monkeypatch.setattr(module, "HERE", folder)
    module.main(*arguments)
    for name in files:
        assert unpacked(folder / name) == unpacked(kept / name), f"{name}: run examples/{path}"

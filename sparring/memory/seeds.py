"""Seeds and deterministic ids: a place in a run always gets the same one, whoever computes it."""

from __future__ import annotations

from .types import digest


def derive_seed(run_seed: int, task: str, iteration: int, copy: int, key: str, attempt: int = 0) -> int:
    """The seed of one attempt at one turn, in 0 .. 2^31 - 1 (the range every backend takes)."""
    place = (str(run_seed), task, str(iteration), str(copy), key, str(attempt))
    return int.from_bytes(digest(*place, size=4), "little") & 0x7FFFFFFF


def episode_id(run: str, task: str, iteration: int, copy: int) -> str:
    """Hash of the four that make an episode."""
    return digest(run, task, str(iteration), str(copy), size=10).hex()

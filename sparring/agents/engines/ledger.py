"""What a run asked of its backends and what it cost, per policy version."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from sparring.agents.engines.base import Usage


@dataclass(slots=True)
class Tally:
    """Sums over calls. Cache hits count nowhere else: they asked the backend for nothing."""

    calls: int = 0
    """Calls that a backend answered; `retries` and `errors` are not among them."""
    samples: int = 0
    retries: int = 0
    errors: int = 0
    cache_hits: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cost: float = 0.0

    def add(self, usage: Usage) -> None:
        self.samples += 1
        self.prompt_tokens += usage.prompt_tokens
        self.completion_tokens += usage.completion_tokens
        self.cached_tokens += usage.cached_tokens
        self.cost += usage.cost


class Ledger:
    """Tallies by policy label (`PolicyVersion.label`)."""

    def __init__(self) -> None:
        self._tallies: dict[str, Tally] = {}

    def of(self, label: str) -> Tally:
        """The tally of one policy version; made on first use."""
        tally = self._tallies.get(label)
        if tally is None:
            tally = self._tallies[label] = Tally()
        return tally

    def snapshot(self) -> dict[str, dict[str, float]]:
        """A copy of all tallies by policy label, and their sum under `total`."""
        rows: dict[str, dict[str, float]] = {label: asdict(t) for label, t in sorted(self._tallies.items())}
        rows["total"] = {name: sum(row[name] for row in rows.values()) for name in asdict(Tally())}
        return rows


def merge(snapshots: Iterable[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """The sum of several snapshots, row by row."""
    merged: dict[str, dict[str, float]] = {}
    for snapshot in snapshots:
        for label, row in snapshot.items():
            into = merged.setdefault(label, dict.fromkeys(row, 0))
            for name, value in row.items():
                into[name] += value
    return merged

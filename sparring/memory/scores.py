"""Scores of an episode's turns: judgements that are no rewards, each journaled once.

What one scorer says of one turn (a value, or one for each step) becomes visible at once or not at all, so
that a replay reads it instead of asking the scorer again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import JournalError
from .schema import Score

if TYPE_CHECKING:
    from .run import RunHandle

Judged = tuple[int, str, str]
"""A turn, a scorer and its version."""


@dataclass(frozen=True, slots=True)
class ScoreRecord:
    """What a scorer says of a turn or of one of its steps."""

    turn: int
    scorer: str
    version: str
    value: float | None
    """None: it could not be judged; `evidence` says why."""
    step: int | None = None
    """None: the whole turn."""
    evidence: Any = None

    @property
    def judged(self) -> Judged:
        return self.turn, self.scorer, self.version

    @classmethod
    def of_row(cls, row: Any) -> ScoreRecord:
        return cls(row.turn_id, row.scorer, row.version, row.value, row.step, row.evidence)


COLUMNS = (Score.turn_id, Score.scorer, Score.version, Score.value, Score.step, Score.evidence)


class Scores:
    """Those of one episode that this process drives."""

    def __init__(self, run: RunHandle) -> None:
        self._run = run
        self._known: dict[Judged, tuple[ScoreRecord, ...]] = {}
        self._adding = asyncio.Lock()

    def of(self, turn: int, scorer: str, version: str) -> tuple[ScoreRecord, ...] | None:
        """What a scorer said of a turn, in the order of its steps; None: nothing yet."""
        return self._known.get((turn, scorer, version))

    async def add(self, records: Sequence[ScoreRecord]) -> None:
        """Return once the scores are durable; what a scorer has said of a turn before stays as it is.

        Raises:
            JournalError: a value that is no number, or the scores could not be stored.
            StaleEpoch: another driver has taken the run over.
        """
        for record in records:
            if record.value is not None and not math.isfinite(record.value):
                raise JournalError(f"scorer `{record.scorer}` gave {record.value}: a score is finite or None")
        async with self._adding:
            fresh = [record for record in records if record.judged not in self._known]
            if not fresh:
                return
            write = self._run.write()
            write.rows += [("scores", self._row(record)) for record in fresh]
            await self._run.commit(write)
            self.load(fresh)

    def load(self, records: Iterable[ScoreRecord]) -> None:
        """Take in journaled scores."""
        found: dict[Judged, list[ScoreRecord]] = {}
        for record in records:
            found.setdefault(record.judged, []).append(record)
        for judged, parts in found.items():
            self._known[judged] = tuple(
                sorted(parts, key=lambda part: -1 if part.step is None else part.step)
            )

    def _row(self, record: ScoreRecord) -> dict[str, Any]:
        return {
            "id": self._run.ids.take("scores"),
            "turn_id": record.turn,
            "step": record.step,
            "span_start": None,
            "span_end": None,
            "scorer": record.scorer,
            "version": record.version,
            "value": record.value,
            "evidence": record.evidence,
        }

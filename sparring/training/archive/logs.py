"""What an agent's attempts looked like, for who is to improve it: reads of the journal, as text.

Of an instance only the issue is read. Its reference patch, its tests and the grader's reasons, which name
tests, are in the same journal and stay there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from sparring.graphs.player import FINISHED
from sparring.graphs.protocols.software import SUBMITTED
from sparring.graphs.results import Result, read_results
from sparring.memory.journal import Journal
from sparring.memory.schema import Episode, Event

LAST = 12
"""Steps of an attempt that are shown, the last ones; of the earlier ones there is a line each."""
SHOWN = 1500
"""Characters of an observation or patch that are shown at most, half of them from its end."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One judged attempt at one instance."""

    instance: str
    issue: str
    resolved: bool
    patch: str
    ending: str
    """`submitted`, or what else ended it."""
    steps: list[dict[str, Any]] = field(default_factory=list)
    """Payloads of its events `step`."""

    @property
    def signs(self) -> set[str]:
        """What can be said of it without the grade: topics (`topics`) that it shows."""
        return {
            name
            for name, shown in (
                ("empty_patches", not self.patch.strip()),
                ("format_errors", any(step["action"] is None for step in self.steps)),
                ("limits", self.ending != SUBMITTED or any(step.get("killed_by") for step in self.steps)),
            )
            if shown and not (name == "limits" and self.ending == "format_errors")
        }


def read_attempts(journal: Journal, runs: Sequence[str]) -> list[Attempt]:
    """The judged attempts of an agent's runs, in the order in which its instances come."""
    found = []
    for run in runs:
        steps = _steps(journal, run)
        found += [
            _attempt(result, steps[result.episode])
            for result in read_results(journal, run)
            if _judged(result)
        ]
    return found


def _judged(result: Result) -> bool:
    return result.status in FINISHED and result.correct is not None


def _attempt(result: Result, steps: list[dict[str, Any]]) -> Attempt:
    detail = (result.outcome or {}).get("detail", {})
    return Attempt(
        result.task_id,
        str(result.question),
        bool(result.correct),
        result.answer or "",
        detail.get("exit_status", result.status),
        steps,
    )


def _steps(journal: Journal, run: str) -> defaultdict[str, list[dict[str, Any]]]:
    query = (
        select(Episode.id, Event.key, Event.payload)
        .join(Episode, Episode.number == Event.episode_number)
        .where(Episode.run_id == run, Event.kind == "step")
    )
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in sorted(journal.read(query), key=lambda row: int(row.key)):
        found[row.id].append(row.payload)
    return found


# --- as text -----------------------------------------------------------------------------------------------


def as_text(attempts: Iterable[Attempt], characters: int) -> str:
    """Attempts as somebody reads them, at most so many characters, shared out evenly."""
    told = [_told(attempt) for attempt in attempts]
    if not told:
        return "(no attempt was judged)"
    room = characters // len(told)
    return "\n\n".join(_cut(text, room) for text in told)


def _told(attempt: Attempt) -> str:
    early, late = attempt.steps[:-LAST], attempt.steps[-LAST:]
    lines = [f"<attempt>\n<issue>\n{attempt.issue.strip()}\n</issue>"]
    lines += [f"[{place}] {_command(step).partition(chr(10))[0][:200]}" for place, step in enumerate(early)]
    lines += [_step(len(early) + place, step) for place, step in enumerate(late)]
    patch = _cut(attempt.patch.strip(), SHOWN) or "(empty)"
    verdict = "resolved the issue" if attempt.resolved else "did not resolve the issue"
    lines.append(f"ended: {attempt.ending}, after {len(attempt.steps)} commands; it {verdict}")
    return "\n".join([*lines, f"<patch>\n{patch}\n</patch>\n</attempt>"])


def _step(place: int, step: dict[str, Any]) -> str:
    if step["action"] is None:
        return f"[{place}] {_command(step)}"
    ended = (
        f"ended by its limit on {step['killed_by']}" if step["killed_by"] else f"status {step['returncode']}"
    )
    return f"[{place}] $ {_cut(step['action'], SHOWN)}\n({ended})\n{_cut(step['observation'].strip(), SHOWN)}"


def _command(step: dict[str, Any]) -> str:
    return f"(no command: {step['error']})" if step["action"] is None else f"$ {step['action']}"


def _cut(text: str, room: int) -> str:
    """Head and tail of a text that is too long."""
    if len(text) <= room:
        return text
    half = max(1, (room - 40) // 2)
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"

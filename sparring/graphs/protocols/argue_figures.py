"""What argumentation came to: figures of a run, and the framework of an episode with its text and drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select

from sparring.errors import UserError
from sparring.graphs.results import detailed_outcomes
from sparring.graphs.stats import mean
from sparring.memory.journal import Journal
from sparring.memory.schema import Episode, Event
from sparring.tools.argumentation import Framework
from sparring.tools.decisions import Decision, draw


@dataclass(frozen=True, slots=True)
class Argued:
    """The arguments of an episode's last iteration and what they decide."""

    framework: Framework
    decision: Decision | None
    """None where the reasoner gave up."""
    text: str
    """The explanation."""

    def draw(self, path: str | Path) -> Path:
        """The attack graph as a PNG, with the extension that accepts the decision."""
        return draw(self.framework, path, (self.decision and self.decision.extension) or ())


def framework_of(journal: Journal, episode: str) -> Argued:
    """What was argued in an episode, read from the journal alone.

    Args:
        episode: its id, as `Result.episode` has it.

    Raises:
        UserError: there is no such episode, or it came to no framework.
    """
    query = (
        select(Event.payload)
        .join(Episode, Episode.number == Event.episode_number)
        .where(Episode.id == episode, Event.kind == "framework")
        .order_by(Event.id.desc())
        .limit(1)
    )
    rows = journal.read(query)
    if not rows:
        raise UserError(
            f"episode `{episode}` has no framework in this journal; give the id of a finished episode of "
            "`argue`, as results have it"
        )
    kept: dict[str, Any] = rows[0].payload
    held = kept["decision"]
    if held is not None:
        extension = None if held["extension"] is None else tuple(held["extension"])
        held = Decision(**{**held, "extension": extension, "candidates": tuple(held["candidates"])})
    return Argued(Framework.from_json(kept["framework"]), held, kept["text"])


def argument_figures(journal: Journal, run: str, episodes: Sequence[int] | None = None) -> dict[str, float]:
    """Figures of a run's finished episodes, or of those with these numbers; what there is nothing of is left
    out.

    * `decided`: share with a decision; `decided_right`: of these, the share that is right.
    * `tied`: share of the decided where other extensions accept another decision.
    * `agreement`: share of the decided that come to the generator's first favourite, of those that have one;
      `favourite_right`: share of all episodes whose favourite is right.
    * `arguments`, `attacks` (by critical questions; rivals not counted), `depth` (rounds of an iteration
      that brought something new, at most), `iterations`: means over episodes.
    * `settled`: share that ended because nothing new was stated; the others reached `rounds` or `width`.
    * `unreadable`: share of the critical questions whose answer could not be read; `failed`: that were
      answered with no.
    * `left`: failed questions of an episode that `width` left without an attack, mean.
    * `unstated`: share of the arguments asked of the generator that could not be read.
    """
    outcomes = detailed_outcomes(journal, run, episodes)
    details = [outcome["detail"] for outcome in outcomes]
    decided = [outcome for outcome in outcomes if outcome["answer"] is not None]
    judged = [outcome["detail"]["right"] for outcome in decided if "right" in outcome["detail"]]
    favoured = [one for one in decided if one["detail"]["favourite"] is not None]
    found: dict[str, float | None] = {
        "decided": mean(outcome["answer"] is not None for outcome in outcomes),
        "decided_right": mean(judged),
        "tied": mean(outcome["tied"] for outcome in decided),
        "agreement": mean(one["answer"] == one["detail"]["favourite"] for one in favoured),
        "favourite_right": mean(d["favourite_right"] for d in details if "favourite_right" in d),
        "arguments": mean(d["arguments"] for d in details),
        "attacks": mean(d["attacks"] for d in details),
        "depth": mean(d["depth"] for d in details),
        "iterations": mean(d["iterations"] for d in details),
        "settled": mean(d["settled"] for d in details),
        "unreadable": _share(details, "unreadable", "asked"),
        "failed": _share(details, "failed", "asked"),
        "left": mean(d["left"] for d in details),
        "unstated": _share(details, "unstated", "asked_to_state"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _share(details: Sequence[dict[str, Any]], part: str, whole: str) -> float | None:
    total = sum(detail[whole] for detail in details)
    return sum(detail[part] for detail in details) / total if total else None

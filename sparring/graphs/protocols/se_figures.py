"""What SE-Agent's phases came to: attempts, scores by operator, what the rounds gained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparring.graphs.protocols.se_pool import UNMADE
from sparring.graphs.protocols.software_figures import choice_figures
from sparring.graphs.results import detailed_outcomes
from sparring.graphs.stats import mean
from sparring.memory.journal import Journal


def se_figures(journal: Journal, run: str, episodes: Sequence[int] | None = None) -> dict[str, float]:
    """Those of the choice, and of the episodes that reached no cap:

    * `attempts`, `generations`: made, an episode.
    * `summarised`: share of the attempts before the last generation whose summary could be read.
    * `gain`: the best score at the end less that after the revision.
    * `score_OPERATOR`: mean score of the attempts by that operator, of those that were made.
    """
    details = [outcome["detail"] for outcome in detailed_outcomes(journal, run, episodes)]
    made = [one for detail in details for one in _made(detail)]
    asked = [one for one in made if one["summary"] != "not asked"]
    found = {
        "attempts": mean(len(_made(detail)) for detail in details),
        "generations": mean(len(detail["best"]) - 1 for detail in details),
        "summarised": mean(one["summary"] == "read" for one in asked),
        "gain": mean(detail["best"][-1] - detail["best"][0] for detail in details),
    }
    for operator in dict.fromkeys(one["operator"] for one in made):
        found[f"score_{operator}"] = mean(one["score"] for one in made if one["operator"] == operator)
    known = {name: float(value) for name, value in found.items() if value is not None}
    return {**choice_figures(journal, run, episodes), **known}


def _made(detail: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in detail["members"] if one["exit_status"] != UNMADE]

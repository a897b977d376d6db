"""What sneaky games came to: who wins, how many are valid, what the critic sees and what it imagines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sparring.graphs.results import detailed_outcomes
from sparring.graphs.stats import mean
from sparring.memory.journal import Journal


def game_figures(journal: Journal, run: str, episodes: Sequence[int] | None = None) -> dict[str, float]:
    """Figures of a run's finished games, or of those with these episode numbers; what there is nothing of is
    left out.

    * `win_rate`: share of the games that were not void that the generator won, SPC's win rate.
    * `valid`: share of the games whose attack passed validation, of those that reached it or failed before;
      games that were nobody's fault are left out. `unsound`: share of all games that were those.
    * `rate_correct`, `rate_sneaky`: mean success from the two steps (a solver's, or exact arithmetic's).
    * `correct_recall`, `error_recall`: of the first verdicts on correct and on sneaky steps, unreadable ones
      counted as wrong; `false_alarm`: share of the correct steps that are called incorrect.
    * `win_rate/ERROR`, `error_recall/ERROR`, `false_alarm/ERROR`: of the games with each type of error.
    """
    outcomes = detailed_outcomes(journal, run, episodes)
    details = [outcome["detail"] for outcome in outcomes]
    checked = [detail["validation"] for detail in details if "validation" in detail]
    verdicts = [detail["verdicts"] for detail in details if "verdicts" in detail]
    scored = [outcome for outcome in outcomes if outcome.get("scores") is not None]
    unsound = [outcome for outcome in outcomes if _void(outcome) and outcome.get("fault") is None]
    found: dict[str, float | None] = {
        "win_rate": mean(outcome["scores"]["sneaky"] for outcome in scored),
        "games": float(len(outcomes)),
        "valid": _share(sum(check["valid"] for check in checked), len(outcomes) - len(unsound)),
        "unsound": _share(len(unsound), len(outcomes)),
        "rate_correct": mean(check["rate_correct"] for check in checked),
        "rate_sneaky": mean(check["rate_sneaky"] for check in checked),
        "correct_recall": mean(verdict["correct"] is True for verdict in verdicts),
        "error_recall": mean(verdict["sneaky"] is False for verdict in verdicts),
        "false_alarm": mean(verdict["correct"] is False for verdict in verdicts),
        **_by_error(details, scored),
    }
    return {name: value for name, value in found.items() if value is not None}


def _by_error(details: Sequence[Any], scored: Sequence[Any]) -> dict[str, float | None]:
    groups: defaultdict[str, list[float]] = defaultdict(list)
    for outcome in scored:
        groups[f"win_rate/{outcome['detail']['error']}"].append(outcome["scores"]["sneaky"])
    for detail in details:
        if verdict := detail.get("verdicts"):
            groups[f"error_recall/{detail['error']}"].append(verdict["sneaky"] is False)
            groups[f"false_alarm/{detail['error']}"].append(verdict["correct"] is False)
    return {name: mean(values) for name, values in sorted(groups.items())}


def _void(outcome: Any) -> bool:
    return outcome.get("scores") is None


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None

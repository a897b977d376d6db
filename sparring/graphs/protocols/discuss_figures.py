"""What discussions came to: how solutions were judged, and how that compares with the truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from sparring.agents.scores import share
from sparring.graphs.results import detailed_outcomes
from sparring.graphs.stats import mean
from sparring.memory.journal import Journal


def discussion_figures(journal: Journal, run: str, episodes: Sequence[int] | None = None) -> dict[str, float]:
    """Figures of a run's finished discussions, or of those with these episode numbers; what there is nothing
    of is left out.

    * `solver_reward`: mean of (score - low) / (high - low) over solutions with a readable score, without
      scoring the share of readable votes for them; `judged`: share of the solutions that have one.
    * `score/N`: share of the readable scores that are N, for every N of a short scale; `approved`: share of
      the votes that approve.
    * `right`: share of all solutions that are right by the task's check, `right_last` of the last round's.
    * `judge_precision`, `judge_recall`, `judge_accuracy`: of "approved", which a solution is whose reward is
      one half or more, as a prediction of "right" (Table 6 of CoMAS, whose threshold is not known).
    * `repeated`: share of the solutions of a round whose answer another one of it has too; of rounds with
      one solution, share of those of the discussion.
    """
    details = [outcome["detail"] for outcome in detailed_outcomes(journal, run, episodes)]
    rounds = [detail["solutions"] for detail in details if "solutions" in detail]
    solutions = [solution for said in rounds for solution in said]
    paid = [(solution, support(solution)) for solution in solutions]
    known = [(s["right"], value >= 0.5) for s, value in paid if value is not None and s["right"] is not None]
    scores = Counter(score for s in solutions for score in s.get("scores", ()) if score is not None)
    votes = [vote for s in solutions for vote in s.get("votes", ()) if vote is not None]
    found: dict[str, float | None] = {
        "solver_reward": mean(value for _, value in paid if value is not None),
        "judged": mean(value is not None for _, value in paid),
        **{f"score/{score}": scores[score] / scores.total() for score in _listed(solutions, scores)},
        "approved": mean(votes),
        "right": mean(s["right"] for s in solutions if s["right"] is not None),
        "right_last": mean(
            s["right"] for s in solutions if s["right"] is not None and s["round"] == _last(rounds)
        ),
        "judge_accuracy": mean(right == approved for right, approved in known),
        "judge_precision": mean(right for right, approved in known if approved),
        "judge_recall": mean(approved for right, approved in known if right),
        "repeated": mean(again for said in rounds for again in _repeated(said)),
    }
    return {name: value for name, value in found.items() if value is not None}


def support(solution: dict[str, Any]) -> float | None:
    """What the judges make of a solution, 0 to 1: the mean of its readable scores on their scale, or the
    share of its readable votes that approve; None without any."""
    if "votes" in solution:
        return mean(vote for vote in solution["votes"] if vote is not None)
    low, high = solution["scale"]
    return mean(share(score, low, high) for score in solution["scores"] if score is not None)


SHORT = 10
"""Longest scale of which scores that nobody gave are figures too."""


def _listed(solutions: Sequence[dict[str, Any]], given: Counter[int]) -> list[int]:
    """The scores that have a figure."""
    scales = {tuple(solution["scale"]) for solution in solutions if "scale" in solution} if given else set()
    short = [range(low, high + 1) for low, high in scales if high - low < SHORT]
    return sorted({*given, *(score for scale in short for score in scale)})


def _last(rounds: Sequence[Sequence[dict[str, Any]]]) -> int:
    return max((solution["round"] for said in rounds for solution in said), default=0)


def _repeated(said: Sequence[dict[str, Any]]) -> Iterable[float]:
    """Of the answers that are compared with each other: whether another one reads the same."""
    apart = any(s["slot"] for s in said)
    given = [(s["round"] if apart else 0, s["answer"]) for s in said if s["answer"] is not None]
    answers = Counter(given)
    return (answers[one] > 1 for one in given)

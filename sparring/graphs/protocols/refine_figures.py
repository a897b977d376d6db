"""What refinement came to: how many questions were hard, what was put right, what was spoilt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select

from sparring.graphs.refinement import Attempts, refinement
from sparring.graphs.results import detailed_outcomes
from sparring.graphs.stats import mean
from sparring.memory.journal import Journal
from sparring.memory.schema import Episode, Event


def refinement_figures(journal: Journal, run: str, episodes: Sequence[int] | None = None) -> dict[str, float]:
    """Figures of a run's finished questions, or of those with these episode numbers; what there is nothing of
    is left out, and without references all but the first three.

    * `hard`: share of the questions that the gate found hard at first; `refined`: share that were refined;
      `refinements`: mean over all questions, so that calls are k (1 + 2 * refinements) beside the scorers'.
    * `first_vote`: share that the vote of the first chains has right; `vote`: after all refinements.
    * `fixed`, `broken`: questions whose vote was put right, or spoilt, by refining.
    * `gated_vote`: of a run that refined all, the share right had only the hard ones been.
    * `oracle`: share with a right chain in the pool; `oracle_gap`: that less `vote`.
    * `confidence`, `critique`, `rss`, `chain_first`, `chain_second`: CL, CS, RSS and both accuracies of
      chains and what their first refinement made of them (`graphs.refinement`).
    """
    details = [outcome["detail"] for outcome in detailed_outcomes(journal, run, episodes)]
    known = [detail for detail in details if "votes" in detail]
    gates = _gates(journal, run, episodes)
    pairs = [pair for detail in known if (pair := attempts(detail["right"])) is not None]
    chains = refinement(pairs)
    oracle, vote = mean(any(d["right"].values()) for d in known), mean(d["votes"][-1] for d in known)
    found: dict[str, float | None] = {
        "hard": mean(gates.values()),
        "refined": mean(detail["refined"] > 0 for detail in details),
        "refinements": mean(detail["refined"] for detail in details),
        "first_vote": mean(d["votes"][0] for d in known),
        "vote": vote,
        "fixed": float(sum(d["votes"][-1] > d["votes"][0] for d in known)) if known else None,
        "broken": float(sum(d["votes"][-1] < d["votes"][0] for d in known)) if known else None,
        "oracle": oracle,
        "oracle_gap": None if oracle is None or vote is None else oracle - vote,
        **_gated(journal, run, gates, episodes),
    }
    if chains is not None:
        found |= {
            "chain_first": chains.first,
            "chain_second": chains.second,
            "confidence": chains.confidence,
            "critique": chains.critique,
            "rss": chains.rss,
        }
    return {name: value for name, value in found.items() if value is not None}


def attempts(right: Mapping[str, bool]) -> Attempts | None:
    """The chains of a question and their first refinements, place by place; None where it was not refined."""
    places = {key.rsplit("/", 1)[1]: value for key, value in right.items() if key.startswith("0/")}
    after = {key.rsplit("/", 1)[1]: value for key, value in right.items() if key.startswith("1/")}
    if not after:
        return None
    order = sorted(places, key=int)
    return [places[place] for place in order], [after[place] for place in order]


def _gates(journal: Journal, run: str, episodes: Sequence[int] | None) -> dict[int, bool]:
    """Episode number -> whether the gate found it hard at first."""
    query = (
        select(Episode.number, Event.payload)
        .join(Event, Event.episode_number == Episode.number)
        .where(Episode.run_id == run, Episode.status == "done", Event.kind == "gate", Event.key == "0")
    )
    if episodes is not None:
        query = query.where(Episode.number.in_(episodes))
    return {row.number: bool(row.payload["hard"]) for row in journal.read(query)}


def _gated(
    journal: Journal, run: str, gates: Mapping[int, bool], episodes: Sequence[int] | None
) -> dict[str, float | None]:
    query = select(Episode.number, Episode.outcome).where(Episode.run_id == run, Episode.status == "done")
    if episodes is not None:
        query = query.where(Episode.number.in_(episodes))
    votes: list[Any] = []
    refined_easy = False
    for row in journal.read(query):
        detail = (row.outcome or {}).get("detail", {})
        if "votes" not in detail or row.number not in gates:
            continue
        refined_easy |= detail["refined"] > 0 and not gates[row.number]
        votes.append(detail["votes"][-1 if gates[row.number] else 0])
    return {"gated_vote": mean(votes) if refined_easy else None}

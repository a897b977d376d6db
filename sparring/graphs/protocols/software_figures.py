"""What choosing among patches came to, rule by rule, against the best that could have been chosen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import func, select

from sparring.graphs.protocols.software_choice import ONLY
from sparring.graphs.stats import mean
from sparring.memory.journal import Journal
from sparring.memory.schema import Episode, Event, Turn

RULES = ("debate", "judge", "value", "majority")
TREE = ("nodes", "depth", "duplicates", "abandoned", "valued")
"""Numbers that a search notes of its tree."""
Row = tuple[dict[str, Any], Mapping[str, Any] | None]
"""The detail of an outcome, and of each candidate whether it resolves the issue; None: not graded."""


def choice_figures(journal: Journal, run: str, episodes: Sequence[int] | None = None) -> dict[str, float]:
    """Figures of a run's finished episodes, capped ones too; what there is nothing of is left out.

    * `calls`: model calls an episode, failed ones included; by this another method is given the same.
    * `nodes`, `depth`, `duplicates`, `abandoned`, `valued`: of a tree, means; `valued` is the share of the
      nodes that were put to the valuer and got a value.
    * `finished`: patches to choose from; `distinct`: different changes among them.
    * `agreement`: share of the debaters who named the winner in the last round, where there was a debate.
    * `by_RULE`: share of the episodes whose patch that rule chose; `by_only`: there was one change alone.
    * `resolved_by_RULE`: share resolved had that rule alone chosen; `oracle`: share in which some candidate
      resolves the issue. Over episodes whose candidates could all be graded; one without any is not resolved.
    """
    rows = _rows(journal, run, episodes)
    details = [detail for detail, _ in rows]
    graded = [
        (detail, grades) for detail, grades in rows if grades is not None and None not in grades.values()
    ]
    found: dict[str, float | None] = {"calls": _calls(journal, run, episodes) if rows else None}
    for name in TREE:
        found[name] = mean(d[name] for d in details if d.get(name) is not None)
    found["finished"] = mean(len(d["patches"]) for d in details)
    found["distinct"] = mean(d["distinct"] for d in details)
    found["agreement"] = mean(d["agreement"] for d in details if d["agreement"] is not None)
    for rule in (*RULES, ONLY):
        if any(d["by"] == rule for d in details):
            found[f"by_{rule}"] = mean(d["by"] == rule for d in details)
    for rule in RULES:
        if any(d["picks"].get(rule) is not None for d in details):
            found[f"resolved_by_{rule}"] = mean(_resolves(g, d["picks"].get(rule)) for d, g in graded)
    found["oracle"] = mean(any(grades.values()) for _, grades in graded)
    return {name: float(value) for name, value in found.items() if value is not None}


def _resolves(grades: Mapping[str, Any], name: str | None) -> bool:
    return name is not None and bool(grades.get(name))


def _of(query: Any, run: str, episodes: Sequence[int] | None) -> Any:
    query = query.where(Episode.run_id == run, Episode.status.in_(("done", "capped")))
    return query if episodes is None else query.where(Episode.number.in_(episodes))


def _rows(journal: Journal, run: str, episodes: Sequence[int] | None) -> list[Row]:
    judged = select(Event.episode_number, Event.payload).join(Episode, Episode.number == Event.episode_number)
    verdicts = _of(judged.where(Event.kind == "verdict").order_by(Event.id), run, episodes)
    grades = {row.episode_number: row.payload.get("candidates") for row in journal.read(verdicts)}
    ended = journal.read(_of(select(Episode.number, Episode.outcome), run, episodes))
    known: Iterable[Any] = (row for row in ended if row.outcome and "picks" in row.outcome.get("detail", {}))
    return [(row.outcome["detail"], grades.get(row.number)) for row in known]


def _calls(journal: Journal, run: str, episodes: Sequence[int] | None) -> float | None:
    turns = select(func.count().label("calls")).select_from(Turn).group_by(Turn.episode_number)
    query = turns.join(Episode, Episode.number == Turn.episode_number)
    rows = journal.read(_of(query, run, episodes))
    return mean(row.calls for row in rows)

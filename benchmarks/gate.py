"""MAgICoRe's gate on a model: were the questions that it calls hard the ones that needed refining?

    sparring play refine --tasks OTHERS --run cal --set iterations=0 ... --memory JOURNAL
    sparring play refine --tasks TASKS --run gate --set gate=all --set calibration=cal ... --memory JOURNAL
    python -m benchmarks.gate JOURNAL [JOURNAL ...] [--run gate] [--json]

The run refines every question and asks the gate too, so it says of each what leaving it alone would have
given and what refining gave. Intervals are Wilson's for shares, a bootstrap over questions for differences.
Several journals are several sets, told one by one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sqlalchemy import select

from sparring.errors import UserError
from sparring.graphs.protocols.refine_figures import attempts
from sparring.graphs.refinement import refinement
from sparring.graphs.stats import Estimate, bootstrap, wilson
from sparring.memory.journal import Journal
from sparring.memory.schema import Episode, Event, Task, Turn
from sparring.tools.checks import check


@dataclass(frozen=True)
class Question:
    """What one question came to."""

    hard: bool
    single: float
    """Share of its first chains that are right."""
    majority: bool
    first: bool
    """The weighted vote of the first chains."""
    refined: bool
    """The vote after refinement."""
    oracle: bool
    """Whether some chain is right, refined or not."""
    right: dict[str, bool]
    calls: dict[str, int]
    """Of chains, of reviews and refinements, of what scores them."""

    @property
    def gated(self) -> bool:
        return self.refined if self.hard else self.first


def questions_of(journal: Journal, run: str) -> list[Question]:
    """The finished questions of a run of `refine` with `gate=all` and an average to hold them against.

    Raises:
        UserError: another run, or nothing that is finished.
    """
    row = journal.run_row(run)
    options = (row.config or {}).get("options", {})
    if row.protocol != "refine" or options.get("gate") != "all" or options.get("compat"):
        raise UserError(f"run `{run}` is no run of `refine` with `gate=all` and a calibration")
    query = (
        select(Episode.number, Episode.outcome, Task.answer, Task.check)
        .join(Task, Task.id == Episode.task_id)
        .where(Episode.run_id == run, Episode.status == "done", Task.answer.is_not(None))
        .order_by(Episode.number)
    )
    gates, majorities = _events(journal, run, "gate"), _events(journal, run, "majority")
    found = []
    for episode in journal.read(query):
        detail, gate = episode.outcome["detail"], gates.get(episode.number)
        if gate is None:
            raise UserError(f"run `{run}` never asked the gate: give it a `calibration`")
        chains = [value for key, value in detail["right"].items() if key.startswith("0/")]
        answer = majorities[episode.number]["answer"]
        found.append(
            Question(
                hard=bool(gate["hard"]),
                single=float(np.mean(chains)),
                majority=check(episode.check, answer, episode.answer).correct,
                first=detail["votes"][0],
                refined=detail["votes"][-1],
                oracle=any(detail["right"].values()),
                right=detail["right"],
                calls=_calls(journal, episode.number),
            )
        )
    if not found:
        raise UserError(f"run `{run}` has no finished question with a reference")
    return found


def _events(journal: Journal, run: str, kind: str) -> dict[int, Any]:
    """Episode -> its first event of that kind."""
    query = select(Episode.number, Event.payload).join(Event, Event.episode_number == Episode.number)
    rows = journal.read(query.where(Episode.run_id == run, Event.kind == kind, Event.key == "0"))
    return {row.number: row.payload for row in rows}


def _calls(journal: Journal, episode: int) -> dict[str, int]:
    query = select(Turn.key).where(Turn.episode_number == episode, Turn.final)
    counts = {"chains": 0, "refining": 0, "scoring": 0}
    for row in journal.read(query):
        scoring, first = row.key.count("/") > 2, row.key.startswith("0/")
        counts["scoring" if scoring else "chains" if first else "refining"] += 1
    return counts


def told(questions: Sequence[Question]) -> dict[str, Any]:
    """All figures of a set."""
    n, hard = len(questions), [q for q in questions if q.hard]
    wrong = [q for q in questions if not q.first]
    shares = {
        name: wilson(sum(float(getattr(q, name)) for q in questions), n)
        for name in ("majority", "first", "gated", "refined", "oracle")
    }
    pairs = {"first": "majority", "gated": "first", "refined": "gated"}
    return {
        "questions": n,
        "single": bootstrap([q.single for q in questions]),
        **shares,
        **{
            f"{name} - {other}": bootstrap(
                [float(getattr(q, name)) - float(getattr(q, other)) for q in questions]
            )
            for name, other in pairs.items()
        },
        "hard": wilson(len(hard), n),
        "gate precision": wilson(sum(not q.first for q in hard), len(hard)),
        "gate recall": wilson(sum(q.hard for q in wrong), len(wrong)),
        **{
            f"{name} fixed, broken": [
                sum(q.refined and not q.first for q in some),
                sum(q.first and not q.refined for q in some),
            ]
            for name, some in (("hard", hard), ("easy", [q for q in questions if not q.hard]))
        },
        **{f"{name} chains": _chains(some) for name, some in (("all", questions), ("hard", hard))},
        "calls": {name: float(np.mean([q.calls[name] for q in questions])) for name in questions[0].calls},
    }


def _chains(questions: Sequence[Question]) -> dict[str, Any] | None:
    pairs = [pair for q in questions if (pair := attempts(q.right)) is not None]
    found = refinement(pairs)
    return None if found is None else asdict(found)


def _line(value: Any) -> str:
    if isinstance(value, Estimate):
        return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]" + (f" of {value.n}" if value.n else "")
    if isinstance(value, dict):
        return ", ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in value.items())
    return f"{value}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("journals", nargs="+", metavar="JOURNAL")
    parser.add_argument("--run", default="gate")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for place in options.journals:
        with Journal.open(place) as journal:
            found = told(questions_of(journal, options.run))
        if options.json:
            print(json.dumps(found, default=asdict))
        else:
            print(f"{place}, run {options.run}")
            print("\n".join(f"    {name:<24} {_line(value)}" for name, value in found.items()))


if __name__ == "__main__":
    main()

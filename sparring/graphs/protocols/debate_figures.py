"""What debating did to the debaters: who was talked out of a mistake, and who out of the truth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

from sqlalchemy import select

from sparring.graphs.refinement import refinement
from sparring.graphs.stats import mean
from sparring.memory.journal import Journal
from sparring.memory.schema import Episode, Task, Turn
from sparring.tools.checks import check


def debate_figures(
    journal: Journal, run: str, speakers: Collection[str], episodes: Sequence[int] | None = None
) -> dict[str, float]:
    """Figures of a run's finished debates whose tasks have a reference; what there is nothing of is left out.

    * `first_right`, `last_right`: share of the debaters that are right in their first and last statement; one
      without a readable answer is not.
    * `relied_on_other`: share that were wrong at first and right in the end; `bullied_by_other`: right at
      first and wrong in the end (DebateLLM, 2311.17371). Who spoke once did neither.
    * `confidence`, `critique`, `rss`: CL, CS and RSS of first and last statements (`graphs.refinement`).
    * `any_right`: share of the debates in which somebody said the right answer at some time.
    """
    said = _right(journal, run, speakers, episodes)
    pairs = [pair for debate in said for pair in _ends(debate)]
    both = refinement([tuple(zip(*_ends(debate), strict=True)) for debate in said])  # type: ignore[misc]  # zip of pairs is a pair
    found: dict[str, float | None] = {
        "first_right": mean(first for first, _ in pairs),
        "last_right": mean(last for _, last in pairs),
        "relied_on_other": mean(last and not first for first, last in pairs),
        "bullied_by_other": mean(first and not last for first, last in pairs),
        "any_right": mean(any(any(rounds) for rounds in debate.values()) for debate in said),
    }
    if both is not None and any(len(rounds) > 1 for debate in said for rounds in debate.values()):
        found |= {"confidence": both.confidence, "critique": both.critique, "rss": both.rss}
    return {name: value for name, value in found.items() if value is not None}


def _ends(debate: dict[str, list[bool]]) -> list[tuple[bool, bool]]:
    return [(rounds[0], rounds[-1]) for rounds in debate.values()]


def _right(
    journal: Journal, run: str, speakers: Collection[str], episodes: Sequence[int] | None
) -> list[dict[str, list[bool]]]:
    """By debate: seat -> whether it was right, round by round."""
    query = (
        select(Episode.number, Turn.key, Turn.parsed, Task.answer, Task.check)
        .join(Turn, Turn.episode_number == Episode.number)
        .join(Task, Task.id == Episode.task_id)
        .where(Episode.run_id == run, Episode.status == "done", Turn.final)
        .order_by(Episode.number, Turn.id)
    )
    if episodes is not None:
        query = query.where(Episode.number.in_(episodes))
    found: defaultdict[int, dict[str, dict[int, bool]]] = defaultdict(dict)
    for row in journal.read(query):
        number, _, seat = row.key.partition("/")
        if row.answer is None or seat not in speakers or not number.isdigit():
            continue
        right = check(row.check, (row.parsed or {}).get("answer"), row.answer).correct
        found[row.number].setdefault(seat, {})[int(number)] = right
    return [
        {seat: [rounds[number] for number in sorted(rounds)] for seat, rounds in sorted(debate.items())}
        for debate in found.values()
    ]

"""Kinds of run whose page has a part of its own, and what it is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from sparring.memory.journal import Journal
from sparring.memory.schema import Event, Match, Policy
from sparring.view.evolution import read_evolution, read_family, update_list
from sparring.view.tournament import match_list, read_cup


@dataclass(frozen=True)
class Own:
    """The part of a page that belongs to a kind of run."""

    template: str
    read: Callable[[Journal, str], Any]
    """What the template is filled with, as `own`; it may take its time."""
    listed: Callable[[Journal, str, Mapping[str, str], int], Mapping[str, Any]] | None = None
    """What is listed below it in parts, by journal, run, the address's query and the number of the part."""


OWN = {
    "tournament": Own("tournament.html", read_cup, match_list),
    "evolve": Own("evolution.html", read_evolution, update_list),
    "archive": Own("archive.html", read_family),
}


def written(journal: Journal, run: str) -> tuple[int, ...]:
    """How much a run has written of itself, and where the heads of policies stand, which anybody can move:
    where this has changed, what its page tells has too."""
    counts = [select(func.count()).select_from(table).where(table.run_id == run) for table in (Event, Match)]
    heads = [select(func.sum(head)) for head in (Policy.live_version_id, Policy.training_version_id)]
    return tuple(int(journal.read(query)[0][0] or 0) for query in (*counts, *heads))

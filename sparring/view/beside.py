"""Where an episode stands among those that the reader asked for, and which of a run's say certain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Text, select, type_coerce

from sparring.memory.journal import Journal
from sparring.memory.queries import AHEAD
from sparring.memory.schema import Message
from sparring.memory.types import dumps
from sparring.view.facts import Facts
from sparring.view.runs import fitting, order_of

MOST = 10_000
"""Episodes that a search for words finds, the first ones."""


@dataclass(frozen=True)
class Beside:
    """An episode's neighbours in the list of its run, as it was filtered and ordered."""

    before: str | None
    after: str | None
    place: int
    """From 1."""
    total: int


def beside(
    journal: Journal,
    facts: Facts,
    run: str,
    wanted: Mapping[str, str],
    number: int,
    heard: Sequence[int] | None = None,
) -> Beside | None:
    """The neighbours of the episode with this number; None where it is not among those that fit."""
    fits, values = fitting(journal, facts, run, wanted, heard)
    order = order_of(wanted)
    here = facts.ask(f"SELECT {order}, number FROM facts WHERE number = ? AND {fits}", [number, *values])
    if not here:
        return None
    at = [*values, *here[0]]

    def next_to(sign: str, way: str) -> str | None:
        found = facts.ask(
            f"SELECT id FROM facts WHERE {fits} AND ({order}, number) {sign} (?, ?) "
            f"ORDER BY {order} {way}, number {way} LIMIT 1",
            at,
        )
        return found[0]["id"] if found else None

    counted = f"SELECT sum(({order}, number) <= (?, ?)), count(*) FROM facts WHERE {fits}"
    place, total = facts.ask(counted, [*here[0], *values])[0]
    return Beside(next_to("<", "DESC"), next_to(">", "ASC"), place, total)


def said_in(journal: Journal, facts: Facts, run: str, words: str) -> list[int]:
    """Numbers of a run's episodes in which an agent said these words, in one turn and in this order."""
    played = [row["number"] for row in facts.ask("SELECT number FROM facts WHERE run = ?", (run,))]
    inside = dumps(words)[1:-1]  # as the text of a part stands in the journal
    for special in "/%_":
        inside = inside.replace(special, "/" + special)
    holds = type_coerce(Message.content, Text).ilike(f'%"text":"%{inside}%', escape="/")
    found: list[int] = []
    for start in range(0, len(played), AHEAD):
        part = played[start : start + AHEAD]
        query = select(Message.episode_number).distinct().where(Message.episode_number.in_(part))
        found += (row.episode_number for row in journal.read(query.where(Message.role == "assistant", holds)))
        if len(found) >= MOST:
            break
    return sorted(found)[:MOST]

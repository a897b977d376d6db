"""Policies, their versions, and the way from a version's weights down to the turns that trained it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from sparring.errors import UserError
from sparring.graphs.policies import told_of
from sparring.memory.journal import Journal
from sparring.memory.policies import Known, Step, Version, by_id, find, heads, policies, trained_on
from sparring.memory.schema import PolicyVersion, Update, UpdateTurn
from sparring.memory.updates import UpdateRow, update_by_id
from sparring.view.drawing import Drawing, render
from sparring.view.runs import PAGE, Page

TREE = 60
"""Versions of a family that is drawn."""
MOVES = 50
"""Moves of the heads that are shown, the last ones."""
COLUMNS = ("reward", "accuracy", "entropy", "kl", "loss", "grad_norm", "learning_rate")
"""Metrics that stand in a table of versions, where one has them; a version's own page has all."""


def policy_list(journal: Journal, words: str, page: int) -> Page:
    """Policies whose name or engine holds these words, by name."""
    return cut_page([known for known in policies(journal) if _holds(known, words)], page)


def _holds(known: Known, words: str) -> bool:
    return words.casefold() in f"{known.name}\n{known.base_spec}".casefold()


def cut_page(rows: Sequence[Any], page: int) -> Page:
    """A part of what is all at hand."""
    return Page.of(len(rows), page, lambda start: rows[start : start + PAGE])


@dataclass(frozen=True)
class Told:
    """What a page shows of a policy."""

    name: str
    heads: dict[str, int | None]
    """Head -> number of the version it points at."""
    versions: Page
    """Newest first, as `graphs.policies.about` has them."""
    metrics: list[str]
    """Columns of the table."""
    moves: list[dict[str, Any]]
    """The last ones, newest first."""
    moved: int
    """How many there were."""
    tree: Drawing | None
    """The family, where it branches."""


def read_policy(journal: Journal, name: str, page: int) -> Told:
    """A policy, its versions and how its heads moved.

    Raises:
        UserError: there is no such policy.
    """
    found = told_of(journal, name)
    part = cut_page(found["versions"][::-1], page)
    measured = [mapping(row["metrics"]) for row in part.rows]
    metrics = [name for name in COLUMNS if any(name in row for row in measured)]
    moves = found["moves"][::-1]
    at = {"live": found["live"], "training": found["training"]}
    return Told(name, at, part, metrics, moves[:MOVES], len(moves), family(found["versions"], at))


def family(versions: Sequence[Mapping[str, Any]], at: Mapping[str, int | None]) -> Drawing | None:
    """The tree of versions; None where it is a plain line, or too large.

    Of a large one the versions between two that matter (forks, ends, heads) are left out; their arrow is
    dashed.
    """
    parents = {row["number"]: row["parent"] for row in versions}
    children = Counter(parents.values())
    if all(count < 2 for count in children.values()):  # of None too: two roots are a tree
        return None
    kept = set(parents)
    if len(kept) > TREE:
        roots = {number for number, parent in parents.items() if parent is None}
        kept = {number for number in parents if children[number] != 1} | roots
        kept |= {number for number in at.values() if number is not None}
        if len(kept) > TREE:
            return None
    heads_at = {number: [head for head, place in at.items() if place == number] for number in kept}
    names = {str(number): " ".join([f"@{number}", *heads_at[number]]) for number in sorted(kept)}
    edges = []
    for number in sorted(kept):
        above = parents[number]
        while above is not None and above not in kept:
            above = parents[above]
        if above is not None:
            edges.append((str(above), str(number), above != parents[number]))
    return render("family of the versions", names, edges)


def read_version(journal: Journal, policy: str, number: int) -> tuple[Version, list[str]]:
    """A version and the heads that point at it.

    Raises:
        UserError: there is no such policy or version.
    """
    version = find(journal, policy, number)
    return version, [head for head, at in heads(journal, policy).items() if at and at.id == version.id]


def grown(journal: Journal) -> tuple[int, ...]:
    """How many versions and updates there are: where this has changed, a lineage may have too."""
    tables = (PolicyVersion, Update)
    return tuple(int(journal.read(select(func.count(table.id)))[0][0]) for table in tables)


def columns_of(steps: Sequence[Step]) -> list[str]:
    """Metrics that a table of steps has a column for."""
    return [name for name in COLUMNS if any(name in metrics_of(step) for step in steps)]


def metrics_of(step: Step) -> Mapping[str, Any]:
    return mapping((step.update or {}).get("metrics")) or mapping(step.version.metrics)


@dataclass(frozen=True)
class Learned:
    """What a page shows of an update."""

    row: UpdateRow
    old: Version | None
    new: Version | None
    turns: Page
    """`memory.lineage.Trained`, oldest first."""


def read_update(journal: Journal, update: int, page: int) -> Learned:
    """An update and a part of the turns that trained it.

    Raises:
        UserError: there is no such update.
    """
    row = update_by_id(journal, update)
    counted = select(func.count()).select_from(UpdateTurn).where(UpdateTurn.update_id == update)
    total = int(journal.read(counted)[0][0])
    turns = Page.of(total, page, lambda start: trained_on(journal, update, limit=PAGE, offset=start))
    old, new = (
        None if version is None or journal.version_row(version) is None else by_id(journal, version)
        for version in (row.from_version_id, row.to_version_id)
    )
    return Learned(row, old, new, turns)


def mapping(value: Any) -> Mapping[str, Any]:
    """A column's value, where it is one."""
    return value if isinstance(value, Mapping) else {}


def whole(text: str, what: str, digits: int = 9) -> int:
    """A number as an address has it.

    Raises:
        UserError: it is none, or larger than any in a journal.
    """
    if text.isascii() and text.isdigit() and len(text) <= digits:
        return int(text)
    raise UserError(f"`{text[:40]}` is no {what}: it is a whole number")

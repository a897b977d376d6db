"""What `evolve` tells of itself: a run's curves, decisions and updates; an archive's family."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from sparring.graphs.cast import SCRIPT
from sparring.memory.journal import Journal
from sparring.memory.schema import PolicyVersion, Run, Update, UpdateTurn
from sparring.memory.versions import journal_names
from sparring.training.archive.console import remarks
from sparring.training.archive.record import Archive, Member, read_archive
from sparring.training.console import readability
from sparring.training.opponents import Record
from sparring.training.play_plot import PANELS as PLAYED
from sparring.training.plots import PANELS, SHARES
from sparring.training.story import CHOICE, Point, Story, head_numbers, read_story
from sparring.view.charts import Chart, Line, chart, plain
from sparring.view.drawing import Drawing, render
from sparring.view.runs import PAGE, Page

READ = ("parse_rate", "truncation_rate")
FAMILY = 60
"""Agents of a family that is drawn."""


@dataclass(frozen=True)
class Evolution:
    """What a page shows of a run of `evolve`."""

    story: Story
    readability: str
    heads: dict[str, dict[str, int]]
    """Policy -> head -> number."""
    charts: list[Chart]
    gates: list[tuple[Mapping[str, Any], list[str], list[str]]]
    """Decisions, the runs that the candidate and the live version were measured by."""
    choices: list[Mapping[str, Any]]
    """Pairings that a step could play: step, policies, versions, points, games, rate, chosen."""


def read_evolution(journal: Journal, run: str) -> Evolution:
    """A run of `evolve` as its journal tells it."""
    story = read_story(journal, run)
    known = set(journal_names(journal))
    names = [name for name in (story.config or {}).get("policies", {}) if name in known]
    charts = [*_evaluated(story), *_trained(story), *_played(story)]
    return Evolution(
        *(story, readability(story), head_numbers(journal, names), charts),
        gates=_gates(journal, story),
        choices=_choices(story),
    )


def _evaluated(story: Story) -> Iterable[Chart]:
    """What evaluations measured, with intervals."""
    lines: dict[str, Line] = {}
    if story.evaluations:
        measured = story.evaluations[-1]["measured"]
        points = [point for point in story.evaluations if point["measured"] == measured]
        for label, name in ((measured, "mean"), ("low, 95 %", "low"), ("high, 95 %", "high")):
            lines[label] = [(point["step"], point[name]) for point in points]
        made = chart(
            "evaluated", f"Evaluations: {measured}", lines, x="updates made", bands=(measured,), share=True
        )
        if made:
            yield made


def _trained(story: Story) -> Iterable[Chart]:
    """The metrics of the steps, a line for each policy: those that the plots of a run have, and how much
    could be read."""
    policies: dict[str, list[Point]] = {}
    for row in story.series:
        policies.setdefault(row["policy"], []).append(row)
    for title, unit, ways in PANELS:
        lines = {policy: _line(rows, ways) for policy, rows in policies.items()}
        if made := chart(_slug(title), f"{title}, {unit}", lines, share=title in SHARES):
            yield made
    lines = {
        _words(name) if len(policies) == 1 else f"{policy}: {_words(name)}": _line(rows, ((name,),))
        for policy, rows in policies.items()
        for name in READ
    }
    if made := chart("readable", "Readable and truncated turns, share", lines, share=True):
        yield made


def _line(rows: Sequence[Point], ways: Sequence[Sequence[str]]) -> list[tuple[float, float | None]]:
    """The first of the ways to measure a thing that there is: metrics, added up."""
    for names in ways:
        values = [[plain(row.get(name)) for name in names] for row in rows]
        sums = [None if None in found else sum(y for y in found if y is not None) for found in values]
        if any(y is not None for y in sums):
            return [(row["step"], y) for row, y in zip(rows, sums, strict=True)]
    return []


def _played(story: Story) -> Iterable[Chart]:
    """What the protocol measures of its play, and of its evaluations."""
    probes = [{"step": point["step"], **point["figures"]} for point in story.evaluations]
    for said, points in (("", story.played), ("Evaluated: ", probes)):
        for title, names in PLAYED:
            known = sorted({name for point in points for name in point if name not in ("step", *CHOICE)})
            chosen = [name for wanted in names for name in known if _fits(name, wanted)]
            lines = {_words(name): [(p["step"], p.get(name)) for p in points] for name in chosen}
            if made := chart(_slug(f"play {said}{title}"), f"{said}{title}", lines, share=True):
                yield made


def _fits(name: str, wanted: str) -> bool:
    return name == wanted or (wanted.endswith("/") and name.startswith(wanted))


def _words(name: str) -> str:
    return name.replace("_", " ").replace("/", " ")


def _slug(title: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower())


def _gates(journal: Journal, story: Story) -> list[tuple[Mapping[str, Any], list[str], list[str]]]:
    """Decisions beside the evaluation runs of the two versions, which are none of the reported ones."""
    reported = {point["run"] for point in story.evaluations}
    query = (
        select(Run.id).where(Run.parent_id == story.run, Run.kind == "evaluation").order_by(Run.created_at)
    )
    found: dict[str, list[str]] = {}
    prefix = f"{story.run}.evaluation/"
    for row in journal.read(query):
        if row.id.startswith(prefix) and row.id not in reported:
            lineup = row.id.removeprefix(prefix).rpartition("/")[0]
            for version in lineup.split("+"):
                found.setdefault(version, []).append(row.id)

    def measured(row: Point, side: str) -> list[str]:
        return found.get(f"{row['policy']}@{row[side]}", [])[-3:]

    return [(row, measured(row, "candidate"), measured(row, "live")) for row in story.decisions]


def _choices(story: Story) -> list[Mapping[str, Any]]:
    return [
        {"step": row["step"], "policies": row["policies"], **known}
        | {
            "rate": Record(known["points"], known["games"]).rate,
            "chosen": known["versions"] == row["versions"],
        }
        for row in story.played
        for known in row.get("candidates", ())
    ]


def update_list(journal: Journal, run: str, query: Mapping[str, str], page: int) -> Mapping[str, Any]:
    """`updates`: rows of a run's updates, newest first, with the versions' numbers and how many turns."""
    total = int(journal.read(select(func.count()).select_from(Update).where(Update.run_id == run))[0][0])
    turns = select(func.count()).where(UpdateTurn.update_id == Update.id).scalar_subquery()
    old, new = (PolicyVersion.__table__.alias(name).c for name in ("old", "new"))
    columns = (Update.id, Update.policy, Update.step, Update.status, Update.metrics, Update.created_at)
    rows = (
        select(*columns, old.number.label("old"), new.number.label("new"), turns.label("turns"))
        .outerjoin(old.id.table, old.id == Update.from_version_id)
        .outerjoin(new.id.table, new.id == Update.to_version_id)
        .where(Update.run_id == run)
        .order_by(Update.step.desc(), Update.policy)
        .limit(PAGE)
    )
    return {"updates": Page.of(total, page, lambda start: journal.read(rows.offset(start)))}


# --- archives -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """What a page shows of an archive."""

    archive: Archive
    remarks: list[str]
    scripted: bool
    tree: Drawing | None


def read_family(journal: Journal, run: str) -> Family:
    """An archive as its journal tells it."""
    archive = read_archive(journal, run)
    scripted = str((archive.config or {}).get("engine", "")).startswith(SCRIPT)
    return Family(archive, remarks(archive), scripted, _tree(archive.made))


def _tree(made: Sequence[Member]) -> Drawing | None:
    if not 1 < len(made) <= FAMILY:
        return None
    known = {member.id for member in made}
    names = {member.id: f"{member.id[:8]} {_share(member)}" for member in made}
    edges = [(str(member.parent), member.id, not member.entered) for member in made if member.parent in known]
    return render("family of the archive", names, edges)


def _share(member: Member) -> str:
    return f"{member.accuracy.mean:.2f}" if member.accuracy.n else "not judged"

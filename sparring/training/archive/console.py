"""How an archive is watched and shown: lines on standard error, tables on standard output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from sparring.graphs.cast import SCRIPT
from sparring.graphs.console import write_lines
from sparring.graphs.display import SCRIPTED, LineWatch, Pace, columns, family_spending, show
from sparring.graphs.report import all_spent
from sparring.graphs.stats import Estimate
from sparring.memory.journal import Journal
from sparring.training.archive.record import Archive, Member, read_archive


class Watch(LineWatch):
    """Prints what an archive tells: children, stages, entries, and now and then how far a run is."""

    often = "playing"

    _run: str | None = None
    _pace: Pace

    def line(self, kind: str, numbers: Mapping[str, Any]) -> str:
        left = ""
        if kind == "playing":
            if numbers["run"] != self._run:
                self._run, self._pace = numbers["run"], Pace(numbers["done"])
            left = self._pace.left(numbers["done"], numbers["total"])
        return _told(kind, numbers) + (f", {left}" if left else "")


def _told(kind: str, numbers: Mapping[str, Any]) -> str:
    if kind == "playing":
        return f"{numbers['run']}: {numbers['done']} of {numbers['total']}"
    if kind == "child":
        if numbers["member"] is None:
            return (
                f"generation {numbers['generation']}: no child of {numbers['parent']}: {numbers['failure']}"
            )
        what = ", ".join(numbers["changes"]) or numbers["why"]
        return (
            f"generation {numbers['generation']}: {numbers['member']}, child of {numbers['parent']}: {what}"
        )
    said = f"{numbers['member']}: {_interval(numbers['accuracy'])}"
    if kind == "stage":
        return f"{said} after stage {numbers['stage'] + 1}, {'passed' if numbers['passed'] else 'not passed'}"
    return f"{said}: {'in the archive' if numbers['entered'] else 'not in the archive'}, {numbers['reason']}"


def report_archive(journal: Journal, run: str, *, as_json: bool) -> None:
    """An archive as its journal tells it, to standard output."""
    found, took = read_archive(journal, run), all_spent(journal, run)
    if as_json:
        return write_lines([found.to_json() | {"spent": asdict(took)}], None)
    show(*tables(found), Text(family_spending(took)))


def tables(archive: Archive) -> list[Any]:
    """The agents with intervals, their family, children that came to nothing, and what is to be said."""
    scripted = str(archive.config["engine"]).startswith(SCRIPT)
    parts: list[Any] = [Text(SCRIPTED)] if scripted else []
    parts += [_agents(archive), Text("\n".join(lineage(archive)))]
    if archive.failed:
        rows = [(str(each.generation), each.parent, each.topic, each.failure) for each in archive.failed]
        parts.append(columns(("generation", "parent", "topic", "no child, because"), rows))
    return [*parts, *(Text(said) for said in remarks(archive))]


def _agents(archive: Archive) -> Table:
    stages = len(archive.config["stages"])
    header = ("agent", "gen.", "of", "topic", *(f"stage {place + 1}" for place in range(stages)))
    rows = [
        (
            member.id,
            str(member.generation),
            member.parent or "-",
            member.topic or "-",
            *(_stage(member, place) for place in range(stages)),
            _interval(member.accuracy),
            str(member.masked),
            {True: "yes", False: f"no: {member.reason}", None: "not yet"}[member.entered],
        )
        for member in archive.made
    ]
    return columns((*header, "resolved, 95 %", "masked", "in the archive"), rows)


def _stage(member: Member, place: int) -> str:
    if place >= len(member.evaluations):
        return "-"
    stage = member.evaluations[place]
    return f"{len(stage.resolved)}/{len(stage.resolved) + len(stage.unresolved)}"


def lineage(archive: Archive) -> list[str]:
    """The family as a tree, a line an agent, with what was changed."""

    def below(parent: str | None, depth: int) -> Iterator[str]:
        for member in archive.made:
            if member.parent == parent:
                what = ", ".join(member.changes) or member.why
                mark = "" if member.entered else " (not in the archive)"
                yield f"{'  ' * depth}{member.id}  {_interval(member.accuracy)}  {what}{mark}"
                yield from below(member.id, depth + 1)

    return list(below(None, 0))


def remarks(archive: Archive) -> list[str]:
    """What the table does not say, a sentence a line."""
    best, first = archive.best, archive.made[0] if archive.made else None
    if best is None or first is None or best.id == first.id:
        return [] if best is None else ["no agent is above the first by the lower end of its interval"]
    count = len(archive.members)
    return [
        f"highest lower end: {best.id}, {_interval(best.accuracy)}; the first: {_interval(first.accuracy)}",
        f"it is the best of {count} on the instances that chose it, which flatters it: measure it on "
        "others before it is believed",
    ]


def _interval(found: Estimate) -> str:
    if not found.n:
        return "not judged"
    return f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}] n={found.n}"

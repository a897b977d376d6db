"""The family of an archive as a PNG: every agent with its share resolved, and a line to its parent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sparring.graphs.drawing import COLOURS, GREY, add_legend, count_steps, new_figure, save
from sparring.memory.journal import Journal
from sparring.training.archive.record import Archive, Member, better_of
from sparring.training.story import plots_folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELLED = 40
"""With more agents than this their names would hide each other."""


def draw(journal: Journal, archive: Archive, folder: str | None = None) -> list[Path]:
    """Write the agents that were evaluated to `archive.png`; nothing where none was."""
    shown = [member for member in archive.made if member.evaluations]
    if not shown:
        return []
    out = plots_folder(journal, archive.run, folder) / "archive.png"
    return [family_plot(shown, out, title=f"Agents of {archive.run}, in the order in which they were made")]


def family_plot(members: list[Member], out: Path, *, title: str) -> Path:
    """Draw agents from left to right with 95 % intervals, lines to their parents, the best so far."""
    places = {member.id: place for place, member in enumerate(members)}
    with new_figure(9, 5, title) as figure:
        panel = figure.add_subplot()
        for member in members:
            if member.parent in places:
                ends = [members[places[member.parent]], member]
                x, y = [places[each.id] for each in ends], [each.accuracy.mean for each in ends]
                panel.plot(x, y, color=GREY, linewidth=0.8, alpha=0.6, zorder=1)
        _points(panel, [m for m in members if m.entered], places, "in the archive", COLOURS[0], "o")
        _points(panel, [m for m in members if not m.entered], places, "not in it", COLOURS[1], "X")
        taken = [better_of(m for m in members[: place + 1] if m.entered) for place in range(len(members))]
        best = [float("nan") if each is None else each.accuracy.mean for each in taken]
        panel.step(range(len(members)), best, where="post", color=COLOURS[2], label="best so far", zorder=2)
        if len(members) <= LABELLED:
            for member in members:
                at = (places[member.id], member.accuracy.mean)
                panel.annotate(member.id[:6], at, (5, 5), textcoords="offset points", fontsize=7, color=GREY)
        panel.set_ylim(-0.03, 1.03)
        panel.set_xlabel("agents")
        panel.set_ylabel("share of judged instances resolved, 95 % interval")
        count_steps(panel)
        add_legend(panel)
        return save(figure, out)


def _points(
    panel: Axes, members: list[Member], places: dict[str, int], label: str, colour: str, marker: str
) -> None:
    if not members:
        return
    x, found = [places[member.id] for member in members], [member.accuracy for member in members]
    reach = [
        [max(0.0, each.mean - each.low) for each in found],
        [max(0.0, each.high - each.mean) for each in found],
    ]
    panel.errorbar(
        x, [each.mean for each in found], reach, fmt=marker, color=colour, ecolor=colour, elinewidth=1,
        capsize=3, markersize=6, label=label, zorder=3,
    )  # fmt: skip

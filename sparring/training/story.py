"""An evolution run as its journal tells it: curves, decisions, before and after; and its plots."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select

from sparring.errors import UserError
from sparring.graphs.results import Result, read_results
from sparring.graphs.stats import Estimate
from sparring.memory.journal import Journal
from sparring.memory.policies import heads, store_folder
from sparring.memory.queries import episodes, readable, taught
from sparring.memory.schema import Event, Task
from sparring.training.evaluate import accuracy

Point = dict[str, Any]
CHOICE = ("policies", "versions", "candidates")
"""What is told of the choice of opponents."""


@dataclass(frozen=True, slots=True)
class Story:
    """What happened in a run, oldest first."""

    run: str
    status: str
    config: Any
    series: list[Point]
    """Metrics of each step and policy."""
    evaluations: list[Point]
    """{step, lineup, run, mean, low, high, n, seconds, measured, figures}: mean to n of `measured`."""
    decisions: list[Point]
    alarms: list[Point]
    stopped: dict[str, str]
    played: list[Point] = field(default_factory=list)
    """{step, and what the protocol measures of its own play}, where it does; with opponents it is measured of
    the pairing that was chosen: `policies`, `versions`, and `candidates` with what each had come to."""

    readable: dict[str, float] = field(default_factory=dict)
    """Role -> share of its turns that could be read."""
    rewarded: float | None = None
    """Share of the turns of those who learn whose reward is not NULL; None before the first step."""
    taught: bool = False
    """Whether words of a teacher were said to it, which are no words of its agents."""
    begun: dict[str, str] = field(default_factory=dict)
    """Policy -> the taught version that it began as, where it did not begin at the bare base."""

    @property
    def before(self) -> Point | None:
        """The first evaluation, before any training."""
        return next((point for point in self.evaluations if point["step"] == 0), None)

    @property
    def after(self) -> Point | None:
        """The last evaluation, if there was training before it."""
        return self.evaluations[-1] if self.evaluations and self.evaluations[-1]["step"] else None

    def first_version(self, policy: str, head: str) -> int | None:
        """Number of the version a head stood at before the run, where the run had reason to note it."""
        if head == "training":
            return None if self.before is None else int(self.before["lineup"][policy])
        return next((int(row["live"]) for row in self.decisions if row["policy"] == policy), None)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def read_story(journal: Journal, run: str) -> Story:
    """Everything an evolution run has journaled about itself.

    Raises:
        UserError: there is no such run, or it is none of `evolve`.
    """
    row = journal.run_row(run)
    if row.kind != "evolve":
        raise UserError(f"run `{run}` is a run of `{row.kind}`, not of `evolve`")
    query = select(Event.kind, Event.key, Event.payload).where(Event.run_id == run)
    events: dict[str, list[tuple[str, Any]]] = defaultdict(list)
    for kind, key, payload in journal.read(query):
        events[kind].append((key, payload))
    steps = sorted((int(key), record) for key, record in events["step"])
    series = [
        {"step": step + 1, "policy": policy, "seconds": record["elapsed"], **metrics}
        for step, record in steps
        for policy, metrics in record["policies"].items()
    ]
    alarms = [
        {"step": step + 1, "policy": policy, **alarm}
        for step, record in steps
        for policy, found in record["alarms"].items()
        for alarm in found
    ]
    measured = sorted((record for _, record in events["evaluation"]), key=lambda record: record["step"])
    evaluations = [
        {name: record[name] for name in ("step", "lineup", "run")}
        | record["accuracy"]
        | {"seconds": record["elapsed"], "measured": record.get("measured", "accuracy")}
        | {"figures": record.get("figures", {})}
        for record in measured
    ]
    decisions = sorted((record for _, record in events["gate"]), key=lambda record: record["step"])
    stopped = steps[-1][1]["stopped"] if steps else {}
    chosen = {int(key): {name: record[name] for name in CHOICE} for key, record in events["opponents"]}
    played = [
        {"step": step + 1, **chosen.get(step, {}), **record.get("figures", {})}
        for step, record in steps
        if record.get("figures") or step in chosen
    ]
    members = (row.config or {}).get("policies", {}).items()
    begun = {name: member["begin"] for name, member in members if member.get("begin")}
    return Story(
        *(run, row.status, row.config, series, evaluations, decisions, alarms, stopped, played),
        readable=readable(journal, run),
        rewarded=_rewarded(series),
        taught=taught(journal, run),
        begun=begun,
    )


def _rewarded(series: Iterable[Point]) -> float | None:
    """Share of all turns that have a reward, step by step as it was measured there."""
    counted = [(row["turns"], row["rewarded"]) for row in series if row.get("rewarded") is not None]
    turns = sum(number for number, _ in counted)
    return sum(number * part for number, part in counted) / turns if turns else None


def by_kind(journal: Journal, run: str) -> dict[str, Estimate]:
    """Accuracy of an evaluation run for each `kind` of its tasks (a field of the task file), and over all."""
    results = read_results(journal, run)
    names = {row.task_id: row.name for row in episodes(journal, run)}
    meta = {
        row.name: row.meta for row in journal.read(select(Task.name, Task.meta).where(Task.id.in_(names)))
    }
    parts: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        if kind := (meta.get(result.task_id) or {}).get("kind"):
            parts[str(kind)].append(result)
    found = {kind: accuracy(part) for kind, part in sorted(parts.items())}
    return (found if len(found) > 1 else {}) | {"all": accuracy(results)}


def head_numbers(journal: Journal, names: Iterable[str]) -> dict[str, dict[str, int]]:
    """Policy -> numbers of the versions its heads point at."""
    return {name: {str(head): at.number for head, at in heads(journal, name).items() if at} for name in names}


def plots_folder(journal: Journal, run: str, chosen: str | None) -> Path:
    """Where a run's plots go: the folder that was chosen, else `RUN.plots` beside the journal."""
    if chosen is not None:
        return Path(chosen).expanduser()
    return store_folder(journal).parent / f"{run.replace('/', '-')}.plots"


def draw(journal: Journal, story: Story, folder: Path) -> list[Path]:
    """Write the plots of a run as PNG files: its curves, and accuracy before and after."""
    from sparring.training.play_plot import play_plot
    from sparring.training.plots import before_after_plot, training_plot

    if not story.series:
        return []
    drawn = [
        training_plot(
            story.series,
            folder / "training.png",
            evaluations={"training head": story.evaluations} if story.evaluations else None,
            decisions=[{"step": row["step"], "decision": row["verdict"]} for row in story.decisions],
            alarms=story.alarms,
            title=f"Run {story.run}",
        )
    ]
    probes = [{"step": point["step"], **point["figures"]} for point in story.evaluations]
    if play := play_plot(story.played, probes, folder / "play.png", title=f"Run {story.run}: its play"):
        drawn.append(play)
    if story.before and story.after and story.before["measured"] == "accuracy":
        drawn.append(
            before_after_plot(
                by_kind(journal, story.before["run"]),
                by_kind(journal, story.after["run"]),
                folder / "before_after.png",
                title=f"Run {story.run}: accuracy before and after {story.after['step']} steps",
            )
        )
    return drawn

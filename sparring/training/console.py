"""How an evolution is watched: one line a step on standard error, a table of before and after at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sparring.graphs.console import write_lines
from sparring.graphs.display import Pace, clock, columns, family_spending, show
from sparring.graphs.report import all_spent
from sparring.memory.journal import Journal
from sparring.training.health import reward_statistics, reward_table
from sparring.training.opponents import Record
from sparring.training.story import CHOICE, Story, head_numbers, read_story

COLUMNS = (
    ("reward", "reward", ".3f"),
    ("entropy", "entropy", ".3f"),
    ("KL", "kl", ".4f"),
    ("clipped", "clip", ".3f"),
    ("informative", "informative", ".2f"),
    ("length", "length", ".1f"),
    ("T", "temperature", ".2f"),
)


PLAYING_S = 30.0
"""Seconds of silence after which a step that plays says how far it is."""


class Watch:
    """Prints what a run tells; a call never fails because of what it is told.

    Args:
        steps: of the whole run, to say how long the rest will take.
    """

    def __init__(self, quiet: bool, steps: int | None = None) -> None:
        self._quiet, self._steps = quiet, steps
        self._console = Console(file=sys.stderr, highlight=False)
        self._started = self._said = time.monotonic()
        self._headed = False
        self._pace: Pace | None = None

    def __call__(self, kind: str, numbers: Mapping[str, Any]) -> None:
        if kind in ("alarm", "stopped"):
            said = numbers.get("message") or numbers.get("why")
            self._console.print(Text(f"policy `{numbers['policy']}`: {said}", style="yellow"), soft_wrap=True)
        elif not self._quiet and (line := self._line(kind, numbers)):
            self._console.print(Text(line), soft_wrap=True)

    def _line(self, kind: str, numbers: Mapping[str, Any]) -> str | None:
        now = time.monotonic()
        at = clock(now - self._started)
        if kind == "play":
            return self._playing(at, now, numbers)
        self._said = now
        if kind == "step":
            head = "" if self._headed else self._head()
            self._headed = True
            rows = [_row(at, numbers["step"] + 1, name, row) for name, row in numbers["policies"].items()]
            if figures := numbers.get("figures"):
                pair = f"{_pair(numbers['versions'])}: " if "versions" in numbers else ""
                rows.append(f"{at:>7}  {pair}{_listed(figures)}")
            if left := self._left(numbers["step"] + 1):
                rows.append(f"{at:>7}  step {numbers['step'] + 1} of {self._steps}, {left}")
            return head + "\n".join(rows)
        if kind == "opponents":
            policies = numbers["policies"]
            known = "".join(
                f"; {_pair(row['versions'])} had {row['points']:.3g} of {row['games']} for {policies[0]}"
                for row in numbers["candidates"]
            )
            pair = _pair(numbers["versions"], policies, " against ")
            return f"{at:>7}  step {numbers['step'] + 1} plays {pair}{known}"
        if kind == "evaluation":
            found, measured = numbers["accuracy"], numbers["measured"]
            interval = f" [{found['low']:.3f}, {found['high']:.3f}]" if found["low"] < found["high"] else ""
            said = f"{at:>7}  {measured} after {numbers['step']} updates: {found['mean']:.3f}{interval}"
            others = {name: value for name, value in numbers["figures"].items() if name != measured}
            return f"{said}  {_listed(others)}".rstrip()
        if kind == "gate":
            gap = numbers["difference"]
            return (
                f"{at:>7}  gate: {numbers['policy']}@{numbers['candidate']} against @{numbers['live']}: "
                f"{gap['mean']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}] on {gap['n']} tasks, "
                f"{numbers['verdict']}"
            )
        return None

    def _playing(self, at: str, now: float, numbers: Mapping[str, Any]) -> str | None:
        """Now and then, how far the play of a step is."""
        if now - self._said < PLAYING_S or not 0 < numbers["share"] < 1:
            return None
        self._said = now
        return f"{at:>7}  step {numbers['step'] + 1}: {numbers['share']:.0%} played"

    def _left(self, step: int) -> str:
        if self._steps is None:
            return ""
        self._pace = self._pace or Pace(step - 1, self._started)
        return self._pace.left(step, self._steps)

    def _head(self) -> str:
        names = "".join(f"{name:>12}" for name, _, _ in COLUMNS)
        return f"{'time':>7}  {'step':>5} {'policy':<12}{names}\n"


def _listed(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in figures.items())


def _pair(versions: Sequence[int], policies: Sequence[str] = ("", ""), between: str = " ") -> str:
    """`@3 @1`, or with names `sneaky@3 against critic@1`."""
    return between.join(f"{name}@{number}" for name, number in zip(policies, versions, strict=True))


def _row(at: str, step: int, policy: str, row: Mapping[str, Any]) -> str:
    return f"{at:>7}  {step:>5} {policy:<12}{''.join(f'{cell:>12}' for cell in _cells(row))}"


def _cells(row: Mapping[str, Any]) -> list[str]:
    values = dict(row)
    clips = [row[name] for name in ("clip_low", "clip_high") if row.get(name) is not None]
    values["clip"] = sum(clips) if clips else None
    cells = [values.get(key) for _, key, _ in COLUMNS]
    return [
        "-" if cell is None else format(cell, form) for cell, (_, _, form) in zip(cells, COLUMNS, strict=True)
    ]


def summary(story: Story, versions: Mapping[str, Mapping[str, int]]) -> Table:
    """Accuracy before and after, and where the heads stand."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "before", "after"):
        table.add_column(name)
    measured = story.before["measured"] if story.before else "accuracy"
    table.add_row(measured, _accuracy(story.before), _accuracy(story.after))
    for policy, heads in versions.items():
        for head in ("training", "live"):
            before = story.first_version(policy, head)
            said = "" if before is None else f"@{before}"
            table.add_row(f"{policy}, {head} head", said, f"@{heads[head]}")
    return table


def readability(story: Story) -> str:
    """Whether there was anything to learn from: who could be read, and what had a reward."""
    begun = ", ".join(f"{name} {begin}" for name, begin in story.begun.items())
    begun = f"; begun as: {begun}" if begun else ""
    if story.taught and not story.readable:
        return f"readable: all words were a teacher's{begun}"
    read = ", ".join(f"{role} {part:.3f}" for role, part in story.readable.items()) or "nothing was said"
    paid = "-" if story.rewarded is None else f"{story.rewarded:.3f}"
    return f"readable: {read}; rewards not NULL: {paid}{begun}"


def report_evolution(journal: Journal, run: str, *, as_json: bool) -> None:
    """A run as its journal tells it: a line a step, before and after, heads; to standard output."""
    story = read_story(journal, run)
    heads = head_numbers(journal, story.config["policies"])
    paid, took = reward_statistics(journal, run), all_spent(journal, run)
    if as_json:
        more = {"rewards": [asdict(one) for one in paid], "spent": asdict(took)}
        return write_lines([{**story.to_json(), "heads": heads, **more}], None)
    tables = [_steps(story), _played(story), _choices(story), reward_table(paid), summary(story, heads)]
    alarms = [
        f"step {alarm['step']}, policy `{alarm['policy']}`: {alarm['message']}" for alarm in story.alarms
    ]
    said = Text("\n".join([*alarms, family_spending(took)]))
    show(Text(readability(story)), *(table for table in tables if table.row_count), said)


def _steps(story: Story) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("step", "policy", *(name for name, _, _ in COLUMNS)):
        table.add_column(name, justify="left" if name == "policy" else "right")
    for row in story.series:
        table.add_row(str(row["step"]), row["policy"], *_cells(row))
    return table


def _played(story: Story) -> Table:
    """What the games of each step came to, of the pairing that was chosen where there are opponents: a line
    a figure, a column a step."""
    pairs = [f" {_pair(row['versions'])}" if "versions" in row else "" for row in story.played]
    header = ["step", *(f"{row['step']}{pair}" for row, pair in zip(story.played, pairs, strict=True))]
    names = dict.fromkeys(name for row in story.played for name in row if name not in ("step", *CHOICE))
    cells = [[f"{row[name]:.3g}" if name in row else "-" for row in story.played] for name in names]
    return columns(header, [[n.replace("_", " "), *row] for n, row in zip(names, cells, strict=True)])


def _choices(story: Story) -> Table:
    """What the pairings that a step could play had come to in the run by then, and which was chosen."""
    rows = [
        (
            row["step"],
            _pair(known["versions"], row["policies"], " "),
            f"{known['points']:.3g}",
            known["games"],
            f"{Record(known['points'], known['games']).rate:.3f}",
            "chosen" if known["versions"] == row["versions"] else "",
        )
        for row in story.played
        for known in row.get("candidates", ())
    ]
    return columns(("step", "pairing", "points of the first", "games", "win rate of the weaker", ""), rows)


def _accuracy(point: Mapping[str, Any] | None) -> str:
    if point is None:
        return "not measured"
    return f"{point['mean']:.3f} [{point['low']:.3f}, {point['high']:.3f}] n={point['n']}"

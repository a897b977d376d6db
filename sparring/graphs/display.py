"""What a person sees: progress on standard error, tables on standard output.

A terminal gets a bar with counts, tokens per second and time left; anything else a plain line every few
seconds, so that a log file stays readable. Nothing here computes a result.
"""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from sparring.graphs.player import Progress as State
    from sparring.graphs.report import Changes, Report, Spent, Usage
    from sparring.graphs.results import Result
    from sparring.graphs.settings import Row
    from sparring.graphs.stats import Estimate
    from sparring.graphs.step_errors import StepErrors

SCRIPTED = "scripted agent: shows the machinery, solves nothing"
PLAIN_S = 5.0
"""Seconds between two plain lines."""
WIDE = 140
"""Columns of a table that goes to a file or a pipe."""
WINDOW_S = 20.0
"""Tokens per second are those of the last so many seconds."""


class Display:
    """Shows `Progress` objects as they come; several runs after each other get a bar each.

    Args:
        quiet: Show no progress; messages and errors are still said.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.last: State | None = None
        self._quiet, self._bar, self._task = quiet, None if quiet else self._make_bar(), TaskID(0)
        self._started = self._printed = 0.0
        self._seen: deque[tuple[float, int]] = deque()

    def _make_bar(self) -> Progress | None:
        if not self.console.is_terminal:
            return None
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=min(24, self.console.width // 5)),
            TextColumn("{task.fields[state]}"),
        )
        return Progress(*columns, console=self.console)

    def __enter__(self) -> Display:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, message: str) -> None:
        """One line of prose, above the bar where there is one."""
        self.console.print(Text(message))

    def __call__(self, state: State) -> None:
        now = time.monotonic()
        if self.last is None or self.last.run != state.run:
            self._begin(state, now)
        self.last = state
        self._seen.append((now, state.completion_tokens))
        while now - self._seen[0][0] > WINDOW_S:
            self._seen.popleft()
        line = self._line(state, now)
        if self._bar is not None:
            self._bar.update(self._task, completed=state.share, state=line)
        elif not self._quiet and (now - self._printed >= PLAIN_S or state.done == state.total):
            self._printed = now
            self.say(f"{state.run}: {line}")

    def _begin(self, state: State, now: float) -> None:
        self._started = self._printed = now
        self._seen.clear()
        if self._bar is not None:
            self._task = self._bar.add_task(state.run, total=1.0, state="")

    def _line(self, state: State, now: float) -> str:
        parts = self._counts(state)
        (then, before), (latest, tokens) = self._seen[0], self._seen[-1]
        if latest > then:
            parts.append(f"{(tokens - before) / (latest - then):.0f} tokens/s")
        elapsed = now - self._started
        # Beside what it is about: a narrow terminal cuts off the end of the line.
        if state.done == state.total:
            parts.insert(1, f"{clock(elapsed)} in all")
        elif state.share > 0.02 and elapsed > 1:
            parts.insert(1, f"{clock(elapsed * (1 - state.share) / state.share)} left")
        return ", ".join(parts)

    def _counts(self, state: State) -> list[str]:
        """What was done so far."""
        failed = [f"{state.failed} failed"] if state.failed else []
        return [f"{state.done}/{state.total} episodes", *failed, f"{state.calls} calls"]


class Pace:
    """How long the rest of something counted will take, by the pace since it was first looked at.

    Args:
        began: what was done by then.
        since: when that was, on the monotonic clock; None: now.
    """

    def __init__(self, began: int, since: float | None = None) -> None:
        self._began, self._since = began, time.monotonic() if since is None else since

    def left(self, done: int, total: int) -> str:
        """`12:40 left`; empty where nothing was done yet, or all is."""
        if not self._began < done < total:
            return ""
        seconds = (time.monotonic() - self._since) * (total - done) / (done - self._began)
        return f"{clock(seconds)} left"


class LineWatch(ABC):
    """Prints what a run tells on standard error, a line each; what it tells often, now and then."""

    often: ClassVar[str]
    """The kind that comes often."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._console = Console(file=sys.stderr, highlight=False)
        self._started = self._said = time.monotonic()

    def __call__(self, kind: str, numbers: Mapping[str, Any]) -> None:
        now = time.monotonic()
        if self._quiet or (kind == self.often and now - self._said < PLAIN_S):
            return
        self._said = now
        line = f"{clock(now - self._started):>7}  {self.line(kind, numbers)}"
        self._console.print(Text(line), soft_wrap=True)

    @abstractmethod
    def line(self, kind: str, numbers: Mapping[str, Any]) -> str:
        """What is said of it."""


def clock(seconds: float) -> str:
    """`0:07`, `12:40`, `3:05:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def show(*parts: Any) -> None:
    """Print to standard output, a blank line between parts; without a terminal no row is broken."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDE, soft_wrap=True)
    for place, part in enumerate(parts):
        if place:
            console.print()
        console.print(part)


def results_table(results: Sequence[Result]) -> Table:
    """Question, answers and how they were shared, verdict, calls, tokens: a row an episode."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("question", overflow="ellipsis", no_wrap=True, max_width=56)
    table.add_column("answers", overflow="ellipsis", no_wrap=True, max_width=24)
    for name, width in (("verdict", 9), ("calls", 5), ("tokens", 6)):
        left = name == "verdict"
        table.add_column(name, justify="left" if left else "right", no_wrap=True, min_width=width)
    for result in results:
        tokens = result.prompt_tokens + result.completion_tokens
        question = " ".join(str(result.question).split())
        table.add_row(
            Text(question),
            Text(_one_line(_answers(result))),
            _verdict(result),
            str(result.calls),
            str(tokens),
        )
    return table


def _one_line(text: str) -> str:
    """As much of a text as a column shows; a patch has many lines."""
    return " ".join(text[:200].split())


def _answers(result: Result) -> str:
    """The outcome's answer first, then the others with their share of the vote."""
    outcome = result.outcome or {}
    shares: dict[str, float] = outcome.get("distribution") or {}
    if result.answer is None:
        return "(none)" if result.status == "done" else f"({result.error or result.status})"
    if len(shares) < 2:
        return result.answer
    ordered = sorted(shares.items(), key=lambda item: (item[0] != result.answer, -item[1]))
    return ", ".join(f"{answer} {share:.0%}" for answer, share in ordered)


def _verdict(result: Result) -> Text:
    if result.correct is None:
        return Text(result.status if result.status != "done" else "no reference", style="yellow")
    if result.answer is None:
        return Text("no answer", style="red")
    return Text("right", style="green") if result.correct else Text("wrong", style="red")


def columns(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A plain table; the first column is left-aligned, the rest right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, name in enumerate(header):
        table.add_column(Text(name), justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    return table


def report_tables(report: Report) -> list[Any]:
    """A report for people: what was played, how right it was, what it cost, how it compares."""
    states = ", ".join(f"{count} {status}" for status, count in report.episodes.items())
    head = (
        f"{report.run}: {report.protocol} on {', '.join(report.engines) or 'no engine'}, seed {report.seed}; "
        f"episodes: {states or 'none'}"
    )
    parts: list[Any] = [Text(head), *([Text(SCRIPTED)] if report.scripted else [])]
    accuracy = report.accuracy
    if report.software is not None:
        from sparring.graphs.software_display import software_tables  # not on top, as below

        parts += software_tables(report.software)
    elif accuracy is None:
        why = "no task has a reference" if report.answers else "what is played is no answer to a task"
        why = "nothing could be judged" if report.masked else why
        parts.append(Text(f"{why}, so there is no accuracy"))
    else:
        parts.append(_comparison(report, accuracy))
        parts.append(Text(_missing(report, accuracy)))
        parts.append(Text(report.conclusion))
    if report.step_errors is not None and report.step_errors.items:
        parts += _steps(report.step_errors)
    elif report.judges:
        from sparring.graphs.judge_display import judge_tables  # not on top: it is laid out with this module

        parts += [part for judge in report.judges for part in judge_tables(judge)]
    elif report.figures and report.software is None:
        rows = [(name.replace("_", " "), f"{value:.4g}") for name, value in report.figures.items()]
        parts.append(columns(("", report.protocol), rows))
    if report.changes is not None:
        parts.append(Text(_movement(report.changes)))
    rows = [
        (role, ", ".join(f"{n} {s}" for s, n in counts.items())) for role, counts in report.statuses.items()
    ]
    parts += [columns(("role", "turns"), rows), Text(_spending(report.usage))]
    if len(report.bills) > 1 or any(bill.cost for bill in report.bills):
        parts.append(_bills(report))
    return parts


def _bills(report: Report) -> Table:
    """What each engine took, and what the run took with all that belong to it."""
    header = ("engine", "calls", "prompt", "cached", "completion", "cost")
    rows: list[tuple[Any, ...]] = [
        (b.engine, b.calls, b.prompt_tokens, b.cached_tokens, b.completion_tokens, amount(b.cost))
        for b in report.bills
    ]
    if report.spent is not None and (report.spent.cost or 0) > (report.usage.cost or 0):
        rows.append(("with the runs that belong to it", "", "", "", "", amount(report.spent.cost)))
    return columns(header, rows)


def _comparison(report: Report, accuracy: Estimate) -> Table:
    """The method and its baselines, a row each; it fits into 80 columns."""
    table = columns(("", "accuracy", "[95 %]", "difference", "[95 %]", "budget"), ())
    table.add_row(Text(report.protocol), f"{accuracy.mean:.3f}", interval(accuracy, ""))
    for column in report.baseline.columns if report.baseline else ():
        if column.budget == "calls":
            table.add_row(Text("self-consistency, equal"))
        name = f"  {column.budget.replace('_', ' ')}" if column.budget else column.name
        used = f"{column.spent:.0f}/{column.given:.0f}" if column.budget else ""
        gap = column.difference
        paired = (f"{gap.mean:+.3f}", interval(gap, "+"))
        table.add_row(Text(name), f"{column.accuracy:.3f}", "", *paired, used)
    return table


def settings_tables(rows: Sequence[Row]) -> list[Any]:
    """Settings before and after; of discussions also what they are worth beside a vote of as many calls."""
    header = ("", "calls", "before (s.e.)", "after (s.e.)", "difference", "[95 %]", "vote, before", "after")
    cells = [
        (
            row.setting,
            f"{row.calls:.0f}",
            f"{row.before.mean:.3f} ({_share(row.error_before)})",
            f"{row.after.mean:.3f} ({_share(row.error_after)})",
            f"{row.difference.mean:+.3f}",
            interval(row.difference, "+"),
            *("" if gap is None else f"{gap.mean:+.3f}" for gap in (row.against_before, row.against_after)),
        )
        for row in rows
    ]
    said = "vote: the setting minus the majority of as many samples of all agents"
    return [columns(header, cells), Text(f"{rows[0].before.n} questions; {said}")]


def interval(found: Estimate, sign: str) -> str:
    return f"{found.low:{sign}.3f} {found.high:{sign}.3f}"


def _missing(report: Report, accuracy: Estimate) -> str:
    """How many questions the table is about, and what counted as wrong for want of an answer."""
    lost = f"{accuracy.n} questions; no answer (counted as wrong): {report.no_answer}"
    failed = f", {report.failed} more failed" if report.failed else ""
    failed += f"; not judged (left out): {report.masked}" if report.masked else ""
    pool = report.baseline
    drawn = f"; in the pool: {pool.no_answer} of {pool.samples} samples" if pool else "; no baseline"
    return lost + failed + drawn


def _movement(changes: Changes) -> str:
    return (
        f"{changes.changed} of {changes.speakers} speakers ended on another answer than they began with: "
        f"{changes.relied_on_other} from wrong to right, {changes.bullied_by_other} from right to wrong"
    )


def _steps(found: StepErrors) -> list[Any]:
    """A critic's two recalls, never only their mean, and the rest that step errors are measured by."""
    table = columns(("", "all steps", "[95 %]", "readable only", "[95 %]"), ())
    both = (found.counted, found.valid)
    rows = {
        "right steps judged right": [side.correct for side in both],
        "wrong steps judged wrong": [side.error for side in both],
        "  false alarms": [side.false_alarm for side in both],
    }
    rows |= {f"  error `{kind}` found": [share] for kind, share in sorted(found.counted.kinds.items())}
    for name, shares in rows.items():
        table.add_row(Text(name), *measured(shares))
    table.add_row("mean of the two", *(c for side in both for c in (_share(side.average), "")))
    table.add_row("harmonic mean", *(c for side in both for c in (_share(side.harmonic), "")))
    if subsets := sorted(name for name in found.counted.accuracy if name):
        for name in subsets:
            table.add_row(Text(f"accuracy in `{name}`"), *measured(side.accuracy.get(name) for side in both))
        table.add_row("accuracy, mean of subsets", *(c for side in both for c in (_share(side.macro), "")))
    first = {name or "all": _share(each.f1) for name, each in found.first.items()}
    said = (
        f"{found.items} labelled steps of {found.solutions} solutions, no readable verdict on "
        f"{found.unreadable}; first-error F1 {_share(found.f1)}"
    )
    if len(first) > 1:
        said += f" ({', '.join(f'{name} {f1}' for name, f1 in first.items())})"
    return [table, Text(said)]


def measured(shares: Iterable[Estimate | None]) -> list[str]:
    """Shares, each with its interval; `-` where there is nothing to have a share of."""
    known = [share if share is not None and share.n else None for share in shares]
    return [cell for s in known for cell in (("-", "") if s is None else (_share(s.mean), interval(s, "")))]


def amount(value: float | None) -> str:
    """Money; `-` where nobody knows."""
    return "-" if value is None else f"{value:.4g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def family_spending(took: Spent) -> str:
    """What a run took that consists of others: evaluations, games, agents at work."""
    return f"{took.tokens} tokens with all runs that belong to it, cost {amount(took.cost)}"


def _spending(usage: Usage) -> str:
    parts = [
        f"{usage.calls} calls",
        f"{usage.prompt_tokens} prompt tokens ({usage.cached_tokens} cached)",
        f"{usage.completion_tokens} completion tokens",
        f"latency {usage.latency_median:.2f} s median, {usage.latency_p95:.2f} s at 95 %",
        f"{usage.retries} retries",
        f"{usage.cache_hits} cache hits",
    ]
    return ", ".join([*parts, f"cost {usage.cost:.4g}"] if usage.cost else parts)

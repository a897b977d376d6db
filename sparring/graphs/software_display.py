"""A run of software tasks for people: progress with what is resolved, and the tables at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from sparring.graphs.display import PLAIN_S, Display, amount, columns, interval
from sparring.graphs.software_report import MASKED, Standing

if TYPE_CHECKING:
    from sparring.graphs.player import Progress
    from sparring.graphs.software_report import Attempt, SoftwareRun
    from sparring.graphs.stats import Estimate

WHY = 60
"""Characters of a reason in a table."""


class SoftwareDisplay(Display):
    """Progress that says how many attempts are resolved, over all processes that played the run."""

    look: Callable[[], Standing] | None = None
    """Asked when an attempt has ended, and every few seconds."""
    _standing = Standing()
    _asked: tuple[int, float] = (-1, float("-inf"))

    def __call__(self, state: Progress) -> None:
        done, when = self._asked
        if self.look is not None and (state.done != done or time.monotonic() - when >= PLAIN_S):
            self._standing, self._asked = self.look(), (state.done, time.monotonic())
        super().__call__(state)

    def _counts(self, state: Progress) -> list[str]:
        now = self._standing
        parts = [f"{state.done}/{state.total} attempts", f"{now.resolved} resolved"]
        parts += [
            f"{count} {name}" for name, count in (("failed", state.failed), ("masked", now.masked)) if count
        ]
        return [*parts, f"{now.steps} steps", *([f"cost {now.cost:.4g}"] if now.cost else [])]


def attempts_table(found: Sequence[Attempt]) -> Any:
    """A row an attempt: how it was graded, what ended it, what it took, why it is not resolved."""
    several = any(one.result.copy for one in found)
    table = columns(("instance", "status", "ended by", "steps", "tokens", "cost"), ())
    table.add_column("why", overflow="ellipsis", no_wrap=True, max_width=WHY)
    for place in (1, 2):
        table.columns[place].justify = "left"
    for one in found:
        used = one.result
        table.add_row(
            Text(f"{used.task_id} {used.copy}" if several else used.task_id),
            Text(_words(one.status)),
            Text(_words(one.exit_status or "")),
            str(one.steps),
            str(used.prompt_tokens + used.completion_tokens),
            amount(used.cost),
            Text(" ".join(one.reason.split())[:WHY]),
        )
    return table


def software_tables(run: SoftwareRun) -> list[Any]:
    """Resolved with its interval, statuses, what ended the work, and what an attempt took."""
    parts = list[Any]()
    if run.pass_at_1 is None:
        parts.append(Text("nothing was judged, so there is no share of resolved instances"))
    else:
        rows = [_share("pass@1" if run.copies > 1 else "resolved", run.resolved, run.judged, run.pass_at_1)]
        if run.any is not None:
            hits = round(run.any.mean * run.any.n)
            rows.append(_share(f"resolved by any of {run.copies}", hits, run.any.n, run.any))
        parts.append(columns(("", "resolved", "share", "[95 %]"), rows))
    lines = [f"attempts: {_counted(run.statuses)}"]
    if masked := run.statuses.get(MASKED):
        lines.append(f"masked: this machine failed to grade {masked}; they count neither way (docs/swe.md)")
    took = f"{run.mean_steps:.1f} steps, {run.mean_tokens:.0f} tokens, cost {amount(run.mean_cost)}"
    lines += [f"ended by: {_counted(run.exits)}", f"an attempt took, in the mean: {took}"]
    return [*parts, Text("\n".join(lines))]


def _share(name: str, hits: int, of: int, found: Estimate) -> tuple[str, str, str, str]:
    return name, f"{hits} of {of}", f"{found.mean:.3f}", interval(found, "")


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {_words(name)}" for name, count in counts.items()) or "none"


def _words(name: str) -> str:
    return name.replace("_", " ")

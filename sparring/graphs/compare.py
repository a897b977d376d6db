"""`sparring compare CONFIG.yaml`: methods on one pool, played, told and drawn.

    run: mine
    tasks: questions.jsonl
    engine: smollm2-135m
    n: 8
    outcome: p_true
    methods: [single, majority, best_of_n, gsa, {method: borda, power: 1.2}]

Fields are those of `play` and of the protocol `compare`. The same command goes on with one that was
stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator
from rich.text import Text

from sparring.errors import UserError, unknown
from sparring.graphs.cast import SAMPLING_FIELDS
from sparring.graphs.comparison import Compared, Voted, compared
from sparring.graphs.config_file import RunConfig, read_config, what_is_played
from sparring.graphs.display import columns
from sparring.graphs.drawing import add_legend, new_figure, plain, save
from sparring.graphs.play import DEFAULT_MEMORY, Play, aplay, plan
from sparring.graphs.stats import Estimate
from sparring.memory.journal import Journal


class CompareConfig(RunConfig):
    """What is compared."""

    run: str
    seed: int = 0
    tasks: str
    limit: int | None = Field(default=None, ge=1)
    """Only so many of the tasks, the first."""
    engine: str | None = None
    roles: dict[str, str] = Field(default_factory=dict)
    sampling: dict[str, Any] = Field(default_factory=dict)
    n: int = Field(default=8, ge=1)
    pool: int | None = Field(default=None, ge=1)
    methods: tuple[str | dict[str, Any], ...] = ("single", "majority")
    outcome: str | None = None
    process: str | None = None
    answer: str = "line"
    options: dict[str, Any] = Field(default_factory=dict)
    """`prompts`: role -> file."""
    plots: str | None = None
    """Folder for the PNG; null: `RUN.plots` beside the journal."""

    @field_validator("sampling")
    @classmethod
    def _of_sampling(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if name.rsplit(".", 1)[-1] not in SAMPLING_FIELDS:
                raise ValueError(str(unknown("sampling option", name, SAMPLING_FIELDS)))
        return value

    @field_validator("options")
    @classmethod
    def _prompts_alone(cls, value: dict[str, Any]) -> dict[str, Any]:
        if strange := set(value) - {"prompts"}:
            raise ValueError(f"`{min(strange)}` does not belong there; `options` holds `prompts` alone")
        return value

    def played(self) -> Play:
        """The play of it, everything checked that can be checked without an engine."""
        methods: list[Any] = [dict(one) if isinstance(one, dict) else one for one in self.methods]
        given = {"outcome": self.outcome, "process": self.process, "pool": self.pool}
        played = plan(
            "compare",
            self.tasks,
            limit=self.limit,
            engine=self.engine,
            roles=dict(self.roles),
            seed=self.seed,
            n=self.n,
            answer=self.answer,
            methods=methods,
            **{name: value for name, value in given.items() if value is not None},
            **self.options,
            **self.sampling,
        )
        if all(task.answer is None for task in played.tasks):
            raise UserError(f"tasks `{self.tasks}`: none has an `answer`, so there is nothing to compare by")
        return played


def load_comparison(source: str | Path | dict[str, Any]) -> CompareConfig:
    """Read a configuration; see `read_config`."""
    return read_config(CompareConfig, source, what_is_played)


async def acompare(config: CompareConfig, memory: str | Path | Journal = DEFAULT_MEMORY) -> list[Compared]:
    """Play, or play on, and read what came of it.

    Raises:
        UserError: anything that cannot work, before work starts; no question with a reference.
    """
    with Journal.at(memory) as journal:
        await aplay(config.played(), journal, run=config.run)
        return compared(journal, config.run)


def tables(rows: Sequence[Compared]) -> list[Any]:
    """What each method has right and what it costs, and what is to be said about that."""
    cost = ("method", "right", "[95 %]", "calls", "prompt", "completion", "rated")
    taken = [
        (
            row.label,
            f"{row.accuracy.mean:.3f}",
            _interval(row.accuracy),
            f"{row.cost.calls:.1f}",
            f"{row.cost.prompt_tokens:.0f}",
            f"{row.cost.completion_tokens:.0f}",
            f"{row.cost.rated_tokens:.0f}",
        )
        for row in rows
    ]
    even = ("method", "vote, calls", "difference", "[95 %]", "vote, tokens", "difference", "[95 %]")
    beside = [
        (
            row.label,
            *_beside(row.equal_calls, row.difference, row.short),
            *_beside(row.equal_tokens, row.difference_tokens, row.short_tokens),
        )
        for row in rows
    ]
    said = [
        f"{rows[0].accuracy.n} questions; calls and tokens of one, rated: what scorers only read",
        "vote: self-consistency on samples of the same pool, as many as the method made calls, or as many as "
        "wrote its tokens",
    ]
    if any(row.short or row.short_tokens for row in rows):
        said.append("*: it took more than the whole pool, which is what votes; a larger `pool` makes it even")
    for unit, which in (("calls", "difference"), ("tokens", "difference_tokens")):
        better = [row.label for row in rows if getattr(row, which).verdict == "better"]
        named = f"better than a vote of equal {unit}: {', '.join(better)}"
        said.append(named if better else f"no method is better than a vote of equal {unit}")
    return [columns(cost, taken), columns(even, beside), Text("\n".join(said))]


def _beside(vote: float, difference: Estimate, short: bool) -> tuple[str, str, str]:
    """Cells of a vote at equal cost, and of what the method has more."""
    return f"{vote:.3f}" + ("*" if short else ""), f"{difference.mean:+.3f}", _interval(difference, "+")


def _interval(found: Estimate, sign: str = "") -> str:
    return f"[{found.low:{sign}.3f}, {found.high:{sign}.3f}]"


def plot_of(config: CompareConfig, memory: str) -> Path:
    """Where the PNG goes."""
    folder = Path(config.plots or f"{config.run.replace('/', '-')}.plots")
    return (folder if config.plots or "://" in memory else Path(memory).parent / folder) / "compare.png"


def draw(rows: Sequence[Compared], out: Path, title: str, votes: Sequence[Voted] = ()) -> Path:
    """Accuracy over completion tokens and over calls: a point and an interval a method, and the line of votes
    that they are held against."""
    with new_figure(10, 4.4, f"{title}: accuracy over cost, 95 % intervals") as figure:
        panels = figure.subplots(1, 2, sharey=True)
        shown = (("calls", "calls a question"), ("completion_tokens", "completion tokens a question"))
        for panel, (what, label) in zip(panels, shown, strict=True):
            if votes:
                x = [getattr(vote, what) for vote in votes]
                y = [vote.accuracy for vote in votes]
                panel.plot(x, y, color="0.7", zorder=0, label="majority of 1, 2, ...")
            width = max(getattr(row.cost, what) for row in rows)
            for number, row in enumerate(rows):
                found = row.accuracy
                # Of a share of 1 the bound is 1 but for rounding.
                below, above = max(0.0, found.mean - found.low), max(0.0, found.high - found.mean)
                panel.errorbar(
                    # Methods that cost the same stand beside each other.
                    [getattr(row.cost, what) + 0.008 * width * (number - len(rows) / 2)],
                    [found.mean],
                    yerr=[[below], [above]],
                    fmt="osD^vP*X<>"[number % 10],
                    capsize=2,
                    label=plain(row.label),
                )
            panel.set_xlabel(label)
            panel.set_xlim(left=0)
        panels[0].set_ylabel("share right")
        add_legend(panels[1])
        return save(figure, out)

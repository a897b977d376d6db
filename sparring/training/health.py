"""What a run's rewards look like, and whether its play shows signs of collapse: reads for `sparring report`.

The monitors of training (`sparring.training.monitors`) are asked once, over all that a role said in the run,
where they make sense without training: what cannot be read, what was cut off, samples of a prompt that
repeat each other, and one answer to everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

from rich.table import Table
from rich.text import Text
from sqlalchemy import Integer, cast, func, literal_column, select

from sparring.graphs.display import columns
from sparring.memory.journal import Journal
from sparring.memory.schema import Agent, Episode, Reward, Turn
from sparring.training.measures import Metrics, measure
from sparring.training.monitors import MONITORS
from sparring.training.observing import observe_role
from sparring.training.rewards.derive import CLOSED, read_episodes

WATCHED = ("parse_rate", "truncation_rate", "duplicate_rate", "one_answer")
"""Monitors that make sense of play alone."""
FEW_TASKS = 10
"""With fewer tasks one answer to all of them is no sign of anything."""
MOST = 1000
"""Episodes that are read for signs, the first of a run."""


@dataclass(frozen=True, slots=True)
class RewardStatistics:
    """The rewards of one function and one role."""

    function: str
    version: str
    config: str
    """Hash of its options."""
    role: str
    of: str
    """`turn`, or `span` for rewards of parts of a turn."""
    n: int
    masked: int
    """NULL ones, which enter no figure here."""
    mean: float | None
    std: float | None
    """Of the population."""
    nonzero: float | None
    """Share that is not 0."""
    min: float | None
    max: float | None


@dataclass(frozen=True, slots=True)
class Sign:
    """What one monitor found in what a role said."""

    role: str
    monitor: str
    value: float
    message: str | None
    """What is wrong and what to do; None where nothing is."""


@dataclass(frozen=True, slots=True)
class Health:
    """The rewards and signs of a run."""

    rewards: list[RewardStatistics]
    signs: list[Sign]
    read: int
    """Episodes that signs were looked for in."""
    ended: int
    """Episodes that there are."""

    def to_json(self) -> dict[str, Any]:
        found = asdict(self)
        return {
            "rewards": found["rewards"],
            "monitors": {name: found[name] for name in ("signs", "read", "ended")},
        }


def health(journal: Journal, run: str) -> Health:
    """The rewards that a run's turns have, and the signs of collapse in them.

    Raises:
        UserError: there is no such run.
    """
    journal.run_row(run)
    query = select(Episode.number).where(Episode.run_id == run, Episode.status.in_(CLOSED))
    numbers = [row.number for row in journal.read(query.order_by(Episode.number))]
    return Health(
        reward_statistics(journal, run), _signs(journal, numbers[:MOST]), len(numbers[:MOST]), len(numbers)
    )


def reward_statistics(journal: Journal, run: str) -> list[RewardStatistics]:
    """Statistics of a run's rewards by function, version, options and role."""
    value = Reward.value
    about = (Reward.function, Reward.version, Reward.config_hash, Agent.role)
    whole = cast(Reward.span_start < literal_column("0"), Integer)  # a parameter would be no same expression
    nonzero = func.sum(cast(value != 0, Integer))
    figures = (func.count(), func.count(value), func.avg(value), nonzero, func.min(value), func.max(value))
    query = (
        select(*about, whole, *figures, func.avg(value * value))
        .join(Turn, Turn.id == Reward.turn_id)
        .join(Agent, Agent.id == Turn.agent_id)
        .join(Episode, Episode.number == Turn.episode_number)
        .where(Episode.run_id == run)
        .group_by(*about, whole)
        .order_by(*about, whole)
    )
    found = []
    for row in journal.read(query):
        function, version, config, role, of_turn, rows, n, mean, other, low, high, square = row
        std = None if mean is None else sqrt(max(0.0, float(square) - float(mean) ** 2))
        share = None if not n else int(other) / n
        kind = "turn" if of_turn else "span"
        name = (function, version, config, role)
        figures_ = (mean, std, share, low, high)
        found.append(RewardStatistics(*name, kind, int(n), int(rows - n), *figures_))
    return found


def _signs(journal: Journal, numbers: Sequence[int]) -> list[Sign]:
    episodes = read_episodes(journal, numbers) if numbers else []
    many = len({episode.task for episode in episodes}) >= FEW_TASKS
    roles = dict.fromkeys(turn.role for episode in episodes for turn in episode.turns)
    found = []
    for role in sorted(roles):
        metrics = measure(observe_role(episodes, role))
        for name in WATCHED if many else WATCHED[:-1]:
            if (sign := _sign(role, name, metrics)) is not None:
                found.append(sign)
    return found


def _sign(role: str, name: str, metrics: Metrics) -> Sign | None:
    """What a monitor says of one role; None where there is nothing to say it of."""
    monitor = MONITORS[name](patience=1)
    value = metrics.get(monitor.metric)
    if value is None:
        return None
    alarm = monitor.check([metrics])
    return Sign(role, name, value, None if alarm is None else alarm.message.replace(" at this step", ""))


def health_parts(found: Health) -> list[Any]:
    """The same for people: a table of rewards where there are any, and a line on what the monitors say."""
    parts: list[Any] = []
    if found.rewards:
        parts.append(reward_table(found.rewards))
    wrong = [f"{sign.role}: {sign.message}" for sign in found.signs if sign.message]
    if wrong:
        parts.append(Text("\n".join(wrong), style="yellow"))
    elif found.signs:
        names = ", ".join(dict.fromkeys(sign.monitor.replace("_", " ") for sign in found.signs))
        parts.append(Text(f"no sign of collapse by {names}{_of(found)}"))
    return parts


def reward_table(rows: Sequence[RewardStatistics]) -> Table:
    """A row a function and role."""
    header = ("reward", "role", "n", "masked", "mean", "std", "not 0", "min", "max")
    return columns(header, [_row(one) for one in rows])


def _of(found: Health) -> str:
    return "" if found.read == found.ended else f" in the first {found.read} of {found.ended} episodes"


def _row(one: RewardStatistics) -> tuple[str, ...]:
    figures = (one.mean, one.std, one.nonzero, one.min, one.max)
    name = f"{one.function} {one.version}{' of spans' if one.of == 'span' else ''}"
    cells = ("-" if value is None else f"{value:.3f}" for value in figures)
    return (name, one.role, str(one.n), str(one.masked), *cells)

"""Which played turns an offline update is made of: SPC's paired and balanced samples (2504.19162).

A critic that is right nineteen times in twenty would learn from its games to say what it says already. So
wins and losses, and correct and sneaky steps, come in equal numbers, and by default only from prompts on
which the critic was right once and wrong once. That the paper's pairs are such is recalled, not stated.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from sparring.training.rewards.spc import CAUGHT, FAILED

Balance = Literal["none", "critic", "sneaky"]


@dataclass(frozen=True, slots=True)
class Played:
    """One rewarded turn."""

    turn: int
    prompt: Hashable
    """Equal for turns that answer the same prompt."""
    key: str
    reward: float
    reason: str
    place: str = ""
    """Where it was said, the same in every life of a run; ids are dealt out as turns come in."""
    round: Hashable = None
    """The run and iteration that it was played in."""

    @property
    def won(self) -> bool:
        return self.reward > 0

    @property
    def step(self) -> str:
        """Which step a critique was about: `correct` or `sneaky`."""
        return self.key.split("/")[1]

    @property
    def attack(self) -> str:
        """What became of an attack."""
        return "fooled" if self.won else "caught" if self.reason.startswith(CAUGHT) else FAILED


def select(
    rows: Iterable[Played], balance: Balance, seed: int, *, paired: bool = True, most: int | None = None
) -> list[Played]:
    """The turns to train on, in order of their places and ids, at most `most`; a pure function of rows and
    seed.

    critic: as many wins as losses, of each prompt if `paired`, else over all prompts, and as many critiques
        of correct steps as of sneaky ones; none at all where one of the four never happened.
    sneaky: as many attacks that fooled the critic as were caught and as failed validation. A kind that
        never came up is left out: it would empty the others.
    """
    rng = random.Random(seed)
    rows = sorted(rows, key=_place)
    if balance == "critic":
        rows = _critiques(rows, rng, paired=paired, most=most)
    elif balance == "sneaky":
        kinds = _groups(rows, lambda row: row.attack)
        count = min(map(len, kinds), default=0)
        if most is not None:
            count = min(count, most // max(1, len(kinds)))
        rows = [row for kind in kinds for row in rng.sample(kind, count)]
    elif most is not None and len(rows) > most:
        rows = rng.sample(rows, most)
    return sorted(rows, key=_place)


def _place(row: Played) -> tuple[str, int]:
    return row.place, row.turn


def _critiques(rows: Sequence[Played], rng: random.Random, *, paired: bool, most: int | None) -> list[Played]:
    """Equal numbers of (win, loss) pairs on either kind of step."""
    pairs = []
    for step in ("correct", "sneaky"):
        own = [row for row in rows if row.step == step]
        groups = _groups(own, lambda row: row.prompt) if paired else [own]
        pairs.append([pair for group in groups for pair in _pairs(group, rng)])
    count = min(map(len, pairs))
    if most is not None:
        count = min(count, most // 4)  # a win and a loss on either kind of step
    return [row for own in pairs for pair in rng.sample(own, count) for row in pair]


def _pairs(rows: Sequence[Played], rng: random.Random) -> Iterable[tuple[Played, Played]]:
    won, lost = ([row for row in rows if row.won is side] for side in (True, False))
    count = min(len(won), len(lost))
    return zip(rng.sample(won, count), rng.sample(lost, count), strict=True)


def _groups(rows: Iterable[Played], by: Callable[[Played], Hashable]) -> list[list[Played]]:
    groups: defaultdict[Hashable, list[Played]] = defaultdict(list)
    for row in rows:
        groups[by(row)].append(row)
    return list(groups.values())

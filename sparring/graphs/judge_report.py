"""The report on a judge, as data; `graphs.judges` computes it."""

from __future__ import annotations

from dataclasses import dataclass

from sparring.graphs.stats import Estimate


@dataclass(frozen=True, slots=True)
class Tally:
    """Verdicts held against a person's; the four counts make `n`."""

    n: int
    right: int
    """Exactly what the person says, ties among it."""
    tied: int
    """A tie where the person prefers one."""
    wrong: int
    unreadable: int
    accuracy: Estimate
    """right / n: what cannot be read is not right."""


@dataclass(frozen=True, slots=True)
class Position:
    """Of pairs that were read in both orders."""

    consistency: Estimate
    """Share with the same verdict in both."""
    first: Estimate
    """Share of the verdicts other than ties, both orders together, for the response shown first; 0.5 of a
    judge without position bias. Its interval takes the two orders for independent."""
    bias: Estimate
    """Mean over pairs of (verdicts for the one shown first - for the one shown second) / 2: from -1 to 1."""


@dataclass(frozen=True, slots=True)
class Probed:
    """Verdicts without and with something that should not matter (RBD, 2505.17100)."""

    n: int
    """Pairs with a better response and verdicts of both kinds."""
    before: Estimate
    """Share right without it."""
    after: Estimate
    """Share right with it."""
    consistency: Estimate
    """Share right in both."""
    harm: Estimate
    """Of those right before and readable after, the share that is not right after."""
    shift: Estimate
    """after - before over the pairs read in both, paired."""
    unreadable: int
    """Pairs with a verdict that cannot be read; in the shares of `n` they are not right."""


@dataclass(frozen=True, slots=True)
class SelfPreference:
    """DBG (2506.02592): the score that a judge gives to its own responses, less what they deserve."""

    n: int
    """Pairs in which exactly one response is its own, read, and with a gold score."""
    own: float
    """s_J: (wins + ties / 2) / n of its own responses by its own verdicts."""
    gold: float
    difference: Estimate
    """DBG = s_J - s_gold, paired."""
    unreadable: int
    """Pairs left out, as the judge's verdict on them cannot be read."""


@dataclass(frozen=True, slots=True)
class Method:
    """A judge in one way of judging."""

    readable: Estimate
    """Share of all single verdicts, each order and guise for itself, that can be read."""
    verdicts: Tally | None
    """Over both orders where there are two; None where no pair has a person's preference."""
    orders: tuple[Tally, ...]
    """Of each order alone; empty where there is one."""
    subsets: dict[str, Tally]
    position: Position | None
    probes: dict[str, Probed]
    """`position`, whose two sides are the two orders, and the probes."""
    self_preference: dict[str, SelfPreference]
    """By where the gold score comes from: `label`, or `panel`, the majority of the judges of other
    models over both orders."""
    biases: tuple[str, ...]
    """What was seen to sway it: the interval of `Position.bias` or of a probe's `shift` leaves out 0, or that
    of a DBG score lies above it; over ten pairs at least."""


@dataclass(frozen=True, slots=True)
class Judge:
    """The report on one judge."""

    seat: str
    model: str
    pairs: int
    methods: dict[str, Method]
    agreement: dict[str, Estimate]
    """Two ways of judging -> share of the pairs read in both on which they agree exactly."""
    checked: dict[str, Estimate]
    """DRFR, the share of all checklist questions that are met, pooled; of both responses together (`all`), of
    those that the person prefers (`better`) and of the others (`worse`)."""
    unanswered: int
    """Checklist questions without a readable answer, which are in none of those."""

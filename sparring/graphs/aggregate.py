"""From many answers to one: every aggregation rule behind one signature.

    vote = await aggregator("majority")(ballots, equality("math"))

Rules that hold for all of them: answers are grouped once, by the injected equality; a ballot without
an answer never votes; equal totals are a tie, and a tie goes to the answer whose earliest sample has
the lowest key. So the outcome depends on the ballots alone, never on the order they arrived in.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from sparring.errors import UserError, unknown
from sparring.tools.equality import Equal, agroup

Select = Callable[[list[str]], Awaitable[str]]
"""Shows a selector model the candidate texts, in key order, and returns its reply."""


@dataclass(frozen=True, slots=True)
class Ballot:
    """One sample that may vote."""

    key: str
    """Its place in the episode; the lowest is the earliest, and numbers in it compare as numbers."""
    answer: str | None
    text: str = ""
    weight: float | None = None
    """For `weighted`: at least 0, such as a reward model's score."""
    confidence: float | None = None
    """For `reconcile` in 0..1; for `borda` any finite number, higher is more certain."""


@dataclass(frozen=True, slots=True)
class Vote:
    """What a rule made of the ballots."""

    winner: str | None
    """The earliest form of the winning answer; None where no ballot had an answer."""
    distribution: dict[str, float]
    """Earliest form of each answer -> its share; the shares sum to 1, or there are none."""
    tied: bool
    invalid: int
    """Ballots without an answer."""
    detail: dict[str, Any] = field(default_factory=dict)
    """Plain JSON: `rule`, its options, and `totals` where it adds up votes."""


class Aggregate(Protocol):
    """The one signature."""

    async def __call__(
        self, ballots: Sequence[Ballot], equal: Equal, select: Select | None = None
    ) -> Vote: ...


Points = Callable[[list[Ballot]], list[float]]
"""Votes that each ballot casts for its answer, given all ballots in key order."""

_EQUAL = 1e-9
"""Totals this close, relative to the best, are equal: .1 + .1 + .1 must tie with .3."""


def majority() -> Aggregate:
    """One ballot, one vote (self-consistency, 2203.11171; Du et al., 2305.14325)."""
    return _counted("majority", lambda ballots: [1.0] * len(ballots))


def weighted() -> Aggregate:
    """Each ballot votes with its weight, such as MAgICoRe's o + p (2409.12147)."""

    def points(ballots: list[Ballot]) -> list[float]:
        return [0.0 if b.answer is None else _number(b, "weight", b.weight) for b in ballots]

    return _counted("weighted", points)


def rescaled(confidence: float) -> float:
    """ReConcile's f(c) (2309.13007): c <= .6 -> .1; < .8 -> .3; < .9 -> .5; < 1 -> .8; 1 -> 1."""
    if confidence <= 0.6:
        return 0.1
    return next(value for below, value in _RECONCILE if confidence < below)


_RECONCILE = ((0.8, 0.3), (0.9, 0.5), (1.0, 0.8), (math.inf, 1.0))


def reconcile(rescale: Callable[[float], float] = rescaled) -> Aggregate:
    """Each ballot votes with its rescaled confidence (ReConcile, 2309.13007).

    Unlike the original: a confidence outside 0..1 is an error that names the ballot (there a TypeError),
    a missing one is an error too (there 0), and a tie follows the keys instead of dictionary order. The
    original's 1e-5 for each distinct answer changes no order and is left out.
    """

    def points(ballots: list[Ballot]) -> list[float]:
        return [
            0.0 if b.answer is None else rescale(_number(b, "confidence", b.confidence, most=1.0))
            for b in ballots
        ]

    return _counted("reconcile", points)


def borda(power: float = 0.5) -> Aggregate:
    """Self-Certainty's Borda vote (2502.18581): the ballot ranked r of N casts (N - r + 1)^power.

    Ranks are by confidence, highest first, equal ones by key. A ballot without an answer keeps its rank
    and counts in N but casts nothing, as in the original code; without a confidence too, it ranks last.
    power 0 is the majority vote; a large power is the answer of the most certain sample.
    """
    if not 0 <= power <= 64:
        raise UserError(f"borda: power must be from 0 to 64, not {power}")

    def certainty(ballot: Ballot) -> float:
        if ballot.answer is None and ballot.confidence is None:
            return -math.inf
        return _number(ballot, "confidence", ballot.confidence, least=-math.inf)

    def points(ballots: list[Ballot]) -> list[float]:
        certain = [certainty(ballot) for ballot in ballots]
        best_first = sorted(range(len(ballots)), key=lambda i: (-certain[i], i))
        cast = [0.0] * len(ballots)
        for above, i in enumerate(best_first):
            cast[i] = float(len(ballots) - above) ** power
        return cast

    return _counted("borda", points, {"power": power})


_RESPONSE = re.compile(r"Response\s{1,20}([0-9]{1,9})(?![0-9])")


def usc(first: int = 0) -> Aggregate:
    """Universal self-consistency (2311.17311): a selector model names the most consistent response.

    `select` gets all texts in key order and must number them from `first`. The last `Response <n>` of
    its reply counts; without one, or out of range, the first response is taken; where the chosen one has
    no answer, the first that has. Each of these is counted in `detail`. The distribution is the samples'
    own, which the selector may overrule, so `tied` is always False.
    """

    async def aggregate(ballots: Sequence[Ballot], equal: Equal, select: Select | None = None) -> Vote:
        if select is None:
            raise UserError(
                "aggregator `usc` needs a selector: pass `select`, an async function of the texts"
            )
        ordered = _ordered(ballots)
        classes, forms = await _classes(ordered, equal)
        if not forms:
            return Vote(None, {}, False, len(ordered), {"rule": "usc"})
        named = _RESPONSE.findall(await select([ballot.text for ballot in ordered]))
        place = int(named[-1]) - first if named else 0
        outside = not 0 <= place < len(ordered)
        chosen = 0 if outside else place
        unanswered = classes[chosen] is None
        if unanswered:
            chosen = next(i for i, index in enumerate(classes) if index is not None)
        index = classes[chosen]
        assert index is not None
        detail = {
            "rule": "usc",
            "chosen": ordered[chosen].key,
            "missing": int(not named),
            "out_of_range": int(outside),
            "unanswered": int(unanswered),
        }
        counts = [float(classes.count(k)) for k in range(len(forms))]
        return Vote(forms[index], _shares(forms, counts), False, classes.count(None), detail)

    return aggregate


AGGREGATORS: dict[str, Callable[..., Aggregate]] = {
    "majority": majority,
    "weighted": weighted,
    "reconcile": reconcile,
    "borda": borda,
    "usc": usc,
}


def aggregator(name: str, **options: Any) -> Aggregate:
    """The aggregation rule of this name. Raises `UserError` for an unknown name or option."""
    if name not in AGGREGATORS:
        raise unknown("aggregator", name, AGGREGATORS)
    known = inspect.signature(AGGREGATORS[name]).parameters
    for option in options:
        if option not in known:
            raise unknown(f"option of aggregator `{name}`", option, known)
    return AGGREGATORS[name](**options)


def natural(key: str) -> tuple[tuple[int, str], ...]:
    """Sort key by which runs of digits compare as numbers: "solver/2" before "solver/10"."""
    parts = re.split(r"([0-9]+)", key)
    numbered = [
        (len(part.lstrip("0")), part.lstrip("0")) if i % 2 else (0, part) for i, part in enumerate(parts)
    ]
    return (*numbered, (0, key))


# --- what the rules share ----------------------------------------------------------------------------


def _counted(rule: str, points: Points, options: dict[str, Any] | None = None) -> Aggregate:
    """The rule that adds up each answer's points; `points` is the only thing rules differ in."""

    async def aggregate(ballots: Sequence[Ballot], equal: Equal, select: Select | None = None) -> Vote:
        ordered = _ordered(ballots)
        classes, forms = await _classes(ordered, equal)
        cast = points(ordered)
        sums = [
            math.fsum(p for p, index in zip(cast, classes, strict=True) if index == k)
            for k in range(len(forms))
        ]
        detail = {"rule": rule, **(options or {}), "totals": dict(zip(forms, sums, strict=True))}
        if not forms:
            return Vote(None, {}, False, len(ordered), detail)
        best = max(sums)
        leading = [k for k, total in enumerate(sums) if total >= best - _EQUAL * best]
        return Vote(
            winner=forms[leading[0]],  # classes are numbered by their earliest sample
            distribution=_shares(forms, sums),
            tied=len(leading) > 1,
            invalid=classes.count(None),
            detail=detail,
        )

    return aggregate


def _ordered(ballots: Sequence[Ballot]) -> list[Ballot]:
    """In key order, blank answers as none."""
    if len({ballot.key for ballot in ballots}) < len(ballots):
        raise UserError("two ballots have the same key; a key names one sample's place in its episode")
    ordered = sorted(ballots, key=lambda ballot: natural(ballot.key))
    return [b if b.answer is None or b.answer.strip() else replace(b, answer=None) for b in ordered]


async def _classes(ordered: list[Ballot], equal: Equal) -> tuple[list[int | None], list[str]]:
    """Class of each ballot, and the earliest form of each class."""
    classes = await agroup([ballot.answer for ballot in ordered], equal)
    forms: list[str] = []
    for ballot, index in zip(ordered, classes, strict=True):
        if ballot.answer is not None and index == len(forms):
            forms.append(ballot.answer)
    return classes, forms


def _shares(forms: list[str], sums: list[float]) -> dict[str, float]:
    """Totals as shares of 1; where every total is 0, equal shares."""
    whole = math.fsum(sums)
    return {
        form: total / whole if whole > 0 else 1 / len(forms) for form, total in zip(forms, sums, strict=True)
    }


def _number(ballot: Ballot, name: str, value: float | None, least: float = 0.0, most: float = 1e300) -> float:
    if value is None:
        raise UserError(f"ballot `{ballot.key}` has an answer but no {name}")
    if not (math.isfinite(value) and least <= value <= most):
        bounds = "finite" if least == -math.inf else f"from {least:g} to {most:g}"
        raise UserError(f"ballot `{ballot.key}`: {name} must be {bounds}, not {value}")
    return float(value)

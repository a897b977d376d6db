"""SE-Agent's pool (2508.02085): what an attempt is worth without tests, who stays, who is put together.

Functions of what is known of the attempts alone, so that a journal leads to the same pool again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any, Literal, TypedDict

from sparring.graphs.protocols.software_attempts import Attempt
from sparring.graphs.protocols.software_evidence import HIGH, LOW
from sparring.graphs.protocols.software_place import Made
from sparring.tools.swe.likeness import normal

Operator = Literal["pilot", "revise", "crossover", "transfer", "restructure"]
PARTS: dict[Operator, tuple[str, ...]] = {
    "revise": ("The attempt",),
    "crossover": ("The first attempt", "The second attempt"),
    "transfer": ("The source", "The target"),
    "restructure": (),
}
"""How an operator's prompt calls its parents."""
UNMADE = "no strategy"
"""How an attempt ended that was not made."""
ROUNDING = 9
"""Decimals of a score: what differs only further down is equal."""


class Birth(TypedDict):
    """An attempt that is to be made."""

    name: str
    operator: Operator
    parents: list[str]


class Member(TypedDict):
    """An attempt that was made."""

    name: str
    operator: Operator
    parents: list[str]
    attempt: Attempt
    summary: dict[str, Any] | None
    """`AttemptSummary`; None where nobody was asked or it could not be read."""
    value: int | None
    parts: dict[str, float]
    """Of the score, each 0..1."""
    score: float
    """0..1."""
    capped: str | None
    """Which cap was reached."""


def made_of(members: Sequence[Member]) -> list[Member]:
    """Those whose strategy could be read."""
    return [one for one in members if one["attempt"]["exit_status"] != UNMADE]


def member(attempt: Attempt, event: dict[str, Any]) -> Member:
    """A member from its event; an attempt that was not made has a score of 0 and nothing else."""
    return Member(
        name=event["name"],
        operator=event["operator"],
        parents=event["parents"],
        attempt=attempt,
        summary=event.get("summary"),
        value=event.get("value"),
        parts=event.get("parts", {}),
        score=event.get("score", 0.0),
        capped=event["capped"],
    )


def unmade(name: str) -> Attempt:
    """In place of an attempt whose strategy nobody could read."""
    return Attempt(name=name, strategy="", patch="", exit_status=UNMADE, reason="", steps=0, base="", tree="")


def rules(attempt: Attempt, steps: Sequence[Made], shortest: int, longest: int) -> dict[str, float]:
    """What can be told of an attempt without a model and without tests, each 0..1.

    `patch`: it is not empty. `edits`: share of its steps that changed the tree. `length`: 1 where its steps
    are `shortest` to `longest`.
    """
    trees = [attempt["base"], *(one["tree"] or "" for one in steps)]
    edits = sum(after not in ("", before) for before, after in pairwise(trees))
    return {
        "patch": float(bool(attempt["patch"])),
        "edits": edits / len(steps) if steps else 0.0,
        "length": float(shortest <= len(steps) <= longest),
    }


def scored(parts: Mapping[str, float], value: int | None, weights: Mapping[str, float]) -> float:
    """The weighted mean of the parts and the value, 0..1; where there is no value, it earns nothing."""
    shares = {**parts, "value": 0.0 if value is None else (value - LOW) / (HIGH - LOW)}
    total = sum(weights.values())
    return round(sum(weight * shares[name] for name, weight in weights.items()) / total, ROUNDING)


def kept(pool: Sequence[Member], n: int) -> list[Member]:
    """The n best, best first; of equal scores one with a change not yet among them, then the earlier one."""
    left, chosen, changes = list(pool), list[Member](), set[str]()
    while left and len(chosen) < n:
        best = max(left, key=lambda one: (one["score"], normal(one["attempt"]["patch"]) not in changes))
        left.remove(best)
        chosen.append(best)
        changes.add(normal(best["attempt"]["patch"]))
    return chosen


def mix(n: int) -> tuple[int, int, int]:
    """How many of n come by crossover, transfer and restructure: 2, 2, 1 of 5."""
    each = round(2 * n / 5)
    return each, each, n - 2 * each


def recombinations(chosen: Sequence[Member], n: int, generation: int) -> list[Birth]:
    """n attempts from a pool, best first: where it has one member alone, all of them restructure it.

    Crossovers take the pairs from the best on, those with different changes first; transfers bring what the
    best one did to each of the others in turn.
    """
    names = [one["name"] for one in chosen]
    crossovers, transfers, _ = mix(n) if len(chosen) > 1 else (0, 0, n)
    pairs = sorted(combinations(range(len(chosen)), 2), key=lambda pair: (_same(chosen, *pair), sum(pair)))
    parents: list[tuple[Operator, list[str]]] = []
    for number in range(crossovers):
        parents.append(("crossover", [names[one] for one in pairs[number % len(pairs)]]))
    for number in range(transfers):
        parents.append(("transfer", [names[0], names[1 + number % (len(names) - 1)]]))
    parents += [("restructure", list(names))] * (n - len(parents))
    return [
        Birth(name=f"{generation}.{operator}.{number}", operator=operator, parents=given)
        for number, (operator, given) in enumerate(parents)
    ]


def _same(chosen: Sequence[Member], one: int, other: int) -> bool:
    return normal(chosen[one]["attempt"]["patch"]) == normal(chosen[other]["attempt"]["patch"])


def stalled(best: Sequence[float], epsilon: float) -> int:
    """How many of the last rounds improved the best score by less than epsilon.

    Args:
        best: score of the best after each selection, the first one before any recombination.
    """
    count = 0
    for before, after in reversed(list(pairwise(best))):
        if after - before >= epsilon:
            break
        count += 1
    return count


def spoken(summary: Mapping[str, Any]) -> str:
    """A summary in words, every field in full."""
    lines = []
    for name, said in summary.items():
        text = "; ".join(said) if isinstance(said, list) else said
        lines.append(f"{name.replace('_', ' ').capitalize()}: {text or '(none)'}")
    return "\n".join(lines)

"""Wrong steps made by procedure: pairs of a right and a wrong step, where no teacher model is at hand.

SPC starts its two roles from pairs that people labelled and large models explained (2504.19162). For
arithmetic chains a procedure does both: it turns a right step into a wrong one of a named kind, says how
in a short chain of thought, and gives the critique that an exact critic would give of either.

| kind | type | what it does | used for |
|---|---|---|---|
| slip | 2 | the result is off by 1 to 3 | training |
| operator | 4 | adds for subtract and the other way round, and reckons that rightly | training |
| misread | 3 | takes another number of the problem, and reckons that rightly | training |
| skip | 5 | leaves the operation out and does the next one | training |
| carry | 2 | the result has a ten too many or too few | held out |
| stale | 1 | works from the value before the current one | held out |
| repeat | 1 | does the operation before once more | held out |
| restart | 5 | works from the value that the problem starts with | held out |
| transpose | 2 | the two digits of the result change places (needs results above 20) | held out |

The kinds that are held out never make training rows: they measure whether a critic that learned from the
others knows an error that it was never shown. A step that several kinds could make counts as the first of
them in the table, so what is held out cannot be made by a training kind. Wrong steps stay in the range of
right ones, or their size would give them away.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from sparring.errors import UserError, unknown
from sparring.tools.chains import RESULTS, Chain, Operation, Step, stated


@dataclass(frozen=True, slots=True)
class Kind:
    """A procedure that makes wrong steps."""

    name: str
    error_id: int
    """The type it belongs to, of SPC's five."""
    thought: str
    """That type and how it is done, with `{wrong}` and `{right}`, the values that the two steps come to."""
    held_out: bool
    make: Callable[[Chain, int], list[str]]
    """Chain and index of a step of its right solution -> what it could be turned into, if anything."""


@dataclass(frozen=True, slots=True)
class StepPair:
    """A right and a wrong step on the same prefix, with what a teacher would have said."""

    problem: str
    prefix: tuple[str, ...]
    correct: str
    wrong: str
    kind: str
    error_id: int
    thought: str
    """The sneaky generator's: the name of the error type, and what is done."""
    critique_correct: str
    critique_wrong: str


# --- the kinds ---------------------------------------------------------------------------------------


def _slip(chain: Chain, index: int) -> list[str]:
    return [_off(chain, index, by) for by in (-3, -2, -1, 1, 2, 3)]


def _carry(chain: Chain, index: int) -> list[str]:
    return [_off(chain, index, by) for by in (-10, 10)]


def _transpose(chain: Chain, index: int) -> list[str]:
    value = chain.values[index + 1]
    return [_off(chain, index, int(str(value)[::-1]) - value)] if 10 < value < 100 and value % 10 else []


def _off(chain: Chain, index: int, by: int) -> str:
    """The right step, its result off by so much."""
    step = Step.of(chain.values[index], chain.operations[index])
    return str(replace(step, result=step.result + by))


def _operator(chain: Chain, index: int) -> list[str]:
    operation = chain.operations[index]
    other = {"+": "-", "-": "+", "*": "+"}[operation.sign]
    return [_doing(chain, index, replace(operation, sign=other))]


def _misread(chain: Chain, index: int) -> list[str]:
    operation = chain.operations[index]
    numbers = sorted({other.number for other in chain.operations} | {chain.start})
    return [_doing(chain, index, replace(operation, number=number)) for number in numbers]


def _skip(chain: Chain, index: int) -> list[str]:
    return [_doing(chain, index, following) for following in chain.operations[index + 1 : index + 2]]


def _repeat(chain: Chain, index: int) -> list[str]:
    return [_doing(chain, index, chain.operations[index - 1])] if index else []


def _doing(chain: Chain, index: int, operation: Operation) -> str:
    """Another operation on the value reached, rightly reckoned."""
    return str(Step.of(chain.values[index], operation))


def _stale(chain: Chain, index: int) -> list[str]:
    return [_from(chain, index, chain.values[index - 1])] if index else []


def _restart(chain: Chain, index: int) -> list[str]:
    return [_from(chain, index, chain.start)] if index else []


def _from(chain: Chain, index: int, value: int) -> str:
    """The operation on another value, rightly reckoned."""
    return str(Step.of(value, chain.operations[index]))


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("slip", 2, "calculation error. The result is {right}, I write {wrong}.", False, _slip),
        Kind(
            "operator", 4, "wrong rule. I turn the sign round and get {wrong}, not {right}.", False, _operator
        ),
        Kind("misread", 3, "misread condition. Another number gives {wrong}, not {right}.", False, _misread),
        Kind("skip", 5, "wrong approach. I skip to the next and get {wrong}, not {right}.", False, _skip),
        Kind("carry", 2, "calculation error. A ten too many or few: {wrong}, not {right}.", True, _carry),
        Kind("stale", 1, "logical error. An earlier value gives {wrong}, not {right}.", True, _stale),
        Kind("repeat", 1, "logical error. I do the last one again: {wrong}, not {right}.", True, _repeat),
        Kind("restart", 5, "wrong approach. From the start I get {wrong}, not {right}.", True, _restart),
        Kind("transpose", 2, "calculation error. I write {right} as {wrong}.", True, _transpose),
    )
}
TRAINING = tuple(name for name, kind in KINDS.items() if not kind.held_out)
HELD_OUT = tuple(name for name, kind in KINDS.items() if kind.held_out)


def wrong_steps(chain: Chain, index: int, results: tuple[int, int] = RESULTS) -> dict[str, list[str]]:
    """Kind -> the wrong steps that it, and none before it in the table, makes in this place.

    Each comes to another value than the right step, inside `results`: so whoever goes on from it without
    further error comes to another answer too (sums and differences keep a gap, products widen it).
    """
    seen: set[str] = set()
    found: dict[str, list[str]] = {}
    right = stated(chain.steps[index])
    for name, kind in KINDS.items():
        made = [step for step in kind.make(chain, index) if step not in seen]
        seen.update(made)
        found[name] = [step for step in made if (value := stated(step)) != right and _inside(value, results)]
    return found


def _inside(value: int | None, results: tuple[int, int]) -> bool:
    return value is not None and results[0] <= value <= results[1]


def kind_of(problem: str, prefix: Sequence[str], step: str) -> str | None:
    """The kind of error that a wrong step shows; None where it is right or of no kind of the table.

    Raises:
        UserError: the problem is no chain, or it is solved already.
    """
    chain, index = _place(problem, prefix)
    text, everything = str(Step.parse(step)), (-(10**9), 10**9)
    made = wrong_steps(chain, index, everything).items()
    return next((name for name, steps in made if text in steps), None)


def _place(problem: str, prefix: Sequence[str]) -> tuple[Chain, int]:
    chain = Chain.parse(problem)
    if len(prefix) >= len(chain.steps):
        raise UserError(f"the chain `{problem}` has {len(chain.steps)} steps; there is none after them")
    return chain, len(prefix)


def critique(problem: str, prefix: Sequence[str], step: str) -> str:
    """What an exact critic says: the step that has to come, and whether this one is it.

    Args:
        problem: A chain's text.
        prefix: The steps before, taken to be right.
        step: The step to be judged, which may be anything.

    Raises:
        UserError: the problem is no chain, or it is solved already.
    """
    chain, index = _place(problem, prefix)
    wanted = chain.steps[index]
    if chain.right(index, step):
        return f"{wanted}. <Answer>Correct</Answer>"
    value = stated(step)
    shown = " ".join(step.split())[:40] if value in (None, stated(wanted)) else value
    return f"{wanted}, not {shown}. <Answer>Incorrect</Answer>"


def corrupt(
    chain: Chain, index: int, kind: str, rng: random.Random, results: tuple[int, int] = RESULTS
) -> StepPair | None:
    """A wrong step of this kind in the place of a right one; None where the kind does not apply there.

    Args:
        chain: The problem.
        index: Of the step of its right solution, from 0.
        kind: A name in `KINDS`.
        rng: Chooses where the kind leaves a choice.
        results: Smallest and largest value that the wrong step may come to.

    Raises:
        UserError: no such kind.
    """
    if kind not in KINDS:
        raise unknown("kind of error", kind, KINDS)
    if not 0 <= index < len(chain.steps) or not (steps := wrong_steps(chain, index, results)[kind]):
        return None
    return _pair(chain, index, rng.choice(steps), KINDS[kind])


def _pair(chain: Chain, index: int, wrong: str, kind: Kind) -> StepPair:
    prefix, correct = chain.steps[:index], chain.steps[index]
    return StepPair(
        problem=chain.problem,
        prefix=prefix,
        correct=correct,
        wrong=wrong,
        kind=kind.name,
        error_id=kind.error_id,
        thought=kind.thought.format(wrong=stated(wrong), right=stated(correct)),
        critique_correct=critique(chain.problem, prefix, correct),
        critique_wrong=critique(chain.problem, prefix, wrong),
    )


def pairs(
    chains: Iterable[Chain],
    seed: int,
    kinds: Collection[str] = TRAINING,
    results: tuple[int, int] = RESULTS,
) -> list[StepPair]:
    """A pair a chain: the kind used least so far that applies, in a random place of those where it does.

    Chains on which none applies are left out. Raises `UserError` for an unknown kind.
    """
    rng, made, used = random.Random(seed), list[StepPair](), dict.fromkeys(kinds, 0)
    for chain in chains:
        places = rng.sample(range(len(chain.steps)), len(chain.steps))
        for kind in sorted(used, key=lambda name: used[name]):
            tried = (corrupt(chain, place, kind, rng, results) for place in places)
            if (pair := next(filter(None, tried), None)) is not None:
                made.append(pair)
                used[kind] += 1
                break
    return made


def wrong_solution(pair: StepPair) -> tuple[str, ...]:
    """All steps of a solution with this wrong one, gone on with from there without further error."""
    value = stated(pair.wrong)
    assert value is not None
    return (*pair.prefix, pair.wrong, *Chain.parse(pair.problem).onwards(len(pair.prefix) + 1, value))

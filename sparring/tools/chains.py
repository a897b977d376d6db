"""Arithmetic chains: problems whose every step can be checked exactly.

    Start with 7. Add 5. Subtract 3.      7 + 5 = 12
                                          12 - 3 = 9
                                          Answer: 9

A solution is a list of steps, one a line, and a line that states the answer. The n-th step stands for the
n-th operation of the problem. Small models can learn these, and `follow` knows of every step whether it
is right, which makes chains the ground on which step critics are trained and measured.

Steps are a model's words: they are matched by bounded patterns, never evaluated.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import add, mul, sub

from sparring.errors import UserError

APPLY: dict[str, Callable[[int, int], int]] = {"+": add, "-": sub, "*": mul}
WORDS = {"+": "Add", "-": "Subtract", "*": "Multiply by"}
SIGNS = {word: sign for sign, word in WORDS.items()}

_WORD = "|".join(WORDS.values())
_PROBLEM = re.compile(rf"Start with ([0-9]{{1,6}})\.((?: (?:{_WORD}) [0-9]{{1,6}}\.){{1,64}})")
_OPERATION = re.compile(rf"({_WORD}) ([0-9]{{1,6}})\.")
_STEP = re.compile(r"(-?[0-9]{1,9}) {0,3}([-+*]) {0,3}([0-9]{1,9}) {0,3}= {0,3}(-?[0-9]{1,9})\.?")
_ANSWER = re.compile(r"answer {0,3}: {0,3}(-?[0-9]{1,9})\.?", re.IGNORECASE)
RESULTS = (0, 20)
"""The values that chains pass through, unless asked otherwise."""
MOST = {"lengths": 64, "numbers": 999_999, "results": 999_999}
"""Beyond these a chain's text would not be read back."""
TRIES = 200
"""Draws per chain asked for before `generate` gives up on finding new ones."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a problem, on the value that the chain has reached."""

    sign: str
    number: int

    def __call__(self, value: int) -> int:
        return APPLY[self.sign](value, self.number)

    def __str__(self) -> str:
        return f"{WORDS[self.sign]} {self.number}."


@dataclass(frozen=True, slots=True)
class Step:
    """One step as it was stated; it need not be right."""

    left: int
    sign: str
    number: int
    result: int

    @classmethod
    def of(cls, value: int, operation: Operation) -> Step:
        """The right step from `value`."""
        return cls(value, operation.sign, operation.number, operation(value))

    @classmethod
    def parse(cls, text: str) -> Step | None:
        """The step of a text; None where it is none."""
        match = _STEP.fullmatch(text.strip())
        return cls(int(match[1]), match[2], int(match[3]), int(match[4])) if match else None

    @property
    def consistent(self) -> bool:
        """Whether the stated result is that of the stated operation."""
        return APPLY[self.sign](self.left, self.number) == self.result

    def same(self, other: Step) -> bool:
        """Equal, a sum or product in either order."""
        turned = Step(other.number, other.sign, other.left, other.result)
        return self == other or (self.sign in "+*" and self == turned)

    def __str__(self) -> str:
        return f"{self.left} {self.sign} {self.number} = {self.result}"


@dataclass(frozen=True)
class Chain:
    """A problem: where it starts and what is done, in order."""

    start: int
    operations: tuple[Operation, ...]

    @classmethod
    def parse(cls, problem: str) -> Chain:
        """The chain of a problem's text.

        Raises:
            UserError: the text is not of the form that `problem` has.
        """
        match = _PROBLEM.fullmatch(problem.strip())
        if match is None:
            shown = " ".join(problem.split())[:60]
            raise UserError(
                f"`{shown}` is no arithmetic chain; one reads `Start with 7. Add 5. Subtract 3.` "
                "(examples/chains/make_tasks.py writes them)"
            )
        found = _OPERATION.finditer(match[2])
        return cls(int(match[1]), tuple(Operation(SIGNS[one[1]], int(one[2])) for one in found))

    @property
    def problem(self) -> str:
        return " ".join([f"Start with {self.start}.", *map(str, self.operations)])

    @cached_property
    def values(self) -> tuple[int, ...]:
        """The start and the value after each operation: one more than there are operations."""
        reached = [self.start]
        for operation in self.operations:
            reached.append(operation(reached[-1]))
        return tuple(reached)

    @cached_property
    def steps(self) -> tuple[str, ...]:
        """The right solution: one step an operation."""
        return self.onwards(0, self.start)

    def onwards(self, done: int, value: int) -> tuple[str, ...]:
        """The steps that are left after `done` of them have come to `value`."""
        steps = []
        for operation in self.operations[done:]:
            steps.append(str(Step.of(value, operation)))
            value = operation(value)
        return tuple(steps)

    @property
    def answer(self) -> str:
        return str(self.values[-1])

    @property
    def solution(self) -> str:
        """The right solution as one text, its answer in the last line."""
        return "\n".join((*self.steps, f"Answer: {self.answer}"))

    def right(self, index: int, step: str) -> bool:
        """Whether a step, or after the last one the answer line, is right, those before it being right."""
        if index < len(self.operations):
            found = Step.parse(step)
            return found is not None and found.same(Step.of(self.values[index], self.operations[index]))
        return index == len(self.operations) and stated_answer(step) == self.values[-1]


def stated_answer(step: str) -> int | None:
    """The answer that a line states; None where it is no answer line."""
    match = _ANSWER.fullmatch(step.strip())
    return int(match[1]) if match else None


def stated(step: str) -> int | None:
    """The value that a step comes to: its result, or the answer; None where it cannot be read."""
    found = Step.parse(step)
    return stated_answer(step) if found is None else found.result


def follow(problem: str, steps: Sequence[str]) -> list[bool]:
    """Whether each step is right, given the problem and the steps before it.

    A step is right if it does the operation whose turn it is to the value reached, with the right result;
    after the last one, the right answer line is. What comes after the first wrong step hangs on a wrong
    value and is False throughout.

    Raises:
        UserError: the problem is no chain.
    """
    chain = Chain.parse(problem)
    held: list[bool] = []
    for index, step in enumerate(steps):
        held.append(all(held) and chain.right(index, step))
    return held


def first_error(problem: str, steps: Sequence[str]) -> int:
    """Index of the first wrong step; -1 where all are right."""
    held = follow(problem, steps)
    return -1 if all(held) else held.index(False)


def exact_continuation(problem: str, steps: Sequence[str]) -> str | None:
    """The answer reached by going on without further error from the result that the last step states.

    The n-th step counts as the n-th operation, whatever it did, so the rest is what the problem says after
    it. With an answer line for last step, its answer. None where the last step cannot be read.

    Raises:
        UserError: the problem is no chain.
    """
    chain = Chain.parse(problem)
    if not steps:
        return chain.answer
    if (value := stated(steps[-1])) is None:
        return None
    if stated_answer(steps[-1]) is None:
        for operation in chain.operations[len(steps) :]:
            value = operation(value)
    return str(value)


def generate(
    count: int,
    seed: int,
    *,
    lengths: tuple[int, int] = (3, 5),
    numbers: tuple[int, int] = (1, 9),
    results: tuple[int, int] = RESULTS,
    signs: str = "+-",
    without: Collection[Chain] = (),
) -> list[Chain]:
    """Distinct chains, the same for the same arguments.

    Args:
        count: How many.
        seed: Decides which.
        lengths: Fewest and most operations.
        numbers: Smallest and largest number of an operation.
        results: Smallest and largest value a chain passes through, its start included.
        signs: The operations used, of `+-*`.
        without: Chains that are not to come up.

    Raises:
        UserError: these ranges do not hold so many chains.
    """
    for name, (low, high) in {"lengths": lengths, "numbers": numbers, "results": results}.items():
        if low > high or low < (0 if name == "results" else 1) or high > MOST[name]:
            raise UserError(f"chains: `{name}` ({low}, {high}) is no range they can be drawn from")
    if not signs or set(signs) - set(APPLY):
        raise UserError(f"chains: signs `{signs}`; known: {' '.join(APPLY)}")
    rng = random.Random(seed)
    taken, found = set(without), list[Chain]()
    for _ in range(TRIES * count):
        if len(found) == count:
            break
        chain = _draw(rng, rng.randint(*lengths), numbers, results, signs)
        if chain is not None and chain not in taken:
            taken.add(chain)
            found.append(chain)
    if len(found) < count:
        raise UserError(f"chains: only {len(found)} of {count} found in these ranges; widen them")
    return found


def _draw(
    rng: random.Random, length: int, numbers: tuple[int, int], results: tuple[int, int], signs: str
) -> Chain | None:
    """One chain, a sign as likely as another where both stay inside; None where none does."""
    low, high = results
    value = start = rng.randint(low, high)
    operations = list[Operation]()
    for _ in range(length):
        open_to = {
            sign: fitting
            for sign in signs
            if (
                fitting := [
                    n for n in range(numbers[0], numbers[1] + 1) if low <= APPLY[sign](value, n) <= high
                ]
            )
        }
        if not open_to:
            return None
        sign = rng.choice(list(open_to))
        operations.append(Operation(sign, rng.choice(open_to[sign])))
        value = operations[-1](value)
    return Chain(start, tuple(operations))

"""What a whole run may spend, and what it has spent: one purse for all engines of a run, in all its lives.

The purse is asked before each attempt at a call, after the call has waited for its turn, and filled by what
the backend says that a call took. A call begins where its prompt, as long as it seems, and a reply as long as
it may be fit into what is left beside the calls under way; else it waits for them. One by itself begins as
long as anything is left. So a run spends more than its budget by one call at most, or by what prompts were
longer than they seemed. Samples of one request that a backend takes as separate calls
(`one_sample_per_call`) are all made once one has begun.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace

from sparring.agents.engines.base import Usage
from sparring.errors import BudgetSpent, UserError

SPENT = ("prompt_tokens", "completion_tokens", "cost")


@dataclass(frozen=True, slots=True)
class Budget:
    """Caps of a whole run, with the pool of its baseline and all runs that belong to it. None: no cap.

    No part of what makes a run: the same run goes on under another budget.
    """

    cost: float | None = None
    """Money, in the unit of the engines' prices (`?price_in=`, `?price_out=`)."""
    tokens: int | None = None
    """Prompt and completion tokens together, of calls that a backend answered."""

    def __post_init__(self) -> None:
        for name, cap in asdict(self).items():
            if cap is not None and not cap > 0:
                raise UserError(f"a run's budget of {name} must be above 0, not {cap:g}")


@dataclass(slots=True)
class Purse:
    """A budget and what has gone of it, calls of earlier lives included."""

    budget: Budget = Budget()
    cost: float = 0.0
    tokens: int = 0
    run: str = ""
    """Whose purse it is."""
    shut: bool = False
    """Spend nothing more, whatever is left: said by whoever keeps the purse in another process."""
    _under_way: int = 0
    _expected_cost: float = 0.0
    _expected_tokens: int = 0
    """Of the calls under way together."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, usage: Usage) -> None:
        """Count what a call took."""
        self.cost += usage.cost
        self.tokens += _tokens(usage)

    @property
    def empty(self) -> bool:
        """Whether nothing more may be spent."""
        caps = ((self.cost, self.budget.cost), (self.tokens, self.budget.tokens))
        return self.shut or any(cap is not None and spent >= cap for spent, cap in caps)

    def check(self) -> None:
        """Raise `BudgetSpent` where nothing more may be spent."""
        if self.empty:
            raise BudgetSpent(self.said)

    async def admit(self, expected: Usage) -> None:
        """Wait until a call that may take so much fits beside those under way, or is by itself.

        Raises:
            BudgetSpent: nothing more may be spent.
        """
        self.check()
        while self._under_way and not self._fits(expected):
            await self._changed.wait()
            self.check()

    def _fits(self, expected: Usage) -> bool:
        cost = self.cost + self._expected_cost + expected.cost
        tokens = self.tokens + self._expected_tokens + _tokens(expected)
        caps = ((cost, self.budget.cost), (tokens, self.budget.tokens))
        return all(cap is None or planned <= cap for planned, cap in caps)

    @contextmanager
    def hold(self, expected: Usage) -> Iterator[None]:
        """While it lasts, a call is under way."""
        self._expect(expected, 1)
        try:
            yield
        finally:
            self._expect(expected, -1)
            self._changed.set()  # wakes all who wait now, and nobody who comes later
            self._changed.clear()

    def _expect(self, call: Usage, sign: int) -> None:
        self._under_way += sign
        self._expected_tokens += sign * _tokens(call)
        self._expected_cost = self._expected_cost + sign * call.cost if self._under_way else 0.0

    @property
    def said(self) -> str:
        """How much has gone, of which cap."""
        parts = []
        if self.budget.cost is not None:
            parts.append(f"{self.cost:.4g} of {self.budget.cost:g} in money")
        if self.budget.tokens is not None:
            parts.append(f"{self.tokens} of {self.budget.tokens} tokens")
        return f"the run's budget is spent: {' and '.join(parts) or 'its driver says so'}"


@dataclass(slots=True)
class Once:
    """A purse that is asked once for several calls alike: when the first of them begins, all are made."""

    purse: Purse
    calls: int
    _begun: bool = False
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def admit(self, expected: Usage) -> None:
        """As the purse's, for all calls together; `expected` is of each."""
        async with self._asking:
            if not self._begun:
                total = {name: self.calls * getattr(expected, name) for name in SPENT}
                await self.purse.admit(replace(expected, **total))
                self._begun = True

    def hold(self, expected: Usage) -> AbstractContextManager[None]:
        """As the purse's."""
        return self.purse.hold(expected)


def _tokens(usage: Usage) -> int:
    return usage.prompt_tokens + usage.completion_tokens

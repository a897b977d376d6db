"""What a whole run may spend, and what it has spent: one purse for all engines of a run, in all its lives.

The purse is asked before each attempt at a call, after the call has waited for its turn, and filled by what
the backend says that a call took. So a run spends more than its budget by what was in flight when the last
of it went, and by nothing else: those calls finish, since they are paid for, and no other begins. Samples
of one request that a backend takes as separate calls (`one_sample_per_call`) are all made once one has begun.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sparring.agents.engines.base import Usage
from sparring.errors import BudgetSpent, UserError


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

    def add(self, usage: Usage) -> None:
        """Count what a call took."""
        self.cost += usage.cost
        self.tokens += usage.prompt_tokens + usage.completion_tokens

    @property
    def empty(self) -> bool:
        """Whether nothing more may be spent."""
        caps = ((self.cost, self.budget.cost), (self.tokens, self.budget.tokens))
        return self.shut or any(cap is not None and spent >= cap for spent, cap in caps)

    def check(self) -> None:
        """Raise `BudgetSpent` where nothing more may be spent."""
        if self.empty:
            raise BudgetSpent(self.said)

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
    """A purse that is asked once for several calls: when the first of them has begun, all are made."""

    purse: Purse
    begun: bool = False

    def check(self) -> None:
        """Raise `BudgetSpent` where nothing more may be spent and none of the calls has begun."""
        if not self.begun:
            self.purse.check()
            self.begun = True

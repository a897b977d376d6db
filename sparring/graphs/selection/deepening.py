"""Iterative deepening (Chen, Koenig, Dilkina 2502.05449): budgets that grow, and a second thought at each.

    1. Generate until the budget B is spent or the response ends.
    2. Not ended: say that there may be a mistake, and go on with the budget `growth` times B in all.
    3. Stop at the end of the response or at the limit.

The paper continues one response; here the second thought is a message of its own between two replies, as chat
models take it. Whether v1 also interrupts a response that ended early is not known: it does not here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field, model_validator

from sparring.agents.parsing import statement
from sparring.agents.roles import Role
from sparring.graphs.aggregate import Ballot, aggregator
from sparring.graphs.context import Context
from sparring.graphs.protocol import Protocol
from sparring.graphs.protocols.debate_views import conversation, heard
from sparring.graphs.selection.base import Choice, Method, Pool
from sparring.memory.records import Turn

SEAT = "deepener"


class Deepening(Method):
    """`n` responses that were made to think again, and their majority."""

    name: ClassVar[str] = "deepening"
    pooled: ClassVar[bool] = False

    n: int = Field(default=1, ge=1)
    budget: int = Field(default=128, ge=1)
    """B0, in tokens."""
    growth: float = Field(default=2.0, gt=1, allow_inf_nan=False)
    limit: int = Field(default=1024, ge=1)
    """Tokens of a response in all."""

    @model_validator(mode="after")
    def _bounded(self) -> Deepening:
        if self.limit < self.budget:
            raise ValueError(f"the limit of {self.limit} tokens is below the first budget, {self.budget}")
        return self

    def seats(self, protocol: Protocol, answer: str) -> dict[str, Role]:
        return {
            SEAT: protocol.role(SEAT, dict.fromkeys(("question", "deepen"), statement(answer)), ["question"])
        }

    @property
    def budgets(self) -> list[int]:
        """Tokens in all after each part: B0, growth B0, growth^2 B0, ..., the limit."""
        found = [self.budget]
        while found[-1] < self.limit:
            found.append(min(self.limit, max(found[-1] + 1, int(found[-1] * self.growth))))
        return found

    def calls(self, samples: int) -> int:
        return self.n * len(self.budgets)

    async def choose(self, pool: Pool, context: Context, label: str) -> Choice:
        responses = await asyncio.gather(
            *(self._response(pool, context, f"{label}/{number}") for number in range(self.n))
        )
        ballots = [Ballot(str(number), _last(parts)) for number, parts in enumerate(responses)]
        vote = await aggregator("majority")(ballots, context.equal)
        return Choice(vote.winner, {"parts": [len(parts) for parts in responses], "tied": vote.tied})

    async def _response(self, pool: Pool, context: Context, key: str) -> list[Turn]:
        """What was said, part by part."""
        shown: dict[str, Any] = {"question": pool.question}
        said: list[Turn] = []
        spent = 0
        for number, upto in enumerate(self.budgets):
            asked = [("deepen" if place else "question", shown) for place in range(number)]
            history = conversation(context.agent(SEAT), asked, [{"text": heard(turn)} for turn in said])
            occasion = "deepen" if number else "question"
            turn = await context.act(
                SEAT, f"{key}/{number}", occasion, shown, history, max_tokens=upto - spent
            )
            said.append(turn)
            spent = upto
            if turn.status != "truncated":
                break
        return said


def _last(parts: Sequence[Turn]) -> str | None:
    """The answer of the last part that has one."""
    return next((turn.parsed["answer"] for turn in reversed(parts) if turn.parsed), None)

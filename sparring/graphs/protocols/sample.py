"""Single answer, self-consistency, best of N: n samples of one prompt and a vote.

The baseline of everything. Samples of one prompt are one request and one prefill; each is a turn of its
own (`sample/0`, `sample/1`, ...), so a pool of them can be subsampled later at any budget.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypedDict

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from sparring.agents.parsing import statement
from sparring.agents.roles import Role
from sparring.graphs.aggregate import Ballot, aggregator
from sparring.graphs.context import Context
from sparring.graphs.protocol import Outcome, Protocol, in_line, voted


class SampleState(TypedDict, total=False):
    question: str
    ballots: list[dict[str, Any]]
    outcome: Outcome


class Sample(Protocol):
    """n independent answers, the most frequent wins (Wang et al. 2203.11171)."""

    name: ClassVar[str] = "sample"

    n: int = Field(default=1, ge=1)
    """Samples of one question; 1 is a single answer."""
    answer: str = "line"
    """Answer format: a name in `agents.parsing.ANSWER_FORMATS`."""

    def seats(self) -> dict[str, Role]:
        return {"solver": self.role("solver", {"question": statement(self.answer)}, ["question", "persona"])}

    @property
    def max_calls(self) -> int:
        return self.n

    def graph(self) -> StateGraph[Any, Context, Any, Any]:
        return in_line(SampleState, self.sample, self.vote)

    async def sample(self, state: SampleState, runtime: Runtime[Context]) -> SampleState:
        """Node: all samples, in one request."""
        keys = [f"sample/{place}" for place in range(self.n)]
        variables = {"question": state["question"], "persona": ""}
        turns = await runtime.context.sample("solver", keys, "question", variables)
        return {
            "ballots": [
                {"key": t.key, "answer": (t.parsed or {}).get("answer"), "text": t.text} for t in turns
            ]
        }

    async def vote(self, state: SampleState, runtime: Runtime[Context]) -> SampleState:
        """Node: the majority of those that can be read."""
        ballots = [Ballot(**ballot) for ballot in state["ballots"]]
        outcome = voted(await aggregator("majority")(ballots, runtime.context.equal))
        # The journaled decision holds: an equality may run out of time, and not do so in a replay.
        kept: Any = await runtime.context.episode.event("vote", "0", dict(outcome))
        return {"outcome": kept}

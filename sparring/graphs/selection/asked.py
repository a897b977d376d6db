"""Methods that show the samples to a model once: which one, what do they agree on, write a better one."""

from __future__ import annotations

from typing import ClassVar

from sparring.agents.parsing import note, statement
from sparring.agents.roles import Role
from sparring.graphs.aggregate import aggregator
from sparring.graphs.context import Context
from sparring.graphs.protocol import Protocol
from sparring.graphs.selection.base import Choice, Method, Pool, ballots, chosen

SHOWN = ["question", "texts"]


class Usc(Method):
    """Universal self-consistency (Chen et al. 2311.17311): a selector names the most consistent response."""

    name: ClassVar[str] = "usc"

    def seats(self, protocol: Protocol, answer: str) -> dict[str, Role]:
        return {"selector": protocol.role("selector", {"select": note}, SHOWN)}

    def calls(self, samples: int) -> int:
        return 1

    async def choose(self, pool: Pool, context: Context, label: str) -> Choice:
        async def select(texts: list[str]) -> str:
            shown = {"question": pool.question, "texts": texts}
            return (await context.act("selector", f"{label}/select", "select", shown)).text

        return chosen(await aggregator("usc")(ballots(pool), context.equal, select))


class _Written(Method):
    """One call that reads all samples and gives an answer of its own."""

    seat: ClassVar[str]
    occasion: ClassVar[str]

    def seats(self, protocol: Protocol, answer: str) -> dict[str, Role]:
        return {self.seat: protocol.role(self.seat, {self.occasion: statement(answer)}, SHOWN)}

    def calls(self, samples: int) -> int:
        return 1

    async def choose(self, pool: Pool, context: Context, label: str) -> Choice:
        shown = {"question": pool.question, "texts": [chain.text for chain in pool.chains]}
        turn = await context.act(self.seat, f"{label}/{self.occasion}", self.occasion, shown)
        return Choice((turn.parsed or {}).get("answer"), {"status": turn.status})


class Gsa(_Written):
    """Generative self-aggregation (Li et al. 2503.04104): a new response, written with all others in view.

    No ranking and no search for errors is asked for. It may be right although no sample is.
    """

    name: ClassVar[str] = "gsa"
    seat: ClassVar[str] = "aggregator"
    occasion: ClassVar[str] = "write"


class SelfAgreement(_Written):
    """Self-agreement (Lin et al. 2311.08154): the model is asked once more, for what its samples agree on."""

    name: ClassVar[str] = "self_agreement"
    seat: ClassVar[str] = "agreer"
    occasion: ClassVar[str] = "agree"

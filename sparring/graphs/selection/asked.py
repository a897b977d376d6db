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


class Gsa(Method):
    """Generative self-aggregation (Li et al. 2503.04104): a new response, written with all others in view.

    No ranking and no search for errors is asked for. It may be right although no sample is.
    """

    name: ClassVar[str] = "gsa"

    def seats(self, protocol: Protocol, answer: str) -> dict[str, Role]:
        return {"aggregator": protocol.role("aggregator", {"write": statement(answer)}, SHOWN)}

    def calls(self, samples: int) -> int:
        return 1

    async def choose(self, pool: Pool, context: Context, label: str) -> Choice:
        shown = {"question": pool.question, "texts": [chain.text for chain in pool.chains]}
        turn = await context.act("aggregator", f"{label}/write", "write", shown)
        return Choice((turn.parsed or {}).get("answer"), {"status": turn.status})


class SelfAgreement(Method):
    """Self-agreement (Lin et al. 2311.08154): the model is asked once more, for what its samples agree on."""

    name: ClassVar[str] = "self_agreement"

    def seats(self, protocol: Protocol, answer: str) -> dict[str, Role]:
        return {"agreer": protocol.role("agreer", {"agree": statement(answer)}, SHOWN)}

    def calls(self, samples: int) -> int:
        return 1

    async def choose(self, pool: Pool, context: Context, label: str) -> Choice:
        shown = {"question": pool.question, "texts": [chain.text for chain in pool.chains]}
        turn = await context.act("agreer", f"{label}/agree", "agree", shown)
        return Choice((turn.parsed or {}).get("answer"), {"status": turn.status})

"""Methods that write a sample anew: self-refine by the model's own feedback, GLoRe by where scores break."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from pydantic import Field

from sparring.agents.parsing import statement, verdict
from sparring.agents.roles import Role
from sparring.graphs.context import Context
from sparring.graphs.protocol import Protocol
from sparring.graphs.scorers.base import Chain
from sparring.graphs.selection.base import Choice, Method, Need, Pool

CRITIC, REWRITER = "self_critic", "rewriter"


class SelfRefine(Method):
    """Self-refine (Madaan et al. 2303.17651): feedback on the first sample, and a new one, until it passes.

    An unreadable verdict ends it: nobody asked for a change.
    """

    name: ClassVar[str] = "self_refine"

    samples: int | None = Field(default=1, ge=1, le=1)
    iterations: int = Field(default=1, ge=1)

    def seats(self, protocol: Protocol, answer: str) -> dict[str, Role]:
        return {
            CRITIC: protocol.role(CRITIC, {"judge": verdict}, ["question", "solution"]),
            REWRITER: rewriter(protocol, answer),
        }

    def calls(self, samples: int) -> int:
        return 2 * self.iterations

    async def choose(self, pool: Pool, context: Context, label: str) -> Choice:
        text, answer = pool.chains[0].text, pool.chains[0].answer
        for number in range(self.iterations):
            shown: dict[str, Any] = {"question": pool.question, "solution": text}
            judged = await context.act(CRITIC, f"{label}/{number}/judge", "judge", shown)
            if judged.parsed is None or judged.parsed["correct"]:
                return Choice(answer, {"rewritten": number})
            told = {**shown, "feedback": judged.parsed["critique"], "place": None, "steps": []}
            turn = await context.act(REWRITER, f"{label}/{number}/rewrite", "rewrite", told)
            text, answer = turn.text, (turn.parsed or {}).get("answer")
        return Choice(answer, {"rewritten": self.iterations})


class Glore(Method):
    """GLoRe (Havrilla et al. 2402.10963): when, where, and which of three.

    A first sample whose outcome score is below `threshold` is written anew twice: globally, from question and
    draft, and locally, with the first step marked whose process score is below it. The outcome scorer picks
    among draft and both. Where no step is, there is no local one.
    """

    name: ClassVar[str] = "glore"
    needs: ClassVar[tuple[Need, ...]] = ("outcome", "process")

    samples: int | None = Field(default=1, ge=1, le=1)
    threshold: float = Field(default=0.5, ge=0, le=1)

    def seats(self, protocol: Protocol, answer: str) -> dict[str, Role]:
        return {REWRITER: rewriter(protocol, answer)}

    def calls(self, samples: int) -> int:
        return 2

    def scored(self, samples: int) -> int:
        return 2

    async def choose(self, pool: Pool, context: Context, label: str) -> Choice:
        draft = pool.chains[0]
        worth = pool.score("outcome", draft)
        if worth is not None and worth >= self.threshold:
            return Choice(draft.answer, {"rewritten": [], "score": worth})
        steps = pool.scores["process"][draft.key].values
        place = next((n for n, step in enumerate(steps) if step is not None and step < self.threshold), None)
        shown = {
            "question": pool.question,
            "solution": draft.text,
            "feedback": "",
            "steps": list(draft.steps),
        }
        asked = {"global": None} | ({} if place is None else {"local": place})
        turns = await asyncio.gather(
            *(
                context.act(REWRITER, f"{label}/{name}", "rewrite", {**shown, "place": where})
                for name, where in asked.items()
            )
        )
        written = [Chain.of(turn, pool.question) for turn in turns]
        rated = [one.values[0] for one in await pool.rate("outcome", written, None)]
        candidates = [(draft, worth), *zip(written, rated, strict=True)]
        best = max(candidates, key=lambda one: -1.0 if one[1] is None else one[1])
        return Choice(best[0].answer, {"rewritten": list(asked), "chosen": best[0].key, "score": best[1]})


def rewriter(protocol: Protocol, answer: str) -> Role:
    read = ["question", "solution", "feedback", "place", "steps"]
    return protocol.role(REWRITER, {"rewrite": statement(answer)}, read)

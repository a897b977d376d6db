"""TICK and STICK (Cook et al. 2410.03608): a list from the task alone, answered for responses one by one.

A response's score is the share of questions that are answered with yes; an answer that cannot be read is
no. Checklist and answers belong to the samples and not to a method, so methods that use them share them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from sparring.agents.checklists import checklist, tick
from sparring.agents.roles import Role
from sparring.graphs.checklists import listed, ticked
from sparring.graphs.context import Context
from sparring.graphs.protocol import Protocol
from sparring.graphs.scorers.base import Chain
from sparring.graphs.selection.base import Choice, Method, Pool
from sparring.graphs.selection.rewriting import REWRITER, rewriter

LIST = "checklist"
"""Begins the key of the turn that writes the list."""


class _Checked(Method):
    """What both share."""

    under: ClassVar[str | None] = "tick"
    shared: ClassVar[tuple[str, ...]] = (f"{LIST}/",)

    items: int = Field(default=6, ge=1, le=20)
    """The most questions of a list."""

    def seats(self, protocol: Protocol, answer: str) -> dict[str, Role]:
        asks = protocol.role("checklister", {"list": checklist(self.items)}, ["question"], "checklist")
        read = ["question", "solution", "item", "note"]
        return {"checklister": asks, "ticker": protocol.role("ticker", {"tick": tick}, read, "checklist")}

    async def _items(self, pool: Pool, context: Context) -> list[str]:
        return await listed(context, "checklister", f"{LIST}/{self.items}", pool.question)

    async def _ticks(self, pool: Pool, context: Context, chain: Chain, items: Sequence[str]) -> list[bool]:
        met = await ticked(context, "ticker", f"{chain.key}/tick", pool.question, chain.text, items)
        return [bool(yes) for yes in met]


class Tick(_Checked):
    """The sample that meets most of the list; of equal ones the first."""

    name: ClassVar[str] = "tick"

    def calls(self, samples: int) -> int:
        return 1 + samples * self.items

    async def choose(self, pool: Pool, context: Context, label: str) -> Choice:
        items = await self._items(pool, context)
        met = await asyncio.gather(*(self._ticks(pool, context, chain, items) for chain in pool.chains))
        best = max(range(len(met)), key=lambda place: sum(met[place]))
        detail = {"chosen": pool.chains[best].key, "items": items, "met": [sum(ticks) for ticks in met]}
        return Choice(pool.chains[best].answer, detail)


class Stick(_Checked):
    """The first sample where it meets the list, else rewritten once with what it does not meet named.

    Once, as more than one step began to hurt in the paper.
    """

    name: ClassVar[str] = "stick"

    samples: int | None = Field(default=1, ge=1, le=1)

    def seats(self, protocol: Protocol, answer: str) -> dict[str, Role]:
        return {**super().seats(protocol, answer), REWRITER: rewriter(protocol, answer)}

    def calls(self, samples: int) -> int:
        return 2 + self.items

    async def choose(self, pool: Pool, context: Context, label: str) -> Choice:
        draft, items = pool.chains[0], await self._items(pool, context)
        met = await self._ticks(pool, context, draft, items)
        failed = [item for item, yes in zip(items, met, strict=True) if not yes]
        if not failed:
            return Choice(draft.answer, {"items": items, "failed": []})
        told = "Keep what is right in it. These questions about it were answered with no:\n" + "\n".join(
            failed
        )
        shown: dict[str, Any] = {
            "question": pool.question,
            "solution": draft.text,
            "feedback": told,
            "place": None,
            "steps": [],
        }
        turn = await context.act(REWRITER, f"{label}/rewrite", "rewrite", shown)
        return Choice((turn.parsed or {}).get("answer"), {"items": items, "failed": failed})

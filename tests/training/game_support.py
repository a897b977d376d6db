"""A game for two that a tiny model can play, its lessons, and rewards of either sign."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from sqlalchemy import select

from sparring.agents.parsing import answer_format
from sparring.agents.roles import Role
from sparring.graphs.context import Context
from sparring.graphs.protocol import Outcome, Protocol
from sparring.memory.journal import Journal
from sparring.memory.schema import Episode
from sparring.training.rewards.base import EpisodeRow, Paid, RewardFunction

SIDES = ("red", "blue")
FAVOUR = {-2: 0.5, -1: 0.45, 0: 0.1, 1: 0.15, 2: 0.3}
"""How much newer red is than blue -> red's share of the points, but for what their words make of it."""


class ShoutState(TypedDict, total=False):
    question: str
    outcome: Outcome


class Shout(Protocol):
    """Both sides say something; a checksum of it and how new they are decide."""

    name: ClassVar[str] = "shout"
    answers: ClassVar[bool] = False

    @property
    def rivals(self) -> tuple[str, str] | None:
        return SIDES

    def seats(self) -> dict[str, Role]:
        return {side: self.role(side, {"question": answer_format("text")}, ["question"]) for side in SIDES}

    @property
    def max_calls(self) -> int:
        return 2

    def graph(self) -> StateGraph[Any, Context, Any, Any]:
        graph = StateGraph(ShoutState, context_schema=Context)
        graph.add_node("play", self.play)
        graph.add_edge(START, "play")
        graph.add_edge("play", END)
        return graph

    def figures(self, journal: Journal, run: str, episodes: Sequence[int] | None = None) -> dict[str, float]:
        """Of games: red's share of the points, and how many there were, void ones among them."""
        query = select(Episode.outcome).where(Episode.run_id == run)
        if episodes is not None:
            query = query.where(Episode.number.in_(episodes))
        scores = [row.outcome["scores"] for row in journal.read(query)] if self.rivals else []
        won = [score["red"] for score in scores if score is not None]
        return {"red_share": sum(won) / len(won), "games": float(len(scores))} if won else {}

    async def play(self, state: ShoutState, runtime: Runtime[Context]) -> ShoutState:
        context, shown = runtime.context, {"question": state["question"]}
        said = await asyncio.gather(*(context.act(side, side, "question", shown) for side in SIDES))
        mark = zlib.crc32("|".join(turn.text or "" for turn in said).encode())
        red, blue = (context.agents[side].version.number for side in SIDES)
        points = FAVOUR.get(red - blue, 0.0) + mark % 3 / 100
        scores = {"red": points, "blue": 1 - points}
        void = mark % 11 == 0
        return {"outcome": Outcome(answer=None, scores=None if void else scores, detail={"mark": mark})}


class Solo(Shout):
    """The same words, and no game."""

    @property
    def rivals(self) -> None:
        return None


class Taught(Shout):
    """Lessons for both sides of `Shout`."""

    name: ClassVar[str] = "taught"

    @property
    def rivals(self) -> None:
        return None

    async def play(self, state: ShoutState, runtime: Runtime[Context]) -> ShoutState:
        shown = {"question": state["question"]}
        for side in SIDES:
            await runtime.context.demonstrate(side, side, "question", shown, f"{side}!")
        return {"outcome": Outcome(answer=None)}


class Pull(Shout):
    """An evaluation whose only figure is what a test has written down for each evaluation."""

    name: ClassVar[str] = "pull"
    figure: str = "loss"
    values: tuple[float, ...] = ()
    """By the number of red's version."""

    def figures(self, journal: Journal, run: str, episodes: Sequence[int] | None = None) -> dict[str, Any]:
        number = int(run.split("red@")[1].split("/")[0].split("+")[0])
        return {self.figure: self.values[number], "number": number}


class Even(RewardFunction):
    """+1 or -1 by a checksum of what was said; `paid`: the sides that are paid at all."""

    name: ClassVar[str] = "even"
    version: ClassVar[str] = "1"
    paid: tuple[str, ...] = SIDES

    def rewards(self, episode: EpisodeRow) -> Iterable[Paid]:
        for turn in episode.turns:
            worth = 1.0 if zlib.crc32((turn.text or "").encode()) % 2 else -1.0
            yield Paid(turn.id, worth if turn.role in self.paid else None, "even")


class Signs(RewardFunction):
    """What was said is what it is worth: `win`, `lose`, and anything else is worth nothing known."""

    name: ClassVar[str] = "signs"
    version: ClassVar[str] = "1"

    def rewards(self, episode: EpisodeRow) -> Iterable[Paid]:
        for turn in episode.turns:
            said = turn.parsed.get("answer") if isinstance(turn.parsed, dict) else None
            yield Paid(turn.id, {"win": 1.0, "lose": -1.0}.get(str(said)), "signs")

"""A game of numbers, and tournaments of it in processes that are killed."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any, ClassVar, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from sqlalchemy import select

from sparring.agents.parsing import statement
from sparring.agents.roles import Role
from sparring.graphs.context import Context
from sparring.graphs.protocol import Outcome, Protocol
from sparring.memory.journal import Journal
from sparring.memory.schema import Episode, Match, Rating, Turn
from sparring.training.league.tournament import TournamentResult, atournament, tournament

START_CONTEXT = multiprocessing.get_context("forkserver")
START_CONTEXT.set_forkserver_preload(["sparring.training.league.tournament", "openskill.models"])


class State(TypedDict, total=False):
    question: Any
    outcome: Outcome


class Numbers(Protocol):
    """Two sides say a number each; the larger wins. Who says `void` spoils the game."""

    name: ClassVar[str] = "numbers"
    answers: ClassVar[bool] = False

    @property
    def rivals(self) -> tuple[str, str]:
        return "left", "right"

    def seats(self) -> dict[str, Role]:
        return {
            s: Role.of("solver", {"question": statement("text")}, ["question", "persona"])
            for s in self.rivals
        }

    @property
    def max_calls(self) -> int:
        return 2

    def graph(self) -> StateGraph[Any, Context, Any, Any]:
        graph = StateGraph(State, context_schema=Context)
        graph.add_node("play", self.play)
        graph.add_edge(START, "play")
        graph.add_edge("play", END)
        return graph

    async def play(self, state: State, runtime: Runtime[Context]) -> State:
        shown = {"question": state["question"], "persona": ""}
        said = [(await runtime.context.act(seat, seat, "question", shown)).text for seat in self.rivals]
        detail = {"error": str(state["question"]).split()[0]}
        spoilt = next((seat for seat, text in zip(self.rivals, said, strict=True) if text == "void"), None)
        if spoilt:
            return {"outcome": Outcome(answer=None, scores=None, fault=spoilt, detail=detail)}
        left, right = (float(text) for text in said)
        points = 0.5 if left == right else float(left > right)
        scores = {"left": points, "right": 1 - points}
        return {"outcome": Outcome(answer=None, scores=scores, fault=None, detail=detail)}


def script(folder: Path, name: str, *replies: str, **rule: Any) -> str:
    """A player that always says one of these, by hash of the request and the seed."""
    path = folder / f"{name}.jsonl"
    path.write_text(json.dumps({"replies": list(replies), **rule}) + "\n")
    return f"scripted:{path}"


def tasks(folder: Path, count: int = 4) -> str:
    path = folder / "tasks.jsonl"
    rows = [
        {"id": f"t{n}", "question": f"{'slip' if n % 2 else 'swap'} {n}", "answer": "5"} for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def small(folder: Path, **changes: Any) -> dict[str, Any]:
    """Three players of the game of numbers, in the order of their strength, on four tasks."""
    strong, even, weak = ("7", "8", "9"), ("4", "5", "6", "7"), ("2", "3", "4")  # draws, no upsets
    players = {
        n: script(folder, n, *said) for n, said in (("weak", weak), ("even", even), ("strong", strong))
    }
    given = {"run": "cup", "seed": 3, "protocol": "league_support:Numbers", "tasks": tasks(folder)}
    return {**given, "players": players, **changes}


def rows(memory: str, run: str = "cup") -> tuple[list[Any], list[Any]]:
    """Match and rating rows of a run without the ids that differ from journal to journal."""
    with Journal.open(memory) as journal:
        matches = journal.read(
            select(Match.position, Match.players, Match.result, Match.status, Episode.id, Episode.outcome)
            .join(Episode, Episode.number == Match.episode_number)
            .where(Match.run_id == run)
            .order_by(Match.position)
        )
        columns = (Rating.system, Rating.after_position, Rating.player, Rating.value, Rating.deviation)
        ratings = journal.read(select(*columns).where(Rating.run_id == run).order_by(*columns[:3]))
    return [tuple(row) for row in matches], [tuple(row) for row in ratings]


def turns(memory: str, run: str) -> dict[tuple[str, str], Any]:
    """(task, key) -> the turn, with its episode's iteration, of the games of one seating."""
    with Journal.open(memory) as journal:
        query = select(Turn.key, Turn.seed, Turn.policy_version_id, Episode.task_id, Episode.iteration).join(
            Episode, Episode.number == Turn.episode_number
        )
        return {(row.task_id, row.key): row for row in journal.read(query.where(Episode.run_id == run))}


async def played(config: dict[str, Any], memory: Path | str, **more: Any) -> TournamentResult:
    return await atournament(config, memory, **more)


def live(config: dict[str, Any], memory: str) -> None:
    """The whole of a process: a tournament, or the rest of one."""
    tournament(config, memory)

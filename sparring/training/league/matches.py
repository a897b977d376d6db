"""The games of a tournament as rows of the journal, in schedule order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import func, select

from sparring.memory.journal import Journal
from sparring.memory.records import TaskRecord
from sparring.memory.rows import Row
from sparring.memory.run import EpisodeState
from sparring.memory.schema import Agent, Match, Turn
from sparring.training.league.schedule import Pairing

DONE, VOID = "done", "void"
Void = Literal["skip", "loss"]


@dataclass(frozen=True, slots=True)
class Slot:
    """One game of the schedule."""

    position: int
    round: int
    players: Pairing
    """As they sit: on the first and on the second of the protocol's rivals."""
    task: TaskRecord


@dataclass(frozen=True, slots=True)
class Game:
    """One game that was played."""

    position: int
    round: int
    players: Pairing
    """As they sat."""
    task: str
    points: float | None
    """Of the player on the first seat, in 0..1; None where the game is void."""
    fault: int | None = None
    """Of a void game: 0 or 1 for the player whose fault that is."""
    error: str | None = None
    """The type of error the game was about, where it was about one."""
    agreed: bool | None = None
    """Whether a judge who read the answers in both orders said the same twice; None where none did."""

    def counted(self, void: Void) -> float | None:
        """The first seat's points under the rule for void games; None where it counts nothing."""
        if self.points is None and void == "loss" and self.fault is not None:
            return float(self.fault)  # the fault of the second player is the first one's win
        return self.points


def slots(
    number: int, start: int, seatings: Sequence[Sequence[Pairing]], tasks: Sequence[TaskRecord]
) -> list[Slot]:
    """A round's games: task by task, pairing by pairing, and side by side the seatings of a pairing.

    Ratings that move from game to game weigh what came last most, so no pairing may come last whole.
    """
    order = [(task, seating) for task in tasks for pairing in seatings for seating in pairing]
    return [Slot(start + place, number, seating, task) for place, (task, seating) in enumerate(order)]


def match_row(slot: Slot, rivals: tuple[str, str], outcome: Mapping[str, Any] | None) -> Row:
    """The row of a game that came to an outcome; its id, run and episode are the caller's to add."""
    told = outcome or {}
    scores = told.get("scores")
    return {
        "position": slot.position,
        "players": dict(zip(rivals, slot.players, strict=True)),
        "result": {
            "round": slot.round,
            "task": slot.task.id,
            "scores": scores,
            "fault": told.get("fault"),
            "error": _error(told),
            "agreed": _agreed(told),
        },
        "status": VOID if scores is None else DONE,
    }


def _error(outcome: Mapping[str, Any]) -> str | None:
    found = (outcome.get("detail") or {}).get("error")
    return found if isinstance(found, str) else None


def _agreed(outcome: Mapping[str, Any]) -> bool | None:
    preferred = (outcome.get("detail") or {}).get("preferred")
    return preferred[0] == preferred[1] if preferred and None not in preferred else None


def failed_calls(journal: Journal, episode: EpisodeState) -> tuple[int, str | None]:
    """How many times the call that failed most has failed, and the seat whose call it was.

    None where it may be that of several seats: of two players who are one version, or where both failed.
    """
    query = (
        select(Agent.role, Turn.policy_version_id, func.count())
        .join(Agent, Agent.id == Turn.agent_id)
        .where(Turn.episode_number == episode.number, Turn.final.is_(False))
        .group_by(Turn.key, Agent.role, Turn.policy_version_id)
    )
    failed = journal.read(query)
    most = max((count for *_, count in failed), default=0)
    callers = {(role, version) for role, version, count in failed if count == most}
    seats = [seat for seat, sat in episode.seats.items() if (sat["role"], sat["version"]) in callers]
    return most, seats[0] if len(seats) == 1 else None


def read_games(journal: Journal, run: str, rivals: tuple[str, str]) -> list[Game]:
    """The games of a run in schedule order, whatever order they were played in."""
    query = select(Match.position, Match.players, Match.result).where(Match.run_id == run)
    rows = journal.read(query.order_by(Match.position))
    return [as_game(row.position, row.players, row.result, rivals) for row in rows]


def as_game(
    position: int, players: Mapping[str, str], result: Mapping[str, Any], rivals: tuple[str, str]
) -> Game:
    """A game from the columns of its match row."""
    first, second = rivals
    return Game(
        position=position,
        round=result["round"],
        players=(players[first], players[second]),
        task=result["task"],
        points=None if result["scores"] is None else float(result["scores"][first]),
        fault=rivals.index(result["fault"]) if result["fault"] in rivals else None,
        error=result["error"],
        agreed=result.get("agreed"),
    )


def share(games: Iterable[Game], player: str, void: Void) -> float | None:
    """A player's share of the points of its games, either seat weighing the same; None where none counts."""
    seats: tuple[list[float], list[float]] = ([], [])
    for game in games:
        points = game.counted(void)
        if points is not None and player in game.players:
            place = game.players.index(player)
            seats[place].append(points if place == 0 else 1.0 - points)
    means = [sum(found) / len(found) for found in seats if found]
    return sum(means) / len(means) if means else None

"""A tournament: every pairing in both seats on the same tasks and seeds, rated as it goes.

    result = sparring.tournament("versions.yaml", memory="digits.db")

A round's games are played side by side, with no barrier between pairings; the next round begins when its
pairings are known. The games of one seating are a run of their own (`RUN.games/ROUND/A vs B`), a child of
the tournament's, so that every word of theirs is journaled and read as that of any run. A game that came to
its outcome is a row of `matches` at its position in the schedule. All that follows (pairings of later
rounds, ratings, standings) is a pure function of these rows, so a tournament that was killed goes on from
its journal and comes to the same end.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.agents.engines.budget import Budget
from sparring.agents.engines.registry import EnginePool
from sparring.errors import BudgetSpent
from sparring.graphs.budget import affordable, purse_of
from sparring.graphs.play import run_now
from sparring.graphs.player import FINISHED, Player, first_of, taken
from sparring.memory.journal import Journal
from sparring.memory.run import EpisodeState, RunHandle
from sparring.training.league.config import BETWEEN, TournamentConfig, load_tournament
from sparring.training.league.entry import Entry, admit, prepare
from sparring.training.league.matches import (
    Slot,
    as_game,
    failed_calls,
    match_row,
    read_games,
    share,
    slots,
)
from sparring.training.league.plots import draw
from sparring.training.league.ratings import BradleyTerry, Tally, bradley_terry, openskill_curve
from sparring.training.league.record import (
    BRADLEY_TERRY,
    FIELD,
    KIND,
    OPENSKILL,
    last_rated,
    results_of,
    write_ratings,
)
from sparring.training.league.schedule import Pairing, Results, next_pairings
from sparring.training.league.standings import Standings, read_standings

Told = Callable[[str, Mapping[str, Any]], None]
"""Called with what happened (`round`, `game`, `pairing`) and its numbers."""


class Tournament:
    """One tournament that this process drives."""

    def __init__(self, entry: Entry, run: RunHandle, pool: EnginePool, told: Told | None = None) -> None:
        self.entry, self.run, self.pool = entry, run, pool
        self.told: Told = told or (lambda kind, numbers: None)
        self.missing = 0
        """Games that failed; the same command tries them again."""
        self._spent: BudgetSpent | None = None
        """Said by the first game that the budget did not reach for."""
        self.fitted: BradleyTerry | None = None
        """The final ratings, once there are any."""
        self._floor = asyncio.Semaphore(entry.config.concurrency)
        self._open = asyncio.Semaphore(entry.config.concurrency)
        self._games = {game.position: game for game in read_games(run.journal, run.id, entry.entrants.rivals)}
        """The match rows, by position."""
        self._due = Counter[frozenset[str]]()
        """Pairing -> games of the round that are not over."""

    async def __call__(self) -> None:
        """Play what is not played yet, round by round, to the end or to a round that games are missing of."""
        entry, played, start = self.entry, list[Results](), 0
        while pairings := next_pairings(entry.config.schedule, entry.entrants, played):
            number, tasks = len(played), entry.tasks_of(len(played))
            booked = slots(number, start, [entry.seatings(pairing) for pairing in pairings], tasks)
            await self._round(number, booked)
            start += len(booked)
            await self._rate(start)
            if self.missing:
                return
            known = [game for game in self._games.values() if game.position < start]  # no later round's
            played = results_of(known, entry.config.void)
        await self._close(start)

    # --- games -----------------------------------------------------------------------------------------

    async def _round(self, number: int, booked: Sequence[Slot]) -> None:
        """The games of a round that have no match row yet, all at once."""
        left: dict[Pairing, list[Slot]] = {}
        for slot in booked:
            if slot.position not in self._games:
                left.setdefault(slot.players, []).append(slot)
        self._due = Counter(frozenset(slot.players) for games in left.values() for slot in games)
        done = len(booked) - self._due.total()
        self.told("round", {"round": number, "games": len(booked), "done": done})
        if left:
            try:
                async with asyncio.TaskGroup() as group:
                    for seating, games in left.items():
                        group.create_task(self._seating(seating, games, booked))
            except BaseExceptionGroup as failed:
                raise first_of(failed) from None
        if self._spent is not None:
            raise self._spent

    async def _seating(self, seating: Pairing, games: Sequence[Slot], booked: Sequence[Slot]) -> None:
        """Games of two players as they sit, side by side."""
        number = games[0].round
        name = f"{self.run.id}.games/{number + 1}/{BETWEEN.join(seating)}"
        play = self.entry.play(seating, self.entry.tasks_of(number))
        async with (
            self._open,
            taken(self.run.journal, name, play, self.pool, self.entry.config.concurrency) as player,
            asyncio.TaskGroup() as group,
        ):
            for slot in games:
                group.create_task(self._game(player, slot, booked))

    async def _game(self, player: Player, slot: Slot, booked: Sequence[Slot]) -> None:
        """One game, and its match row once it has come to an outcome."""
        async with self._floor:
            try:
                await player(episodes=[(slot.task, 0)], iteration=slot.round)
            except BudgetSpent as spent:  # games beside it end at their own next call
                self._spent = spent
                return
        state, outcome = _last(player, slot), None
        if state.status in FINISHED:
            outcome = state.outcome
        else:
            tries, seat = failed_calls(self.run.journal, state)
            if tries < (self.entry.config.give_up or math.inf):
                self.missing += 1
                return
            outcome = {"fault": seat}
        rivals = self.entry.entrants.rivals
        row = match_row(slot, rivals, outcome)
        row |= {"id": self.run.ids.take("matches"), "run_id": self.run.id, "episode_number": state.number}
        write = self.run.write()
        write.rows.append(("matches", row))
        await self.run.commit(write)
        self._games[slot.position] = as_game(slot.position, row["players"], row["result"], rivals)
        self._tell(slot, booked)

    def _tell(self, slot: Slot, booked: Sequence[Slot]) -> None:
        """That a game is over, and that its pairing is, where it was the last of it."""
        number, key = slot.round, frozenset(slot.players)
        self._due[key] -= 1
        done = len(booked) - self._due.total()
        self.told("game", {"round": number, "done": done, "games": len(booked)})
        if not self._due[key]:
            places = [other.position for other in booked if key == {*other.players}]
            games = [self._games[place] for place in places]
            player, opponent = games[0].players
            points = share(games, player, self.entry.config.void)
            told = {"round": number, "players": (player, opponent), "points": points, "games": len(games)}
            self.told("pairing", told)

    async def _rate(self, until: int) -> None:
        """Write the openskill ratings after every game before the first one that is missing."""
        end = next((place for place in range(until) if place not in self._games), until)
        games = [game for position, game in self._games.items() if position < end]
        last = last_rated(self.run.journal, self.run.id)
        points = await asyncio.to_thread(openskill_curve, games, self.entry.config.void)
        fresh = [(p.player, p.position, p.mu, p.sigma) for p in points if p.position > last]
        await write_ratings(self.run, OPENSKILL, fresh)

    async def _close(self, until: int) -> None:
        """Write the final ratings: Bradley-Terry's, after the last game."""
        entrants = self.entry.entrants
        tally = Tally.of(list(self._games.values()), entrants.order, self.entry.config.void)
        fitted = await asyncio.to_thread(bradley_terry, tally, sided=not entrants.bipartite)
        self.fitted = fitted
        rows = [(p, until - 1, fitted.rating(p).mean, fitted.deviation(p)) for p in entrants.order]
        await write_ratings(self.run, BRADLEY_TERRY, rows)


def _last(player: Player, slot: Slot) -> EpisodeState:
    """The episode in which a game was played; one that was abandoned, because a policy version was gone, was
    played again as the next copy."""
    copy = 0
    while (state := player.run.state(slot.task, slot.round, copy)) and state.status == "abandoned":
        copy += player.play.copies
    assert state is not None, "it was just played"
    return state


@dataclass(frozen=True, slots=True)
class TournamentResult:
    """What a tournament came to, as the journal holds it."""

    standings: Standings
    plots: list[Path]
    missing: int
    """Games that failed."""


async def atournament(
    config: str | Path | dict[str, Any] | TournamentConfig,
    memory: str | Path | Journal = "sparring.db",
    *,
    told: Told | None = None,
    budget: Budget | None = None,
) -> TournamentResult:
    """Play a tournament to its end, or go on with the one of its name; see `tournament`."""
    settings = config if isinstance(config, TournamentConfig) else load_tournament(config)
    with Journal.at(memory) as journal:
        return await _drive(settings, journal, told, budget)


async def _drive(
    config: TournamentConfig, journal: Journal, told: Told | None, budget: Budget | None
) -> TournamentResult:
    async with EnginePool(purse=purse_of(journal, config.run, budget)) as pool:
        entry = prepare(config, journal)
        await admit(entry, journal, pool)  # what is refused here leaves the run's name free
        affordable(pool.purse, config.run, pool.priced, pool.unpriced)
        run = journal.drive(
            config.run,
            kind=KIND,
            protocol=config.protocol,
            config=config.identity(),
            seed=config.seed,
            reread=config.reread,
        )
        with run.driven() as ending:
            await run.event(FIELD, "0", entry.to_json())
            entry = prepare(config, journal)  # with what was written first, if somebody was faster
            tournament = Tournament(entry, run, pool, told)
            await tournament()
            ending.status = "failed" if tournament.missing else "done"
    standings = await asyncio.to_thread(read_standings, journal, config.run, tournament.fitted)
    plots = await asyncio.to_thread(draw, journal, config.run, config.plots)
    return TournamentResult(standings, plots, tournament.missing)


def tournament(
    config: str | Path | dict[str, Any] | TournamentConfig,
    memory: str | Path | Journal = "sparring.db",
    *,
    told: Told | None = None,
    budget: Budget | None = None,
) -> TournamentResult:
    """Play a tournament; called again, it goes on where the journal is.

    Args:
        config: a YAML file, what would stand in one, or a `TournamentConfig`.
        memory: the journal, or where it is.
        told: called with what happens, as it happens.
        budget: what the whole run may spend, in all its lives, with every run that belongs to it.

    Raises:
        UserError: anything in the configuration that cannot work, before work starts.
        BudgetSpent: the budget was reached; the run is `interrupted` and goes on under a larger one.
    """
    return run_now(atournament(config, memory, told=told, budget=budget), "`await sparring.atournament(...)`")

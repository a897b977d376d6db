"""Before the first game: what a tournament plays and who competes, everything checked that can be.

A player that is given as a head of a policy (`policy:solver`) competes with the version the head points at
when the tournament begins; that is written down, and a resumed tournament goes on with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparring.agents.engines.registry import EnginePool
from sparring.errors import UserError, unknown
from sparring.graphs.cast import POLICY, policy_spec
from sparring.graphs.catalogue import make_protocol
from sparring.graphs.play import Play
from sparring.graphs.protocol import Protocol
from sparring.memory.journal import Journal
from sparring.memory.policies import find
from sparring.memory.records import TaskRecord
from sparring.memory.seeds import derive_seed
from sparring.memory.tasks import load_tasks
from sparring.memory.types import canonical, digest
from sparring.tools.checks import CHECKS, refuse_code
from sparring.training.league.config import TournamentConfig
from sparring.training.league.record import final_ratings, read_event
from sparring.training.league.schedule import Entrants, Pairing, check_schedule

GAMES = "match"
"""Kind of the runs that hold a tournament's games."""


@dataclass(frozen=True)
class Entry:
    """A tournament that can be played."""

    config: TournamentConfig
    tasks: tuple[TaskRecord, ...]
    entrants: Entrants
    specs: dict[str, dict[str, str]]
    """Player -> seat -> engine spec, heads of policies replaced by their versions."""
    roles: dict[str, str]
    """The other seats, likewise."""

    def to_json(self) -> dict[str, Any]:
        """What is written down of it, so that a resumed tournament has the same field."""
        entrants = self.entrants
        return {
            "order": list(entrants.order),
            "seats": dict(entrants.seats),
            "rivals": list(entrants.rivals),
            "specs": self.specs,
            "roles": self.roles,
            "tasks": _hash(self.tasks),
        }

    def seatings(self, pairing: Pairing) -> list[Pairing]:
        """How the two players of a pairing sit: both ways, unless each has a seat of its own."""
        return [pairing] if self.entrants.bipartite else [pairing, (pairing[1], pairing[0])]

    def sittings(self) -> list[Pairing]:
        """Seatings in which everybody sits on each of its seats, for what is asked of a player and a seat."""
        found, sat = list[Pairing](), set[tuple[str, str]]()
        for seating in (s for pairing in self.entrants.pairings() for s in self.seatings(pairing)):
            places = set(zip(seating, self.entrants.rivals, strict=True))
            if not places <= sat:
                sat |= places
                found.append(seating)
        return found

    def tasks_of(self, number: int) -> tuple[TaskRecord, ...]:
        """The tasks of a round: all, or the next of a random order of them, which begins again at its end."""
        count = self.config.tasks_per_pairing
        if count is None:
            return self.tasks
        seed = derive_seed(self.config.seed, "tasks", 0, 0, "tournament")
        order = np.random.default_rng(seed).permutation(len(self.tasks))
        places = sorted(order[(number * count + place) % len(order)] for place in range(count))
        return tuple(self.tasks[place] for place in places)

    def play(self, seating: Pairing, tasks: Sequence[TaskRecord]) -> Play:
        """The games of one seating as a run of their own.

        A turn's seed comes from the run's seed, task, iteration, copy and key, and a key says which turn of
        the game it is. So two runs with the tournament's seed differ in who sits where and in nothing else.
        """
        config = self.config
        seated = {
            seat: self.specs[player][seat] for seat, player in zip(self.entrants.rivals, seating, strict=True)
        }
        return Play(
            protocol=config.protocol,
            tasks=tuple(tasks),
            options=config.options,
            roles={**self.roles, **seated},
            sampling=config.sampling,
            seed=config.seed,
            kind=GAMES,
            parent=config.run,
        )


def prepare(config: TournamentConfig, journal: Journal) -> Entry:
    """Check a tournament, engines aside.

    Raises:
        UserError: a protocol that is no game, players, seats or tasks that do not fit, a schedule that
            cannot be played.
    """
    protocol = make_protocol(config.protocol, config.options)
    rivals = protocol.rivals
    if rivals is None:
        raise UserError(
            f"protocol `{config.protocol}` is no game, as its options are: it has no two seats that play "
            "against each other, such as `duel` has, or `mad` with two agents; a protocol of your own names "
            "them in its property `rivals`"
        )
    tasks = _tasks(config, protocol)
    seats = _seats(config, rivals)
    _check_roles(config, protocol, rivals)
    told = read_event(journal, config.run) if journal.has_run(config.run) else None
    if told is not None:
        _check_begun(config, told, rivals, tasks)
        entrants = Entrants(tuple(told["order"]), told["seats"], rivals)
        specs, roles = told["specs"], told["roles"]
    else:
        entrants = Entrants(_order(config, journal), seats, rivals)
        specs = {
            name: {seat: _pinned(player.spec(seat), journal) for seat in ([seats[name]] if seats else rivals)}
            for name, player in config.players.items()
        }
        roles = {seat: _pinned(spec, journal) for seat, spec in config.roles.items()}
    check_schedule(config.schedule, entrants)
    entry = Entry(config, tasks, entrants, specs, roles)
    for seating in entry.sittings():
        entry.play(seating, ()).cast()
    return entry


def _tasks(config: TournamentConfig, protocol: Protocol) -> tuple[TaskRecord, ...]:
    tasks = load_tasks(config.tasks, config.limit, checks=CHECKS)
    wanted = config.tasks_per_pairing
    if wanted is not None and wanted > len(tasks):
        raise UserError(f"`tasks_per_pairing: {wanted}`, but `{config.tasks}` holds {len(tasks)} tasks")
    refuse_code((task.check, task.answer) for task in tasks)
    for task in tasks:
        protocol.accepts(task)
    return tuple(tasks)


def _hash(tasks: Sequence[TaskRecord]) -> str:
    return digest(canonical([task.to_json() for task in tasks])).hex()


def _check_begun(
    config: TournamentConfig, told: Any, rivals: tuple[str, str], tasks: Sequence[TaskRecord]
) -> None:
    """What was begun goes on with the game and the tasks that it was begun with.

    The rest of the configuration is compared where the run is taken over, but of the tasks only the path.
    """
    if tuple(told["rivals"]) != rivals:
        raise UserError(
            f"run `{config.run}` exists with another protocol: choose another `run`, or the protocol it "
            "was begun with"
        )
    if told.get("tasks", _hash(tasks)) != _hash(tasks):
        raise UserError(
            f"the tasks in `{config.tasks}` are not those that run `{config.run}` was begun with: restore "
            "them, or choose another `run`"
        )


def _seats(config: TournamentConfig, rivals: tuple[str, str]) -> dict[str, str]:
    """Player -> its only seat; empty where everybody sits on either."""
    for name, player in config.players.items():
        for seat in [player.seat] if player.seat is not None else (player.roles or ()):
            if seat not in rivals:
                raise unknown(f"seat of player `{name}`", seat, rivals)
        if player.roles is not None and len(player.roles) < len(rivals):
            raise UserError(
                f"player `{name}`: `roles` names one seat of {' and '.join(rivals)}; name both, or give "
                "`seat` and `engine` to a player of one seat"
            )
    seats = {name: player.seat for name, player in config.players.items() if player.seat is not None}
    if seats and len(seats) < len(config.players):
        other = next(name for name in config.players if name not in seats)
        raise UserError(
            f"player `{next(iter(seats))}` has one seat and `{other}` both: either every player sits on both "
            "seats, or each has a `seat` of its own"
        )
    return seats


def _check_roles(config: TournamentConfig, protocol: Protocol, rivals: tuple[str, str]) -> None:
    """The seats that no player takes are filled, and no player's seat is."""
    others = {seat: role.name for seat, role in protocol.seats().items() if seat not in rivals}
    known = {*others, *others.values()}
    for name in config.roles:
        if name in rivals:
            raise UserError(f"`roles` fills seat `{name}`, which is the players' own: take it out")
        if name not in known:
            raise unknown(f"seat in `roles` of protocol `{config.protocol}`", name, known)
    for seat, role in others.items():
        if not {seat, role} & config.roles.keys():
            raise UserError(f"seat `{seat}` has no engine: name it in `roles`, as in `{seat}: SPEC`")


def _pinned(spec: str, journal: Journal) -> str:
    """The spec with the number of the version that a head points at now."""
    named = policy_spec(spec)
    if named is None or isinstance(named[1], int):
        return spec
    return f"{POLICY}{named[0]}@{find(journal, *named).number}"


def _order(config: TournamentConfig, journal: Journal) -> tuple[str, ...]:
    """The players in the order in which they enter."""
    earlier = config.seeding.ratings
    if earlier is None:
        return tuple(config.players)
    journal.run_row(earlier)
    ratings = final_ratings(journal, earlier)
    if not set(ratings) & set(config.players):
        rated = ", ".join(sorted(ratings)) or "nobody"
        raise UserError(f"`seeding`: run `{earlier}` has rated none of these players; it rated {rated}")
    return tuple(sorted(config.players, key=lambda name: -ratings.get(name, -np.inf)))


async def admit(entry: Entry, journal: Journal, pool: EnginePool) -> None:
    """Open every player's engine, and see to it that no judge is one of the players.

    A judge is whoever sits on a seat that no player takes, whatever its role is called: a moderator, a
    selector or a solver that validates decides the game as well.

    Raises:
        UserError: an engine, policy or version that is not there; a judge with the weights of a player.
    """
    rivals = entry.entrants.rivals
    weights: dict[tuple[str, str | None], str] = {}
    judges: dict[str, tuple[str, str | None]] = {}
    for seating in entry.sittings():
        agents = await entry.play(seating, ()).cast().agents(pool, journal)
        for seat, agent in agents.items():
            own = agent.version.base, agent.version.adapter_hash
            if seat in rivals:
                weights[own] = seating[rivals.index(seat)]
            else:
                judges[seat] = own
    for seat, own in judges.items():
        if own in weights and not entry.config.judge_may_play:
            raise UserError(
                f"seat `{seat}` has the weights of player `{weights[own]}`, who would judge its own games: "
                "name another engine, or set `judge_may_play: true`"
            )

"""What can be refused of a configuration before anything is loaded, journaled or said."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sparring.agents.engines.base import Sampling
from sparring.errors import UserError
from sparring.graphs.cast import Cast, policy_spec
from sparring.graphs.catalogue import make_protocol
from sparring.graphs.protocol import task_rows
from sparring.memory.journal import Journal
from sparring.memory.policies import find
from sparring.memory.records import TaskRecord
from sparring.memory.types import canonical
from sparring.memory.versions import journal_names
from sparring.training.beginnings import origin_of
from sparring.training.config import EvaluateConfig, EvolveConfig, GateConfig, OpponentsConfig, PlayConfig
from sparring.training.evaluate import Measure
from sparring.training.learner import named_reference
from sparring.training.monitors import Monitor, make_monitor
from sparring.training.offline import OfflineData, offline_data, start_of, untrained_reference, was_taught

GRADIENT = "policy_gradient"
"""The objective that needs the probabilities with which tokens were drawn."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A configuration that holds together, and what was read for it."""

    tasks: tuple[TaskRecord, ...]
    """To be played; none where the run learns from others."""
    measures: dict[str, Measure]
    """Of `evaluate` and `gate`."""
    monitors: list[Monitor]
    temperatures: dict[str, float]
    """Policy -> its sampling temperature at the start."""


def preflight(config: EvolveConfig) -> Plan:
    """Check what can be checked without an engine.

    Raises:
        UserError: a name that cannot be used, seats that are missing or claimed twice, tasks that cannot be
            read or are shared with the gate, or sampling that a policy gradient cannot learn from.
    """
    for name in config.policies:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise UserError(f"policy `{name}`: name it with letters, digits, `_`, `-` and `.`")
    tasks = () if config.tasks is None else _tasks(config.tasks, config.protocol, config.options)
    measures = {
        name: _measure(config, part)
        for name, part in (("evaluate", config.evaluate), ("gate", config.gate))
        if part is not None
    }
    heat = {name: Sampling().temperature for name in config.policies}
    if tasks or measures:
        heat = _cast(config, play=bool(tasks))
        _accepted(config, tasks, measures)
    if "gate" in measures:
        _apart(measures["gate"].tasks, tasks, "`tasks`, which are trained on")
    if {"gate", "evaluate"} <= measures.keys():
        _apart(measures["gate"].tasks, measures["evaluate"].tasks, "`evaluate.tasks`, which are reported")
    if config.opponents is not None:
        sides(config)
        _games_left(config.opponents, config.play, len(tasks))
    for name, policy in config.policies.items():
        if policy.objective == "offline":
            offline_data(name, policy)
            if config.source is not None:
                raise UserError(
                    f"policy `{name}`: objective `offline` learns from what the run plays, not a `source`"
                )
    return Plan(tasks, measures, [make_monitor(given) for given in config.monitors], heat)


def _accepted(config: EvolveConfig, tasks: Iterable[TaskRecord], measures: Mapping[str, Measure]) -> None:
    """Whether what is to be played can be, task by task, and whether it measures what learns."""
    assert config.protocol is not None
    pairs = [(make_protocol(config.protocol, config.options), tasks)]
    learning = {role for policy in config.policies.values() for role in policy.roles}
    for name, measure in measures.items():
        protocol = make_protocol(*measure.played(config))
        if not protocol.names & learning:
            raise UserError(
                f"`{name}`: in protocol `{protocol.name}` nobody plays who learns; it seats "
                f"{', '.join(protocol.seats())}, and what learns is {', '.join(sorted(learning))}"
            )
        pairs.append((protocol, measure.tasks))
    for protocol, given in pairs:
        protocol.ready()
        for task in given:
            protocol.accepts(task)


def _games_left(opponents: OpponentsConfig, play: PlayConfig, tasks: int) -> None:
    """Some games of a step are left when the win rates are estimated."""
    games = min(play.tasks, tasks) * max(play.copies, play.copies_unsolved)
    if opponents.mode == "band" and games <= opponents.probe:
        raise UserError(
            f"`opponents.probe`: the first {opponents.probe} games of a step estimate win rates, and of "
            f"its {games} none is left for the pairing that is chosen; probe fewer, or play more tasks"
        )


def sides(config: EvolveConfig) -> dict[str, str]:
    """Side of the game that is played -> the policy that plays it, the first side coming first.

    Raises:
        UserError: it is no game, or not each side has a learning policy of its own.
    """
    assert config.protocol is not None
    protocol = make_protocol(config.protocol, config.options)
    if protocol.rivals is None:
        raise UserError(f"`opponents`: protocol `{protocol.name}` is no game between two sides")
    seats, found = protocol.seats(), {}
    for side in protocol.rivals:
        names = (side, seats[side].name)
        players = [name for role in names for name, own in config.policies.items() if role in own.roles]
        if not players:
            learning = ", ".join(config.policies)
            raise UserError(f"`opponents`: side `{side}` is played by no learning policy ({learning})")
        found[side] = players[0]
    if len(set(found.values())) < len(found):
        raise UserError(f"`opponents`: policy `{players[0]}` plays both sides; give each a policy of its own")
    return found


def present(config: EvolveConfig, journal: Journal) -> None:
    """Check, before anything is loaded, that the journal has what the configuration builds on.

    Raises:
        UserError: a policy that plays without learning, a run of lessons, a trained start or a reference is
            missing, or the lessons taught somebody else.
    """
    for spec in config.roles.values():
        if (named := policy_spec(spec)) is not None:
            find(journal, *named)
    for name, policy in config.policies.items():
        if policy.begin is not None and name not in journal_names(journal):
            origin_of(journal, name, policy.begin)
        if policy.objective == "offline":
            _taught(journal, name, offline_data(name, policy))
            _begins(config, journal, name)


def _taught(journal: Journal, policy: str, data: OfflineData) -> None:
    """The runs of lessons are there, and the policy was a pupil in one of them."""
    for run in data.lessons:
        journal.run_row(run)
    if data.lessons and data.lessons_per_turn and not was_taught(journal, policy, data.lessons):
        raise UserError(
            f"policy `{policy}`: it was a pupil in none of the `lessons` ({', '.join(data.lessons)}); name a "
            "run in which it was taught"
        )


def _begins(config: EvolveConfig, journal: Journal, name: str) -> None:
    """A policy that learns offline from a game has a trained version as its reference, or names the base."""
    policy = config.policies[name]
    start = start_of(journal, config.run, name) if name in journal_names(journal) else None
    if policy.restart and policy.reference is None and (start is None or start.update_id is None):
        raise UserError(
            f"policy `{name}` is to restart from a trained version and the journal has none: train "
            "it on lessons first, or say `reference: base`"
        )
    if policy.reference is not None and start is not None:
        adapter, label = named_reference(journal, name, policy.reference), f"{name}@{policy.reference}"
    else:
        adapter, label = (start.adapter_path, start.label) if start is not None else (None, f"{name}@0")
    assert config.protocol is not None
    game = make_protocol(config.protocol, config.options).rivals is not None
    if game and policy.reference != "base" and adapter is None:
        raise untrained_reference(name, label)


def _measure(config: EvolveConfig, part: EvaluateConfig | GateConfig) -> Measure:
    """What `evaluate` or `gate` plays."""
    limit, copies, own = (getattr(part, name, None) for name in ("limit", "copies", "protocol"))
    options = part.options if own else {**config.options, **part.options}
    tasks = _tasks(part.tasks, own or config.protocol, options, limit)
    return Measure(tasks, part.options, part.sampling, copies or 1, own)


def _tasks(
    source: str, protocol: str | None, options: dict[str, Any], limit: int | None = None
) -> tuple[TaskRecord, ...]:
    """Tasks, in the form that their protocol reads."""
    if protocol is None:
        return task_rows(source, limit)
    return make_protocol(protocol, options).tasks(source, limit)


def _cast(config: EvolveConfig, *, play: bool) -> dict[str, float]:
    """Every seat has one player and every policy a seat; the temperatures that the policies begin with."""
    if config.protocol is None:
        raise UserError("`protocol: null` has no seats: name the protocol that `evaluate` and `gate` play")
    claims: dict[str, str] = {}
    for name, policy in config.policies.items():
        for role in policy.roles:
            if role in claims or role in config.roles:
                other = f"policy `{claims[role]}`" if role in claims else f"`{config.roles[role]}` in `roles`"
                raise UserError(f"role `{role}` is claimed by policy `{name}` and by {other}: choose one")
            claims[role] = name
    roles = {**config.roles, **{role: f"policy:{name}" for role, name in claims.items()}}
    cast = Cast(make_protocol(config.protocol, config.options), config.engine, roles, config.sampling)
    heat = {}
    for name, policy in config.policies.items():
        seats = [seat for seat, (player, _) in cast.policies.items() if player == name]
        if not seats:
            raise UserError(f"policy `{name}` plays no seat: its roles are played by those of other policies")
        heat[name] = _temperature(name, {seat: cast.sampling_of(seat) for seat in seats})
        if play and policy.objective == GRADIENT:
            for seat in seats:
                _tempered(name, seat, cast.sampling_of(seat))
    return heat


def _temperature(policy: str, seats: dict[str, Sampling]) -> float:
    found = {sampling.temperature for sampling in seats.values()}
    if len(found) > 1:
        raise UserError(f"policy `{policy}` has several temperatures {sorted(found)}: give its seats one")
    return found.pop()


def _tempered(policy: str, seat: str, sampling: Sampling) -> None:
    """A policy gradient needs the probability each token was drawn with (DESIGN section 4)."""
    if sampling.logprob_kind == "tempered":
        return
    neutral = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
    wrong = {name: getattr(sampling, name) for name, value in neutral.items()}
    named = [f"`{name}: {value:g}`" for name, value in wrong.items() if value != neutral[name]]
    if sampling.temperature == 0:
        named = ["`temperature: 0`", *named]
    raise UserError(
        f"policy `{policy}` learns by policy gradient, but seat `{seat}` samples with {', '.join(named)}, so "
        f"its log-probabilities are {sampling.logprob_kind} and not those it was drawn with: remove "
        f"{'it' if len(named) == 1 else 'them'} from `sampling`, or choose the objective sft, dpo or kto"
    )


def _apart(gate: Iterable[TaskRecord], others: Iterable[TaskRecord], which: str) -> None:
    """Gate tasks are used for nothing else, or it would let through what was fitted to them."""
    known = {canonical(task.question): task.id for task in others}
    shared = [task.id for task in gate if canonical(task.question) in known]
    if shared:
        more = f" and {len(shared) - 1} more" if len(shared) > 1 else ""
        raise UserError(
            f"`gate.tasks` shares task `{shared[0]}`{more} with {which}: the gate needs tasks of its own"
        )

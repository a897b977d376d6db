"""Who plays which seat: from engine specs to agents with registered policy versions."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from sparring.agents.engines.base import PolicyVersion, Sampling
from sparring.agents.engines.layer import ManagedEngine
from sparring.agents.engines.registry import EnginePool
from sparring.agents.roles import Agent, Role
from sparring.errors import UserError, unknown
from sparring.graphs.protocol import Protocol
from sparring.memory.journal import Journal
from sparring.memory.records import VersionRecord

SAMPLING_FIELDS = {field.name for field in fields(Sampling)}


class Cast:
    """Seats of a protocol filled with agents.

    Args:
        engine: Spec or object for every seat that `roles` does not name.
        roles: Seat (`solver.1`) or role (`solver`) -> spec or object.
        sampling: Sampling fields for all, or `ROLE.field` for one role or seat.
    """

    def __init__(
        self,
        protocol: Protocol,
        engine: Any = None,
        roles: Mapping[str, Any] | None = None,
        sampling: Mapping[str, Any] | None = None,
    ) -> None:
        self.protocol, self.engine = protocol, engine
        self.roles, self.sampling = dict(roles or {}), dict(sampling or {})
        self.seats = protocol.seats()
        known = {*self.seats, *(role.name for role in self.seats.values())}
        for name in (*self.roles, *(key.rsplit(".", 1)[0] for key in self.sampling if "." in key)):
            if name not in known:
                raise unknown(f"role of protocol `{protocol.name}`", name, known)
        for seat in self.seats:
            self.spec_of(seat)
            self.sampling_of(seat)

    def spec_of(self, seat: str) -> Any:
        """The engine spec of a seat: its own, its role's, or the default."""
        for name in (seat, self.seats[seat].name):
            if name in self.roles:
                return self.roles[name]
        if self.engine is None:
            raise UserError(f"role `{seat}` has no engine: give `--engine SPEC` or `--role {seat}=SPEC`")
        return self.engine

    def sampling_of(self, seat: str) -> Sampling:
        """The sampling of a seat: defaults, then the role's, then the seat's own."""
        chosen: dict[str, Any] = {k: v for k, v in self.sampling.items() if "." not in k}
        for name in (self.seats[seat].name, seat):
            prefix = f"{name}."
            own = {k.removeprefix(prefix): v for k, v in self.sampling.items() if k.startswith(prefix)}
            chosen |= {k: v for k, v in own.items() if "." not in k}
        return _sampling(chosen)

    async def agents(self, pool: EnginePool, journal: Journal) -> dict[str, Agent]:
        """The agents, their backends probed and their policy versions registered."""
        engines = {seat: pool.get(self.spec_of(seat)) for seat in self.seats}
        for engine in dict.fromkeys(engines.values()):
            await engine.probe()
        versions: dict[ManagedEngine, tuple[PolicyVersion, int]] = {}
        for engine in dict.fromkeys(engines.values()):
            versions[engine] = await asyncio.to_thread(_register, engine, journal)
        return {seat: self._agent(seat, role, engines[seat], versions) for seat, role in self.seats.items()}

    def _agent(
        self,
        seat: str,
        role: Role,
        engine: ManagedEngine,
        versions: Mapping[ManagedEngine, tuple[PolicyVersion, int]],
    ) -> Agent:
        version, row = versions[engine]
        return Agent(role, engine, version, self.sampling_of(seat), row)


def _register(engine: ManagedEngine, journal: Journal) -> tuple[PolicyVersion, int]:
    name = policy_name(engine.spec)
    base = engine.capabilities().base
    row = journal.version(VersionRecord(name, base, engine.spec))
    number = journal.version_row(row).number
    return PolicyVersion(name, number, base), row


def policy_name(spec: str) -> str:
    """The policy that a bare engine plays: its spec without options, a path by its last part."""
    bare = spec.split("?")[0]
    if bare.startswith(("http://", "https://")):
        return spec.rsplit("#", 1)[-1].split("?")[0]
    return Path(bare).name if bare.startswith(("/", ".", "~")) else bare


def pinned(agent: Agent, version_id: int, journal: Journal) -> Agent | None:
    """The agent under the policy version an episode began with; None if that version is gone."""
    if version_id == agent.version_id:
        return agent
    row = journal.version_row(version_id)
    if row is None or row.policy != agent.version.policy:
        return None
    if row.base_hash != agent.engine.capabilities().base:
        return None
    if row.adapter_path is not None and not Path(row.adapter_path).is_dir():
        return None
    version = PolicyVersion(row.policy, row.number, row.base_hash, row.adapter_path, row.adapter_hash)
    return replace(agent, version=version, version_id=version_id)


_CASTS: dict[str, Any] = {"temperature": float, "top_p": float, "min_p": float, "repetition_penalty": float}


def _sampling(values: Mapping[str, Any]) -> Sampling:
    chosen: dict[str, Any] = {}
    for name, value in values.items():
        if name not in SAMPLING_FIELDS:
            raise unknown("sampling option", name, SAMPLING_FIELDS)
        try:
            if name == "stop":
                chosen[name] = (value,) if isinstance(value, str) else tuple(value)
            else:
                chosen[name] = _CASTS.get(name, int)(value)
        except (TypeError, ValueError, OverflowError):
            raise UserError(f"sampling option `{name}`: `{value}` is no number") from None
    sampling = Sampling(**chosen)
    for name in _CASTS:
        if not math.isfinite(getattr(sampling, name)):
            raise UserError(f"sampling option `{name}`: `{getattr(sampling, name)}` is not finite")
    if (
        sampling.temperature < 0
        or sampling.max_tokens < 1
        or not 0 < sampling.top_p <= 1
        or sampling.top_k < 0
    ):
        raise UserError(
            "sampling: temperature and top_k are at least 0, max_tokens at least 1, top_p in (0, 1]"
        )
    return sampling

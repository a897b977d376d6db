"""Who plays which seat: from engine specs to agents with registered policy versions.

Beside the specs of engines, a seat takes `policy:NAME`, the live version of a policy of the journal, and
`policy:NAME@training` or `policy:NAME@7`. Seats whose policies share a base share its engine. Who follows
a head gets the version of that moment with each new episode.
"""

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
from sparring.agents.models import verify_adapter
from sparring.agents.roles import Agent, Role
from sparring.errors import CapabilityError, UserError, unknown
from sparring.graphs.protocol import Protocol
from sparring.memory.journal import Journal
from sparring.memory.policies import Head, Version, find, head_id, parse, resolve_adapter
from sparring.memory.records import VersionRecord

SAMPLING_FIELDS = {field.name for field in fields(Sampling)}
POLICY = "policy:"
"""Begins a spec that names a policy of the journal."""
SCRIPT = "scripted:"
Named = tuple[str, Head | int]
"""A policy, and which of its versions: a head or a number."""


class Cast:
    """Seats of a protocol filled with agents.

    Args:
        engine: Spec, policy (`policy:NAME`) or object for every seat that `roles` does not name.
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
        self.seats, self._brought = protocol.seats(), protocol.engines()
        known = protocol.names
        for name in (*self.roles, *(key.rsplit(".", 1)[0] for key in self.sampling if "." in key)):
            if name not in known:
                raise unknown(f"role of protocol `{protocol.name}`", name, known)
        self.policies: dict[str, Named] = {}
        """The seats that name a policy."""
        for seat in self.seats:
            if named := policy_spec(self.spec_of(seat)):
                self.policies[seat] = named
            self.sampling_of(seat)

    def spec_of(self, seat: str) -> Any:
        """The engine spec of a seat: its own, its role's, or the default."""
        for name in (seat, self.seats[seat].name):
            if name in self.roles:
                return self.roles[name]
        if seat in self._brought:
            return self._brought[seat]
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
        return sampling_from(chosen)

    async def agents(self, pool: EnginePool, journal: Journal) -> dict[str, Agent]:
        """The agents, their backends probed and their policy versions registered.

        Raises:
            UserError: a policy or version that is not there, or whose weights are gone or altered.
        """
        named = await asyncio.to_thread(versions, journal, set(self.policies.values()))
        specs = {
            seat: named[self.policies[seat]].base_spec if seat in self.policies else self.spec_of(seat)
            for seat in self.seats
        }
        engines = {seat: pool.get(spec) for seat, spec in specs.items()}
        for engine in dict.fromkeys(engines.values()):
            await engine.probe()
        bare: dict[ManagedEngine, tuple[PolicyVersion, int]] = {}
        for engine in dict.fromkeys(engines[seat] for seat in self.seats if seat not in self.policies):
            bare[engine] = await asyncio.to_thread(_register, engine, journal)
        seated = {seat: fitting(engines[seat], named[which]) for seat, which in self.policies.items()}
        return {
            seat: self._agent(seat, role, engines[seat], seated.get(seat) or bare[engines[seat]])
            for seat, role in self.seats.items()
        }

    def _agent(self, seat: str, role: Role, engine: ManagedEngine, plays: tuple[PolicyVersion, int]) -> Agent:
        version, row = plays
        return Agent(role, engine, version, self.sampling_of(seat), row)

    def moved(self, agents: Mapping[str, Agent], journal: Journal) -> bool:
        """Whether a head that they follow points at another version by now.

        Costs a look-up a head that is followed, nothing where none is.
        """
        followed = {which: seat for seat, which in self.policies.items()}
        return any(
            isinstance(which, str) and head_id(journal, policy, which) != agents[seat].version_id
            for (policy, which), seat in followed.items()
        )


def _register(engine: ManagedEngine, journal: Journal) -> tuple[PolicyVersion, int]:
    name = policy_name(engine.spec)
    base = engine.capabilities().base
    row = journal.version(VersionRecord(name, base, engine.spec))
    number = journal.version_row(row).number
    return PolicyVersion(name, number, base), row


def versions(journal: Journal, wanted: set[Named]) -> dict[Named, Version]:
    """The versions named, their weights found to be those that were registered."""
    found = {which: find(journal, *which) for which in sorted(wanted, key=str)}
    for version in {version.id: version for version in found.values()}.values():
        if version.adapter_path is not None:
            try:
                verify_adapter(version.adapter_path, version.adapter_hash)
            except UserError as wrong:
                raise UserError(f"policy {version.label}: {wrong}") from None
    return found


def fitting(engine: ManagedEngine, version: Version) -> tuple[PolicyVersion, int]:
    """A version as the engine takes it, if the engine serves its base."""
    able = engine.capabilities()
    if able.base != version.base_hash:
        raise UserError(
            f"policy {version.label} belongs to base {version.base_hash[:12]}, but `{version.base_spec}` now "
            f"serves {able.base[:12]}: restore that checkpoint or use another version"
        )
    if version.adapter_path is not None and not able.adapters:
        raise CapabilityError(f"policy {version.label} has an adapter; `{version.base_spec}` serves none")
    return _as_served(version), version.id


def _as_served(version: Version) -> PolicyVersion:
    folder = None if version.adapter_path is None else str(version.adapter_path)
    return PolicyVersion(version.policy, version.number, version.base_hash, folder, version.adapter_hash)


def policy_spec(spec: Any) -> Named | None:
    """The policy that a spec names; None where it names an engine.

    Raises:
        UserError: `policy:` without a name, or with something else than a head or number after its `@`.
    """
    if not isinstance(spec, str) or not spec.startswith(POLICY):
        return None
    name, which = parse(spec.removeprefix(POLICY).strip())
    if not name:
        raise UserError(f"engine `{spec}`: name a policy, as in `policy:NAME` or `policy:NAME@7`")
    return name, which


def policy_name(spec: str) -> str:
    """The policy that a bare engine plays: its spec without options, a path by its last part."""
    bare = spec.split("?")[0]
    if bare.startswith(("http://", "https://")):
        return spec.rsplit("#", 1)[-1].split("?")[0]
    if bare.startswith(SCRIPT):  # what a script says by hash must not hang on its folder
        return SCRIPT + Path(bare.removeprefix(SCRIPT)).name
    form, colon, model = bare.partition(":")
    if colon and form in ("orm", "prm", "vllm"):
        return f"{form}:{Path(model).name}"
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
    adapter = resolve_adapter(journal, row.adapter_path)
    if adapter is not None and not adapter.is_dir():
        return None
    folder = None if adapter is None else str(adapter)
    version = PolicyVersion(row.policy, row.number, row.base_hash, folder, row.adapter_hash)
    return replace(agent, version=version, version_id=version_id)


_CASTS: dict[str, Any] = {"temperature": float, "top_p": float, "min_p": float, "repetition_penalty": float}


def sampling_from(values: Mapping[str, Any]) -> Sampling:
    """Sampling from what a user or a model gives for its fields.

    Raises:
        UserError: no such field, or a value that it cannot have.
    """
    chosen: dict[str, Any] = {}
    for name, value in values.items():
        if name not in SAMPLING_FIELDS:
            raise unknown("sampling option", name, SAMPLING_FIELDS)
        cast = _CASTS.get(name, int)
        try:
            if name == "stop":
                chosen[name] = (value,) if isinstance(value, str) else tuple(value)
            else:
                chosen[name] = cast(value)
        except (TypeError, ValueError, OverflowError):
            raise UserError(f"sampling option `{name}`: `{value}` is no number") from None
        if cast is int and isinstance(value, float) and not value.is_integer():
            raise UserError(f"sampling option `{name}`: `{value}` is no whole number")
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

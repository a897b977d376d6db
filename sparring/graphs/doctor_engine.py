"""An engine: whether its spec is read, its backend is there, and it answers."""

from __future__ import annotations

import asyncio
import time

from sparring.agents.engines.base import PolicyVersion, Request, Sampling, Solved, rate
from sparring.agents.engines.layer import ManagedEngine
from sparring.agents.engines.registry import EnginePool
from sparring.errors import EngineTimeout, SparringError, UserError
from sparring.graphs.cast import fitting, policy_spec, versions
from sparring.graphs.console import existing
from sparring.graphs.doctor import Finding
from sparring.memory.journal import Journal
from sparring.memory.policies import Version

WAIT_S = 60.0
TOKENS = 16
QUESTION = "Say OK."
RATES = ("orm:", "prm:")


def engine(spec: str, memory: str) -> Finding:
    """An engine that was asked one short thing: how long it took, or what is to be mended."""
    name = f"engine {spec}"
    try:
        return Finding(name, "ok", asyncio.run(_asked(spec, memory)))
    except EngineTimeout as error:
        mend = "see how busy the server is, or whether something between here and there holds it up"
        return Finding(name, "broken", str(error), mend)
    except UserError as error:
        return Finding(name, "broken", str(error), _mend(spec, str(error)))
    except SparringError as error:
        return Finding(name, "broken", str(error), _mend(spec, str(error)))


def _mend(spec: str, said: str) -> str:
    if "401" in said or "403" in said:
        return "set the key: OPENAI_API_KEY, or the variable that ?api_key_env=NAME names"
    if "404" in said:
        return "see that the URL ends in /v1 and the model after # is one that the server lists"
    if "scripted:" in spec or "policy:" in spec or "unknown" in said:
        return "give another SPEC: docs/engines.md lists them"
    if spec.startswith("http"):
        return "start the server, and see that this machine reaches it: curl URL/models"
    return "see what it says; docs/engines.md has the options of each engine"


async def _asked(spec: str, memory: str) -> str:
    policy, base = await asyncio.to_thread(_resolved, spec, memory)
    async with EnginePool() as pool:
        started = time.perf_counter()
        managed = pool.get(base, tries=1, timeout=WAIT_S)
        await managed.probe()
        ready = time.perf_counter() - started
        if base.startswith(RATES):
            return await _rated(managed, ready)
        version = PolicyVersion("base") if policy is None else fitting(managed, policy)[0]
        request = Request(
            ({"role": "user", "content": QUESTION},), Sampling(max_tokens=TOKENS), (0,), version
        )
        started = time.perf_counter()
        [reply] = await managed.generate(request)
        took = time.perf_counter() - started
        able = managed.capabilities()
        gives = [
            what
            for what, has in (
                ("token ids", able.token_ids), ("log-probabilities", able.logprobs), ("seeds", able.seeds),
                ("adapters", able.adapters),
            )
            if has
        ]  # fmt: skip
        said = " ".join(reply.text.split())
        shown = f"`{said[:40]}`" if said else "an empty text"
        return (
            f"ready in {ready:.2f} s, answered in {took:.2f} s: {shown}, "
            f"{reply.usage.completion_tokens} tokens; gives {', '.join(gives) or 'text alone'}"
        )


async def _rated(managed: ManagedEngine, ready: float) -> str:
    started = time.perf_counter()
    await rate(managed, [Solved("1 + 1?", "1 + 1 = 2", ("1 + 1 = 2",))])
    return f"ready in {ready:.2f} s, rated one solution in {time.perf_counter() - started:.2f} s"


def _resolved(spec: str, memory: str) -> tuple[Version | None, str]:
    """A policy's version, its weights checked, and the spec of the engine that it runs on."""
    named = policy_spec(spec)
    if named is None:
        return None, spec
    existing(memory)
    with Journal.open(memory) as journal:
        version = versions(journal, {named})[named]
    return version, version.base_spec

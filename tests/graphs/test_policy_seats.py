"""Policies in seats: the live version between episodes without a restart, several adapters on one base."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pytest
from sqlalchemy import select

sys.path.append(str(Path(__file__).parents[1] / "agents"))  # its tiny model serves here too

from tf_support import SIZES, logs_of, reference, save_tokenizer

from sparring.agents.engines.registry import EnginePool
from sparring.agents.models import adapter_hash, checkpoint_hash, verify_adapter
from sparring.errors import CapabilityError, UserError
from sparring.graphs.cast import pinned, policy_spec
from sparring.graphs.play import plan, play, resume
from sparring.graphs.player import taken
from sparring.memory import policies
from sparring.memory.journal import Journal
from sparring.memory.queries import training_turns
from sparring.memory.schema import Agent, Episode, Turn

TASKS = [{"id": f"q{n}", "question": f"{n} + {n}?", "answer": str(2 * n)} for n in range(8)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random llama that takes whole prompts of a debate, a byte a token."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(7)
    folder = tmp_path_factory.mktemp("tiny")
    model = LlamaForCausalLM(LlamaConfig(**{**SIZES, "max_position_embeddings": 4096}))
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two LoRA adapters far from zero."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folders = []
    for number in range(2):
        torch.manual_seed(number)
        wrapped = get_peft_model(
            AutoModelForCausalLM.from_pretrained(tiny),
            LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"]),
        )
        for name, weight in wrapped.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight, std=0.1)
        folders.append(tmp_path_factory.mktemp(f"adapter{number}"))
        wrapped.save_pretrained(folders[-1])
    return folders


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "j.db"


def stocked(memory: Path, tiny: Path, adapters: list[Path], name: str = "solver") -> list[policies.Version]:
    """A policy with the bare base and a version for each adapter, copied into the journal's store."""
    with Journal.open(memory) as journal:
        base = {"policy": name, "base_hash": checkpoint_hash(tiny), "base_spec": f"{tiny}?dtype=float32"}
        made = [policies.register(journal, **base)]
        for adapter in adapters:
            folder = policies.store_folder(journal) / name / adapter.name
            shutil.copytree(adapter, folder)
            own = {"adapter_path": folder, "adapter_hash": adapter_hash(folder), "parent_id": made[-1].id}
            made.append(policies.register(journal, **base, **own))
        return made


def bare(memory: Path, spec: str = "scripted:hash") -> list[policies.Version]:
    """A policy without adapters, whose two versions differ in number alone."""
    base = EnginePool().get(spec).capabilities().base
    with Journal.open(memory) as journal:
        return [
            policies.register(journal, policy="solver", base_hash=base, base_spec=spec, update_id=step)
            for step in (None, 1)
        ]


def point(memory: Path, version: policies.Version, head: policies.Head = "live") -> None:
    """Move a head as another process would."""
    with Journal.open(memory) as journal:
        policies.move_head(journal, version.policy, head, version.id, by="hand", reason="test")


def seats(memory: Path, run: str) -> list[dict[str, Any]]:
    """Of every episode in the order they began."""
    with Journal.open(memory) as journal:
        rows = journal.read(select(Episode.seats).where(Episode.run_id == run).order_by(Episode.number))
    return [row.seats for row in rows]


def verify(memory: Path, run: str, tiny: Path) -> Counter[str]:
    """Every turn's log-probabilities are those of the weights its version names; turns by version."""
    models: dict[int, Any] = {}
    seen: Counter[str] = Counter()
    with Journal.open(memory) as journal:
        for turn in training_turns(journal, run=run):
            version = policies.by_id(journal, turn.policy_version_id)
            if version.id not in models:
                models[version.id] = reference(tiny, version.adapter_path)
            logs = logs_of(models[version.id], turn.prompt_ids, turn.completion_ids, 1.0)
            want = logs[np.arange(len(logs)), turn.completion_ids.astype(np.int64)]
            np.testing.assert_allclose(turn.logprobs, want.numpy(), atol=1e-4, rtol=0)
            seen[version.label] += 1
    return seen


# --- weights -------------------------------------------------------------------------------------------


async def test_the_live_version_is_picked_up_in_mid_run(
    memory: Path, tiny: Path, adapters: list[Path]
) -> None:
    _, one, two = stocked(memory, tiny, adapters)
    point(memory, one)
    planned = plan("sample", TASKS, engine="policy:solver", max_tokens=6)
    with Journal.open(memory) as journal:
        async with EnginePool() as pool, taken(journal, "r", planned, pool, 1) as player:
            playing = asyncio.create_task(player())
            while player.done < 3:
                await asyncio.sleep(0)
            await asyncio.to_thread(point, memory, two)
            await playing
            assert len(pool._engines) == 1
    order = [held["solver"]["version"] for held in seats(memory, "r")]
    assert order == sorted(order) and set(order) == {one.id, two.id} and order[:3] == [one.id] * 3
    seen = verify(memory, "r", tiny)
    assert seen["solver@1"] >= 3 and seen["solver@2"] >= 3 and seen.total() == 8


async def test_two_policies_and_the_bare_base_share_one_engine(
    memory: Path, tiny: Path, adapters: list[Path]
) -> None:
    stocked(memory, tiny, adapters[:1])
    stocked(memory, tiny, adapters[1:], "critic")
    roles = {
        "solver.0": "policy:solver@1",
        "solver.1": "policy:critic@1",
        "solver.2": f"{tiny}?dtype=float32",
    }
    planned = plan("du", TASKS[:2], roles=roles, agents=3, rounds=1, max_tokens=6)
    with Journal.open(memory) as journal:
        async with EnginePool() as pool, taken(journal, "r", planned, pool, 8) as player:
            await player()
            [engine] = pool._engines.values()
            assert engine.counters.passes < 2 * 3 * 6  # type: ignore[attr-defined]  # it is a TransformersEngine
        said = journal.read(select(Agent.policy).join(Turn, Turn.agent_id == Agent.id))
    assert Counter(row.policy for row in said) == {"solver": 2, "critic": 2, tiny.name: 2}
    assert verify(memory, "r", tiny) == {"solver@1": 2, "critic@1": 2, f"{tiny.name}@0": 2}


def test_weights_that_are_gone_or_altered_are_refused_before_any_work(
    memory: Path, tiny: Path, adapters: list[Path]
) -> None:
    _, one, two = stocked(memory, tiny, adapters)
    point(memory, one)
    assert one.adapter_path is not None and two.adapter_path is not None
    weights = one.adapter_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(UserError, match=r"policy solver@1: adapter .* these are not the weights .*rollback"):
        play("sample", TASKS, engine="policy:solver", memory=memory, run="r")
    shutil.rmtree(two.adapter_path)
    with pytest.raises(UserError, match=r"policy solver@2: adapter .* is gone"):
        play("sample", TASKS, engine="policy:solver@2", memory=memory, run="r")
    with Journal.open(memory) as journal:
        assert not journal.has_run("r")


def test_a_live_version_that_turns_bad_stops_the_run_and_rolling_back_continues_it(
    memory: Path, tiny: Path, adapters: list[Path]
) -> None:
    _, one, two = stocked(memory, tiny, adapters)
    point(memory, one)
    assert two.adapter_path is not None
    shutil.rmtree(two.adapter_path)

    async def spoilt() -> None:
        planned = plan("sample", TASKS, engine="policy:solver", max_tokens=4)
        with Journal.open(memory) as journal:
            async with EnginePool() as pool, taken(journal, "r", planned, pool, 1) as player:
                playing = asyncio.create_task(player())
                while player.done < 2:
                    await asyncio.sleep(0)
                await asyncio.to_thread(point, memory, two)
                await playing

    with pytest.raises(UserError, match=r"policy solver@2: adapter .* is gone"):
        asyncio.run(spoilt())
    with Journal.open(memory) as journal:
        policies.rollback(journal, "solver", by="hand", reason="gone")
    assert resume("r", memory).complete
    assert {held["solver"]["version"] for held in seats(memory, "r")} == {one.id}


def test_the_checksum_of_an_adapter(adapters: list[Path], tmp_path: Path) -> None:
    good = adapter_hash(adapters[0])
    verify_adapter(adapters[0], good)
    for folder, expected, what in (
        (adapters[1], good, "not the weights"),
        (adapters[0], None, "not the weights"),
        (tmp_path / "none", good, "is gone"),
        (tmp_path, good, "has no adapter_config.json"),
    ):
        with pytest.raises(UserError, match=what):
            verify_adapter(folder, expected)


def test_an_episode_goes_on_with_weights_that_lie_in_the_store(
    memory: Path, tiny: Path, adapters: list[Path]
) -> None:
    _, one, two = stocked(memory, tiny, adapters)

    async def held(journal: Journal) -> Any:
        cast = plan("sample", TASKS, engine="policy:solver@2").cast()
        async with EnginePool() as pool:
            agents = await cast.agents(pool, journal)
            return agents["solver"], pinned(agents["solver"], one.id, journal)

    with Journal.open(memory) as journal:
        now, then = asyncio.run(held(journal))
        assert (now.version_id, now.version.number) == (two.id, 2)
        assert (then.version_id, then.version.adapter, then.version.adapter_hash) == (
            one.id,
            str(one.adapter_path),
            one.adapter_hash,
        )


# --- names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("policy:solver", ("solver", "live")),
        ("policy:solver@training", ("solver", "training")),
        ("policy:solver@7", ("solver", 7)),
        ("policy:scripted:hash", ("scripted:hash", "live")),
        ("smollm2-135m", None),
        (None, None),
    ],
)
def test_a_spec_names_a_policy_or_an_engine(spec: Any, named: Any) -> None:
    assert policy_spec(spec) == named


@pytest.mark.parametrize("spec", ["policy:", "policy:solver@best", "policy:@7"])
def test_a_spec_that_cannot_be_read_is_refused_in_planning(spec: str) -> None:
    with pytest.raises(UserError):
        plan("sample", TASKS, engine=spec)


def test_unknown_policies_and_versions_are_answered_with_those_that_exist(memory: Path) -> None:
    bare(memory)
    with pytest.raises(UserError, match="unknown policy `slover`; known: solver"):
        play("sample", TASKS, engine="policy:slover", memory=memory)
    with pytest.raises(UserError, match="`solver` has no version 9; it has 0, 1"):
        play("sample", TASKS, engine="policy:solver@9", memory=memory)


def test_each_name_plays_its_version_and_a_run_resumes_from_its_row(memory: Path) -> None:
    first, second = bare(memory)
    point(memory, second, "training")
    for spec, version in (
        ("policy:solver", first),
        ("policy:solver@live", first),
        ("policy:solver@training", second),
        ("policy:solver@1", second),
    ):
        planned = plan("sample", TASKS[:2], engine=spec)
        assert planned.to_json()["engine"] == spec
        result = play("sample", TASKS[:2], engine=spec, memory=memory)
        assert result.run == planned.default_name and result.complete
        assert [held["solver"]["version"] for held in seats(memory, result.run)] == [version.id] * 2
        assert resume(result.run, memory).results == result.results
    assert (
        len({plan("sample", TASKS, engine=s).default_name for s in ("policy:solver", "policy:solver@1")}) == 2
    )


def test_what_is_not_finished_keeps_its_version_and_what_is_new_gets_the_head(
    memory: Path, tmp_path: Path
) -> None:
    script = tmp_path / "s.jsonl"
    rules = ({"match": r"3 \+ 3", "error": "engine_error"}, {"replies": ["Answer: 4"]})
    script.write_text("".join(json.dumps(rule) + "\n" for rule in rules))
    first, second = bare(memory, f"scripted:{script}")
    call: dict[str, Any] = {"engine": "policy:solver", "memory": memory, "run": "r"}
    assert not play("sample", TASKS[:4], **call).complete
    point(memory, second)
    assert not resume("r", memory).complete
    assert {held["solver"]["version"] for held in seats(memory, "r")} == {first.id}
    with Journal.open(memory) as journal:
        attempts = journal.read(select(Turn.policy_version_id).where(Turn.status == "engine_error"))
        assert len(attempts) >= 2 and {row[0] for row in attempts} == {first.id}
    play("sample", TASKS[:4], **{**call, "run": "s"})
    assert {held["solver"]["version"] for held in seats(memory, "s")} == {second.id}


def test_a_base_that_changed_and_an_engine_without_adapters_are_refused(
    memory: Path, adapters: list[Path]
) -> None:
    base = EnginePool().get("scripted:hash").capabilities().base
    with Journal.open(memory) as journal:
        known = {"base_spec": "scripted:hash", "adapter_path": adapters[0]}
        digest = adapter_hash(adapters[0])
        policies.register(journal, policy="a", base_hash="other", adapter_hash=digest, **known)
        policies.register(journal, policy="b", base_hash=base, adapter_hash=digest, **known)
    with pytest.raises(UserError, match=r"policy a@0 belongs to base other"):
        play("sample", TASKS, engine="policy:a", memory=memory)
    with pytest.raises(CapabilityError, match=r"policy b@0 has an adapter"):
        play("sample", TASKS, engine="policy:b", memory=memory)


async def test_only_those_who_follow_a_head_ask_for_it(memory: Path) -> None:
    first, second = bare(memory)
    with Journal.open(memory) as journal:
        async with EnginePool() as pool:
            for spec, follows in (
                ("scripted:hash", False),
                ("policy:solver@0", False),
                ("policy:solver", True),
            ):
                cast = plan("sample", TASKS, engine=spec).cast()
                agents = await cast.agents(pool, journal)
                assert cast.moved(agents, journal) is False
                policies.move_head(journal, "solver", "live", second.id, by="hand", reason="")
                assert cast.moved(agents, journal) is follows
                policies.move_head(journal, "solver", "live", first.id, by="hand", reason="")
        journal.read = None  # type: ignore[method-assign,assignment]  # nothing may be read for a bare engine
        assert plan("sample", TASKS, engine="scripted:hash").cast().moved({}, journal) is False


async def test_a_users_own_graph_follows_the_live_version(memory: Path) -> None:
    from langgraph.graph import END, START, StateGraph

    from sparring.graphs.catalogue import make_protocol

    class State(TypedDict, total=False):
        question: str
        answer: Any

    first, second = bare(memory)
    node = make_protocol("sample", {}).node(
        agents="policy:solver",
        memory=memory,
        task=lambda state: state["question"],
        result=lambda outcome: {"answer": outcome["answer"]},
    )
    graph: Any = StateGraph(State)
    graph.add_node("ask", node)
    graph.add_edge(START, "ask")
    graph.add_edge("ask", END)
    app = graph.compile()
    await app.ainvoke({"question": "1 + 1?"})
    await asyncio.to_thread(point, memory, second)
    for _ in range(2):
        await app.ainvoke({"question": "2 + 2?"})
    await node.aclose()
    with Journal.open(memory) as journal:
        rows = journal.read(select(Turn.policy_version_id).order_by(Turn.id))
    assert [row[0] for row in rows] == [first.id, second.id, second.id]

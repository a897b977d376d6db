"""vLLM in this process against the embedded engine over the same weights, both in float32.

    make test-vllm

The whole set needs vLLM's own environment (docs/engines.md) and is skipped elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import pytest_asyncio
from sqlalchemy import select
from tf_support import version_of
from vllm_support import ask, behaviour

pytest.importorskip("vllm", reason="vLLM is not installed here: make test-vllm")

import sparring
from sparring.agents.engines.base import ContextExceeded, PolicyVersion, ScoreRequest
from sparring.agents.engines.layer import ManagedEngine
from sparring.agents.engines.registry import make_engine
from sparring.agents.engines.vllm import VllmEngine
from sparring.errors import CapabilityError, EngineError, UserError
from sparring.memory.journal import Journal
from sparring.memory.samples import training_turns
from sparring.memory.schema import Update
from sparring.memory.versions import versions
from sparring.training.evolve import aevolve
from sparring.training.team import _playable
from sparring.training.weights import LoraSettings

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900), pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served():
    engine = VllmEngine("smollm2-135m", dtype="float32", kv_cache_gib=1.0, max_model_len=1024)
    yield engine
    await engine.close()


async def test_it_says_what_it_drew_and_how_likely_that_was(served, smol_embedded):
    said = await served.generate(ask(n=4))
    assert len({one.text for one in said}) > 1
    prompt, _ = smol_embedded.encode(ask().messages, "")
    for one in said:
        assert one.prompt_ids.tolist() == prompt.tolist()
        assert one.logprob_kind == "tempered" and one.usage.completion_tokens == len(one.completion_ids)
        np.testing.assert_allclose(one.logprobs, await behaviour(smol_embedded, one), atol=2e-3)


async def test_adapters_of_several_policies_share_a_batch(served, smol_embedded, smol_adapters):
    versions = [None, *smol_adapters]
    asked = (served.generate(ask(version=version, temperature=1.0)) for version in versions)
    said = await asyncio.gather(*asked)
    for (one,), version in zip(said, versions, strict=True):
        own = await behaviour(smol_embedded, one, version, 1.0)
        np.testing.assert_allclose(one.logprobs, own, atol=5e-3)
        other = await behaviour(smol_embedded, one, smol_adapters[0] if version is None else None, 1.0)
        assert np.abs(one.logprobs - other).max() > 0.1  # so another's adapter would show


async def test_a_new_adapter_is_served_without_a_restart(served, smol_embedded, smol_adapters, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(smol_adapters[0].adapter, tmp_path / "next")
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({name: weight * -1.5 for name, weight in weights.items()}, folder / "adapter_model.safetensors")
    version, before = version_of(folder), served._llm
    (one,) = await served.generate(ask(version=version, temperature=1.0))
    assert served._llm is before
    np.testing.assert_allclose(one.logprobs, await behaviour(smol_embedded, one, version, 1.0), atol=5e-3)


async def test_an_adapter_that_is_not_what_was_recorded_is_refused(served, smol_adapters):
    wrong = PolicyVersion("p", 1, "", smol_adapters[0].adapter, smol_adapters[1].adapter_hash)
    with pytest.raises(UserError, match="restore them or register a new version"):
        await served.generate(ask(version=wrong))


async def test_an_adapter_that_vllm_cannot_read_harms_nobody_else(served, smol_adapters, tmp_path):
    folder = shutil.copytree(smol_adapters[0].adapter, tmp_path / "wide")
    config = json.loads((folder / "adapter_config.json").read_text()) | {"r": 32}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    await served.start()
    before = served._llm
    neighbour = asyncio.create_task(served.generate(ask(max_tokens=60, temperature=1.0)))
    await asyncio.sleep(0.3)
    with pytest.raises(UserError, match=r"does not take adapter .*: LoRA rank 32 is greater than"):
        await served.generate(ask(version=version_of(folder)))
    assert (await neighbour)[0].text and served._llm is before


async def test_scores_are_those_of_the_embedded_engine(served, smol_embedded, smol_adapters):
    prompt, said = smol_embedded.encode(ask().messages, "Red, green and blue.")
    for version in (PolicyVersion("base"), smol_adapters[1]):
        asked = ScoreRequest(prompt, said, top_k=3, version=version)
        ours, theirs = await served.score(asked), await smol_embedded.score(asked)
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=5e-3)
        assert ours.top_ids.shape == (len(said), 3)
        np.testing.assert_allclose(ours.top_logprobs, theirs.top_logprobs, atol=5e-3)
    with pytest.raises(CapabilityError, match="use the embedded engine"):
        await served.score(ScoreRequest(prompt, said, full_vocabulary=True))


async def test_a_stop_token_is_there_iff_it_was_drawn(served):
    (short,) = await served.generate(ask("Say hi.", temperature=0, max_tokens=2))
    assert short.finish_reason == "length" and len(short.completion_ids) == 2
    (whole,) = await served.generate(ask("What is 2+3?", temperature=0, max_tokens=200))
    assert whole.finish_reason == "stop" and whole.logprob_kind == "greedy"
    ends = served._checkpoint().ends
    assert whole.completion_ids[-1] in ends and not set(whole.completion_ids[:-1].tolist()) & ends
    (cut,) = await served.generate(ask("Count: one two three", temperature=0, max_tokens=60, stop=("e",)))
    assert cut.finish_reason == "stop" and "e" not in cut.text


async def test_no_seed_is_sent_on_a_cpu(served):
    (one,) = await served.generate(ask())
    assert one.seed_sent is False and served.capabilities().seeds is False


async def test_what_was_said_before_is_not_computed_again(served):
    long = "Say it in a word. " * 40
    (first,) = await served.generate(ask(long, max_tokens=1))
    (again,) = await served.generate(ask(long, max_tokens=1))
    assert again.usage.cached_tokens > 0.5 * len(first.prompt_ids)


async def test_a_prompt_beyond_the_context_is_refused_by_itself(served):
    with pytest.raises(ContextExceeded, match="too many for a context of 1024"):
        await served.generate(ask("word " * 2000))
    assert await served.generate(ask(max_tokens=1))


async def test_cancelling_takes_a_request_out_of_the_batch(served):
    await served.start()
    batch = served._llm.output_processor
    task = asyncio.create_task(served.generate(ask(n=8, max_tokens=900, temperature=1.0)))
    await until(batch.has_unfinished_requests)  # and not for a time: a reply may be short
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not batch.has_unfinished_requests())


async def until(condition):
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to be")


async def test_it_is_started_anew_after_its_process_died(served):
    await served.start()
    children = psutil.Process().children(recursive=True)
    running = asyncio.create_task(served.generate(ask(max_tokens=500, temperature=1.0)))
    managed = asyncio.create_task(ManagedEngine(served).generate(ask(max_tokens=100, temperature=1.0)))
    await asyncio.sleep(1)
    for child in children:
        os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(EngineError, match="died") as caught:
        await running
    assert caught.value.retryable
    assert (await managed)[0].retries == 1
    assert (await served.generate(ask(max_tokens=1)))[0].completion_ids is not None


def small(**options) -> VllmEngine:
    given = {"kv_cache_gib": 0.5, "max_model_len": 512, "max_loras": 0, "enforce_eager": True} | options
    return VllmEngine("smollm2-135m", **given)


async def test_an_adapter_that_takes_anothers_place_spoils_nothing_in_flight(smol_embedded, smol_adapters):
    engine = small(dtype="float32", max_loras=1)
    long = ask(version=smol_adapters[0], temperature=1.0, max_tokens=60)
    running = asyncio.create_task(engine.generate(long))
    while not (engine._llm and engine._llm.output_processor.has_unfinished_requests()):
        await asyncio.sleep(0.1)
    await asyncio.sleep(1)
    other = await engine.generate(ask(version=smol_adapters[1], temperature=1.0, max_tokens=8))
    for (one,), version in zip((await running, other), smol_adapters, strict=True):
        own = await behaviour(smol_embedded, one, version, 1.0)
        np.testing.assert_allclose(one.logprobs, own, atol=5e-3)
    await engine.close()


async def test_it_serves_one_event_loop_after_the_other():
    engine = small()
    for _ in range(2):
        assert await asyncio.to_thread(asyncio.run, asyncio.wait_for(engine.generate(ask(max_tokens=1)), 120))
    await asyncio.to_thread(asyncio.run, engine.close())


async def test_a_start_that_was_given_up_is_ended_with_the_engine():
    engine, before = small(), children()
    starting = asyncio.create_task(engine.start())
    while not children() - before:
        await asyncio.sleep(0.1)
    starting.cancel()
    closing = asyncio.create_task(engine.close())
    await asyncio.wait([starting, closing])
    gone(children() - before)
    assert starting.cancelled() and engine._llm is None


async def test_nothing_survives_a_close():
    engine, before = small(), children()
    await engine.generate(ask(max_tokens=1))
    mine = children() - before
    assert mine
    unfinished = asyncio.create_task(engine.generate(ask(max_tokens=400, temperature=1.0)))
    await asyncio.sleep(0.5)
    await engine.close()
    gone(mine)
    with pytest.raises(EngineError, match="closed"):
        await asyncio.wait_for(unfinished, 10)
    with pytest.raises(EngineError, match="closed"):
        await engine.generate(ask())
    await engine.close()


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def gone(pids: set[int]) -> None:
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=30)
    assert not [one for one in alive if "resource_tracker" not in " ".join(one.cmdline())]  # Python's own


async def test_a_policy_that_could_not_be_served_is_refused_before_it_learns():
    for options, why in (("max_loras=0", "serves none"), ("max_lora_rank=8", "takes 8 at most")):
        engine = make_engine(f"vllm:smollm2-135m?{options}")
        member = SimpleNamespace(name="p", engine=engine, learner=SimpleNamespace(lora=LoraSettings(rank=16)))
        with pytest.raises(UserError, match=why):
            _playable(member)


class EveryOther(sparring.RewardFunction):
    """Something to learn from whatever is drawn: vLLM has no seeds here, and all answers may be wrong."""

    name = "every-other"
    version = "1"

    def rewards(self, episode):
        return [
            sparring.Paid(turn.id, float(place % 2), "its turn") for place, turn in enumerate(episode.turns)
        ]


async def test_a_policy_learns_from_what_it_says_through_vllm(smol_embedded, tmp_path):
    tasks = [
        {"id": f"{n}", "question": f"{n} + 1 =", "answer": str(n + 1), "check": "math"} for n in range(2)
    ]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    (tmp_path / "solver.md").write_text("{% block question %}{{ question }}{% endblock %}\n")
    spec = "vllm:smollm2-135m?dtype=float32&kv_cache_gib=0.5&max_model_len=512&enforce_eager=on"
    learns = {
        "roles": ["solver"],
        "reward": EveryOther,
        "loss": {"name": "reinforce++", "entropy_bonus": 0.01},
    }
    config = {
        "run": "v",
        "protocol": "sample",
        "options": {"n": 6, "answer": "number", "prompts": {"solver": str(tmp_path / "solver.md")}},
        "engine": spec,
        "sampling": {"temperature": 1.0, "max_tokens": 8},
        "tasks": str(tmp_path / "tasks.jsonl"),
        "policies": {"solver": learns | {"train": {"learning_rate": 3e-4, "old": "recompute"}}},
        "steps": 2,
    }
    await aevolve(config, tmp_path / "j.db")
    with Journal.open(str(tmp_path / "j.db")) as journal:
        updates = [row.metrics for row in journal.read(select(Update.metrics).order_by(Update.id))]
        said = training_turns(journal, run="v")
        numbers = {row.id: row.number for row in versions(journal, "solver")}
    learnt = [numbers[turn.policy_version_id] for turn in said]
    assert sorted(learnt) == [0] * 12 + [1] * 12  # the second step plays what the first one taught
    # What vLLM drew with against the trainer's own pass over it, under the version that spoke.
    assert [update["recomputed"] for update in updates] == [12, 12]
    assert max(update["engine_gap_max"] for update in updates) < 2e-3
    turn = said[learnt.index(1)]
    base = ScoreRequest(turn.prompt_ids, turn.completion_ids)
    assert np.abs((await smol_embedded.score(base)).logprobs - turn.logprobs).max() > 0.02  # not the base's

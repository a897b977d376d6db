"""The embedded engine against plain forward passes of the same weights, in float32.

The tiny models are random but sharp (large initial weights), so that a dropped causal mask or a
position that is off by one moves log-probabilities by far more than the tolerance.
"""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tf_support import ask, check, logs_of, reference, version_of

from sparring.agents.engines.base import Engine, Message, PolicyVersion, Request, Sampling, ScoreRequest
from sparring.agents.engines.transformers import ContextExceeded, TransformersEngine
from sparring.agents.engines.transformers.cache import SlotCache
from sparring.agents.engines.transformers.packing import PackedLinear
from sparring.errors import EngineError, UserError


async def test_logprobs_in_a_mixed_batch(tf_engine, tf_tiny, tf_adapters):
    """Unequal prompts, three temperatures, the base and two adapters, all at once."""
    requests = [
        ask(
            "word " * (3 * i + 1),
            i,
            adapter=[None, *tf_adapters][i % 3],
            temperature=[0.7, 1.0, 1.3][i // 3 % 3],
        )
        for i in range(12)
    ]
    answers = await asyncio.gather(*map(tf_engine.generate, requests))
    for request, (completion,) in zip(requests, answers, strict=True):
        check(tf_tiny, request, completion)
        assert completion.logprob_kind == "tempered"
    assert tf_engine.counters.passes < 60, "the requests did not share their passes"


async def test_adapters_change_what_is_said(tf_engine, tf_tiny, tf_adapters):
    """The mixed-batch test means something only if the adapters are far from the base."""
    base, one, two = [
        (await tf_engine.generate(ask("same", 3, adapter=adapter)))[0] for adapter in (None, *tf_adapters)
    ]
    assert len({tuple(c.completion_ids) for c in (base, one, two)}) == 3


@pytest.mark.parametrize("rows", [1, 5])
async def test_unpadded_batch(tf_engine, tf_tiny, rows):
    """Equal lengths need no padding, where a mask is easily forgotten; so does a single request."""
    requests = [ask(f"question {i} of equal length", i) for i in range(rows)]
    answers = await asyncio.gather(*map(tf_engine.generate, requests))
    for request, (completion,) in zip(requests, answers, strict=True):
        check(tf_tiny, request, completion)


async def test_long_prompts_are_prefilled_in_pieces(tf_tiny, monkeypatch):
    from sparring.agents.engines.transformers import passes

    monkeypatch.setattr(passes, "CHUNK", 16)
    engine = TransformersEngine(str(tf_tiny), dtype="float32")
    requests = [ask(f"{i} " + "tick tock " * (5 + i), i) for i in range(4)]
    for request, (completion,) in zip(
        requests, await asyncio.gather(*map(engine.generate, requests)), strict=True
    ):
        check(tf_tiny, request, completion)
    await engine.close()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_packed_weights_say_the_same(tf_tiny, tf_adapters, dtype):
    """Packed, plain, and what a trainer is given, which has a gradient and nothing packed."""
    plain = TransformersEngine(str(tf_tiny), dtype=dtype, packed=False)
    packed = TransformersEngine(str(tf_tiny), dtype=dtype)
    for request in (ask("one", 1), ask("two " * 9, *range(5)), ask("three", 3, adapter=tf_adapters[0])):
        for a, b in zip(await plain.generate(request), await packed.generate(request), strict=True):
            assert a.completion_ids.tolist() == b.completion_ids.tolist()
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-4 if dtype == "float32" else 0.05)
    assert not any(isinstance(part, PackedLinear) for part in plain._loaded.model.modules())
    lent = [part for part in packed.shared_base().modules() if isinstance(part, PackedLinear)]
    assert lent and all(part.packed is None for part in lent)
    served = [part for part in packed._loaded.model.modules() if isinstance(part, PackedLinear)]
    assert len(served) == len(lent) and all(part.packed is not None for part in served)
    await plain.close()
    await packed.close()


async def test_requests_join_while_others_run(tf_engine, tf_tiny):
    long = asyncio.create_task(tf_engine.generate(ask("a long answer", 1, max_tokens=300)))
    while not await asyncio.sleep(0, tf_engine.counters.decoded > 20):
        await asyncio.sleep(0.001)
    late = ask("a late and short one", 2, max_tokens=5)
    (short,) = await tf_engine.generate(late)
    assert not long.done(), "the late request waited for the running one"
    check(tf_tiny, late, short)
    check(tf_tiny, ask("a long answer", 1), (await long)[0])


async def test_same_seed_same_text_alone_and_in_a_batch(tf_tiny):
    alone = TransformersEngine(str(tf_tiny), dtype="float32", prefix_cache_gib=0)
    crowd = TransformersEngine(str(tf_tiny), dtype="float32", max_batch=7)
    requests = [ask("tell me more " * (i % 3 + 1), 11 + i) for i in range(12)]
    single = [(await alone.generate(request))[0] for request in requests]
    together = await asyncio.gather(*map(crowd.generate, requests))
    assert [c.completion_ids.tolist() for c in single] == [c.completion_ids.tolist() for (c,) in together]
    assert len({tuple(c.completion_ids) for c in single}) == len(requests), "seeds made no difference"
    await alone.close()
    await crowd.close()


async def test_stop_token_is_there_iff_it_was_sampled(tf_engine):
    answers = await tf_engine.generate(ask("say", *range(40), temperature=1.5, max_tokens=80))
    kinds = {completion.finish_reason for completion in answers}
    assert kinds == {"stop", "length"}
    for completion in answers:
        ids = completion.completion_ids.tolist()
        assert (257 in ids) == (completion.finish_reason == "stop") and 257 not in ids[:-1]
        assert len(ids) == len(completion.logprobs) == completion.usage.completion_tokens
        assert len(ids) == 80 or ids[-1] == 257
        assert "<|im_end|>" not in completion.text


async def test_stop_texts_end_a_completion(tf_engine):
    (free,) = await tf_engine.generate(ask("count", 5, max_tokens=60))
    stop = free.text[20:22]
    (cut,) = await tf_engine.generate(ask("count", 5, max_tokens=60, stop=(stop, "never this")))
    assert cut.finish_reason == "stop" and cut.text == free.text[: free.text.index(stop)]
    size = len(cut.completion_ids)
    assert cut.completion_ids.tolist() == free.completion_ids[:size].tolist()
    assert size < len(free.completion_ids) and 257 not in cut.completion_ids


async def test_samples_of_one_prompt_share_one_prefill(tf_engine, tf_tiny):
    request = ask("eight answers to this one question", *range(8))
    answers = await tf_engine.generate(request)
    size = len(answers[0].prompt_ids)
    assert tf_engine.counters.prefilled == size
    assert [c.usage.cached_tokens for c in answers] == [0] + [size] * 7
    assert len({tuple(c.completion_ids) for c in answers}) == 8
    for completion in answers:
        check(tf_tiny, request, completion)
    again = await tf_engine.generate(request)
    assert [c.completion_ids.tolist() for c in again] == [c.completion_ids.tolist() for c in answers]


@pytest.mark.parametrize("temperature", [0.2, 0.35, 0.6])
async def test_samples_that_say_the_same_are_one_row_until_they_part(tf_engine, tf_tiny, temperature):
    """Each is what it would have been alone, whenever it left the others."""
    request = ask("one question, answered by several who often agree", *range(12), temperature=temperature)
    together = await tf_engine.generate(request)
    shared = tf_engine.counters.shared
    said = [completion.completion_ids.tolist() for completion in together]
    assert 0 < shared < sum(map(len, said)), "some tokens were computed once for several samples"
    assert len({tuple(ids) for ids in said}) > 1, "they all said the same"
    for number, completion in enumerate(together):
        check(tf_tiny, request, completion)
        [alone] = await tf_engine.generate(
            ask("one question, answered by several who often agree", number, temperature=temperature)
        )
        assert alone.completion_ids.tolist() == said[number]
        np.testing.assert_allclose(alone.logprobs, completion.logprobs, atol=1e-4)


async def test_greedy_samples_are_computed_once(tf_engine):
    answers = await tf_engine.generate(ask("one question", *range(6), temperature=0.0))
    length = len(answers[0].completion_ids)
    assert len({tuple(c.completion_ids) for c in answers}) == 1
    assert tf_engine.counters.shared == 5 * (length - 1), "all but the first token, which is the prefill's"


async def test_adapters_that_were_left_behind_are_not_computed(tf_engine, tf_adapters):
    first, second = tf_adapters
    await tf_engine.generate(ask("hello", adapter=first, max_tokens=2))
    bank = tf_engine._worker.batch.adapters
    await tf_engine.generate(ask("hello", adapter=second, max_tokens=2))
    assert len(bank._stack) == 2, "whoever spoke a moment ago stays beside it"
    bank._restack([])
    await tf_engine.generate(ask("hello", adapter=first, max_tokens=2))
    while bank._passes <= bank._used[version_of(first).adapter_hash] + bank.RECENT:
        await tf_engine.generate(ask("the base alone", max_tokens=24))
    await tf_engine.generate(ask("hello", adapter=second, max_tokens=2))
    assert [adapter.hash for adapter in bank._stack] == [version_of(second).adapter_hash]


async def test_more_samples_than_slots(tf_tiny):
    engine = TransformersEngine(str(tf_tiny), dtype="float32", max_batch=3)
    request = ask("many", *range(8), max_tokens=6)
    for completion in await engine.generate(request):
        check(tf_tiny, request, completion)
    await engine.close()


async def test_equal_prompts_at_once_are_prefilled_once(tf_engine):
    """Three debaters who get the same question in three requests."""
    answers = await asyncio.gather(*[tf_engine.generate(ask("the very same question", i)) for i in range(3)])
    size = len(answers[0][0].prompt_ids)
    assert tf_engine.counters.prefilled == size + 2  # of the others the last token, for its logits


async def test_the_next_round_costs_its_new_tokens(tf_engine, tf_tiny, tf_adapters):
    first = ask("what is seven times eight?", 1, adapter=tf_adapters[0])
    (answer,) = await tf_engine.generate(first)
    messages: tuple[Message, ...] = (
        *first.messages,
        {"role": "assistant", "content": answer.text},
        {"role": "user", "content": "are you sure?"},
    )
    second = Request(messages, Sampling(max_tokens=24), (2,), first.version)
    (after,) = await tf_engine.generate(second)
    assert after.usage.cached_tokens >= len(answer.prompt_ids)
    check(tf_tiny, second, after)
    # The same words under other weights have other keys and values.
    other = Request(messages, second.sampling, (2,), version_of(None))
    (plain,) = await tf_engine.generate(other)
    assert plain.usage.cached_tokens < 4
    check(tf_tiny, other, plain)


async def test_score_is_a_plain_forward_pass(tf_engine, tf_tiny, tf_adapters):
    rng = np.random.default_rng(0)
    for adapter in (None, tf_adapters[1]):
        prompt, rest = rng.integers(0, 250, 23).astype(np.int32), rng.integers(0, 250, 40).astype(np.int32)
        logs = logs_of(reference(tf_tiny, adapter), prompt, rest, 0.8)
        for _ in range(2):  # the second time much of it is cached
            scored = await tf_engine.score(ScoreRequest(prompt, rest, 0.8, 5, True, version_of(adapter)))
            chosen = logs[torch.arange(40), torch.tensor(rest.astype(np.int64))]
            np.testing.assert_allclose(scored.logprobs, chosen, atol=1e-4)
            best = logs.topk(5)
            np.testing.assert_allclose(scored.top_logprobs, best.values, atol=1e-4)
            assert (scored.top_ids == best.indices.numpy()).mean() > 0.98
            np.testing.assert_allclose(scored.entropy, -(logs.exp() * logs).sum(-1), atol=1e-3)
            np.testing.assert_allclose(scored.self_certainty, -np.log(300) - logs.mean(-1), atol=1e-3)


async def test_score_agrees_with_generate(tf_engine):
    (said,) = await tf_engine.generate(ask("hello", 9, temperature=1.3))
    plain = await tf_engine.score(ScoreRequest(said.prompt_ids, said.completion_ids, 1.3))
    np.testing.assert_allclose(plain.logprobs, said.logprobs, atol=1e-4)
    assert plain.entropy is plain.top_ids is None


async def test_greedy_is_generate_greedy(tf_engine, tf_tiny):
    requests = [
        ask("greedy " * (i + 1), temperature=0, repetition_penalty=[1.0, 1.2][i % 2]) for i in range(6)
    ]
    answers = await asyncio.gather(*map(tf_engine.generate, requests))
    model = reference(tf_tiny)
    for request, (completion,) in zip(requests, answers, strict=True):
        ids = torch.tensor(completion.prompt_ids[None].astype(np.int64))
        want = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=24,
            repetition_penalty=request.sampling.repetition_penalty,
        )[0, ids.shape[1] :]
        assert completion.completion_ids.tolist() == want.tolist()
        check(tf_tiny, request, completion, model)
        assert completion.logprob_kind == "greedy"


@pytest.mark.parametrize("how", [{"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.3}, {"repetition_penalty": 1.5}])
async def test_truncated_rows_keep_untruncated_logprobs(tf_engine, tf_tiny, how):
    request = ask("narrow", *range(8), **how)
    model = reference(tf_tiny)
    for completion in await tf_engine.generate(request):
        check(tf_tiny, request, completion, model)
        assert completion.logprob_kind == request.sampling.logprob_kind != "tempered"
        probs = logs_of(model, completion.prompt_ids, completion.completion_ids, 1.0).exp()
        chosen = probs[torch.arange(len(probs)), torch.tensor(completion.completion_ids.astype(np.int64))]
        above = (probs * (probs > chosen[:, None])).sum(-1)
        if "top_k" in how:
            assert int((probs > chosen[:, None]).sum(-1).max()) < 3
        if "top_p" in how:
            assert float(above.max()) < 0.5
        if "min_p" in how:
            assert bool((chosen >= 0.3 * probs.amax(-1) - 1e-5).all())


async def test_adapters_are_checked(tf_engine, tf_tiny, tf_adapters, tmp_path):
    good = version_of(tf_adapters[0])
    wrong = PolicyVersion("trained", 1, adapter=good.adapter, adapter_hash="0" * 64)
    missing = PolicyVersion("trained", 1, adapter=str(tmp_path / "gone"))
    foreign = PolicyVersion("trained", 1, base="f" * 64)
    for version, words in ((wrong, "hash"), (missing, "adapter_config.json"), (foreign, "belongs to base")):
        with pytest.raises(UserError, match=words):
            await tf_engine.generate(
                Request(({"role": "user", "content": "x"},), Sampling(max_tokens=2), (1,), version)
            )
    dora = tmp_path / "dora"
    dora.mkdir()
    for file in tf_adapters[0].iterdir():
        (dora / file.name).write_bytes(file.read_bytes())
    config = json.loads((dora / "adapter_config.json").read_text())
    (dora / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    with pytest.raises(UserError, match="use_dora"):
        await tf_engine.generate(ask("x", adapter=dora))
    check(
        tf_tiny,
        ask("still here", 4, adapter=tf_adapters[0]),
        *(await tf_engine.generate(ask("still here", 4, adapter=tf_adapters[0]))),
    )


async def test_an_overwritten_adapter_is_loaded_anew(tf_engine, tf_adapters, tmp_path):
    folder = tmp_path / "live"
    folder.mkdir()
    texts = []
    for source in tf_adapters:
        for file in source.glob("adapter_*"):
            (folder / file.name).write_bytes(file.read_bytes())
        texts.append(
            (await tf_engine.generate(ask("hot swap", 1, adapter=folder)))[0].completion_ids.tolist()
        )
        direct = await tf_engine.generate(ask("hot swap", 1, adapter=source))
        assert direct[0].completion_ids.tolist() == texts[-1]
    assert texts[0] != texts[1]


async def test_prompts_beyond_the_context_are_refused(tf_engine):
    with pytest.raises(ContextExceeded, match="512"):
        await tf_engine.generate(ask("x" * 600))
    (near,) = await tf_engine.generate(ask("x" * 470, 1, max_tokens=400, temperature=0))
    assert len(near.prompt_ids) + len(near.completion_ids) <= 512


async def test_cancelling_frees_the_slot(tf_tiny):
    engine = TransformersEngine(str(tf_tiny), dtype="float32", max_batch=1)
    task = asyncio.create_task(engine.generate(ask("endless", 1, max_tokens=400)))
    while not await asyncio.sleep(0.001, engine.counters.decoded > 3):
        pass
    task.cancel()
    (next_one,) = await asyncio.wait_for(engine.generate(ask("next", 2, max_tokens=4)), 20)
    assert len(next_one.completion_ids) <= 4 and engine.counters.decoded < 200
    with pytest.raises(asyncio.CancelledError):
        await task
    await engine.close()


async def test_a_failing_pass_fails_its_requests_only(tf_engine, tf_tiny, monkeypatch):
    from sparring.agents.engines.transformers import batch

    await tf_engine.generate(ask("warm", 1, max_tokens=2))
    with monkeypatch.context() as patch:
        patch.setattr(batch, "sample", lambda *args: 1 / 0)
        with pytest.raises(EngineError, match="ZeroDivisionError"):
            await tf_engine.generate(ask("boom", 1))
    request = ask("after the storm", 2)
    check(tf_tiny, request, *(await tf_engine.generate(request)))


async def test_closing_fails_what_runs(tf_tiny):
    engine = TransformersEngine(str(tf_tiny), dtype="float32")
    task = asyncio.create_task(engine.generate(ask("running", 1, max_tokens=450)))
    while not await asyncio.sleep(0.001, engine.counters.decoded > 3):
        pass
    await engine.close()
    with pytest.raises(EngineError, match="closed"):
        await task
    with pytest.raises(EngineError, match="closed"):
        await engine.generate(ask("too late"))


async def test_a_trainer_gets_its_turn_and_the_same_weights(tf_engine, tf_tiny, tf_adapters):
    """While others generate, the lock is handed over; the twin shares tensors and knows no adapter."""
    busy = asyncio.create_task(
        tf_engine.generate(ask("busy", *range(8), max_tokens=200, adapter=tf_adapters[0]))
    )
    await asyncio.sleep(0.05)
    twin = tf_engine.shared_base()

    def use() -> torch.Tensor:
        with tf_engine.lock, torch.no_grad():
            return twin(torch.arange(20)[None]).logits

    logits = await asyncio.wait_for(asyncio.to_thread(use), 20)
    torch.testing.assert_close(logits, reference(tf_tiny)(torch.arange(20)[None]).logits, atol=1e-4, rtol=0)
    await busy
    wrapped = get_peft_model(twin, LoraConfig(r=2, target_modules=["q_proj"]))
    wrapped(torch.arange(9)[None]).logits.sum().backward()
    assert all(weight.grad is not None for weight in wrapped.parameters() if weight.requires_grad)
    served = tf_engine._loaded.model
    assert twin is not served
    assert twin.lm_head.weight is served.lm_head.weight
    check(tf_tiny, ask("and the engine?", 6), *(await tf_engine.generate(ask("and the engine?", 6))))


async def test_capabilities_and_contract(tf_engine):
    assert isinstance(tf_engine, Engine)
    able = tf_engine.capabilities()
    assert able.token_ids and able.logprobs and able.score and able.adapters and able.seeds
    assert len(able.base) == 64 and able.context_tokens == 512 and able.dtype == "float32"


def test_construction_is_cheap_and_options_are_checked():
    TransformersEngine("no/such-model")
    with pytest.raises(UserError, match="dtype"):
        TransformersEngine("x", dtype="int8")  # type: ignore[arg-type]  # what a configuration file may say
    with pytest.raises(UserError, match="max_batch"):
        TransformersEngine("x", max_batch=0)


async def test_what_a_request_may_hold(tf_engine):
    part = {"type": "text", "text": "in parts"}
    (plain,), (parts,) = [
        await tf_engine.generate(
            Request(({"role": "user", "content": content},), Sampling(max_tokens=4), (1,))
        )
        for content in ("in parts", [part])
    ]
    assert plain.completion_ids.tolist() == parts.completion_ids.tolist()
    image = Request(({"role": "user", "content": [part, {"type": "image"}]},), Sampling(), (1,))
    for bad, words in ((image, "image"), (ask("x", max_tokens=0), "max_tokens")):
        with pytest.raises(UserError, match=words):
            await tf_engine.generate(bad)
    assert await tf_engine.generate(Request(image.messages, Sampling(), ())) == []
    with pytest.raises(UserError, match="score needs"):
        await tf_engine.score(ScoreRequest(plain.prompt_ids, np.empty(0, np.int32)))


def test_a_full_cache_is_not_laid_out_anew_for_each_row():
    cache = SlotCache(1, 1, 2, torch.zeros(1), limit=6_000)
    layouts = set()
    for rows in range(1, 60):
        cache.reserve(rows, 100)
        cache.keys[:, rows - 1] = rows
        layouts.add(cache.keys.shape[1:2] + cache.keys.shape[4:])
    assert len(layouts) <= 8  # 1, 2, 4, ..., and then as many as fit
    assert cache.keys[0, :59, 0, 0, 0].tolist() == list(range(1, 60))


def test_a_token_is_the_inverse_of_the_cumulative_distribution():
    """Every uniform number of a fine grid gives the token numpy finds, and so the right frequencies."""
    from sparring.agents.engines.transformers.sampling import Draw, sample

    logits = torch.randn(1, 1000, generator=torch.Generator().manual_seed(3)) * 3
    rising = torch.softmax(logits[0].double() / 0.9, -1).cumsum(-1).numpy()
    grid = (np.arange(2000) + 0.5) / 2000
    draws = [Draw(Sampling(temperature=0.9), float(uniform)) for uniform in grid]
    tokens, logprobs = sample(logits.expand(len(grid), -1), draws)
    want = np.searchsorted(rising, grid, side="right")
    assert (np.array(tokens) == want).mean() > 0.999
    exact = torch.log_softmax(logits[0] / 0.9, -1)[torch.tensor(tokens)]
    np.testing.assert_allclose(logprobs, exact, atol=1e-5)


@pytest.mark.model
async def test_the_real_model_answers(tmp_path):
    engine = TransformersEngine("smollm2-135m", dtype="float32")
    request = ask("What is the capital of France? Answer in one sentence.", temperature=0, max_tokens=32)
    (answer,) = await engine.generate(request)
    assert "Paris" in answer.text and answer.finish_reason == "stop"
    assert answer.completion_ids[-1] == engine._loaded.tokenizer.convert_tokens_to_ids("<|im_end|>")
    tempered = [
        ask(f"Name {i} fruits.", i, temperature=t, max_tokens=12) for i, t in enumerate((0.7, 1.0, 1.3), 2)
    ]
    model = engine.shared_base()
    for each, (completion,) in zip(
        tempered, await asyncio.gather(*map(engine.generate, tempered)), strict=True
    ):
        check(tmp_path, each, completion, model)
    await engine.close()

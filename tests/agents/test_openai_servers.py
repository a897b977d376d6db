"""The OpenAI-compatible engine against real servers on loopback that are not ours."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import real_servers

from sparring.agents.engines.base import Request, Sampling
from sparring.agents.engines.registry import make_engine
from sparring.errors import EngineError, EngineTimeout, UserError


def ask(text: str, sampling: Sampling | None = None, seeds: tuple[int, ...] = (1,)) -> Request:
    return Request(({"role": "user", "content": text},), sampling or Sampling(max_tokens=12), seeds)


@pytest.fixture(scope="module")
def llama() -> Iterator[str]:
    with real_servers.llama() as (url, _):
        yield url


@pytest.mark.model
async def test_llama_cpp_plays(llama: str) -> None:
    engine = make_engine(f"{llama}#smol")
    await engine.probe()
    (one,) = await engine.generate(ask("Say hi.", Sampling(temperature=0, max_tokens=5)))
    assert one.text and one.finish_reason == "length" and one.usage.completion_tokens == 5
    assert one.usage.prompt_tokens > 20
    assert one.logprobs is not None and one.logprobs.shape == (5,) and (one.logprobs <= 0).all()
    (whole,) = await engine.generate(ask("Say hi.", Sampling(temperature=0, max_tokens=200)))
    assert whole.finish_reason == "stop" and whole.text.startswith(one.text)
    assert whole.usage.cached_tokens > 0  # the prompt was there from the first call
    (cut,) = await engine.generate(
        ask("Say hi.", Sampling(temperature=0, max_tokens=200, stop=(one.text[-3:],)))
    )
    assert one.text[-3:] not in cut.text and cut.finish_reason == "stop"
    assert engine.ledger.snapshot()["total"]["completion_tokens"] > 5
    await engine.close()


@pytest.mark.model
async def test_llama_cpp_samples_by_seed(llama: str) -> None:
    engine = make_engine(f"{llama}#smol")
    request = ask("Name any animal.", Sampling(temperature=1.5, max_tokens=8), seeds=(1, 2, 3, 4, 5, 6))
    texts = [completion.text for completion in await engine.generate(request)]
    again = [completion.text for completion in await engine.generate(request)]
    assert len(set(texts)) >= 3 and sum(a == b for a, b in zip(texts, again, strict=True)) >= 4
    await engine.close()


@pytest.mark.model
async def test_llama_cpp_gives_untempered_logprobs(llama: str) -> None:
    """The same first token has the same log-probability at every temperature: the kind is not `tempered`."""
    engine = make_engine(f"{llama}#smol")
    prompt = "Is water wet? Answer yes or no."
    found: dict[str, list[float]] = {}
    for temperature in (0.3, 0.6, 0.9):
        sampling = Sampling(temperature=temperature, max_tokens=1)
        for completion in await engine.generate(ask(prompt, sampling, seeds=tuple(range(8)))):
            assert completion.logprob_kind == "untempered" and completion.logprobs is not None
            found.setdefault(completion.text, []).append(float(completion.logprobs[0]))
    common = max(found.values(), key=len)
    assert len(common) > 8 and np.ptp(common) < 0.05
    await engine.close()


@pytest.mark.model
async def test_a_real_server_that_is_too_slow_times_out(llama: str) -> None:
    hasty, patient = make_engine(f"{llama}#smol?timeout=0.2&tries=1"), make_engine(f"{llama}#smol")
    with pytest.raises(EngineTimeout, match=r"no answer within 0\.2 s"):
        await hasty.generate(ask("Tell me a very long story.", Sampling(temperature=1.5, max_tokens=1500)))
    (after,) = await patient.generate(ask("Say hi.", Sampling(temperature=0, max_tokens=1)))
    assert after.text
    await hasty.close()
    await patient.close()


@pytest.mark.model
async def test_a_real_server_killed_in_mid_run_is_an_engine_error() -> None:
    with real_servers.llama() as (url, process):
        engine = make_engine(f"{url}#smol?tries=2&backoff=0")
        await engine.generate(ask("Say hi."))
        stories = [ask(f"Tell me {n} very long stories.", Sampling(max_tokens=1500)) for n in range(4)]
        running = [asyncio.ensure_future(engine.generate(story)) for story in stories]
        await asyncio.sleep(0.3)
        process.kill()
        results = await asyncio.gather(*running, return_exceptions=True)
        lost = [result for result in results if isinstance(result, BaseException)]
        assert lost and all(type(error) is EngineError and error.retryable for error in lost), results
        assert engine.ledger.snapshot()["total"]["errors"] == len(lost)
        with pytest.raises(UserError, match=r"is the server running\?"):
            await engine.probe()
        await engine.close()


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.timeout(180)
async def test_transformers_serve_plays_and_refuses(tmp_path: Path) -> None:
    """One test, because this server takes ten seconds to start."""
    with real_servers.transformers_serve(tmp_path, "local/smollm2") as (url, _):
        engine = make_engine(f"{url}#local/smollm2")
        await engine.probe()
        (short,) = await engine.generate(ask("Say hi.", Sampling(temperature=0, max_tokens=4)))
        assert short.text and short.finish_reason == "length"
        assert short.usage.completion_tokens == 4 and short.usage.prompt_tokens > 20
        assert short.completion_ids is None and short.logprob_kind == "none"
        (whole,) = await engine.generate(ask("Say hi.", Sampling(temperature=0, max_tokens=60)))
        assert whole.finish_reason == "stop" and whole.text.startswith(short.text)
        with pytest.raises(UserError, match=rf"{url} refuses the request for model `local/smollm2`.*top_k"):
            await engine.generate(ask("Say hi.", Sampling(top_k=4)))
        await engine.close()
        stranger = make_engine(f"{url}#local/other")
        with pytest.raises(UserError, match="has no model `local/other`; it has: local/smollm2"):
            await stranger.probe()
        await stranger.close()

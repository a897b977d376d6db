"""Servers that hang, come back empty-handed, or break off: what becomes of the calls to them."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import real_servers
from fault_server import Answer, FaultServers, failed, said

from sparring.agents.engines import endpoints
from sparring.agents.engines.base import PolicyVersion, Request, Sampling, ScoreRequest
from sparring.agents.engines.layer import ManagedEngine, ServicePolicy
from sparring.agents.engines.openai import OpenAIEngine
from sparring.agents.engines.registry import make_engine
from sparring.errors import EngineError

VLLM = {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "vllm", "max_model_len": 512}]}
ANSWERED: Answer = (200, {}, VLLM)


def ask(text: str = "Say hi.", version: PolicyVersion | None = None, **sampling: Any) -> Request:
    how = Sampling(**{"max_tokens": 12, **sampling})
    return Request(({"role": "user", "content": text},), how, (1,), version or PolicyVersion("base"))


@pytest.fixture
def serve() -> Iterator[FaultServers]:
    servers = FaultServers()
    yield servers
    servers.close()


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a server that takes connections and says nothing, like one whose process was stopped."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


@pytest.fixture
def version(tmp_path: Path) -> PolicyVersion:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    return PolicyVersion("p", 1, adapter=str(tmp_path))


def vllm_like(asked: list[str], load_s: float = 0.0) -> Any:
    """What `vllm serve` answers; it knows the adapters it was told of since `asked` was last emptied."""

    def answer(body: dict[str, Any]) -> Answer:
        if "lora_name" in body:
            threading.Event().wait(load_s)
            asked.append(body["lora_name"])
            return 200, {"content-type": "text/plain"}, b"ok"
        if not body:
            return failed(400)
        if body["model"] not in ("m", *asked):
            return failed(404, "The model does not exist.")
        if "prompt" not in body:
            return said()
        row = {"5": {"rank": 1, "logprob": -0.5}}
        prompts = [None, *[row] * (len(body["prompt"]) - 1)]
        choice = {"index": 0, "text": "x", "finish_reason": "length", "prompt_logprobs": prompts}
        return 200, {}, {"id": "x", "object": "text_completion", "choices": [choice]}

    return answer


async def test_a_server_that_says_nothing_costs_one_time_out_and_is_then_passed_by(
    serve: FaultServers, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "LOOK_S", 0.5)
    up = serve(said())
    engine = OpenAIEngine([silent, up.url], "m")
    managed = ManagedEngine(engine, ServicePolicy(tries=2, timeout=2, backoff=0))
    for n in range(8):
        assert (await managed.generate(ask(str(n))))[0].text == "hello"
    assert managed.ledger.snapshot()["total"]["retries"] == 1
    engine._endpoints.all[0].aside_until = 0.0  # its time is over, but it is no better: it is asked first
    said_all = await asyncio.gather(*(managed.generate(ask(str(n))) for n in range(8)))
    assert len(said_all) == 8 and managed.ledger.snapshot()["total"]["retries"] == 1
    await engine.close()


async def test_a_vllm_that_stops_in_the_middle_of_a_call_is_found_out(
    serve: FaultServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "LOOK_S", 1.0)
    monkeypatch.setattr(endpoints, "WATCH_S", 0.2)
    stopped, over = threading.Event(), threading.Event()

    def listed() -> Answer:
        if stopped.is_set():
            over.wait()
        return ANSWERED

    def answer(body: dict[str, Any]) -> Answer:
        stopped.set()
        over.wait()
        return said("too late")

    hung, up = serve(by=answer, models=listed), serve(said(), models=ANSWERED)
    engine = make_engine(f"{hung.url},{up.url}#m", tries=1)
    async with asyncio.timeout(20):
        texts = [(await engine.generate(ask(str(n))))[0].text for n in range(4)]
    over.set()
    assert texts == ["hello"] * 4 and len(hung.bodies) == 1
    await engine.close()


async def test_a_slow_vllm_that_is_there_is_waited_for(
    serve: FaultServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "WATCH_S", 0.1)

    def slowly(body: dict[str, Any]) -> Answer:
        threading.Event().wait(0.6)
        return said()

    server = serve(by=slowly, models=ANSWERED)
    engine = make_engine(f"{server.url}#m", tries=1)
    assert (await engine.generate(ask()))[0].text == "hello" and len(server.bodies) == 1
    await engine.close()


async def test_an_outage_is_not_taken_for_a_server_without_adapters(
    serve: FaultServers, version: PolicyVersion, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "LOOK_S", 0.2)
    refusing = f"http://127.0.0.1:{real_servers.free_port()}/v1"
    engine = OpenAIEngine([refusing, silent], "m", base="unread")
    for call in (engine.generate(ask(version=version)), engine.score(ScoreRequest([1], [5]))):
        with pytest.raises(EngineError, match="nobody there says which server it is") as caught:
            await call
        assert caught.value.retryable
    await engine.close()
    up = serve(by=vllm_like([]), models=ANSWERED)
    for urls in ([refusing, up.url], [up.url, refusing]):  # whichever is asked first
        engine = OpenAIEngine(urls, "m", base="unread")
        assert (await engine.generate(ask(version=version)))[0].text == "hello"
        await engine.close()


async def test_a_server_started_anew_gets_its_adapters_back_to_score_too(
    serve: FaultServers, version: PolicyVersion
) -> None:
    known: list[str] = []
    engine = OpenAIEngine(serve(by=vllm_like(known), models=ANSWERED).url, "m", base="unread")
    scored = ScoreRequest(np.array([1, 2], np.int32), np.array([5], np.int32), version=version)
    await engine.score(scored)
    engine._endpoints.all[0].tempers = True
    known.clear()
    assert (await engine.score(scored)).logprobs.tolist() == [-0.5] and len(known) == 1
    assert engine._endpoints.all[0].tempers is None  # it may have been started with other options
    await engine.close()


async def test_an_adapter_that_one_server_reads_slowly_holds_up_no_other(
    serve: FaultServers, version: PolicyVersion
) -> None:
    for loads in ((1.0, 0.0), (0.0, 1.0)):  # whichever is asked first
        urls = [serve(by=vllm_like([], load), models=ANSWERED).url for load in loads]
        engine = OpenAIEngine(urls, "m", base="unread")
        await engine.generate(ask())
        calls = [asyncio.create_task(engine.generate(ask(str(n), version))) for n in range(2)]
        done, late = await asyncio.wait(calls, timeout=0.8)
        assert len(done) == len(late) == 1
        await asyncio.gather(*late)
        await engine.close()


async def test_an_answer_that_was_broken_off_is_asked_for_again(serve: FaultServers) -> None:
    answers = [said("The answ", finish_reason="abort"), (200, {}, b'{"id": "x", "choi'), said()]
    engine = make_engine(f"{serve(*answers).url}#m?backoff=0")
    (completion,) = await engine.generate(ask())
    assert completion.text == "hello" and completion.retries == 2
    await engine.close()


async def test_vllm_draws_at_no_temperature_below_a_hundredth(serve: FaultServers) -> None:
    content = [{"token": "a", "logprob": -1.0, "bytes": None, "top_logprobs": []}]
    server = serve(said(logprobs={"content": content}), models=ANSWERED)
    engine = OpenAIEngine(server.url, "m")
    await engine.generate(ask())
    engine._endpoints.all[0].tempers = True
    kinds = [(await engine.generate(ask(temperature=t)))[0].logprob_kind for t in (0.5, 0.005)]
    assert kinds == ["tempered", "untempered"]
    await engine.close()

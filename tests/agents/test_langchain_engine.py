"""LangChain chat models as engines: real LangChain classes, a real server, and one that injects faults."""

import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import real_servers
from fault_server import FaultServers, failed, said
from langchain_core.language_models.fake_chat_models import FakeListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI

from sparring.agents.engines.base import Capabilities, PolicyVersion, Request, Sampling, Usage
from sparring.agents.engines.langchain import LangChainEngine
from sparring.agents.engines.registry import make_engine
from sparring.errors import CapabilityError, EngineError, EngineTimeout, UserError

MESSAGES = ({"role": "system", "content": "You are brief."}, {"role": "user", "content": "Say hi."})


def ask(sampling: Sampling | None = None, seeds: tuple[int, ...] = (1,)) -> Request:
    return Request(MESSAGES, sampling or Sampling(max_tokens=12), seeds)  # type: ignore[arg-type]  # literal dicts


@pytest.fixture
def serve() -> Iterator[FaultServers]:
    servers = FaultServers()
    yield servers
    servers.close()


def chat(url: str, **options: Any) -> LangChainEngine:
    return LangChainEngine(ChatOpenAI(model="m", base_url=url, api_key="none", max_retries=0, **options))


async def test_an_object_plays_and_gives_nothing_but_text() -> None:
    engine = make_engine(FakeListChatModel(responses=["one", "two"]), tries=2)
    completions = await engine.generate(ask(seeds=(1, 2)))
    assert {completion.text for completion in completions} == {"one", "two"}
    assert all(completion.completion_ids is None and not completion.seed_sent for completion in completions)
    assert engine.spec == "langchain:FakeListChatModel:"
    assert engine.capabilities() == Capabilities(base="remote:FakeListChatModel:")
    assert engine.policy.tries == 2 and engine.policy.concurrency == 64


@pytest.mark.parametrize(
    ("meta", "more", "finish"),
    [
        ({"finish_reason": "stop"}, {}, "stop"),
        ({"finish_reason": "length"}, {}, "length"),
        ({"stop_reason": "max_tokens"}, {}, "length"),
        ({"finish_reason": "SAFETY"}, {}, "refusal"),
        ({}, {"refusal": "I will not."}, "refusal"),
    ],
)
async def test_finish_reason_and_usage(meta: dict[str, str], more: dict[str, str], finish: str) -> None:
    usage = {
        "input_tokens": 30,
        "output_tokens": 4,
        "total_tokens": 34,
        "input_token_details": {"cache_read": 20},
    }
    message = AIMessage("hello", response_metadata=meta, additional_kwargs=more, usage_metadata=usage)
    (completion,) = await LangChainEngine(GenericFakeChatModel(messages=iter([message]))).generate(ask())
    assert completion.finish_reason == finish and completion.usage == Usage(30, 4, 20)
    assert completion.text == more.get("refusal", "hello")


async def test_sampling_and_seed_are_bound_to_each_call(serve: FaultServers) -> None:
    server = serve(said())
    engine = chat(server.url, temperature=0.1)
    await engine.generate(ask(Sampling(temperature=0.5, top_p=0.9, max_tokens=7, stop=("END",)), seeds=(5,)))
    await engine.generate(ask(Sampling(temperature=0, max_tokens=8), seeds=(6,)))
    first, second = server.bodies
    assert (first["temperature"], first["top_p"], first["seed"], first["stop"]) == (0.5, 0.9, 5, ["END"])
    assert (second["temperature"], second["seed"]) == (0, 6) and "top_p" not in second
    assert [body.get("max_completion_tokens", body.get("max_tokens")) for body in server.bodies] == [7, 8]
    assert first["messages"] == [dict(message) for message in MESSAGES]


async def test_a_setting_the_model_has_no_field_for_is_an_error(serve: FaultServers) -> None:
    with pytest.raises(CapabilityError, match="no top_k; it takes: temperature, top_p, max_tokens, seed"):
        await chat(serve(said()).url).generate(ask(Sampling(top_k=4)))


async def test_adapters_and_scores_are_beyond_it() -> None:
    engine = LangChainEngine(FakeListChatModel(responses=["x"]))
    with pytest.raises(CapabilityError, match="p@2"):
        await engine.generate(Request(ask().messages, Sampling(), (1,), PolicyVersion("p", 2, adapter="/a")))
    with pytest.raises(CapabilityError, match="no scores"):
        await engine.score(None)  # type: ignore[arg-type]  # refused before it is looked at


async def test_errors_by_fault(serve: FaultServers) -> None:
    with pytest.raises(EngineError) as throttled:
        await chat(serve(failed(429, retry_after="3")).url).generate(ask())
    assert throttled.value.retryable and throttled.value.retry_after == 3
    with pytest.raises(UserError, match="bad key"):
        await chat(serve(failed(401, "bad key")).url).generate(ask())
    with pytest.raises(EngineError) as refused:
        await chat(f"http://127.0.0.1:{real_servers.free_port()}/v1").generate(ask())
    assert refused.value.retryable
    with pytest.raises(EngineTimeout):
        await chat(serve(by=lambda _: _slowly()).url, timeout=0.1).generate(ask())


def _slowly() -> Any:
    time.sleep(0.5)
    return said()


async def test_the_layer_retries_a_langchain_model(serve: FaultServers) -> None:
    engine = make_engine(chat(serve(failed(503), said("hello")).url), backoff=0)
    (completion,) = await engine.generate(ask())
    assert (completion.text, completion.retries) == ("hello", 1)


def test_a_spec_needs_langchain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "langchain.chat_models", None)
    with pytest.raises(UserError, match=r"pip install 'sparring\[langchain\]'"):
        make_engine("langchain:openai:some-model")


@pytest.mark.parametrize(
    ("spec", "said_"),
    [
        ("langchain:nobody:some-model", "nobody"),
        ("langchain:openai:some-model", "api_key"),
        ("langchain:ollama:some-model", "langchain-ollama"),
    ],
)
def test_wrong_specs_are_one_line(spec: str, said_: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match=said_) as caught:
        make_engine(spec)
    assert "\n" not in str(caught.value) and spec in str(caught.value)


async def test_the_client_of_a_spec_does_not_retry_by_itself(
    serve: FaultServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(failed(503))
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with pytest.raises(EngineError):
        await make_engine("langchain:openai:some-model?tries=1").generate(ask())
    assert len(server.bodies) == 1


@pytest.mark.model
async def test_langchain_plays_a_real_model(monkeypatch: pytest.MonkeyPatch) -> None:
    with real_servers.llama() as (url, _):
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        engine = make_engine("langchain:openai:smol")
        (completion,) = await engine.generate(ask(Sampling(temperature=0, max_tokens=5)))
        assert completion.text and completion.finish_reason == "length" and completion.seed_sent
        assert completion.usage.completion_tokens == 5 and completion.usage.prompt_tokens > 10
        assert engine.ledger.snapshot()["total"]["completion_tokens"] == 5
        await engine.close()

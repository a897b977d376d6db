"""The OpenAI-compatible engine: against real servers on loopback, and against one that injects faults."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import real_servers
from fault_server import Answer, FaultServers, failed, said

from sparring.agents.engines.base import Completion, PolicyVersion, Request, Sampling, Usage
from sparring.agents.engines.layer import ManagedEngine, ServicePolicy
from sparring.agents.engines.openai import OpenAIEngine
from sparring.agents.engines.registry import make_engine
from sparring.errors import CapabilityError, EngineError, UserError

DATA = Path(__file__).parent / "data"


def ask(text: str = "Say hi.", sampling: Sampling | None = None, seeds: tuple[int, ...] = (1,)) -> Request:
    return Request(({"role": "user", "content": text},), sampling or Sampling(max_tokens=12), seeds)


@pytest.fixture
def serve() -> Iterator[FaultServers]:
    servers = FaultServers()
    yield servers
    servers.close()


def quick(engine: OpenAIEngine, **policy: Any) -> ManagedEngine:
    return ManagedEngine(engine, ServicePolicy(**{"tries": 3, "backoff": 0.0, **policy}))


async def once(engine: OpenAIEngine | ManagedEngine, request: Request | None = None) -> Completion:
    try:
        (completion,) = await engine.generate(request or ask())
        return completion
    finally:
        await engine.close()


# What is sent


async def test_the_body_is_the_request(serve: FaultServers) -> None:
    server = serve(said())
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
    ]
    request = Request(
        ({"role": "user", "content": parts},), Sampling(0.5, 0.9, stop=("END",), max_tokens=7), (2**40 + 5,)
    )
    await once(OpenAIEngine(server.url, "m"), request)
    assert server.bodies == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": parts}],
            "temperature": 0.5,
            "top_p": 0.9,
            "max_tokens": 7,
            "stop": ["END"],
            "seed": 5,
            "logprobs": True,
        }
    ]


async def test_sampling_beyond_openai_goes_under_the_names_servers_share(serve: FaultServers) -> None:
    server = serve(said())
    await once(
        OpenAIEngine(server.url, "m"), ask(sampling=Sampling(top_k=5, min_p=0.1, repetition_penalty=1.2))
    )
    sent = server.bodies[0]
    assert (sent["top_k"], sent["min_p"], sent["repetition_penalty"]) == (5, 0.1, 1.2)


async def test_a_vllm_server_is_asked_for_ids_and_told_every_setting(serve: FaultServers) -> None:
    models = {
        "object": "list",
        "data": [{"id": "m", "object": "model", "owned_by": "vllm", "max_model_len": 512}],
    }
    server = serve(said(), models=(200, {}, models))
    engine = OpenAIEngine(server.url, "m")
    await engine.generate(ask())
    sent = server.bodies[0]
    assert sent["return_token_ids"] is True
    assert (sent["top_k"], sent["min_p"], sent["repetition_penalty"]) == (-1, 0.0, 1.0)
    assert engine.capabilities().token_ids and engine.capabilities().context_tokens == 512
    await engine.close()


async def test_the_key_comes_from_the_option_or_the_environment(
    serve: FaultServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(said())
    monkeypatch.setenv("OPENAI_API_KEY", "from-env")
    monkeypatch.setenv("MY_KEY", "from-mine")
    await once(OpenAIEngine(server.url, "m"))
    await once(OpenAIEngine(server.url, "m", "given"))
    await once(make_engine(f"{server.url}#m?api_key_env=MY_KEY"))
    monkeypatch.delenv("OPENAI_API_KEY")
    await once(OpenAIEngine(server.url, "m"))
    assert server.keys == ["Bearer from-env", "Bearer given", "Bearer from-mine", "Bearer none"]


async def test_loopback_needs_no_proxy(serve: FaultServers, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{real_servers.free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert (await once(OpenAIEngine(serve(said()).url, "m"))).text == "hello"


async def test_refused_optional_fields_stay_off(serve: FaultServers) -> None:
    def picky(body: dict[str, Any]) -> Answer:
        if "logprobs" in body:
            return 422, {}, {"detail": "Unexpected fields in the request: {'logprobs'}"}
        if "max_tokens" in body:
            return failed(400, "'max_tokens' is not supported; use 'max_completion_tokens' instead")
        return said()

    server = serve(by=picky)
    engine = OpenAIEngine(server.url, "m")
    assert (await engine.generate(ask()))[0].logprob_kind == "none"
    await engine.generate(ask())
    assert len(server.bodies) == 4  # two refusals, two answers
    assert "logprobs" not in server.bodies[-1] and server.bodies[-1]["max_completion_tokens"] == 12
    assert not engine.capabilities().logprobs
    await engine.close()
    with pytest.raises(UserError, match="logprobs"):
        await once(OpenAIEngine(server.url, "m", logprobs=True))


async def test_a_server_without_seeds_is_told_apart(serve: FaultServers) -> None:
    server = serve(by=lambda body: failed(400, "Unknown parameter: 'seed'") if "seed" in body else said())
    assert (await once(OpenAIEngine(server.url, "m"))).seed_sent is False


# What is read


@pytest.mark.parametrize(
    ("choice", "text", "finish"),
    [
        ({"finish_reason": "stop"}, "hello", "stop"),
        ({"finish_reason": "length"}, "hello", "length"),
        ({"finish_reason": "content_filter"}, "hello", "refusal"),
        ({"finish_reason": "eos"}, "hello", "stop"),
        (
            {"message": {"role": "assistant", "content": None, "refusal": "I will not."}},
            "I will not.",
            "refusal",
        ),
        ({"message": {"role": "assistant", "content": None}}, "", "stop"),
    ],
)
async def test_finish_reasons(serve: FaultServers, choice: dict[str, Any], text: str, finish: str) -> None:
    completion = await once(OpenAIEngine(serve(said(**choice)).url, "m"))
    assert (completion.text, completion.finish_reason) == (text, finish)
    assert completion.usage == Usage(9, 2) and completion.completion_ids is None and completion.latency_s > 0


async def test_a_filtered_prompt_is_a_refusal(serve: FaultServers) -> None:
    completion = await once(OpenAIEngine(serve(failed(400, "filtered", "content_filter")).url, "m"))
    assert completion.finish_reason == "refusal" and completion.text == ""


@pytest.mark.parametrize(
    ("sampling", "kind"),
    [
        (Sampling(), "tempered"),
        (Sampling(temperature=0.7), "untempered"),
        (Sampling(temperature=0), "untempered"),
        (Sampling(top_p=0.9), "truncated"),
    ],
)
async def test_logprobs_are_of_untempered_logits(serve: FaultServers, sampling: Sampling, kind: str) -> None:
    tokens = [
        {"token": "a", "logprob": -0.5, "top_logprobs": []},
        {"token": "b", "logprob": -9999.0, "top_logprobs": []},
    ]
    answer = said(logprobs={"content": tokens})
    completion = await once(OpenAIEngine(serve(answer).url, "m"), ask(sampling=sampling))
    assert completion.logprobs is not None and completion.logprobs.dtype == np.float32
    assert completion.logprobs.tolist() == [-0.5, -9999.0] and completion.logprob_kind == kind


async def test_vllm_ids_and_logprobs(serve: FaultServers) -> None:
    """A recorded answer of the real server (see the file's `source`)."""
    recorded = json.loads((DATA / "vllm_chat.json").read_text())["response"]
    completion = await once(OpenAIEngine(serve((200, {}, recorded)).url, "smol"), ask(sampling=Sampling()))
    assert completion.text == "How can I help" and completion.finish_reason == "length"
    assert completion.prompt_ids is not None and completion.completion_ids is not None
    assert completion.prompt_ids.dtype == np.int32 and len(completion.prompt_ids) == 33
    assert completion.completion_ids.tolist() == [2020, 416, 339, 724]
    assert completion.logprobs is not None and completion.logprob_kind == "tempered"
    np.testing.assert_allclose(completion.logprobs, [-3.26321, -0.51153, -0.00146, -2.44926], atol=1e-5)
    assert completion.usage == Usage(33, 4, 0)


# What fails


async def test_throttling_and_server_errors_are_tried_again(serve: FaultServers) -> None:
    server = serve(failed(429, retry_after="0"), failed(500), said())
    engine = quick(OpenAIEngine(server.url, "m"))
    completion = await once(engine)
    assert completion.retries == 2 and len(server.bodies) == 3
    assert engine.ledger.snapshot()["total"]["retries"] == 2


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
async def test_retry_after_is_read(
    serve: FaultServers, headers: dict[str, str], seconds: float | None
) -> None:
    with pytest.raises(EngineError) as caught:
        await once(OpenAIEngine(serve(failed(429, **headers)).url, "m"))
    assert caught.value.retryable and caught.value.retry_after == seconds


@pytest.mark.parametrize(
    ("answer", "said_"),
    [
        (failed(401, "bad key"), r"refuses access to model `m` \(status 401\): bad key; set OPENAI_API_KEY"),
        (failed(403, "not yours"), r"refuses access .*403"),
        (
            failed(400, "temperature out of range"),
            r"refuses the request for model `m` \(status 400\): temperature",
        ),
        (failed(404, "no such path"), r"status 404"),
        (failed(429, "pay first", "insufficient_quota"), "no quota left for model `m`: pay first"),
        ((200, {"content-type": "text/html"}, b"<html>a login page</html>"), "does the URL lack its /v1"),
    ],
)
async def test_the_users_faults_are_final_one_line_and_name_the_url(
    serve: FaultServers, answer: Answer, said_: str
) -> None:
    server = serve(answer)
    with pytest.raises(UserError, match=said_) as caught:
        await once(quick(OpenAIEngine(server.url, "m")))
    assert len(server.bodies) == 1 and server.url in str(caught.value) and "\n" not in str(caught.value)


async def test_an_unknown_model_lists_those_the_server_has(serve: FaultServers) -> None:
    server = serve(failed(404, "The model does not exist"))
    with pytest.raises(UserError, match=r"has no model `mm`; it has: m$"):
        await once(OpenAIEngine(server.url, "mm"))


async def test_a_prompt_beyond_the_context_fails_one_turn_not_the_run(serve: FaultServers) -> None:
    message = "This model's maximum context length is 8 tokens"
    with pytest.raises(EngineError, match="longer than the context of model `m`") as caught:
        await once(OpenAIEngine(serve(failed(400, message)).url, "m"))
    assert not caught.value.retryable


@pytest.mark.parametrize("body", [b"{not json", {"object": "chat.completion", "choices": []}])
async def test_nonsense_from_a_server_is_its_fault(serve: FaultServers, body: Any) -> None:
    with pytest.raises(EngineError):
        await once(quick(OpenAIEngine(serve((200, {}, body)).url, "m"), tries=1))


async def test_adapters_and_scores_are_beyond_a_chat_api(serve: FaultServers) -> None:
    engine = OpenAIEngine(serve(said()).url, "m")
    version = PolicyVersion("p", 1, adapter="/somewhere", adapter_hash="aa")
    with pytest.raises(CapabilityError, match="p@1"):
        await engine.generate(Request(ask().messages, Sampling(), (1,), version))
    with pytest.raises(CapabilityError, match="cannot score"):
        await engine.score(None)  # type: ignore[arg-type]  # refused before it is looked at
    await engine.close()


# Several endpoints


async def test_calls_spread_over_endpoints_by_load(serve: FaultServers) -> None:
    def slowly(body: dict[str, Any]) -> Answer:
        time.sleep(0.3)
        return said()

    slow, fast = serve(by=slowly), serve(said())
    engine = make_engine(f"{slow.url},{fast.url}#m")
    await asyncio.gather(*(engine.generate(ask(str(n))) for n in range(6)))  # all at once: evenly
    assert len(slow.bodies) == len(fast.bodies) == 3
    busy = asyncio.gather(*(engine.generate(ask(str(n))) for n in range(2)))
    await asyncio.sleep(0.1)
    for n in range(4):  # one by one while the slow one still works: all to the other
        await engine.generate(ask(str(n)))
    assert len(slow.bodies) == 4 and len(fast.bodies) == 8
    await busy
    await engine.close()


async def test_an_endpoint_that_is_down_is_set_aside(serve: FaultServers) -> None:
    up, broken = serve(said()), serve(failed(503))
    refusing = f"http://127.0.0.1:{real_servers.free_port()}/v1"
    engine = OpenAIEngine([refusing, broken.url, up.url], "m")
    for n in range(6):
        assert (await engine.generate(ask(str(n))))[0].text == "hello"
    assert len(up.bodies) == 6 and len(broken.bodies) <= 1
    await engine.close()


async def test_all_endpoints_down_is_an_engine_error_worth_a_retry() -> None:
    urls = [f"http://127.0.0.1:{real_servers.free_port()}/v1" for _ in range(2)]
    with pytest.raises(EngineError, match="cannot connect") as caught:
        await once(OpenAIEngine(urls, "m"))
    assert caught.value.retryable


# Before a run


async def test_probe_says_what_is_wrong_in_one_line(serve: FaultServers) -> None:
    port = real_servers.free_port()
    cases = [
        (f"http://127.0.0.1:{port}/v1#m", rf"127.0.0.1:{port}/v1: cannot connect: .*is the server running\?"),
        (f"{serve(failed(404, 'unknown')).url}#mm", "has no model `mm`; it has: m$"),
        (f"{serve(said(), models=failed(401, 'who are you')).url}#m", "refuses access"),
    ]
    for spec, expected in cases:
        engine = make_engine(spec)
        with pytest.raises(UserError, match=expected) as caught:
            await engine.probe()
        assert "\n" not in str(caught.value)
        await engine.close()


async def test_probe_is_content_with_one_server_of_two_and_with_unlisted_models(serve: FaultServers) -> None:
    server, silent = serve(said()), serve(said(), models=failed(404))
    for spec in (
        f"{server.url},http://127.0.0.1:{real_servers.free_port()}/v1#m",
        f"{server.url}#alias",
        f"{silent.url}#m",
    ):
        engine = make_engine(spec)
        await engine.probe()
        await engine.close()
    assert [body["max_tokens"] for body in server.bodies + silent.bodies] == [1, 1]

"""The scripted engine: what it answers, the ids it gives, the rules it reads."""

import asyncio
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sparring.agents.engines.base import (
    Completion,
    Engine,
    PolicyVersion,
    Request,
    Sampling,
    ScoreRequest,
    Usage,
)
from sparring.agents.engines.scripted import CLOSE, ScriptedEngine
from sparring.errors import CapabilityError, EngineError, EngineTimeout, UserError


def ask(*texts: str, seeds: tuple[int, ...] = (1,), sampling: Sampling | None = None) -> Request:
    roles = ("user", "assistant")
    messages = tuple({"role": roles[i % 2], "content": text} for i, text in enumerate(texts))
    return Request(messages, sampling or Sampling(), seeds)  # type: ignore[arg-type]  # literal dicts


def script(tmp_path: Path, *rules: dict[str, object]) -> ScriptedEngine:
    path = tmp_path / "script.jsonl"
    path.write_text("\n".join(json.dumps(rule) for rule in rules))
    return ScriptedEngine(path)


async def text(engine: ScriptedEngine, request: Request) -> str:
    (completion,) = await engine.generate(request)
    return completion.text


def test_it_is_an_engine() -> None:
    assert isinstance(ScriptedEngine("hash"), Engine)


@pytest.mark.parametrize(
    "other",
    [
        ask("What is 3 + 4!"),
        ask("What is 3 + 4?", sampling=Sampling(temperature=0.5)),
        ask("What is 3 + 4?", sampling=Sampling(stop=("x",))),
        replace(ask("What is 3 + 4?"), version=PolicyVersion("base", 1)),
        replace(ask("What is 3 + 4?"), version=PolicyVersion("base", adapter_hash="ab")),
        ask("What is 3 ", "+ 4?"),
        ask("What is 3 + 4?", seeds=(2,)),
    ],
)
async def test_echo_depends_on_the_whole_request_and_the_seed(other: Request) -> None:
    engine, base = ScriptedEngine("echo"), ask("What is 3 + 4?")
    mark = (await text(engine, base))[:18]
    assert mark == (await text(engine, base))[:18]
    assert mark != (await text(engine, other))[:18]


async def test_sampling_that_is_equal_is_the_same_request() -> None:
    engine = ScriptedEngine("echo")
    whole = await text(engine, ask("hi", sampling=Sampling(temperature=1)))
    assert whole == await text(engine, ask("hi", sampling=Sampling(temperature=1.0)))


async def test_where_an_adapter_lies_does_not_matter() -> None:
    engine, request = ScriptedEngine("echo"), ask("hi")
    here = replace(request, version=PolicyVersion("p", 1, "base", "/a/adapter", "ff"))
    there = replace(request, version=PolicyVersion("p", 1, "base", "/b/adapter", "ff"))
    assert await text(engine, here) == await text(engine, there)


async def test_hash_answers_are_the_same_in_another_process_and_spread_over_seeds() -> None:
    completions = await ScriptedEngine("hash").generate(ask("What is 3 + 4?", seeds=tuple(range(200))))
    answers = [completion.text for completion in completions]
    assert len(set(answers)) > 60
    code = (
        "import asyncio;from sparring.agents.engines.scripted import ScriptedEngine as E;"
        "from sparring.agents.engines.base import *;"
        "r=Request(({'role':'user','content':'What is 3 + 4?'},),Sampling(),tuple(range(200)));"
        "print('|'.join(c.text for c in asyncio.run(E('hash').generate(r))))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip().split("|") == answers


@pytest.mark.parametrize("width", [1, 3, 8])
async def test_a_later_prompt_begins_with_the_earlier_prompt_and_completion(width: int) -> None:
    engine = ScriptedEngine(lambda request, seed: "Überlegung: 7 — fertig", bytes_per_token=width)
    (first,) = await engine.generate(ask("What is 3 + 4?"))
    (second,) = await engine.generate(ask("What is 3 + 4?", first.text, "Are you sure?"))
    assert first.prompt_ids is not None and first.completion_ids is not None and second.prompt_ids is not None
    seen = np.concatenate([first.prompt_ids, first.completion_ids])
    assert np.array_equal(second.prompt_ids[: len(seen)], seen)
    assert first.completion_ids[-1] == CLOSE
    assert first.usage == Usage(len(first.prompt_ids), len(first.completion_ids))


async def test_one_byte_tokens_can_be_decoded() -> None:
    (completion,) = await ScriptedEngine(lambda request, seed: "größer").generate(ask("?"))
    assert completion.completion_ids is not None
    assert bytes(completion.completion_ids[:-1].astype(np.uint8)).decode() == "größer"


async def test_a_truncated_completion_holds_no_stop_token() -> None:
    (completion,) = await ScriptedEngine(lambda request, seed: ("I think that", "length")).generate(ask("?"))
    assert completion.completion_ids is not None
    assert completion.finish_reason == "length" and CLOSE not in completion.completion_ids
    assert completion.usage.completion_tokens == len("I think that")


async def test_logprobs_are_float32_below_zero_and_score_agrees() -> None:
    engine = ScriptedEngine("echo")
    (one, two) = await engine.generate(ask("What?", seeds=(1, 2), sampling=Sampling(top_p=0.9)))
    assert one.logprobs is not None and one.prompt_ids is not None and one.completion_ids is not None
    assert one.logprobs.dtype == np.float32 and one.logprobs.shape == one.completion_ids.shape
    assert (one.logprobs < 0).all() and one.logprob_kind == "truncated"
    assert two.logprobs is not None and not np.array_equal(one.logprobs[:5], two.logprobs[:5])
    scored = await engine.score(ScoreRequest(one.prompt_ids, one.completion_ids))
    assert np.array_equal(scored.logprobs, one.logprobs)
    with pytest.raises(CapabilityError, match="no vocabulary"):
        await engine.score(ScoreRequest(one.prompt_ids, one.completion_ids, top_k=3))


async def test_ids_can_be_switched_off() -> None:
    engine = ScriptedEngine("hash", ids=False)
    (completion,) = await engine.generate(ask("?"))
    assert completion.completion_ids is None and completion.logprob_kind == "none"
    assert completion.usage.completion_tokens > 0
    assert not engine.capabilities().token_ids and not engine.capabilities().logprobs


async def test_a_function_may_wait_raise_and_give_whole_completions() -> None:
    fixed = Completion("done", "stop", Usage(5, 1))

    async def reply(request: Request, seed: int) -> Completion | Exception:
        await asyncio.sleep(0)
        return fixed if seed == 1 else EngineTimeout("too slow")

    engine = ScriptedEngine(reply)
    (completion,) = await engine.generate(ask("?"))
    assert completion.text == "done" and completion is not fixed
    with pytest.raises(EngineTimeout, match="too slow"):
        await engine.generate(ask("?", seeds=(2,)))


async def test_stop_texts_cut_the_reply() -> None:
    engine = ScriptedEngine(lambda request, seed: "one END two STOP")
    (completion,) = await engine.generate(ask("?", sampling=Sampling(stop=("STOP", " END"))))
    assert completion.text == "one" and completion.finish_reason == "stop"


async def test_the_first_rule_that_fits_answers(tmp_path: Path) -> None:
    engine = script(
        tmp_path,
        {"role": "JUDGE", "replies": ["side A"]},
        {"match": r"3 \+ 4", "replies": ["Answer: 7"]},
        {"match": "secret", "within": "conversation", "replies": ["found"]},
        {"replies": ["default"], "finish_reason": "length"},
    )
    assert await text(engine, ask("You are the judge.", "ok", "3 + 4")) == "side A"
    assert await text(engine, ask("What is 3 + 4?")) == "Answer: 7"
    assert await text(engine, ask("the secret", "hm", "go on")) == "found"
    (completion,) = await engine.generate(ask("go on"))
    assert (completion.text, completion.finish_reason) == ("default", "length")


async def test_replies_come_by_hash_or_in_order(tmp_path: Path) -> None:
    ordered = script(tmp_path, {"replies": ["a", "b", "c"], "order": "sequence"})
    assert [await text(ordered, ask("?")) for _ in range(4)] == ["a", "b", "c", "a"]
    hashed = script(tmp_path, {"replies": ["a", "b", "c"]})
    first = [await text(hashed, ask("?", seeds=(seed,))) for seed in range(30)]
    assert first == [await text(hashed, ask("?", seeds=(seed,))) for seed in range(30)]
    assert set(first) == {"a", "b", "c"}


async def test_rules_raise_errors_a_number_of_times(tmp_path: Path) -> None:
    engine = script(
        tmp_path,
        {"error": "timeout", "times": 1},
        {"error": "engine_error", "times": 1},
        {"replies": ["well"], "delay_s": 0.01},
    )
    with pytest.raises(EngineTimeout):
        await engine.generate(ask("?"))
    with pytest.raises(EngineError, match="as its rule says") as caught:
        await engine.generate(ask("?"))
    assert caught.value.retryable
    started = time.perf_counter()
    assert await text(engine, ask("?")) == "well"
    assert time.perf_counter() - started >= 0.01


async def test_no_rule_fits_is_an_engine_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no rule of script .* fits the message `hello`"):
        await script(tmp_path, {"match": "bye", "replies": ["x"]}).generate(ask("hello"))


async def test_typed_parts_are_searched_by_their_text(tmp_path: Path) -> None:
    engine = script(tmp_path, {"match": "cat", "replies": ["miaow"]})
    picture = {"type": "image_url", "image_url": {"url": "data:,dog"}}
    content = [{"type": "text", "text": "a cat"}, picture]
    (completion,) = await engine.generate(Request(({"role": "user", "content": content},), Sampling(), (1,)))
    assert completion.text == "miaow"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"replies": ["a"]}\n{"replies": ', r"line 2: not JSON"),
        ('{"replies": ["a"]}\n\n{"replys": ["a"]}', r"line 3: replys: .*known fields: match, within"),
        ('[\n {"replies": ["a"]},\n {"match": "("}\n]', r"line 3: match: not a regular expression"),
        ('[{"replies": ["a"]},\n {"replies": []}]', r"line 2: a rule needs either `replies` or `error`"),
        ('{"replies": ["a"], "error": "timeout"}', r"line 1: a rule needs either"),
        ('{"error": "nonsense"}', r"line 1: error: Input should be 'timeout' or 'engine_error'"),
        ('[\n{"replies": ["a"]}\n', r"line 3: not JSON"),
        ("7", r"line 1: Input should be a valid dictionary"),
        ("", "holds no rule"),
    ],
)
def test_a_malformed_script_names_its_line(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=said):
        ScriptedEngine(path)


def test_a_missing_script_lists_the_built_ins() -> None:
    with pytest.raises(UserError, match=r"`nowhere.jsonl`; known: echo, hash"):
        ScriptedEngine("nowhere.jsonl")


async def test_the_call_log_has_a_line_a_sample_before_the_answer(tmp_path: Path) -> None:
    log = tmp_path / "calls.jsonl"
    seen: list[int] = []

    def reply(request: Request, seed: int) -> str:
        seen.append(len(log.read_text().splitlines()))
        return "ok"

    engine = ScriptedEngine(reply, call_log=log)
    other = ScriptedEngine("hash", call_log=log)
    await engine.generate(ask("a", seeds=(5, 6)))
    await other.generate(ask("a", seeds=(5,)))
    await other.generate(ask("b", seeds=(5,)))
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert seen == [2, 2] and [row["seed"] for row in rows] == [5, 6, 5, 5]
    assert rows[0]["request"] == rows[2]["request"] != rows[3]["request"]
    assert rows[0]["pid"] == os.getpid()
    await engine.close()
    await other.close()


async def test_a_call_costs_tens_of_microseconds() -> None:
    """The bound is 5 times what an idle core needs, so that a busy one passes."""
    request = ask(*["word " * 200] * 3)
    engine = ScriptedEngine("hash", ids=False)
    best = 1.0
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(500):
            await engine.generate(request)
        best = min(best, (time.perf_counter() - started) / 500)
    assert best < 50e-6

"""The engine layer: retries, time-outs, rates, concurrency, cache and ledger, on a virtual clock."""

import asyncio
import multiprocessing
import sqlite3
from collections.abc import Callable, Coroutine
from math import inf, nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sparring.agents.engines.base import Completion, PolicyVersion, Request, Sampling, ScoreRequest, Usage
from sparring.agents.engines.cache import ResponseCache, sample_key
from sparring.agents.engines.layer import ManagedEngine, ServicePolicy
from sparring.agents.engines.scripted import Reply, ScriptedEngine
from sparring.errors import EngineError, EngineTimeout, UserError


class VirtualClock(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer when nothing is ready: minutes take no time."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]  # the loop's own queues
            due = self._scheduled[0]._when  # type: ignore[attr-defined]  # as above
            self.now = max(self.now, due) + 1e-9  # no timer is so short that no time passes
        super()._run_once()  # type: ignore[misc]  # as above


def virtually(main: Callable[[], Coroutine[Any, Any, Any]]) -> tuple[Any, float]:
    """The result of `main` and the virtual seconds it took."""
    with asyncio.Runner(loop_factory=VirtualClock) as runner:
        result = runner.run(main())
        return result, runner.get_loop().time()


def ask(text: str = "?", seeds: tuple[int, ...] = (1,), version: PolicyVersion | None = None) -> Request:
    return Request(({"role": "user", "content": text},), Sampling(), seeds, version or PolicyVersion("base"))


class Flaky:
    """Fails with the given errors, one a call, then answers; knows when it was called."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.times = list(errors), list[float]()

    def __call__(self, request: Request, seed: int) -> Reply:
        self.times.append(asyncio.get_running_loop().time())
        return self.errors.pop(0) if self.errors else f"answer {seed}"


def slow(seconds: float) -> ScriptedEngine:
    return ScriptedEngine("hash", delay_s=seconds)


RETRYING = ServicePolicy(tries=4, backoff=2.0)


def test_retryable_errors_are_tried_again_and_counted() -> None:
    flaky = Flaky(EngineError("429", retryable=True), EngineTimeout("late"))
    engine = ManagedEngine(ScriptedEngine(flaky), RETRYING)
    ((completion,), _) = virtually(lambda: engine.generate(ask()))
    assert completion.text == "answer 1" and completion.retries == 2
    total = engine.ledger.snapshot()["total"]
    assert (total["calls"], total["retries"], total["errors"]) == (1, 2, 0)


def test_the_last_error_comes_out_after_all_tries() -> None:
    flaky = Flaky(*[EngineError(f"down {n}", retryable=True) for n in range(9)])
    engine = ManagedEngine(ScriptedEngine(flaky), RETRYING)
    with pytest.raises(EngineError, match="down 3"):
        virtually(lambda: engine.generate(ask()))
    assert len(flaky.times) == 4
    total = engine.ledger.snapshot()["total"]
    assert (total["calls"], total["retries"], total["errors"]) == (0, 3, 1)


def test_back_off_grows_and_is_capped() -> None:
    """Wait n is uniform on [0, 2 * 2^(n-1)], at most 5: bounds on every wait, and on their mean."""
    waits: list[list[float]] = []
    for _ in range(60):
        flaky = Flaky(*[EngineError("down", retryable=True)] * 4)
        engine = ManagedEngine(ScriptedEngine(flaky), ServicePolicy(tries=5, backoff=2.0, backoff_max=5.0))
        virtually(lambda engine=engine: engine.generate(ask()))
        waits.append([late - soon for soon, late in zip(flaky.times, flaky.times[1:], strict=False)])
    caps = np.array([2.0, 4.0, 5.0, 5.0])
    assert (np.array(waits) <= caps + 1e-9).all() and len({round(wait[0], 6) for wait in waits}) > 50
    assert np.allclose(np.mean(waits, axis=0), caps / 2, rtol=0.35)


def test_retry_after_is_honoured_and_a_very_long_one_is_final() -> None:
    flaky = Flaky(EngineError("429", retryable=True, retry_after=30.0))
    engine = ManagedEngine(ScriptedEngine(flaky), ServicePolicy(tries=2, backoff=0.5))
    virtually(lambda: engine.generate(ask()))
    assert 30.0 <= flaky.times[1] - flaky.times[0] <= 30.5
    never = Flaky(EngineError("429", retryable=True, retry_after=3600.0))
    with pytest.raises(EngineError, match="429"):
        virtually(lambda: ManagedEngine(ScriptedEngine(never), RETRYING).generate(ask()))
    assert len(never.times) == 1


@pytest.mark.parametrize("error", [UserError("no such model"), EngineError("bad answer")])
def test_final_errors_are_not_tried_again(error: Exception) -> None:
    flaky = Flaky(error)
    with pytest.raises(type(error), match=str(error)):
        virtually(lambda: ManagedEngine(ScriptedEngine(flaky), RETRYING).generate(ask()))
    assert len(flaky.times) == 1


def test_in_process_engines_are_not_retried_by_default() -> None:
    flaky = Flaky(EngineError("429", retryable=True))
    with pytest.raises(EngineError):
        virtually(lambda: ManagedEngine(ScriptedEngine(flaky)).generate(ask()))
    assert ServicePolicy.of(SimpleNamespace(tries=2)) == ServicePolicy(tries=2)
    assert ServicePolicy.of(SimpleNamespace(remote=True)) == ServicePolicy(5, 600.0, concurrency=64)


def test_a_bug_of_a_backend_is_its_fault_and_keeps_its_cause() -> None:
    def broken(request: Request, seed: int) -> str:
        raise ZeroDivisionError("oh")

    with pytest.raises(EngineError, match="ZeroDivisionError: oh") as caught:
        virtually(lambda: ManagedEngine(ScriptedEngine(broken), RETRYING).generate(ask()))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_slow_attempt_times_out_and_is_tried_again() -> None:
    engine = ManagedEngine(slow(50), ServicePolicy(tries=3, timeout=10, backoff=0))

    async def main() -> None:
        with pytest.raises(EngineTimeout, match="no answer within 10 s"):
            await engine.generate(ask())

    _, seconds = virtually(main)
    assert seconds == pytest.approx(30)


def test_waiting_for_a_place_does_not_count_as_slow() -> None:
    async def main() -> None:
        engine = ManagedEngine(slow(8), ServicePolicy(timeout=10, concurrency=1))
        await asyncio.gather(*(engine.generate(ask(str(n))) for n in range(5)))

    _, seconds = virtually(main)
    assert seconds == pytest.approx(40)


def test_concurrency_is_capped_and_places_are_free_while_a_call_backs_off() -> None:
    async def main() -> None:
        engine = ManagedEngine(slow(1), ServicePolicy(concurrency=3))
        await asyncio.gather(*(engine.generate(ask(str(n))) for n in range(9)))

    assert virtually(main)[1] == pytest.approx(3)

    async def backing_off() -> list[float]:
        flaky = Flaky(EngineError("429", retryable=True, retry_after=100.0))
        engine = ManagedEngine(ScriptedEngine(flaky), ServicePolicy(tries=2, concurrency=1))
        await asyncio.gather(engine.generate(ask("a")), engine.generate(ask("b")))
        return flaky.times

    assert virtually(backing_off)[0][:2] == [0.0, 0.0]


def test_requests_a_minute_are_spaced_evenly() -> None:
    flaky = Flaky()

    async def main() -> None:
        engine = ManagedEngine(ScriptedEngine(flaky), ServicePolicy(rpm=60))
        await asyncio.gather(*(engine.generate(ask(str(n))) for n in range(30)))

    virtually(main)
    assert np.diff(flaky.times).min() >= 0.99 and flaky.times[-1] == pytest.approx(29, abs=0.5)


@pytest.mark.parametrize(("density", "prompt"), [(4, 100), (1, 400)])
def test_tokens_a_minute(density: int, prompt: int) -> None:
    """512 tokens of answer and a prompt of 400 bytes: after a first burst, that share of a minute apart.
    How many tokens it has is learned from the calls before."""
    flaky, tokens = Flaky(), 512 + prompt
    engine = ManagedEngine(ScriptedEngine(flaky, bytes_per_token=density), ServicePolicy(tpm=10 * tokens))

    async def main() -> None:
        await engine.generate(ask("x" * 400))
        await asyncio.sleep(60)
        flaky.times.clear()
        await asyncio.gather(*(engine.generate(ask("x" * 400)) for _ in range(20)))

    virtually(main)
    times = np.array(flaky.times) - flaky.times[0]
    assert times[8] == pytest.approx(0, abs=0.1) and times[-1] == pytest.approx(60, abs=4)


class Remote(ScriptedEngine):
    """A scripted engine that is served like a remote one: each sample is a call of its own."""

    one_sample_per_call = True


def test_samples_of_a_remote_engine_are_retried_one_by_one() -> None:
    flaky = Flaky(EngineError("429", retryable=True))
    engine = ManagedEngine(Remote(flaky), RETRYING)
    (completions, _) = virtually(lambda: engine.generate(ask(seeds=(4, 5, 6))))
    assert [completion.text for completion in completions] == ["answer 4", "answer 5", "answer 6"]
    assert sorted(completion.retries for completion in completions) == [0, 0, 1]
    assert len(flaky.times) == 4


def test_one_lost_sample_cancels_the_others() -> None:
    ended: list[int] = []

    async def reply(request: Request, seed: int) -> Reply:
        if seed == 2:
            return UserError("no")
        await asyncio.sleep(10)
        ended.append(seed)
        return "late"

    async def main() -> None:
        with pytest.raises(UserError):
            await ManagedEngine(Remote(reply)).generate(ask(seeds=(1, 2, 3)))
        await asyncio.sleep(20)

    virtually(main)
    assert ended == []


def test_the_ledger_keeps_policies_apart_and_counts_money() -> None:
    usage = Usage(prompt_tokens=1000, completion_tokens=100, cached_tokens=400)
    engine = ManagedEngine(
        ScriptedEngine(lambda request, seed: Completion("x", "stop", usage)),
        ServicePolicy(price_in=2.0, price_cached=0.5, price_out=10.0),
    )
    (completions, _) = virtually(lambda: engine.generate(ask(seeds=(1, 2), version=PolicyVersion("a", 3))))
    virtually(lambda: engine.generate(ask(version=PolicyVersion("b"))))
    each = (600 * 2.0 + 400 * 0.5 + 100 * 10.0) / 1e6
    assert completions[0].usage.cost == pytest.approx(each)
    rows = engine.ledger.snapshot()
    assert list(rows) == ["a@3", "b@0", "total"]
    assert rows["a@3"]["samples"] == 2 and rows["a@3"]["calls"] == 1
    assert rows["total"]["cost"] == pytest.approx(3 * each)
    assert rows["total"]["prompt_tokens"] == 3000 and rows["total"]["cached_tokens"] == 1200


async def test_score_goes_through_the_layer() -> None:
    engine = ManagedEngine(ScriptedEngine("hash"), RETRYING)
    ids = np.arange(5, dtype=np.int32)
    assert (await engine.score(ScoreRequest(ids, ids))).logprobs.shape == (5,)
    assert engine.ledger.snapshot()["base@0"]["calls"] == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"tries": 0}, {"timeout": 0}, {"rpm": -1}, {"price_in": -0.1}, {"price_in": nan}, {"price_out": inf},
    ],
)  # fmt: skip
def test_impossible_policies_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(wrong))} must"):
        ServicePolicy(**wrong)


# The response cache


async def test_only_the_missing_samples_are_asked_for(tmp_path: Path) -> None:
    asked: list[int] = []

    def reply(request: Request, seed: int) -> str:
        asked.append(seed)
        return f"answer {seed}"

    engine = ManagedEngine(ScriptedEngine(reply), ServicePolicy(cache=tmp_path / "cache.sqlite"))
    first = await engine.generate(ask(seeds=(1, 2)))
    again = await engine.generate(ask(seeds=(1, 7, 2)))
    assert asked == [1, 2, 7, 2]  # the last: seed 2 as sample 2 is another sample than seed 2 as sample 1
    assert [completion.cached for completion in again] == [True, False, False]
    assert again[0].text == first[0].text
    for name in ("prompt_ids", "completion_ids", "logprobs"):
        kept, fresh = getattr(again[0], name), getattr(first[0], name)
        assert kept.dtype == fresh.dtype and np.array_equal(kept, fresh)
    total = engine.ledger.snapshot()["total"]
    assert (total["cache_hits"], total["samples"]) == (1, 4)
    await engine.close()


async def test_two_samples_of_one_seed_are_kept_apart(tmp_path: Path) -> None:
    texts = [f"answer {n}" for n in range(9)]
    engine = ManagedEngine(
        Remote(lambda request, seed: texts.pop(0)), ServicePolicy(cache=tmp_path / "cache.sqlite")
    )
    first = [completion.text for completion in await engine.generate(ask(seeds=(5, 5)))]
    assert sorted(first) == ["answer 0", "answer 1"]
    assert [completion.text for completion in await engine.generate(ask(seeds=(5, 5)))] == first
    await engine.close()


async def test_a_hit_costs_nothing_and_counts_no_tokens(tmp_path: Path) -> None:
    policy = ServicePolicy(cache=tmp_path / "cache.sqlite", price_in=1.0, price_out=1.0)
    engine = ManagedEngine(ScriptedEngine("hash"), policy)
    (paid,) = await engine.generate(ask())
    before = engine.ledger.snapshot()["total"]
    (free,) = await engine.generate(ask())
    after = engine.ledger.snapshot()["total"]
    assert (
        paid.usage.cost > 0 and free.usage.cost == 0 and free.usage.prompt_tokens == paid.usage.prompt_tokens
    )
    assert after["cost"] == before["cost"] and after["cache_hits"] == 1
    await engine.close()


def test_everything_that_can_change_an_answer_is_in_the_key() -> None:
    base = ask()
    variants = [
        sample_key(base, "spec", "base", 1, 0),
        sample_key(base, "spec?dtype=float32", "base", 1, 0),
        sample_key(base, "spec", "other", 1, 0),
        sample_key(base, "spec", "base", 2, 0),
        sample_key(base, "spec", "base", 1, 1),
        sample_key(ask("!"), "spec", "base", 1, 0),
        sample_key(ask(version=PolicyVersion("base", 1)), "spec", "base", 1, 0),
        sample_key(ask(version=PolicyVersion("base", base="other")), "spec", "base", 1, 0),
        sample_key(ask(version=PolicyVersion("base", adapter_hash="aa")), "spec", "base", 1, 0),
        sample_key(Request(base.messages, Sampling(max_tokens=9), (1,)), "spec", "base", 1, 0),
    ]
    assert len(set(variants)) == len(variants) and len(variants[0]) == 32


def _fill(path: Path, worker: int) -> None:
    cache = ResponseCache(path)
    for n in range(50):
        mine = Completion(f"worker {worker}", "stop", Usage())
        cache.put([(n.to_bytes(4, "big"), mine), (f"{worker}/{n}".encode(), mine)])
    cache.close()


def test_processes_share_a_cache_and_the_first_answer_stays(tmp_path: Path) -> None:
    path, context = tmp_path / "cache.sqlite", multiprocessing.get_context("fork")
    workers = [context.Process(target=_fill, args=(path, worker)) for worker in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    cache = ResponseCache(path)
    kept = [cache.get(n.to_bytes(4, "big")) for n in range(50)]
    assert all(found is not None and found.text.startswith("worker") for found in kept)
    assert all(cache.get(f"{worker}/{n}".encode()) is not None for worker in range(4) for n in range(50))
    before = cache.get(bytes(4))
    cache.put([(bytes(4), Completion("later", "stop", Usage()))])
    assert cache.get(bytes(4)) == before
    cache.close()


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    noise = tmp_path / "noise.sqlite"
    noise.write_bytes(b"this is no database at all" * 100)
    with pytest.raises(UserError, match=r"noise.sqlite is damaged .*: delete the file"):
        ResponseCache(noise)
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE mine (x)")
    db.close()
    with pytest.raises(UserError, match="no response cache of this version"):
        ResponseCache(foreign)
    with pytest.raises(UserError, match="response cache"):
        ResponseCache(tmp_path / "noise.sqlite" / "below")


def test_a_page_damaged_later_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    cache = ResponseCache(path)
    cache.put([(bytes([n]) * 32, Completion("text " * 500, "stop", Usage())) for n in range(20)])
    cache.close()
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    damaged = ResponseCache(path)
    with pytest.raises(UserError, match="damaged"):
        damaged.get(b"\x03" * 32)
    damaged.close()

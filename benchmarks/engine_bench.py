"""The embedded engine's budgets (docs: DESIGN section 10), each a ratio of two things timed in one run.

    python -m benchmarks.engine_bench [--dtype bfloat16] [--repeats 3] [--only NAME] [--out FILE.json]

Workload: SmolLM2-135M, Du-style debates (three agents, two rounds, short arithmetic questions, at most
48 new tokens a turn). The static baseline is `transformers.generate` over the recorded prompts, 64 a
batch, each batch run to its longest recorded completion; only recorded tokens count for either side.
Both sides are timed one after the other in every repeat and the median ratio is reported, because
other processes may use the machine. Every repeat has new numbers in its questions, so that no prefix
cache remembers the last one.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.budgets import finish, judged
from sparring.agents.engines.base import Completion, Message, PolicyVersion, Request, Sampling
from sparring.agents.engines.transformers import TransformersEngine

SAMPLING = Sampling(temperature=1.0, max_tokens=48)
AGENTS, ROUNDS = 3, 2


@dataclass(frozen=True, slots=True)
class Bench:
    """What every measurement gets."""

    engine: TransformersEngine
    dtype: str
    conversations: int
    adapters: Path
    """Folder with adapters `0` to `4`."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one repeat: the engine and what it is compared with; the budget is on `ratio`."""

    ours: float
    other: float

    @property
    def ratio(self) -> float:
        return self.other / self.ours


def question(rng: np.random.Generator) -> str:
    a, b, c, d, e, f = rng.integers(0, 100, 6)
    return f"What is {a}+{b}*{c}+{d}-{e}*{f}? Reason briefly and state the number at the end."


def user(text: str) -> Message:
    return {"role": "user", "content": text}


async def debate(engine: TransformersEngine, rng: np.random.Generator) -> list[Completion]:
    """Three agents answer, read each other and answer again; all turns in wave order (round, agent)."""
    histories: list[tuple[Message, ...]] = [(user(question(rng)),)] * AGENTS
    turns: list[Completion] = []
    for _ in range(ROUNDS):
        seeds = [int(seed) for seed in rng.integers(0, 2**31, AGENTS)]
        asked = [engine.generate(Request(h, SAMPLING, (s,))) for h, s in zip(histories, seeds, strict=True)]
        said = [completion for (completion,) in await asyncio.gather(*asked)]
        turns += said
        for me in range(AGENTS):
            others = "\n".join(f"One agent said: {said[o].text}" for o in range(AGENTS) if o != me)
            again = user(f"{others}\nConsider these answers and give your own, updated one.")
            histories[me] = (*histories[me], {"role": "assistant", "content": said[me].text}, again)
    return turns


def static(model: Any, batch: Sequence[Completion]) -> float:
    """Seconds that one left-padded `generate` takes for the recorded prompts and the longest length."""
    import torch

    prompts = [np.asarray(turn.prompt_ids, np.int64) for turn in batch]
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.from_numpy(prompt)
        mask[row, width - len(prompt) :] = 1
    count = max(turn.usage.completion_tokens for turn in batch)
    started = time.perf_counter()
    with torch.inference_mode():
        out = model.generate(
            ids,
            attention_mask=mask,
            do_sample=True,
            max_new_tokens=count,
            min_new_tokens=count,
            pad_token_id=0,
        )
    assert out.shape[1] == width + count
    return time.perf_counter() - started


async def timed(work: Awaitable[Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = await work
    return time.perf_counter() - started, result


async def debates(bench: Bench, rng: np.random.Generator) -> Timing:
    """64 concurrent debates against the same turns in static batches, one per round and agent."""
    streams = rng.spawn(bench.conversations)
    ours, played = await timed(asyncio.gather(*[debate(bench.engine, stream) for stream in streams]))
    model = bench.engine.shared_base()
    waves = [[turns[wave] for turns in played] for wave in range(AGENTS * ROUNDS)]
    return Timing(ours, sum(static(model, wave) for wave in waves))


async def at_once(bench: Bench, rng: np.random.Generator) -> Timing:
    """All requests at the same moment against one static batch."""
    requests = [Request((user(question(rng)),), SAMPLING, (seed,)) for seed in range(bench.conversations)]
    ours, answers = await timed(asyncio.gather(*map(bench.engine.generate, requests)))
    return Timing(ours, static(bench.engine.shared_base(), [answer for (answer,) in answers]))


async def one_at_a_time(bench: Bench, rng: np.random.Generator) -> Timing:
    """Concurrent debates against the engine serving a sample of single calls, per useful token."""
    few = [Request((user(question(rng)),), SAMPLING, (seed,)) for seed in range(6)]
    streams = rng.spawn(max(8, bench.conversations // 2))
    ours, played = await timed(asyncio.gather(*[debate(bench.engine, stream) for stream in streams]))
    tokens = sum(turn.usage.completion_tokens for turns in played for turn in turns)

    async def serial() -> int:
        return sum([(await bench.engine.generate(request))[0].usage.completion_tokens for request in few])

    other, count = await timed(serial())
    return Timing(ours / tokens, other / count)


def long_question(rng: np.random.Generator, words: int = 62) -> Message:
    """About 200 tokens with the chat template; two of them share no more than that."""
    return user(" ".join(str(number) for number in rng.integers(10, 99, words)) + " Continue.")


async def samples(bench: Bench, rng: np.random.Generator) -> Timing:
    """One request for 8 samples of a 200-token prompt against 8 requests, each with a prompt of its own."""
    how = Sampling(max_tokens=16)
    one = Request((long_question(rng),), how, tuple(range(8)))
    eight = [Request((long_question(rng),), how, (seed,)) for seed in range(8)]
    ours, _ = await timed(bench.engine.generate(one))
    other, _ = await timed(asyncio.gather(*map(bench.engine.generate, eight)))
    return Timing(ours, other)


async def samples_in_turn(bench: Bench, rng: np.random.Generator) -> Timing:
    """The same against the 8 requests one after the other, the prompt being the same."""
    how = Sampling(max_tokens=16)
    one = Request((long_question(rng),), how, tuple(range(8)))
    again = long_question(rng)
    ours, _ = await timed(bench.engine.generate(one))

    async def serial() -> None:
        for seed in range(8):
            await bench.engine.generate(Request((again,), how, (seed,)))

    other, _ = await timed(serial())
    return Timing(ours, other)


async def adapters(bench: Bench, rng: np.random.Generator) -> Timing:
    """64 requests over four adapters against 64 requests on one; `ratio` is four over one."""

    async def run(count: int) -> float:
        requests = [
            Request(
                (user(question(rng)),),
                Sampling(max_tokens=32),
                (i,),
                version(bench.adapters / str(i % count)),
            )
            for i in range(bench.conversations)
        ]
        seconds, answers = await timed(asyncio.gather(*map(bench.engine.generate, requests)))
        return seconds / sum(a.usage.completion_tokens for (a,) in answers)

    return Timing(await run(1), await run(4))


async def swap(bench: Bench, rng: np.random.Generator) -> Timing:
    """First answer (one token) under an adapter never seen before, against one second."""
    from safetensors.torch import load_file, save_file

    fresh = bench.adapters / f"swap{rng.integers(2**40)}"
    fresh.mkdir()
    weights = load_file(bench.adapters / "4" / "adapter_model.safetensors")
    save_file(
        {name: tensor * float(rng.random()) for name, tensor in weights.items()},
        fresh / "adapter_model.safetensors",
    )
    (fresh / "adapter_config.json").write_text((bench.adapters / "4" / "adapter_config.json").read_text())
    request = Request((user(question(rng)),), Sampling(max_tokens=1), (1,), version(fresh))
    seconds, _ = await timed(bench.engine.generate(request))
    return Timing(1.0, seconds)


async def packed_batch(bench: Bench, rng: np.random.Generator) -> Timing:
    """All requests at the same moment, with packed weights against plain ones."""
    return await _packed(bench, rng, bench.conversations)


async def packed_alone(bench: Bench, rng: np.random.Generator) -> Timing:
    """The same of one request."""
    return await _packed(bench, rng, 1)


async def _packed(bench: Bench, rng: np.random.Generator, count: int) -> Timing:
    plain = TransformersEngine("smollm2-135m", dtype=bench.dtype, packed=False)
    spent = []
    for engine in (bench.engine, plain):
        requests = [Request((user(question(rng)),), SAMPLING, (seed,)) for seed in range(count)]
        await engine.generate(Request((user("Hello"),), Sampling(max_tokens=2), (0,)))
        seconds, answers = await timed(asyncio.gather(*map(engine.generate, requests)))
        spent.append(seconds / sum(answer.usage.completion_tokens for (answer,) in answers))
    await plain.close()
    return Timing(*spent)


def version(folder: Path) -> PolicyVersion:
    return PolicyVersion("bench", 1, adapter=str(folder))


def save_adapters(engine: TransformersEngine, folder: Path) -> None:
    """Five rank-16 adapters on every linear layer, random and not zero."""
    import torch
    from peft import LoraConfig, get_peft_model

    for number in range(5):
        torch.manual_seed(number)
        wrapped = get_peft_model(engine.shared_base(), LoraConfig(r=16, target_modules="all-linear"))
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.002)
        wrapped.save_pretrained(folder / str(number))


Measure = Callable[[Bench, np.random.Generator], Awaitable[Timing]]
MEASURES: dict[str, Measure] = {
    "64 debates / static batches": debates,
    "64 at once / one static batch": at_once,
    "debates / one call at a time": one_at_a_time,
    "8 samples / 8 other requests": samples,
    "8 samples / 8 calls in turn": samples_in_turn,
    "64 packed / plain weights": packed_batch,
    "1 packed / plain weights": packed_alone,
    "4 adapters over 1": adapters,
    "adapter swap": swap,
}
"""By the names of their budgets."""


async def measure(args: argparse.Namespace) -> dict[str, list[Timing]]:
    engine = TransformersEngine("smollm2-135m", dtype=args.dtype)
    chosen = {name: work for name, work in MEASURES.items() if args.only in name}
    timings: dict[str, list[Timing]] = {name: [] for name in chosen}
    with tempfile.TemporaryDirectory() as folder:
        await engine.start()
        save_adapters(engine, Path(folder))
        bench = Bench(engine, args.dtype, args.conversations, Path(folder))
        await at_once(bench, np.random.default_rng(10**6))  # first use of kernels and buffers
        for repeat in range(args.repeats):
            for name, work in chosen.items():
                timings[name].append(await work(bench, np.random.default_rng([repeat, len(name)])))
                print(f"  {repeat + 1}/{args.repeats} {name}: {timings[name][-1].ratio:.2f}", flush=True)
    await engine.close()
    return timings


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--conversations", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="measurements whose name contains this")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    timings = asyncio.run(measure(args))
    ratios = {name: statistics.median(each.ratio for each in found) for name, found in timings.items()}
    import torch

    figures = {
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": args.dtype,
        "conversations": args.conversations,
        "repeats": args.repeats,
        "timings": {name: [asdict(each) for each in found] for name, found in timings.items()},
    }
    return finish(judged(f"engine_bench {args.dtype}", ratios), figures, args.out)


if __name__ == "__main__":
    sys.exit(main())

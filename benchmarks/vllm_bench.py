"""vLLM in this process: against its own offline batch, and against the embedded engine.

    .venv-vllm/bin/python -m benchmarks.vllm_bench [--dtype bfloat16] [--repeats 3] [--out FILE.json]

Workload as in `engine_bench`: SmolLM2-135M, 64 Du-style debates at once. The offline batch is one call of
vLLM's `LLM.generate` with all recorded prompts, no debate waiting for another, each to its recorded length;
it is asked for no log-probabilities and takes no adapters, so it does less. The embedded engine plays debates
of its own. Tokens a second of the three in every repeat, each side started anew; median ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.budgets import finish, judged
from benchmarks.engine_bench import SAMPLING, debate, user
from sparring.agents.engines.base import Completion, Engine, Request, Sampling
from sparring.agents.engines.transformers import TransformersEngine
from sparring.agents.engines.vllm import VllmEngine

MODEL = "smollm2-135m"
KV_GIB = 2.0


async def played(engine: Engine, conversations: int, seed: int) -> tuple[float, list[Completion]]:
    """Useful tokens a second of debates at once, and what was said."""
    warm = [Request((user("Hello"),), Sampling(max_tokens=4), (0,))] * 4
    await asyncio.gather(*map(engine.generate, warm))
    streams = np.random.default_rng(seed).spawn(conversations)
    started = time.perf_counter()
    turns = [turn for one in await asyncio.gather(*(debate(engine, s) for s in streams)) for turn in one]
    took = time.perf_counter() - started
    return tokens(turns) / took, turns


def tokens(turns: list[Completion]) -> int:
    return sum(turn.usage.completion_tokens for turn in turns)


def offline(turns: list[Completion], dtype: str) -> float:
    """Tokens a second of vLLM's own batch over recorded prompts and lengths."""
    from vllm import LLM, SamplingParams

    from sparring.agents import models

    llm = LLM(
        str(models.pull(MODEL)),
        dtype=dtype,
        kv_cache_memory_bytes=int(KV_GIB * 2**30),
        enable_prefix_caching=True,
        disable_log_stats=True,
        enforce_eager=True,
    )
    llm.generate([{"prompt_token_ids": [1, 2, 3]}] * 4, SamplingParams(max_tokens=4), use_tqdm=False)
    prompts: Any = [
        {"prompt_token_ids": turn.prompt_ids.tolist()} for turn in turns if turn.prompt_ids is not None
    ]
    params = [
        SamplingParams(
            temperature=SAMPLING.temperature, max_tokens=turn.usage.completion_tokens, ignore_eos=True
        )
        for turn in turns
    ]
    started = time.perf_counter()
    replies = llm.generate(prompts, params, use_tqdm=False)
    took = time.perf_counter() - started
    count = sum(len(reply.outputs[0].token_ids) for reply in replies)
    assert count == tokens(turns), "it drew other lengths"
    del llm
    gc.collect()
    return count / took


async def once(args: argparse.Namespace, repeat: int) -> dict[str, float]:
    ours = VllmEngine(
        MODEL, dtype=args.dtype, kv_cache_gib=KV_GIB, max_loras=args.max_loras, enforce_eager=True
    )
    rate, turns = await played(ours, args.conversations, repeat)
    await ours.close()
    batch = await asyncio.to_thread(offline, turns, args.dtype)
    embedded = TransformersEngine(MODEL, dtype=args.dtype)
    own, _ = await played(embedded, args.conversations, repeat)
    await embedded.close()
    shown = {"vllm": rate, "offline": batch, "embedded": own}
    print(
        f"  {repeat + 1}/{args.repeats} " + ", ".join(f"{k} {v:.0f} tok/s" for k, v in shown.items()),
        flush=True,
    )
    return shown


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--conversations", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max-loras", type=int, default=0, help="above 0: our side can serve adapters")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    runs = [asyncio.run(once(args, repeat)) for repeat in range(args.repeats)]
    ratios = {
        "64 debates / vLLM's offline batch": [run["vllm"] / run["offline"] for run in runs],
        "vLLM / the embedded engine, 64 debates": [run["vllm"] / run["embedded"] for run in runs],
    }
    for what, each in ratios.items():
        print(f"{what:50} {statistics.median(each):6.2f}   [{min(each):.2f}, {max(each):.2f}]")
    what = "64 debates / vLLM's offline batch"
    rows = judged("vllm_bench", {what: statistics.median(ratios[what])})
    return finish(rows, {"settings": vars(args), "runs": runs}, args.out)


if __name__ == "__main__":
    sys.exit(main())

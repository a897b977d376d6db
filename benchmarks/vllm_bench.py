"""vLLM in this process: against its own offline batch, and against the embedded engine.

    .venv-vllm/bin/python -m benchmarks.vllm_bench [--dtype bfloat16] [--repeats 3] [--out FILE.json]

Workload as in `engine_bench`: SmolLM2-135M, 64 Du-style debates at once. The offline batch is one call of
vLLM's `LLM.generate` with all recorded prompts, no debate waiting for another, each to its recorded length;
it is asked for no log-probabilities and takes no adapters, so it does less. The embedded engine plays debates
of its own. Tokens a second of the three in every repeat, each side started anew; median ratios.

    .venv-vllm/bin/python -m benchmarks.vllm_bench --swaps 8 --max-loras 4

What adapters cost instead: four policies ask one by one, 8 tokens each, and are given a new version (rank 16,
all linear layers) so many times. Seconds of the first request of a version, of later ones, and of those of
five policies that take turns, each of whose adapters vLLM has to read again.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.budgets import finish, judged
from benchmarks.engine_bench import SAMPLING, debate, user
from sparring.agents.engines.base import Completion, Engine, PolicyVersion, Request, Sampling
from sparring.agents.engines.transformers import TransformersEngine
from sparring.agents.engines.vllm import VllmEngine
from sparring.agents.models import adapter_hash

MODEL = "smollm2-135m"
WEIGHTS = "adapter_model.safetensors"
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


def versions(folder: Path, count: int) -> list[PolicyVersion]:
    """So many adapters of rank 16 that differ in their weights."""
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    from sparring.agents import models

    plain = AutoModelForCausalLM.from_pretrained(models.pull(MODEL), dtype=torch.float32)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
    get_peft_model(plain, lora).save_pretrained(folder / "0")
    weights = load_file(folder / "0" / WEIGHTS)
    made = []
    for number in range(1, count + 1):
        shutil.copytree(folder / "0", folder / str(number))
        torch.manual_seed(number)
        save_file(
            {name: torch.randn_like(weight) * 0.02 for name, weight in weights.items()},
            folder / str(number) / WEIGHTS,
        )
        path = folder / str(number)
        made.append(PolicyVersion("p", number, adapter=str(path), adapter_hash=adapter_hash(path)))
    return made


async def swapped(args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of requests one by one: the first of a version, later ones, those of a crowd."""
    engine = VllmEngine(
        MODEL, dtype=args.dtype, kv_cache_gib=KV_GIB, max_loras=args.max_loras, enforce_eager=True
    )
    said = (user("Name three colours of the rainbow, then count from one to five."),)
    took: dict[str, list[float]] = {"first": [], "later": [], "crowd": []}

    async def asked(what: str, version: PolicyVersion) -> None:
        started = time.perf_counter()
        await engine.generate(Request(said, Sampling(max_tokens=8), (0,), version))
        took[what].append(time.perf_counter() - started)

    with tempfile.TemporaryDirectory() as folder:
        made = await asyncio.to_thread(versions, Path(folder), 4 * (args.swaps + 1))
        for version in made[:4]:  # to warm up
            await asked("later", version)
        took["later"].clear()
        for step in range(1, args.swaps + 1):
            heads = made[4 * step : 4 * step + 4]
            for what in ("first", "later", "later"):
                for version in heads:
                    await asked(what, version)
        for turn in range(5 * args.swaps):
            await asked("crowd", made[turn % 5])
    await engine.close()
    took["crowd"] = took["crowd"][5:]  # the first round read each for the first time since long
    return took


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--conversations", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max-loras", type=int, default=0, help="above 0: our side can serve adapters")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--swaps", type=int, default=0, help="versions of each of four policies")
    args = parser.parse_args()
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if args.swaps:
        for what, each in asyncio.run(swapped(args)).items():
            spread = f"[{min(each):.3f}, {max(each):.3f}]"
            print(f"{what:8} {statistics.median(each):.3f} s   {spread}   n={len(each)}")
        return 0
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

"""The trainer's budgets (DESIGN section 10): tokens per second against TRL, peak memory.

    python -m benchmarks.trainer_bench [--repeats 3] [--only mixed|shared|memory] [--threads 1] [--out FILE]

SmolLM2-135M in float32, LoRA rank 16 on all linear layers. Ours is a whole update (`trainer.train`: packing,
forward, backward, clipping, optimizer step); TRL's side is `GRPOTrainer.compute_loss` and its backward over
the same sequences in micro-batches, beta 0, without gradient checkpointing. `tokens` are those of the batch,
prompt and completion of each sequence, for both sides, whatever each of them computes or pads.

* mixed: 32 sequences of their own prompts (16 to 192 tokens), completions of 8 to 96. TRL pads every
  micro-batch to its own longest row only; its trainer would pad to the longest of the whole batch.
* shared: 4 prompts of 96 tokens with 8 completions of 32 each, so that TRL pads nothing; also our own rows
  without sharing.
* memory: greatest resident memory of a process that does one update of 16 prompts x 8 samples.

The sides take turns in one process; the median of the repeats' ratios is reported. With `--threads 1` it is
the processor's time that counts, so that other work on the machine changes little.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.budgets import finish, judged
from sparring.agents.engines.transformers.loading import float32_copy
from sparring.memory.samples import TrainingTurn
from sparring.training.experience import Sample
from sparring.training.losses import make_loss
from sparring.training.trainer import Execution, TrainSettings, train
from sparring.training.weights import Adapters, LoraSettings

MODEL = "smollm2-135m"
BUDGETS = {
    "mixed": "mixed lengths, ours / TRL",
    "shared": "8 samples share each prompt, ours / TRL",
    "memory": "peak memory of an update, 16 prompts x 8 samples",
}


def clock() -> float:
    """Seconds; with one thread of the processor, which is what others on the machine do not change."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def sample(prompt: Any, completion: Any, rng: np.random.Generator) -> Sample:
    logprobs = np.full(len(completion), -8, np.float32)
    turn = TrainingTurn(1, "episode", "key", "agent", 1, "ok", prompt, completion, logprobs, "tempered")
    advantages = np.full(len(completion), rng.normal(), np.float32)
    return Sample(turn, "solver", "task", 1.0, 1.0, 0, advantages)


def draw(rng: np.random.Generator, length: int) -> Any:
    return rng.integers(10, 49_000, length).astype(np.int32)


def mixed(rng: np.random.Generator, scale: float) -> list[Sample]:
    count = max(4, round(32 * scale))
    sizes = zip(rng.integers(16, 193, count), rng.integers(8, 97, count), strict=True)
    return [sample(draw(rng, p), draw(rng, c), rng) for p, c in sizes]


def shared(rng: np.random.Generator, scale: float, prompts: int = 4, size: int = 32) -> list[Sample]:
    found = []
    for _ in range(max(1, round(prompts * scale))):
        prompt = draw(rng, 3 * size)
        found += [sample(prompt, draw(rng, size), rng) for _ in range(8)]
    return found


def policy(seed: int = 0) -> Adapters:
    adapters = Adapters(float32_copy(MODEL))
    adapters.add("policy", LoraSettings(rank=16, alpha=32), seed, None)
    return adapters


class Ours:
    """Updates at a learning rate of 0: the weights stay as they are."""

    def __init__(self, settings: dict[str, Any]) -> None:
        # Nobody drew these tokens, so the distance between policy and record means nothing here.
        self._adapters, self._settings = policy(), TrainSettings(**{"max_kl": 1e6, **settings})
        self._optimizer = torch.optim.AdamW(self._adapters.activate("policy"), lr=0.0)
        self.computed = 0.0

    def __call__(self, samples: list[Sample], trees: bool = True) -> float:
        started = clock()
        figures = train(
            self._adapters,
            samples,
            make_loss("grpo"),
            self._settings,
            self._optimizer,
            seed=0,
            execution=Execution(trees=trees),
        )
        self.computed = figures["tokens_computed"]
        return clock() - started


class Theirs:
    """TRL's loss and backward over micro-batches of `rows` sequences."""

    def __init__(self, rows: int, folder: str) -> None:
        from datasets import Dataset
        from transformers import AutoTokenizer
        from trl import GRPOConfig, GRPOTrainer

        from sparring.agents.engines.transformers.loading import local_folder

        config = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=8,
            num_generations=8,
            beta=0.0,
            loss_type="grpo",
            report_to="none",
            bf16=False,
            use_cpu=True,
            activation_checkpointing=False,
        )
        self._trainer = GRPOTrainer(
            model=float32_copy(MODEL),
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=config,
            train_dataset=Dataset.from_dict({"prompt": ["a"] * 8}),
            processing_class=AutoTokenizer.from_pretrained(local_folder(MODEL)),
            peft_config=LoraSettings(rank=16, alpha=32).config(),
        )
        self._trainer.current_gradient_accumulation_steps = 1
        self._rows = rows

    def __call__(self, samples: list[Sample]) -> float:
        trainer = self._trainer
        trainer.model.train()
        started = clock()
        for begin in range(0, len(samples), self._rows):
            inputs = self._inputs(samples[begin : begin + self._rows])
            trainer.compute_loss(trainer.model, inputs).backward()
        trainer.model.zero_grad()
        return clock() - started

    def _inputs(self, samples: list[Sample]) -> dict[str, Any]:
        prompts = [torch.from_numpy(s.turn.prompt_ids.astype(np.int64)) for s in samples]
        completions = [torch.from_numpy(s.turn.completion_ids.astype(np.int64)) for s in samples]
        mask = padded([torch.ones_like(c) for c in completions], "right")
        return {
            "prompt_ids": padded(prompts, "left"),
            "prompt_mask": padded([torch.ones_like(p) for p in prompts], "left"),
            "completion_ids": padded(completions, "right"),
            "completion_mask": mask,
            "advantages": torch.tensor([float(s.advantages[0]) for s in samples]),
            "old_per_token_logps": torch.full(tuple(mask.shape), -8.0),
            "num_items_in_batch": mask.sum(),
        }


def padded(parts: list[torch.Tensor], side: str) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=0, padding_side=side)


def speed(
    name: str, make: Callable[[np.random.Generator, float], list[Sample]], options: Any
) -> dict[str, Any]:
    """Tokens per second of both sides, and of ours without sharing, alternating."""
    ours = Ours(options.settings)
    times: dict[str, list[float]] = {"ours": [], "trl": [], "unshared": []}
    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        theirs = Theirs(options.rows, folder)
        tiny = make(rng, 0.1)[:2]
        ours(tiny), theirs(tiny)
        for _ in range(options.repeats):
            samples = make(rng, options.scale)
            times["ours"].append(ours(samples))
            computed = ours.computed
            times["trl"].append(theirs(samples))
            if name == "shared":
                times["unshared"].append(ours(samples, trees=False))
    tokens = sum(len(s.turn.prompt_ids) + len(s.turn.completion_ids) for s in samples)
    found: dict[str, Any] = {"tokens": tokens, "computed": computed, "repeats": options.repeats}
    for side, seconds in times.items():
        if seconds:
            found[f"{side}_tokens_per_second"] = round(tokens / statistics.median(seconds), 1)
    for side in ("trl", "unshared"):
        if times[side]:
            ratios = [other / mine for mine, other in zip(times["ours"], times[side], strict=True)]
            found["ratio" if side == "trl" else "sharing"] = round(statistics.median(ratios), 2)
    return found


def memory(options: Any) -> dict[str, Any]:
    """GB that a fresh process takes for one update."""
    command = [sys.executable, "-m", "benchmarks.trainer_bench", "--child", json.dumps(options.settings)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def peak() -> int:
    """Greatest resident memory, kB. Not `ru_maxrss`: that one remembers the process that started this one."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def child(settings: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    samples = shared(rng, 1.0, prompts=16, size=24)
    ours = Ours(settings)
    before = peak()
    seconds = ours(samples)
    after = peak()
    unit = 1024 / 1e9
    print(
        json.dumps({"ratio": round(after * unit, 2), "before": round(before * unit, 2), "seconds": seconds})
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=sorted(BUDGETS))
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of sequences")
    parser.add_argument("--rows", type=int, default=8, help="sequences of TRL's micro-batches")
    parser.add_argument("--threads", type=int, help="of both sides; 1 where others use the machine")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--settings", type=json.loads, default={}, help="of our trainer, as JSON")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.child is not None:
        child(options.child)
        return 0
    results: dict[str, Any] = {}
    for name in [options.only] if options.only else ["mixed", "shared", "memory"]:
        results[name] = memory(options) if name == "memory" else speed(name, globals()[name], options)
        print(name, json.dumps(results[name]), flush=True)
    rows = judged("trainer_bench", {BUDGETS[name]: found["ratio"] for name, found in results.items()})
    return finish(rows, results, options.out)


if __name__ == "__main__":
    sys.exit(main())

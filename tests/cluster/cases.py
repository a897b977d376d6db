"""Updates of a tiny policy, in one process or as one of several; a script that keeps what came of each."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]
sys.path[:0] = [str(HERE / "training"), str(HERE / "agents")]

import numpy as np  # noqa: E402 - the paths first
import torch  # noqa: E402 - the paths first
from safetensors.torch import save_file  # noqa: E402 - the paths first
from trainer_support import mixed_samples, roughen, tiny_adapters  # noqa: E402 - the paths first

from sparring.training.experience import Sample  # noqa: E402 - the paths first
from sparring.training.losses import make_loss  # noqa: E402 - the paths first
from sparring.training.steps import TrainSettings, plan_steps  # noqa: E402 - the paths first
from sparring.training.trainer import UpdateStopped, train  # noqa: E402 - the paths first
from sparring.training.weights import adamw  # noqa: E402 - the paths first

FREE = {"max_grad_norm": 1e9, "max_norm": 1e9, "max_kl": 1e9}
WIDE = {"clip_low": 0.9, "clip_high": 40.0}
ALONE = {"tokens": 1, "row_tokens": 1, "predictions": 1}
"""A micro-batch for each sequence."""
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "one micro-batch, so one process has none": ("grpo", {}, {}),
    "unequal shares": ("grpo", {"entropy_bonus": 0.03}, {"tokens": 30, "row_tokens": 15}),
    "a mean over tokens": ("dapo", {}, {"tokens": 30, "row_tokens": 15}),
    "a constant divisor": ("dr_grpo", {}, ALONE),
    "a ratio of sequences": ("gspo", {}, ALONE),
    "a reference": ("grpo", {"beta": 0.1}, ALONE),
    "many steps": ("grpo", {}, {"minibatches": 3, "epochs": 2, **ALONE}),
    "clipped": ("grpo", {}, {"max_grad_norm": 0.05, "minibatches": 2, **ALONE}),
    "supervised rows": ("spc", {}, ALONE),
    "stopped": ("grpo", {}, {"max_norm": 1e-6, **ALONE}),
}


def samples_of(case: str) -> list[Sample]:
    samples = mixed_samples(0.8)
    samples[3].weights = np.linspace(0.3, 1.7, len(samples[3].advantages)).astype(np.float32)
    for number, each in enumerate(samples):
        if CASES[case][0] == "spc" or CASES[case][1].get("beta"):
            size = len(each.advantages)
            each.reference = -np.random.default_rng(number).uniform(4, 6, size).astype(np.float32)
        each.supervised = CASES[case][0] == "spc" and number % 4 == 0
    return samples


def settings_of(case: str) -> TrainSettings:
    return TrainSettings(learning_rate=1e-2, **{**FREE, **CASES[case][2]})


def batches(case: str) -> list[int]:
    """Micro-batches of each step."""
    return [len(step.batches) for step in plan_steps(samples_of(case), settings_of(case), 3, trees=True)]


def update(case: str, rank: int = 0) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """The adapter after an update that begins with momentum, and its figures."""
    name, options, _ = CASES[case]
    adapters, settings = tiny_adapters("policy", "other"), settings_of(case)
    if rank:
        roughen(adapters, "policy", 99)  # what another process has is not what is trained
    adapters.activate("policy")
    optimizer = adamw(adapters.named("policy"), settings)
    for _, tensor in adapters.named("policy"):
        moment = torch.full_like(tensor, 1e-3)
        optimizer.state[tensor] = {
            "step": torch.tensor(4.0),
            "exp_avg": moment,
            "exp_avg_sq": moment.square(),
        }
    loss = make_loss(name, **{**WIDE, **options})
    try:
        figures = train(adapters, samples_of(case), loss, settings, optimizer, seed=3)
    except UpdateStopped as stopped:
        figures = {"stopped": float("norm" in str(stopped))}
    return {key: tensor.detach().clone() for key, tensor in adapters.named("policy")}, figures


def main() -> None:
    torch.set_num_threads(1)
    out, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    for number, case in enumerate(CASES):
        tensors, figures = update(case, rank)
        found = {
            f"figure.{name}": torch.tensor(value, dtype=torch.float64) for name, value in figures.items()
        }
        save_file(tensors | found, out / f"{number}-{rank}.safetensors")


if __name__ == "__main__":
    main()

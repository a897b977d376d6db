"""One update of a policy: experience in, a moved adapter and its figures out.

`PolicyTrainer` is `transformers.Trainer` with a batch made of prefix trees and a policy-gradient loss, so
that devices, processes, clipping and precision stay the library's. Everything an update needs of the old
policy is computed before its first optimizer step.
"""

from __future__ import annotations

import math
import random
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments

from sparring.errors import SparringError
from sparring.training.experience import Sample
from sparring.training.forward import token_logprobs
from sparring.training.full_weights import FullWeights
from sparring.training.loss_inputs import split
from sparring.training.losses import LossOutput, PolicyLoss, Stats, distances, means
from sparring.training.packing import MicroBatch
from sparring.training.steps import Step, TrainSettings, loss_inputs, old_logprobs, plan_steps, prepare
from sparring.training.weights import Adapters

__all__ = [
    "Execution",
    "PolicyTrainer",
    "TrainSettings",
    "UpdateInterrupted",
    "UpdateStopped",
    "prepare",
    "train",
]


class UpdateStopped(SparringError):
    """An update went wrong (no finite loss, or it exploded); the weights it began with stay in use."""

    fault = "internal"


class UpdateInterrupted(SparringError):
    """An update was broken off from outside; the journal still has it open."""


@dataclass(frozen=True, slots=True)
class Execution:
    """How the model is run, beside the mathematics."""

    trees: bool = True
    """Whether the model takes prefix trees (`forward.takes_trees`)."""
    lock: AbstractContextManager[Any] = field(default_factory=nullcontext)
    """Held for each micro-batch."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Breaks the update off before its next micro-batch."""


class PolicyTrainer(Trainer):
    """Optimizer steps that are ready-made; each is cut into micro-batches whose losses add up."""

    def __init__(
        self,
        model: Any,
        steps: list[Step],
        loss: PolicyLoss,
        settings: TrainSettings,
        optimizer: torch.optim.Optimizer,
        execution: Execution,
    ) -> None:
        constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
        arguments = TrainingArguments(
            output_dir=tempfile.gettempdir(),  # it has to exist; nothing is written
            max_steps=len(steps),
            max_grad_norm=settings.max_grad_norm,
            per_device_train_batch_size=1,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=model.device.type == "cpu",  # an engine may share its weights: they stay where they are
        )
        arguments._n_gpu = min(arguments.n_gpu, 1)  # no DataParallel: it would cut micro-batches by rows
        super().__init__(model=model, args=arguments, optimizers=(optimizer, constant))
        # What is frozen is everywhere the same: only what is trained comes from the first process.
        frozen = [name for name, tensor in model.named_parameters() if not tensor.requires_grad]
        model._ddp_params_and_buffers_to_ignore = [*frozen, *(name for name, _ in model.named_buffers())]
        self.remove_callback(PrinterCallback)  # standard output belongs to results
        # Each update has an accelerator of its own, so there is nothing to free; it collects garbage, 0.3 s.
        self.accelerator.free_memory = lambda *objects: list(objects)  # of this one
        self._steps, self._loss, self._settings = steps, loss, settings
        self._execution = execution
        self.stats: list[Stats] = []
        """Of each step, over its micro-batches and processes."""
        self.norms: list[float] = []
        self.losses: list[float] = []

    def get_train_dataloader(self) -> DataLoader[Step]:
        # Not prepared by Accelerate: every process sees every step and takes its own share of it.
        return DataLoader(self._steps, batch_size=1, collate_fn=lambda items: {"step": items[0]})  # type: ignore[arg-type]  # a list is a dataset

    def floating_point_ops(self, inputs: Any) -> int:
        return 0

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of one step; the gradient is the whole step's, the loss a scalar."""
        step: Step = inputs["step"]
        model.eval()  # dropout would make it another policy than the one that spoke
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        mine = step.batches[rank::processes]
        loss, parts = torch.zeros((), device=self.args.device), []
        # Processes meet in the backward pass of the last micro-batch, so one that has none runs another's.
        for number, batch in enumerate(mine or step.batches[:1], start=1):
            if self._execution.stop.is_set():
                raise UpdateInterrupted("the update was interrupted; it begins again from its rows")
            apart = nullcontext() if number >= len(mine) else self.accelerator.no_sync(model)
            with self._execution.lock, apart:
                out = self._forward(model, batch, step)
                share = float(bool(mine))
                # Gradients of processes are averaged, ours are to be added.
                self.accelerator.backward(out.loss * processes * share)
            loss += out.loss.detach() * share
            parts.append({name: pair * share for name, pair in out.stats.items()})
        self.stats.append(self.accelerator.reduce(_added(parts), "sum"))
        loss = torch.as_tensor(self.accelerator.reduce(loss, "sum"))
        self.losses.append(float(loss))
        if not math.isfinite(self.losses[-1]):
            raise UpdateStopped(f"the loss is {self.losses[-1]}")
        return loss

    def _forward(self, model: Any, batch: MicroBatch, step: Step) -> LossOutput:
        wanted: Literal["train", "measure"] = "train" if self._loss.needs_entropy else "measure"
        tokens = token_logprobs(model, batch, trees=self._execution.trees, entropy=wanted)
        samples = [step.samples[i] for i in batch.members]
        inputs = loss_inputs(tokens, samples, self._loss)
        out = self._loss(inputs, step.totals)
        if self._loss.denominator == "reference":  # what is logged and limited is still the movement
            moved = tokens.logprobs - old_logprobs(samples, tokens.mask)
            out.stats.update(distances(moved, None, split(tokens.mask, inputs.supervised)[0]))
        return out

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]  # the library has no types for it
        self.norms.append(float(norm))
        if not math.isfinite(self.norms[-1]) or self.norms[-1] > self._settings.max_norm:
            raise UpdateStopped(f"the gradient norm is {self.norms[-1]:.3g}")
        # Not k3: of one token that was rare and is likely now it makes thousands of nats.
        divergence = means(self.stats[-1:]).get("kl_old_k2", 0.0)
        if not divergence <= self._settings.max_kl:
            raise UpdateStopped(f"the policy moved by a KL of {divergence:.3g} nats a token in one update")
        return norm


def _added(parts: Sequence[Stats]) -> Stats:
    return {name: torch.stack([part[name] for part in parts]).sum(0) for name in parts[0]}


@contextmanager
def _randomness_kept() -> Iterator[None]:
    """`Trainer` seeds every global generator of the process; whoever else uses them does not notice."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


@contextmanager
def _company(processes: int) -> Iterator[None]:
    """Where other processes take part, an error of the machinery is most likely that one of them is gone."""
    try:
        yield
    except RuntimeError as error:
        if processes < 2:
            raise
        said = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise UpdateInterrupted(
            f"an update over {processes} processes broke off ({said}); nothing of it is kept, and the same "
            "command begins it again from its rows"
        ) from error


def train(
    weights: Adapters | FullWeights,
    samples: Sequence[Sample],
    loss: PolicyLoss,
    settings: TrainSettings,
    optimizer: torch.optim.Optimizer,
    *,
    seed: int,
    execution: Execution | None = None,
) -> dict[str, float]:
    """Move the active weights over the samples; figures of the update, means over its tokens.

    Raises:
        UpdateStopped: the loss, the gradient or the policy's movement is out of bounds; the adapter in
            memory is not to be used any more.
        UpdateInterrupted: `stop` was set; the same holds.
    """
    execution = execution or Execution()
    steps = plan_steps(samples, settings, seed, trees=execution.trees)
    with _randomness_kept():
        trainer = PolicyTrainer(weights.model, steps, loss, settings, optimizer, execution)
        with _company(trainer.accelerator.num_processes):
            trainer.train()
    figures = means(trainer.stats)
    computed = sum(batch.computed for step in steps for batch in step.batches)
    return figures | {
        "loss": float(np.mean(trainer.losses)),
        "grad_norm": float(np.mean(trainer.norms)),
        "optimizer_steps": float(len(steps)),
        "processes": float(trainer.accelerator.num_processes),
        "tokens_computed": float(computed),
        "tokens_in_batch": float(
            settings.epochs * sum(len(s.turn.prompt_ids) + len(s.turn.completion_ids) for s in samples)
        ),
    }

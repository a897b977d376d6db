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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments

from sparring.errors import SparringError
from sparring.training.experience import Sample
from sparring.training.forward import Tokens, all_logprobs, token_logprobs
from sparring.training.losses import (
    LossInputs,
    LossOutput,
    PolicyLoss,
    Stats,
    Totals,
    distances,
    means,
)
from sparring.training.packing import Budget, MicroBatch, pack
from sparring.training.weights import Adapters


class UpdateStopped(SparringError):
    """An update went wrong (no finite loss, or it exploded); the weights it began with stay in use."""

    fault = "internal"


class UpdateInterrupted(SparringError):
    """An update was broken off from outside; the journal still has it open."""


class TrainSettings(BaseModel):
    """How a policy is updated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rate: float = Field(default=2e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    epochs: int = Field(default=1, ge=1)
    """Passes over the experience of an update."""
    minibatches: int = Field(default=1, ge=1)
    """Optimizer steps of one pass; the samples of a prompt stay together."""
    old: Literal["auto", "behaviour", "recompute"] = "auto"
    """Denominator of the ratio: the engine's log-probabilities, or those of the trainer before its first
    step, where truncated importance weights make up for the difference. `auto` recomputes where the
    engine's arithmetic is not float32 or a turn is stale."""
    informative_only: bool = False
    """Train on samples with an advantage only, as DAPO's dynamic sampling does: the others have no gradient
    of their own, but count in the loss's averages and feel an entropy bonus or a KL term."""
    truncate: float = Field(default=2.0, gt=0)
    """Largest importance weight (trainer over engine) of a token."""
    max_kl: float = Field(default=5.0, gt=0)
    """Stop an update before a step at which the mean KL to the old policy (k3, nats a token) passes this."""
    max_norm: float = Field(default=1e4, gt=0)
    """Stop an update whose gradient norm, before clipping, passes this."""
    longest: int | None = Field(default=None, ge=1)
    """What a loss with `aggregate: constant` divides a row's sum by, such as the sampling limit; None: the
    most completion tokens that a row of the step has."""
    tokens: int = Field(default=2048, ge=1)
    """Positions of a micro-batch."""
    row_tokens: int = Field(default=512, ge=1)
    """Distinct tokens of one prefix tree."""
    predictions: int = Field(default=1024, ge=1)
    """Positions of a micro-batch whose logits are made."""

    @property
    def budget(self) -> Budget:
        return Budget(self.tokens, self.row_tokens, self.predictions)


@dataclass(slots=True)
class Step:
    """One optimizer step: its micro-batches, what each sample brings, and the counts over all of them."""

    batches: list[MicroBatch]
    samples: Sequence[Sample]
    totals: Totals


class PolicyTrainer(Trainer):
    """Optimizer steps that are ready-made; each is cut into micro-batches whose losses add up."""

    def __init__(
        self,
        model: Any,
        steps: list[Step],
        loss: PolicyLoss,
        settings: TrainSettings,
        optimizer: torch.optim.Optimizer,
        *,
        trees: bool = True,
        lock: AbstractContextManager[Any] | None = None,
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
        self.remove_callback(PrinterCallback)  # standard output belongs to results
        # Each update has an accelerator of its own, so there is nothing to free; it collects garbage, 0.3 s.
        self.accelerator.free_memory = lambda *objects: list(objects)  # type: ignore[method-assign]  # of this object only
        self._steps, self._loss, self._settings = steps, loss, settings
        self._trees, self._lock = trees, lock or nullcontext()
        self.stats: list[Stats] = []
        """Of each step, over its micro-batches and processes."""
        self.norms: list[float] = []
        self.losses: list[float] = []
        self.stop = threading.Event()

    def get_train_dataloader(self) -> DataLoader[Step]:
        # Not prepared by Accelerate: every process sees every step and takes its own share of it.
        return DataLoader(self._steps, batch_size=1, collate_fn=lambda items: {"step": items[0]})  # type: ignore[arg-type]  # a list is a dataset

    def floating_point_ops(self, inputs: Any) -> int:
        return 0

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of one step; the gradient is the whole step's."""
        step: Step = inputs["step"]
        model.eval()  # dropout would make it another policy than the one that spoke
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        mine = step.batches[rank::processes]
        loss, parts = torch.zeros((), device=self.args.device), []
        # Processes meet in the backward pass of the last micro-batch, so one that has none runs another's.
        for number, batch in enumerate(mine or step.batches[:1], start=1):
            if self.stop.is_set():
                raise UpdateInterrupted("the update was interrupted; it begins again from its rows")
            apart = nullcontext() if number >= len(mine) else self.accelerator.no_sync(model)
            with self._lock, apart:
                out = self._forward(model, batch, step)
                share = float(bool(mine))
                # Gradients of processes are averaged, ours are to be added.
                self.accelerator.backward(out.loss * processes * share)
            loss += out.loss.detach() * share
            parts.append({name: pair * share for name, pair in out.stats.items()})
        self.stats.append(self.accelerator.reduce(_added(parts), "sum"))
        loss = self.accelerator.reduce(loss, "sum")
        self.losses.append(float(loss))
        if not math.isfinite(self.losses[-1]):
            raise UpdateStopped(f"the loss is {self.losses[-1]}")
        return loss

    def _forward(self, model: Any, batch: MicroBatch, step: Step) -> LossOutput:
        wanted: Literal["train", "measure"] = "train" if self._loss.needs_entropy else "measure"
        tokens = token_logprobs(model, batch, trees=self._trees, entropy=wanted)
        samples = [step.samples[i] for i in batch.members]
        out = self._loss(loss_inputs(tokens, samples, self._loss), step.totals)
        if self._loss.denominator == "reference":  # what is logged and limited is still the movement
            out.stats.update(distances(tokens.logprobs - _old(samples, tokens.mask), None, tokens.mask))
        return out

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)
        self.norms.append(float(norm))
        if not math.isfinite(self.norms[-1]) or self.norms[-1] > self._settings.max_norm:
            raise UpdateStopped(f"the gradient norm is {self.norms[-1]:.3g}")
        divergence = means(self.stats[-1:]).get("kl_old_k3", 0.0)
        if not divergence <= self._settings.max_kl:
            raise UpdateStopped(f"the policy moved by a KL of {divergence:.3g} nats a token in one update")
        return norm


def loss_inputs(tokens: Tokens, samples: Sequence[Sample], loss: PolicyLoss) -> LossInputs:
    """The samples' arrays beside their log-probabilities, padded like them: (B, T)."""
    reference = weights = None
    if any(sample.reference is not None for sample in samples):
        reference = _padded((sample.reference for sample in samples), tokens.mask)
    if loss.denominator == "reference":
        assert reference is not None, "the caller computes the reference's log-probabilities"
        old = reference
    else:
        old = _old(samples, tokens.mask)
        if any(sample.weights is not None for sample in samples):
            known = (
                np.ones(len(s.advantages), np.float32) if s.weights is None else s.weights for s in samples
            )
            weights = _padded(known, tokens.mask)
    advantages = _padded((sample.advantages for sample in samples), tokens.mask)
    return LossInputs(
        tokens.logprobs, old, advantages, tokens.mask, reference, entropy=tokens.entropy, weights=weights
    )


def _old(samples: Sequence[Sample], mask: Tensor) -> Tensor:
    return _padded((s.turn.logprobs if s.old is None else s.old for s in samples), mask)


def _padded(arrays: Iterable[NDArray[np.float32] | None], mask: Tensor) -> Tensor:
    table = np.zeros(tuple(mask.shape), np.float32)
    for number, array in enumerate(arrays):
        assert array is not None, "known for all samples or for none"
        table[number, : len(array)] = array
    return torch.from_numpy(table).to(mask.device)


def _added(parts: Sequence[Stats]) -> Stats:
    return {name: torch.stack([part[name] for part in parts]).sum(0) for name in parts[0]}


def prepare(
    model: Any, samples: Sequence[Sample], settings: TrainSettings, *, exact: bool, trees: bool
) -> dict[str, float]:
    """Fill in the old log-probabilities under the model as it is now, where they are to be recomputed.

    Args:
        exact: whether the engine's log-probabilities are float32 and so agree with the trainer's.
    """
    chosen = list(samples)
    if settings.old == "behaviour":
        chosen = []
    elif settings.old == "auto" and exact:
        chosen = [sample for sample in samples if sample.staleness > 0]
    if not chosen:
        return {"recomputed": 0.0}
    gaps = []
    found = all_logprobs(model, [sample.row for sample in chosen], settings.budget, trees=trees)
    for sample, logprobs in zip(chosen, found, strict=True):
        assert sample.turn.logprobs is not None
        gap = logprobs - sample.turn.logprobs
        sample.old = logprobs
        sample.weights = np.exp(np.minimum(gap, math.log(settings.truncate))).astype(np.float32)
        gaps.append(gap)
    gap = np.concatenate(gaps)
    return {
        "recomputed": float(len(chosen)),
        "engine_gap_max": float(np.abs(gap).max()),
        "engine_gap_mean": float(np.abs(gap).mean()),
        "weights_truncated": float((gap > math.log(settings.truncate)).mean()),
    }


def plan_steps(samples: Sequence[Sample], settings: TrainSettings, seed: int, *, trees: bool) -> list[Step]:
    """Optimizer steps: in each pass the prompts in another order, dealt out by size."""
    prompts: dict[Any, list[int]] = {}
    for number, sample in enumerate(samples):
        prompts.setdefault(sample.prompt, []).append(number)
    groups = list(prompts.values())
    steps: list[Step] = []
    rng = np.random.default_rng(seed)
    for _ in range(settings.epochs):
        order = [groups[i] for i in rng.permutation(len(groups))]
        parts: list[list[int]] = [[] for _ in range(min(settings.minibatches, len(groups)))]
        for group in order:
            min(parts, key=len).extend(group)
        steps += [_step([samples[i] for i in part], settings, trees) for part in parts]
    return steps


def _step(samples: list[Sample], settings: TrainSettings, trees: bool) -> Step:
    batches = pack([sample.row for sample in samples], settings.budget, share=trees)
    lengths = [len(sample.turn.completion_ids) for sample in samples]
    return Step(batches, samples, Totals(len(samples), sum(lengths), settings.longest or max(lengths)))


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


def train(
    adapters: Adapters,
    samples: Sequence[Sample],
    loss: PolicyLoss,
    settings: TrainSettings,
    optimizer: torch.optim.Optimizer,
    *,
    seed: int,
    trees: bool = True,
    lock: AbstractContextManager[Any] | None = None,
    stop: threading.Event | None = None,
) -> dict[str, float]:
    """Move the active adapter over the samples; figures of the update, means over its tokens.

    Raises:
        UpdateStopped: the loss, the gradient or the policy's movement is out of bounds; the adapter in
            memory is not to be used any more.
        UpdateInterrupted: `stop` was set; the same holds.
    """
    steps = plan_steps(samples, settings, seed, trees=trees)
    with _randomness_kept():
        trainer = PolicyTrainer(adapters.model, steps, loss, settings, optimizer, trees=trees, lock=lock)
        trainer.stop = stop or trainer.stop
        trainer.train()
    figures = means(trainer.stats)
    computed = sum(batch.computed for step in steps for batch in step.batches)
    return figures | {
        "loss": float(np.mean(trainer.losses)),
        "grad_norm": float(np.mean(trainer.norms)),
        "optimizer_steps": float(len(steps)),
        "tokens_computed": float(computed),
        "tokens_in_batch": float(
            settings.epochs * sum(len(s.turn.prompt_ids) + len(s.turn.completion_ids) for s in samples)
        ),
    }

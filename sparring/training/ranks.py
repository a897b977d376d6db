"""Several processes for one update: the first drives the run, the others help to compute its gradients.

    accelerate launch --multi_gpu --num_processes 2 -m sparring evolve CONFIG.yaml

Rank 0 does all that a run of one process does: it plays, keeps the journal, publishes versions. The others
wait for its updates: each is sent whole (samples with their advantages, settings, the optimizer's state), is
cut into the same steps and micro-batches everywhere, and every rank takes its share of them. The adapter that
is trained is rank 0's; the others get it before the first step. What is sent is JSON and safetensors.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from accelerate import PartialState  # type: ignore[import-untyped]  # it ships no types
from safetensors.torch import load, save
from torch import Tensor

from sparring.agents.models import checkpoint_hash
from sparring.errors import SparringError, UserError
from sparring.memory.samples import TrainingTurn
from sparring.training.experience import Sample
from sparring.training.full_weights import FullWeights
from sparring.training.losses import PolicyLoss
from sparring.training.steps import TrainSettings
from sparring.training.trainer import Execution, UpdateStopped, train
from sparring.training.weights import (
    Adapters,
    LoraSettings,
    adamw,
    set_optimizer_tensors,
)

if TYPE_CHECKING:
    from sparring.training.learner import Learner

WAIT = timedelta(days=365)
"""How long the others wait for an update: as long as is played. Who dies is noticed at once."""
ARRAYS = ("old", "weights", "reference", "advantages")
ORDER = "order"
SHARDED = ("FSDP", "DEEPSPEED")
_ranks: list[Ranks] = []


class RankLost(SparringError):
    """Another process of the trainer is gone."""

    fault = "world"


class Ranks:
    """The processes of this launch, seen from one of them."""

    def __init__(self) -> None:
        for kind in SHARDED:
            if os.environ.get(f"ACCELERATE_USE_{kind}", "").lower() in ("1", "true"):
                raise UserError(
                    f"{kind}: weights spread over devices cannot be updated yet, for rank 0 looks at "
                    "and saves the whole policy; launch with `--multi_gpu`, the base on every device"
                )
        state = PartialState(cpu=not torch.cuda.is_available())
        self.rank, self.size = state.process_index, state.num_processes
        self._group = dist.new_group(backend="gloo", timeout=WAIT)

    # --- rank 0 -------------------------------------------------------------------------------------------

    def share(
        self, learner: Learner, samples: Sequence[Sample], loss: PolicyLoss, rate: float, seed: int
    ) -> None:
        """Have the others take their part in an update that is about to be trained here."""
        base = learner.base
        order = {
            "policy": learner.name,
            "spec": base.spec,
            "checkpoint": base.checkpoint,
            "trees": base.trees,
            "lora": None if learner.full else learner.lora.model_dump(mode="json"),
            "settings": learner.settings.model_dump(mode="json"),
            "loss": loss.model_dump(mode="json"),
            "rate": rate,
            "seed": seed,
            "samples": [[s.turn.policy_version_id, s.temperature, s.supervised] for s in samples],
        }
        tensors = {f"optimizer|{name}": held for name, held in learner.moments().items()}
        for number, sample in enumerate(samples):
            found = {"prompt": sample.turn.prompt_ids, "completion": sample.turn.completion_ids}
            found |= {"logprobs": sample.turn.logprobs} | {name: getattr(sample, name) for name in ARRAYS}
            for name, array in found.items():
                if array is not None:
                    tensors[f"{number}|{name}"] = torch.tensor(array)
        self._send(order, tensors)

    def dismiss(self) -> None:
        """Tell the others that there is no more to do."""
        self._send(None, {})

    def _send(self, order: Any, tensors: dict[str, Tensor]) -> None:
        text = torch.frombuffer(bytearray(json.dumps(order).encode()), dtype=torch.uint8)
        packed = torch.frombuffer(bytearray(save({ORDER: text, **tensors})), dtype=torch.uint8)
        try:
            dist.broadcast(torch.tensor([len(packed)]), src=0, group=self._group)
            dist.broadcast(packed, src=0, group=self._group)
        except RuntimeError as error:
            raise RankLost(f"another process of the trainer is gone: {_first_line(error)}") from None

    # --- the others ---------------------------------------------------------------------------------------

    def follow(self) -> None:
        """Take part in every update, until there are no more.

        Raises:
            RankLost: the process that drives the run is gone.
            UserError: the base is not here, or is another checkpoint than where the run is driven.
        """
        bases: dict[tuple[str, bool], Adapters | FullWeights] = {}
        while (found := self._receive()) is not None:
            order, tensors = found
            key = (order["spec"], order["lora"] is None)
            if key not in bases:
                bases[key] = _weights(order)
            with suppress(UpdateStopped):  # who drives the run comes to the same
                _work(order, tensors, bases[key])

    def _receive(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        size = torch.zeros(1, dtype=torch.int64)
        try:
            dist.broadcast(size, src=0, group=self._group)
            packed = torch.zeros(int(size), dtype=torch.uint8)
            dist.broadcast(packed, src=0, group=self._group)
        except RuntimeError as error:
            raise RankLost(f"the process that drives the run is gone: {_first_line(error)}") from None
        tensors = load(packed.numpy().tobytes())
        order = json.loads(tensors.pop(ORDER).numpy().tobytes())
        return None if order is None else (order, tensors)


def _weights(order: dict[str, Any]) -> Adapters | FullWeights:
    from sparring.agents.engines.transformers.loading import float32_copy, local_folder

    name = order["spec"].split("?")[0]
    folder = local_folder(name)
    if checkpoint_hash(folder) != order["checkpoint"]:
        raise UserError(f"the checkpoint of `{name}` in {folder} is not the one that the run is driven with")
    model = float32_copy(name)
    return FullWeights(model, folder) if order["lora"] is None else Adapters(model)


def _work(order: dict[str, Any], tensors: dict[str, Tensor], weights: Adapters | FullWeights) -> None:
    """One update, on weights that rank 0 brings."""
    policy, settings = order["policy"], TrainSettings(**order["settings"])
    weights.add(policy, LoraSettings(**order["lora"] or {}), 0, None)
    weights.activate(policy)
    named = weights.named(policy)
    optimizer = adamw(named, settings)
    held = {
        name.removeprefix("optimizer|"): t for name, t in tensors.items() if name.startswith("optimizer|")
    }
    set_optimizer_tensors(optimizer, [name for name, _ in named], held)
    for group in optimizer.param_groups:
        group["lr"] = order["rate"]
    samples = [_sample(number, about, tensors) for number, about in enumerate(order["samples"])]
    execution = Execution(order["trees"])
    loss = PolicyLoss(**order["loss"])
    train(weights, samples, loss, settings, optimizer, seed=order["seed"], execution=execution)


def _sample(number: int, about: Sequence[Any], tensors: dict[str, Tensor]) -> Sample:
    def array(name: str) -> Any:
        found = tensors.get(f"{number}|{name}")
        return None if found is None else found.numpy()

    version, temperature, supervised = about
    said = array("prompt"), array("completion"), array("logprobs")
    turn = TrainingTurn(0, "", "", "", version, "ok", *said, "tempered")
    brought = {name: array(name) for name in ARRAYS}
    return Sample(turn, "", "", temperature, 0.0, 0, supervised=supervised, **brought)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# --- of this process ------------------------------------------------------------------------------------


def launched() -> int:
    """How many processes `accelerate launch` or `torchrun` made of this command; 1 without them."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def others() -> Ranks | None:
    """The processes that help this one, which drives the run; None where there are none."""
    return _ranks[0] if _ranks else None


@contextmanager
def together() -> Iterator[bool]:
    """Whether this process is to drive the run; in one that helps, that has been done when this yields.

    with together() as drives:
        if drives:
            sparring.evolve("digits.yaml", memory="digits.db")
    """
    if launched() < 2:
        yield True
        return
    ranks = Ranks()
    if ranks.rank:
        ranks.follow()
        yield False
        return
    _ranks.append(ranks)
    try:
        yield True
        ranks.dismiss()  # after an error the end of this process is told to them by their connections
    finally:
        _ranks.clear()

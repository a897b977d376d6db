"""Who learns: the policies of a run with their adapters, optimizers and the base that they share."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparring.agents.engines.layer import ManagedEngine
from sparring.agents.models import adapter_hash, checkpoint_hash, verify_adapter
from sparring.errors import CapabilityError, UserError
from sparring.memory.journal import Journal
from sparring.memory.policies import Version, store_folder
from sparring.training.experience import Sample
from sparring.training.forward import all_logprobs, takes_trees
from sparring.training.full_weights import FullWeights
from sparring.training.losses import PolicyLoss
from sparring.training.ranks import others
from sparring.training.trainer import Execution, TrainSettings, UpdateStopped, prepare, train
from sparring.training.weights import (
    Adapters,
    LoraSettings,
    adamw,
    load_optimizer,
    optimizer_tensors,
    save_optimizer,
)

PROBE = 8
"""Samples of an update that are looked at again after its last step."""


@dataclass(slots=True)
class Base:
    """A base model in float32 with the adapters of the policies that are trained on it."""

    adapters: Adapters | FullWeights
    lock: AbstractContextManager[Any]
    exact: bool
    """Whether the engine's log-probabilities are float32 like the trainer's."""
    trees: bool
    shared: bool
    """Whether engine and trainer hold the same weights in memory."""
    spec: str = ""
    """Of the engine, and the hash of its checkpoint: where other processes find the same base."""
    checkpoint: str = ""


def open_base(engine: ManagedEngine, *, full: bool = False) -> Base:
    """The trainer's side of an engine: its own weights where it is embedded and float32, else a copy.

    Args:
        full: for training all weights, so always a copy; one base then serves one policy.

    Raises:
        CapabilityError: its completions have no token ids or no log-probabilities.
        UserError: the base cannot be loaded here.
    """
    able = engine.capabilities()
    lacks = [
        name for name, has in (("token ids", able.token_ids), ("log-probabilities", able.logprobs)) if not has
    ]
    if lacks:
        raise CapabilityError(
            f"engine `{engine.spec}` gives no {' and no '.join(lacks)}, so a policy on it cannot be trained; "
            "choose an embedded model or a vLLM server"
        )
    from sparring.agents.engines.transformers.loading import float32_copy, local_folder

    share = None if full else getattr(engine.inner, "shared_base", None)
    exact = able.dtype == "float32"
    if share is not None and exact:
        model, lock = share(), engine.inner.lock  # type: ignore[attr-defined]  # who has the one has the other
        return Base(Adapters(model), lock, exact, takes_trees(model), True, engine.spec, able.base)
    name = getattr(engine.inner, "checkpoint", None) or engine.spec.split("?")[0]
    model = float32_copy(name)
    weights = FullWeights(model, local_folder(name)) if full else Adapters(model)
    return Base(weights, nullcontext(), exact, takes_trees(model), False, name, able.base)


class Learner:
    """A policy in training. Its weights in memory are those of `version`, or a step beyond it."""

    def __init__(
        self, name: str, base: Base, lora: LoraSettings, settings: TrainSettings, journal: Journal, seed: int
    ) -> None:
        self.name, self.base, self.settings = name, base, settings
        self.store = store_folder(journal) / name
        self.version: Version | None = None
        self.lora, self.seed = lora, seed
        self._written = False
        self.stop = threading.Event()

    def begin(self, version: Version, *, fresh: bool = False) -> None:
        """Take the weights of a version, and the optimizer's state that belongs to them unless `fresh`.

        Raises:
            UserError: its adapter is gone or is not what was registered.
        """
        if not fresh and self.version is not None and self.version.id == version.id:
            return
        self.base.adapters.add(self.name, self.lora, self.seed, self._weights_of(version))
        self._optimizer(None if fresh else version.update_id)
        self.version, self._written = version, False

    def check(self, version: Version, base: str) -> None:
        """Whether a version can be trained further here, on the base with this hash.

        Raises:
            UserError: it belongs to another base, or its weights are not what was registered.
        """
        if not self.full and version.base_hash != base:
            raise UserError(
                f"policy {version.label} belongs to base {version.base_hash[:12]}, but `{version.base_spec}` "
                f"now serves {base[:12]}: restore that checkpoint, or give the policy another name"
            )
        try:
            self._weights_of(version)
        except UserError as wrong:
            raise UserError(f"policy {version.label}: {wrong}") from None

    def _weights_of(self, version: Version) -> Path | None:
        """The folder of a version's weights, checked; None: a fresh adapter."""
        if self.full:
            from sparring.agents.engines.transformers.loading import local_folder

            folder = local_folder(version.base_spec.split("?")[0])
            if checkpoint_hash(folder) != version.base_hash:
                raise UserError(
                    f"the weights of {version.label} in {folder} are not those that were registered"
                )
            return folder
        if version.adapter_path is not None:
            assert version.adapter_hash is not None
            verify_adapter(version.adapter_path, version.adapter_hash)
        return version.adapter_path

    @property
    def full(self) -> bool:
        """Whether all weights are trained, and every version is a base of its own."""
        return isinstance(self.base.adapters, FullWeights)

    def activated(self) -> Any:
        """The model with this policy's weights active."""
        self.base.adapters.activate(self.name)
        return self.base.adapters.model

    def saved_elsewhere(self) -> None:
        """A trainer of its own has written the update's folder; the weights in memory did not move."""
        self._written = True

    def _optimizer(self, update_id: int | None) -> None:
        adapters = self.base.adapters
        adapters.activate(self.name)
        named = adapters.named(self.name)
        self._names = [name for name, _ in named]
        self.optimizer = adamw(named, self.settings)
        state = self._state_folder(update_id)
        if state is not None and state.is_dir():
            load_optimizer(self.optimizer, self._names, state)

    def moments(self) -> dict[str, torch.Tensor]:
        """The optimizer's state by name."""
        return optimizer_tensors(self.optimizer, self._names)

    def folder(self, update_id: int) -> Path:
        """Where the adapter of an update lies."""
        return self.store / f"update-{update_id:06d}"

    def _state_folder(self, update_id: int | None) -> Path | None:
        return None if update_id is None else self.store / f"optimizer-{update_id:06d}"

    def prepare(
        self, samples: Sequence[Sample], loss: PolicyLoss, reference: Path | None
    ) -> dict[str, float]:
        """Old and reference log-probabilities of the samples, before any optimizer step of any policy."""
        adapters, base = self.base.adapters, self.base
        adapters.activate(self.name)
        model = adapters.model.eval()
        with base.lock:
            figures = prepare(model, samples, self.settings, exact=base.exact, trees=base.trees)
            if loss.needs_reference:
                self._reference(samples, reference)
        return figures

    def refer(self, samples: Sequence[Sample], folder: Path | None) -> None:
        """Give samples their log-probabilities under a reference: an adapter's folder, None the base."""
        self.base.adapters.activate(self.name)
        self.base.adapters.model.eval()
        with self.base.lock:
            self._reference(samples, folder)

    def _reference(self, samples: Sequence[Sample], folder: Path | None) -> None:
        adapters = self.base.adapters
        name = adapters.reference(folder)
        rows, budget = [sample.row for sample in samples], self.settings.budget
        if name is None:
            with adapters.model.disable_adapter():  # the bare base
                found = all_logprobs(adapters.model, rows, budget, trees=self.base.trees)
        else:
            adapters.activate(name)
            found = all_logprobs(adapters.model, rows, budget, trees=self.base.trees)
            adapters.activate(self.name)
        for sample, logprobs in zip(samples, found, strict=True):
            sample.reference = logprobs

    def update(
        self, samples: Sequence[Sample], loss: PolicyLoss, learning_rate: float, seed: int
    ) -> dict[str, float]:
        """Train on the samples. After an exception the weights in memory are void; `begin` takes others.

        Raises:
            UpdateStopped: it diverged.
        """
        if self.settings.informative_only:
            samples = [sample for sample in samples if sample.supervised or sample.advantages.any()]
        self.base.adapters.activate(self.name)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.version = None
        if (ranks := others()) is not None:
            ranks.share(self, samples, loss, learning_rate, seed)
        figures = train(
            self.base.adapters,
            samples,
            loss,
            self.settings,
            self.optimizer,
            seed=seed,
            execution=Execution(self.base.trees, self.base.lock, self.stop),
        )
        return figures | {"kl": self._sound([s for s in samples if not s.supervised][:PROBE])}

    def _sound(self, samples: Sequence[Sample]) -> float:
        """The last step was taken after the last look at where the policy moves: look once more. KL by k2
        over the tokens of a few samples, the mean of log(old / new) squared over 2, in nats: above 0 as soon
        as anything moved, where k1 may be 0 by chance and k3 is that of its outliers.

        Raises:
            UpdateStopped: a few of the samples say that it jumped, or nothing sensible.
        """
        if not samples:
            return 0.0
        rows = [sample.row for sample in samples]
        model = self.base.adapters.model.eval()
        with self.base.lock, torch.no_grad():
            found = all_logprobs(model, rows, self.settings.budget, trees=self.base.trees)
        before = [np.asarray(s.turn.logprobs if s.old is None else s.old) for s in samples]
        divergence = float(np.mean((np.concatenate(before) - np.concatenate(found)) ** 2)) / 2
        if not divergence <= self.settings.max_kl:
            raise UpdateStopped(f"its last step moved the policy by a KL of {divergence:.3g} nats a token")
        return divergence

    def save(self, update_id: int, spec: str) -> dict[str, Any]:
        """Write what an update came to, and the optimizer's state; the version's fields for `publish`.

        Args:
            spec: of the engine that the policy's base was opened with.
        """
        folder = self.folder(update_id)
        if self._written:
            return {"adapter_path": folder, "adapter_hash": adapter_hash(folder)}
        state = self._state_folder(update_id)
        assert state is not None
        save_optimizer(self.optimizer, self._names, state)
        digest = self.base.adapters.save(self.name, folder, spec)
        if self.full:
            _, mark, options = spec.partition("?")
            return {"adapter_path": None, "adapter_hash": None, "base": (digest, f"{folder}{mark}{options}")}
        return {"adapter_path": folder, "adapter_hash": digest}

    def published(self, version: Version) -> None:
        """The weights in memory are this version from now on, unless a trainer of its own made it."""
        self.version = None if self._written else version


def named_reference(journal: Journal, policy: str, reference: str | None) -> Path | None:
    """The adapter of the reference a configuration names: `base`, or a version's number; default base.

    Raises:
        UserError: there is no such version.
    """
    from sparring.memory.policies import find

    if reference in (None, "base"):
        return None
    assert reference is not None
    number = reference.rpartition("@")[2]
    if not number.isdigit():
        raise UserError(f"reference `{reference}` of policy `{policy}`: write `base` or a version's number")
    return find(journal, policy, int(number)).adapter_path

"""Weights on disk: written whole or not at all, taken back bit for bit, refused where they do not fit."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from trainer_support import LORA, copies, mixed_samples, roughen, tiny_adapters, tiny_base

from sparring.agents.models import adapter_hash, verify_adapter
from sparring.errors import UserError
from sparring.training import weights
from sparring.training.losses import make_loss
from sparring.training.trainer import TrainSettings, train
from sparring.training.weights import (
    ADAPTER,
    OPTIMIZER,
    Adapters,
    LoraSettings,
    load_optimizer,
    publish,
    save_optimizer,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def adapters() -> Adapters:
    return tiny_adapters()


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def optimizer_of(adapters: Adapters) -> torch.optim.Optimizer:
    return torch.optim.AdamW(adapters.activate("policy"), lr=1e-3, betas=(0.9, 0.95))


def names_of(adapters: Adapters) -> list[str]:
    return [name for name, _ in adapters.named("policy")]


# --- adapters ----------------------------------------------------------------------------------------


def test_an_adapter_comes_back_bit_for_bit_and_in_peft(adapters, tmp_path) -> None:
    digest = adapters.save("policy", tmp_path / "v1", "base")
    assert digest == adapter_hash(tmp_path / "v1")
    verify_adapter(tmp_path / "v1", digest)
    other = Adapters(tiny_base())
    other.add("another name", LORA, 3, tmp_path / "v1")
    want = copies(adapters)
    assert all(torch.equal(tensor, want[key]) for key, tensor in copies(other, "another name").items())
    # Any PEFT loads it: names without the policy's, the configuration ready for inference.
    from peft import PeftModel

    config = json.loads((tmp_path / "v1" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["inference_mode"]) == (4, 8, True)
    assert config["base_model_name_or_path"] == "base"
    model = PeftModel.from_pretrained(tiny_base(), tmp_path / "v1")
    ids = torch.arange(1, 20)[None]
    assert torch.equal(model.eval()(ids).logits, adapters.model.eval()(ids).logits)


def test_equal_adapters_have_equal_hashes_in_every_process(adapters, tmp_path) -> None:
    """The layers are a set, whose order changes with Python's hash seed; the file lists them in one order."""
    digests = {adapters.save("policy", tmp_path / name, "base") for name in ("v1", "v2")}
    assert len(digests) == 1
    layers = json.loads((tmp_path / "v1" / "adapter_config.json").read_text())["target_modules"]
    assert layers == sorted(layers) and len(layers) == 7


def test_a_changed_adapter_is_refused(adapters, tmp_path) -> None:
    digest = adapters.save("policy", tmp_path / "v1", "base")
    held = load_file(tmp_path / "v1" / ADAPTER)
    next(iter(held.values()))[0, 0] += 1e-3
    save_file(held, tmp_path / "v1" / ADAPTER, metadata={"format": "pt"})
    with pytest.raises(UserError, match="not the weights that were trained"):
        verify_adapter(tmp_path / "v1", digest)


@pytest.mark.parametrize(
    "settings",
    [
        LoraSettings(rank=8, alpha=8),
        LoraSettings(rank=4, alpha=16),
        LoraSettings(rank=4, alpha=8, targets=("q_proj", "v_proj")),
    ],
)
def test_an_adapter_of_another_shape_is_refused(adapters, settings, tmp_path) -> None:
    """Another alpha too: the tensors would fit, and the policy would be another one."""
    adapters.save("policy", tmp_path / "v1", "base")
    other = Adapters(tiny_base())
    with pytest.raises(UserError, match="does not fit `policy`"):
        other.add("policy", settings, 0, tmp_path / "v1")


def test_fewer_layers_than_the_policy_has_are_refused(tmp_path) -> None:
    narrow = Adapters(tiny_base())
    narrow.add("policy", LoraSettings(rank=4, alpha=8, targets=("q_proj",)), 0, None)
    narrow.save("policy", tmp_path / "v1", "base")
    with pytest.raises(UserError, match="does not fit"):
        Adapters(tiny_base()).add("policy", LORA, 0, tmp_path / "v1")


def test_a_policy_may_have_any_name(tmp_path) -> None:
    """Names that are parts of tensors' names, of each other, or that torch refuses."""
    names = ["layers", "solver", "solver2", "v1.2", "0", "reference", "lora_A", "weight"]
    adapters = tiny_adapters(*names)
    held = {name: copies(adapters, name) for name in names}
    assert {len(tensors) for tensors in held.values()} == {42}
    for number, name in enumerate(names):
        assert all(not torch.equal(held[name][key], held[names[number - 1]][key]) for key in held[name])
        active = adapters.activate(name)
        learns = [tensor for tensor in adapters.model.parameters() if tensor.requires_grad]
        assert {id(tensor) for tensor in learns} == {id(tensor) for tensor in active}
        adapters.save(name, tmp_path / name, "base")
        assert len(load_file(tmp_path / name / ADAPTER)) == 42
    fresh = Adapters(tiny_base())
    for name in names:
        fresh.add(name, LORA, 9, tmp_path / name)
        assert all(torch.equal(tensor, held[name][key]) for key, tensor in copies(fresh, name).items())


def test_references_of_two_shapes_one_after_the_other(tmp_path) -> None:
    """Policies of one base may differ in rank and alpha; so may their references."""
    adapters = Adapters(tiny_base())
    for name, settings in (("a", LORA), ("b", LoraSettings(rank=2, alpha=64))):
        adapters.add(name, settings, 0, None)
        roughen(adapters, name)
        adapters.save(name, tmp_path / name, "base")
    ids = torch.arange(1, 20)[None]
    for name in ("a", "b", "a"):
        adapters.activate(name)
        want = adapters.model.eval()(ids).logits
        reference = adapters.reference(tmp_path / name)
        assert reference is not None
        adapters.activate(reference)
        assert torch.equal(adapters.model.eval()(ids).logits, want)
    assert adapters.reference(None) is None


def test_a_fresh_adapter_depends_on_its_seed_only() -> None:
    first = Adapters(tiny_base())
    first.add("policy", LORA, 5, None)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    second = Adapters(tiny_base())
    torch.set_rng_state(state)
    second.add("before", LORA, 1, None)
    second.add("policy", LORA, 5, None)
    assert torch.equal(torch.get_rng_state(), state)
    want = copies(first)
    assert all(torch.equal(tensor, want[key]) for key, tensor in copies(second).items())
    others = copies(second, "before")
    assert any(not torch.equal(tensor, others[key]) for key, tensor in want.items())


# --- the optimizer -----------------------------------------------------------------------------------


def update(adapters: Adapters, optimizer: torch.optim.Optimizer, seed: int) -> None:
    settings = TrainSettings(epochs=2, minibatches=2, max_kl=1e9)
    train(adapters, mixed_samples(), make_loss("grpo"), settings, optimizer, seed=seed)


def test_two_updates_are_an_update_a_restart_and_an_update(tmp_path) -> None:
    whole = tiny_adapters()
    optimizer = optimizer_of(whole)
    update(whole, optimizer, 1)
    update(whole, optimizer, 2)
    first = tiny_adapters()
    optimizer = optimizer_of(first)
    update(first, optimizer, 1)
    first.save("policy", tmp_path / "v1", "base")
    save_optimizer(optimizer, names_of(first), tmp_path / "state")
    second = Adapters(tiny_base())
    second.add("policy", LORA, 77, tmp_path / "v1")
    optimizer = optimizer_of(second)
    load_optimizer(optimizer, names_of(second), tmp_path / "state")
    update(second, optimizer, 2)
    want = copies(whole)
    assert all(torch.equal(tensor, want[key]) for key, tensor in copies(second).items())
    # Without the state it would be another policy.
    third = Adapters(tiny_base())
    third.add("policy", LORA, 77, tmp_path / "v1")
    update(third, optimizer_of(third), 2)
    assert any(not torch.equal(tensor, want[key]) for key, tensor in copies(third).items())


@pytest.mark.parametrize("broken", [b"", b"not safetensors", None])
def test_a_broken_optimizer_state_is_one_line(adapters, broken, tmp_path) -> None:
    if broken is not None:
        (tmp_path / OPTIMIZER).write_bytes(broken)
    with pytest.raises(UserError, match="delete the folder to begin"):
        load_optimizer(optimizer_of(adapters), names_of(adapters), tmp_path)


# --- the disk ----------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 1 MB, an adapter being 0.2 MB; skipped where mounting is not permitted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a tmpfs here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(adapters, small_disk) -> None:
    adapters.save("policy", small_disk / "v1", "base")
    before = contents(small_disk / "v1")
    used = sum(file.stat().st_size for file in (small_disk / "v1").iterdir())
    (small_disk / "ballast").write_bytes(bytes(1_040_000 - used - 60_000))
    changed = tiny_adapters()
    roughen(changed, "policy", seed=50)
    for folder in (small_disk / "v2", small_disk / "v1"):
        with pytest.raises(UserError, match="make room"):
            changed.save("policy", folder, "base")
        assert sorted(path.name for path in small_disk.iterdir()) == ["ballast", "v1"]
    assert contents(small_disk / "v1") == before
    (small_disk / "ballast").unlink()
    changed.save("policy", small_disk / "v1", "base")
    assert contents(small_disk / "v1") != before


@pytest.mark.parametrize("where", ["save_file", "fsync", "replace"])
def test_a_write_that_fails_leaves_what_was_there(adapters, where, tmp_path, monkeypatch) -> None:
    adapters.save("policy", tmp_path / "v1", "base")
    before = contents(tmp_path / "v1")
    changed = tiny_adapters()
    roughen(changed, "policy", seed=50)

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    real = os.replace

    def second_fails(source: Any, target: Any) -> None:
        """The old folder is put aside, the new one cannot take its place."""
        if ".part-" in str(source):
            full()
        real(source, target)

    with monkeypatch.context() as patch:
        if where == "save_file":
            patch.setattr(weights, "save_file", full)
        else:
            patch.setattr(os, where, full if where == "fsync" else second_fails)
        with pytest.raises(UserError, match="make room there"):
            changed.save("policy", tmp_path / "v1", "base")
    assert contents(tmp_path / "v1") == before
    assert [path.name for path in tmp_path.iterdir()] == ["v1"]


def test_what_killed_writers_left_is_cleared_away(adapters, tmp_path) -> None:
    for name in (".v1.part-1", ".v1.old-1", ".v2.part-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ADAPTER).write_bytes(b"half")
    (tmp_path / "v1").mkdir()
    adapters.save("policy", tmp_path / "v1", "base")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".v2.part-1", "v1"]


def killed_at(folder: Path, rename: int) -> None:
    """Publish in a process of its own that dies in front of its n-th rename."""
    child = os.fork()
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        return
    real, calls = os.replace, iter(range(1, 9))
    os.replace = lambda source, target: os._exit(9) if next(calls) == rename else real(source, target)
    publish(folder, lambda part: (part / "file").write_text("new") and None)
    os._exit(0)


@pytest.mark.parametrize("rename", [1, 2])
def test_a_kill_between_the_two_renames_loses_nothing(rename, tmp_path) -> None:
    folder = tmp_path / "v1"
    publish(folder, lambda part: (part / "file").write_text("old") and None)
    killed_at(folder, rename)
    held = {file.read_text() for file in tmp_path.glob("**/file") if ".part-" not in str(file)}
    assert held == {"old"}

    def fails(part: Path) -> None:
        raise OSError("the next writer fails too")

    with pytest.raises(UserError):
        publish(folder, fails)
    assert (folder / "file").read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["v1"]
    publish(folder, lambda part: (part / "file").write_text("new") and None)
    assert (folder / "file").read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["v1"]


def test_the_same_weights_are_not_written_over(adapters, tmp_path) -> None:
    """An update that is applied again after a kill finds its own folder: it is left alone."""
    adapters.save("policy", tmp_path / "v1", "base")
    inode = (tmp_path / "v1" / ADAPTER).stat().st_ino
    adapters.save("policy", tmp_path / "v1", "base")
    assert (tmp_path / "v1" / ADAPTER).stat().st_ino == inode
    assert [path.name for path in tmp_path.iterdir()] == ["v1"]


def test_a_folder_is_as_readable_as_others(adapters, tmp_path) -> None:
    """A server under another account reads adapters: no private temporary folder becomes one."""
    (tmp_path / "plain").mkdir()
    adapters.save("policy", tmp_path / "v1", "base")
    assert (tmp_path / "v1").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_other_errors_are_not_the_disk(tmp_path) -> None:
    def wrong(part: Path) -> None:
        raise KeyError("a mistake of ours")

    with pytest.raises(KeyError):
        publish(tmp_path / "v1", wrong)
    assert not list(tmp_path.iterdir())

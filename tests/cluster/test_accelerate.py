"""Two processes come to the update of one, and a process that dies leaves no half of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import cases
import pytest
import torch
from evolve_support import Coin, save_model, small
from safetensors.torch import load_file
from sqlalchemy import select

from sparring.memory.journal import Journal
from sparring.memory.policies import heads, versions
from sparring.memory.schema import Run, Turn, Update
from sparring.training.evolve import evolve
from sparring.training.weights import ADAPTER, OPTIMIZER

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
HERE = Path(__file__).parent


def environment(**more: str) -> dict[str, str]:
    """Tests can be imported from their folders, and each process has one thread."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path), **more}


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def ranks(words: list[str], count: int = 2, **options: Any) -> list[subprocess.Popen[str]]:
    """The processes that a launcher would start."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, *words],
            env=environment(
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE=str(count),
                LOCAL_WORLD_SIZE=str(count),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
                ACCELERATE_USE_CPU="true",
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        for rank in range(count)
    ]


@pytest.mark.parametrize("count", [2, 3])
def test_the_update_is_that_of_one_process(count: int, tmp_path: Path) -> None:
    for process in ranks([str(HERE / "cases.py"), str(tmp_path)], count):
        said, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
        assert said == ""
    torch.set_num_threads(1)
    cuts = {case: cases.batches(case) for case in cases.CASES}
    assert cuts["one micro-batch, so one process has none"] == [1]
    assert cuts["unequal shares"] == [5] and len(cuts["many steps"]) == 6
    for number, case in enumerate(cases.CASES):
        tensors, figures = cases.update(case)
        for rank in range(count):
            found = load_file(tmp_path / f"{number}-{rank}.safetensors")
            for name, tensor in tensors.items():
                assert torch.isfinite(tensor).all()
                off = float((found[name] - tensor).abs().max())
                assert off < 1e-5, f"{case}: rank {rank} is {off:.2g} off in {name}"
            assert float(found.get("figure.processes", count)) == count
            mine = {name: float(found[f"figure.{name}"]) for name in figures if name != "processes"}
            figures.pop("processes", None)
            assert mine == pytest.approx(figures, rel=1e-4, abs=1e-6), case
        assert figures.get("stopped", 1.0) == 1.0


# --- evolve ---------------------------------------------------------------------------------------------


def config(folder: Path, **changes: Any) -> dict[str, Any]:
    """Two steps without evaluation and gate; micro-batches are small, so that both processes have some."""
    model = folder / "model"
    if not model.exists():
        save_model(model)
    made = small(folder, f"{model}?dtype=float32", steps=2, **changes)
    return {**made, "evaluate": None, "gate": None}


def written(folder: Path, **changes: Any) -> Path:
    import yaml

    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config(folder, **changes)))
    return file


def learned(memory: str) -> dict[str, Any]:
    """Versions, their weights and moments, and the turns that were said."""
    with Journal.open(memory) as journal:
        made = versions(journal, "solver")
        store = Path(f"{memory}.policies") / "solver"
        updates = journal.read(select(Update).order_by(Update.step))
        turns = journal.read(select(Turn.key, Turn.seed, Turn.completion_ids).order_by(Turn.id))
        return {
            "status": journal.read(select(Run.status).where(Run.kind == "evolve"))[0].status,
            "numbers": [version.number for version in made],
            "updates": [(row.step, row.status) for row in updates],
            "processes": [(row.metrics or {}).get("processes") for row in updates],
            "weights": [load_file(v.adapter_path / ADAPTER) for v in made if v.adapter_path is not None],
            "moments": [load_file(folder / OPTIMIZER) for folder in sorted(store.glob("optimizer-*"))],
            "said": [(row.key, row.seed, row.completion_ids.tobytes()) for row in turns],
            "heads": {name: version and version.number for name, version in heads(journal, "solver").items()},
        }


def close(ours: list[dict[str, torch.Tensor]], theirs: list[dict[str, torch.Tensor]]) -> float:
    assert len(ours) == len(theirs) == 2
    return max(
        float((mine[name] - other[name]).abs().max())
        for mine, other in zip(ours, theirs, strict=True)
        for name in other
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("evolve")
    torch.set_num_threads(1)
    assert Coin.name
    evolve(config(folder), str(folder / "alone.db"))
    return folder, learned(str(folder / "alone.db"))


def test_evolve_under_accelerate_launch(alone: tuple[Path, dict[str, Any]]) -> None:
    """The command of the documentation, as a user types it."""
    folder, wanted = alone
    memory = str(folder / "launched.db")
    shipped = HERE.parents[1] / "examples" / "accelerate" / "ddp_cpu.yaml"
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(shipped)]
    launch += ["--main_process_port", free_port()]
    words = ["-m", "sparring", "evolve", str(written(folder)), "--memory", memory, "--quiet", "--json"]
    done = subprocess.run(
        [sys.executable, *launch, *words], env=environment(), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1, "one process speaks"
    found = learned(memory)
    assert found["status"] == "done" and found["updates"] == [(0, "done"), (1, "done")]
    assert wanted["processes"] == [1, 1] and found["processes"] == [2, 2], "or nothing was compared"
    for name in ("numbers", "updates", "said", "heads"):
        assert found[name] == wanted[name], name
    assert close(found["weights"], wanted["weights"]) < 1e-5
    assert close(found["moments"], wanted["moments"]) < 1e-5


DIES = """
import os, signal, sys
sys.path[:0] = {paths!r}
from sparring.training import trainer
inner, calls = trainer.PolicyTrainer._forward, 0
def forward(self, *given):
    global calls
    calls += 1
    if calls == 2 and os.environ["RANK"] == {rank!r}:
        if {raises!r}:
            raise RuntimeError("out of memory")
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(self, *given)
trainer.PolicyTrainer._forward = forward
from sparring.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("rank", "raises"), [("0", False), ("1", False), ("1", True)])
def test_a_process_that_dies_leaves_no_half_update(
    alone: tuple[Path, dict[str, Any]], rank: str, raises: bool
) -> None:
    """By SIGKILL, or by an error of its own, as where only its device is full: nobody waits for it."""
    folder, wanted = alone
    memory = str(folder / f"dies{rank}{raises}.db")
    words = ["evolve", str(written(folder)), "--memory", memory, "--quiet"]
    processes = ranks(["-c", DIES.format(paths=sys.path, rank=rank, raises=raises), *words])
    errors = [process.communicate(timeout=300)[1] for process in processes]
    statuses = [process.returncode for process in processes]
    assert statuses[int(rank)] == (1 if raises else -signal.SIGKILL), errors
    assert statuses[1 - int(rank)] == 1, errors
    assert (
        ("nothing of it is kept" in errors[0])
        if rank == "1"
        else ("gone" in errors[1] or "broke off" in errors[1])
    )
    half = learned(memory)
    assert half["updates"] == [(0, "open")] and half["weights"] == half["moments"] == []
    assert not list(Path(f"{memory}.policies").rglob("*.safetensors"))
    evolve(config(folder), memory)
    found = learned(memory)
    assert found["said"] == wanted["said"] and found["heads"] == wanted["heads"]
    assert close(found["weights"], wanted["weights"]) < 1e-5


def test_objectives_of_one_process_are_refused(alone: tuple[Path, dict[str, Any]], monkeypatch: Any) -> None:
    from sparring.errors import UserError

    folder, _ = alone
    made = config(folder)
    made["policies"]["solver"] |= {"objective": "dpo", "train": {}}
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="dpo is trained by one process"):
        evolve(made, str(folder / "refused.db"))

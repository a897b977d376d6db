"""Workers are asked for in one form, on PostgreSQL, and what cannot work is said before anything starts."""

from __future__ import annotations

import pickle
import shutil
import socket
import threading
from pathlib import Path

import pytest

import sparring
from sparring.agents.engines.registry import EnginePool
from sparring.cli import main
from sparring.errors import EngineTimeout, SparringError, UserError
from sparring.graphs import worker, workers
from sparring.graphs.play import plan, play
from sparring.graphs.workers import able

SERVER = "postgresql://nobody@127.0.0.1:1/none"
TASKS = [{"id": "q", "question": "What is 1?", "answer": "1"}]


@pytest.mark.parametrize(("said", "count"), [(None, None), ("ray", None), ("ray:1", 1), ("ray:64", 64)])
def test_the_form(said: str | None, count: int | None) -> None:
    assert able(said, SERVER) == count


@pytest.mark.parametrize("said", ["", "4", "ray:", "ray:0", "ray:-1", "ray:4x", "dask:4", "Ray:4"])
def test_other_forms_are_refused(said: str) -> None:
    with pytest.raises(UserError, match=r"write `ray` or `ray:N`"):
        able(said, SERVER)


def test_a_number_alone_is_no_form() -> None:
    with pytest.raises(UserError, match=r"`2`: write `ray` or `ray:N`"):
        play("sample", TASKS, memory=SERVER, engine="scripted:hash", workers=2)  # type: ignore[arg-type]  # as asked


def test_sqlite_is_refused_before_there_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    memory = tmp_path / "journal.db"
    with pytest.raises(UserError, match="needs PostgreSQL"):
        play("sample", TASKS, memory=memory, engine="scripted:hash", workers="ray:2")
    assert not memory.exists()
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"id": "q", "question": "What is 1?", "answer": "1"}\n')
    words = ["play", "sample", "--tasks", str(tasks), "--engine", "scripted:hash", "--memory", str(memory)]
    assert main([*words, "--workers", "ray:2"]) == 2
    assert "--memory postgresql://USER@HOST/NAME" in capsys.readouterr().err
    assert not memory.exists()


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'sparring\[ray\]'"):
        play("sample", TASKS, memory=SERVER, engine="scripted:hash", workers="ray:2")


@pytest.mark.parametrize("given", [{"engine": lambda request, seed: "1"}, {"roles": {"solver": print}}])
def test_an_engine_that_is_an_object_is_refused_by_name(given: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"`(function|builtin_function_or_method)` was handed in as a Python"):
        workers.refuse_objects(plan("sample", TASKS, **given))
    workers.refuse_objects(plan("sample", TASKS, engine="scripted:hash"))


def test_pools_of_several_processes_share_the_limits() -> None:
    spec = "http://127.0.0.1:9/v1#m?rpm=60&tpm=1000&concurrency=6&timeout=5"
    whole, part = EnginePool().get(spec), EnginePool(4).get(spec)
    assert (whole.policy.rpm, whole.policy.tpm, whole.policy.concurrency) == (60, 1000, 6)
    assert (part.policy.rpm, part.policy.tpm, part.policy.concurrency) == (15, 250, 1)
    assert part.policy.timeout == 5 and part.spec == whole.spec


# --- the other process, as far as it can be had without a cluster -------------------------------------------


async def test_a_worker_with_another_sparring_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(Path(sparring.__file__).parent, tmp_path / "sparring", ignore=lambda *_: ["__pycache__"])
    monkeypatch.setattr(sparring, "__file__", str(tmp_path / "sparring" / "__init__.py"))
    there = worker.code()  # the driver's, where the same stands in another folder
    monkeypatch.undo()
    assert there == worker.code()
    with pytest.raises(
        UserError, match=rf"has Sparring {sparring.__version__} \(\w+\) from .*, the driver 0.0.9"
    ):
        await worker.Worker().open("sqlite://", "full", ".", 1, "0.0.9 (1234)")


async def test_a_journal_that_only_the_driver_reaches_is_said_by_the_worker() -> None:
    expected = rf"the worker on `{socket.gethostname()}`: memory .* cannot be opened: .*; every machine"
    with pytest.raises(UserError, match=expected):
        await worker.Worker().open("sqlite:////nowhere/else/journal.db", "full", ".", 1, worker.code())


class Particular(SparringError):
    """An error that cannot be made again from what it says."""

    def __init__(self, one: object, two: object) -> None:
        super().__init__(f"{one} and {two}")


class Held(UserError):
    """An error that holds what cannot be sent."""

    def __init__(self) -> None:
        super().__init__("a lock")
        self.lock = threading.Lock()


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (UserError("as it is"), UserError, "as it is"),
        (EngineTimeout("late", retry_after=2.0), EngineTimeout, "late"),
        (Particular(1, 2), SparringError, "1 and 2"),
        (Held(), UserError, "a lock"),
        (ZeroDivisionError("by 0"), SparringError, "a worker failed: ZeroDivisionError: by 0"),
    ],
)
def test_every_error_survives_the_way_to_the_driver(error: Exception, kind: type, said: str) -> None:
    there = pickle.loads(pickle.dumps(worker.carried(error)))
    assert type(there) is kind and str(there) == said
    assert getattr(there, "retry_after", None) == getattr(error, "retry_after", None)


async def test_what_a_worker_raises_is_carried() -> None:
    with pytest.raises(SparringError, match=r"a worker failed: AttributeError: .*protocol"):
        await worker.Worker().prepare({"id": "r", "config": {"tasks": [], "limits": {}}})

"""Small evolutions in processes of their own, that kill themselves where a test says.

Run as a script it is a parent that has everything imported and forks one process for each order, so that
a life costs a second and not the ten of its imports.

    with Nursery(folder) as nursery:
        life = nursery.live(config, memory, faults=[Fault("sparring.training.team:publish", "after", nth=2)])
        assert life.killed
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import importlib
import inspect
import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, TypedDict

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "agents")]

from safetensors.numpy import load_file  # noqa: E402 - the paths first
from sqlalchemy import select  # noqa: E402 - the paths first

from sparring.agents.models import verify_adapter  # noqa: E402 - the paths first
from sparring.memory.journal import Journal  # noqa: E402 - the paths first
from sparring.memory.policies import heads, history, versions  # noqa: E402 - the paths first
from sparring.memory.schema import (  # noqa: E402 - the paths first
    Episode,
    Event,
    PolicyVersion,
    Task,
    Turn,
    Update,
    UpdateTurn,
)
from sparring.training.rewards.base import EpisodeRow, Paid, RewardFunction  # noqa: E402 - the paths first

RUN = "small"
SAMPLES = 4


class Coin(RewardFunction):
    """A reward with spread for a model that says nothing sensible: from a checksum of what was said."""

    name: ClassVar[str] = "coin"
    version: ClassVar[str] = "1"

    def rewards(self, episode: EpisodeRow) -> Iterable[Paid]:
        for turn in episode.turns:
            if episode.answer is None:
                yield Paid(turn.id, None, "no reference")
            else:
                yield Paid(turn.id, zlib.crc32((turn.text or "").encode()) % 3 / 2, "coin")


def save_model(folder: Path, layers: int = 2) -> None:
    """A tiny random llama with a byte tokenizer, and a prompt."""
    import torch
    from tf_support import SIZES, save_tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
    }
    torch.manual_seed(11)
    model = LlamaForCausalLM(LlamaConfig(**{**SIZES, **sizes, "num_key_value_heads": 1, "head_dim": 16}))
    model.save_pretrained(folder)
    save_tokenizer(folder)
    (folder / "solver.md").write_text("{% block question %}{{ question }}{% endblock %}\n")


def save_tasks(file: Path, start: int, count: int, *, answers: bool = True) -> str:
    rows = [
        {"id": f"t{n}", "question": f"{n}+{n}="} | ({"answer": str(2 * n)} if answers else {})
        for n in range(start, start + count)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def small(folder: Path, spec: str, **changes: Any) -> dict[str, Any]:
    """Three steps of two tasks, evaluated and gated after each."""
    tasks = {
        name: save_tasks(folder / f"{name}.jsonl", start, count)
        for name, start, count in (("train", 0, 6), ("held", 20, 2), ("gate", 40, 2))
    }
    return {
        "run": RUN,
        "seed": 5,
        "protocol": "sample",
        "options": {
            "n": SAMPLES,
            "answer": "text",
            "prompts": {"solver": str(Path(spec.split("?")[0]) / "solver.md")},
        },
        "engine": spec,
        "sampling": {"max_tokens": 5, "temperature": 1.0},
        "tasks": tasks["train"],
        "policies": {"solver": learner()},
        "play": {"tasks": 2},
        "steps": 3,
        "evaluate": {"tasks": tasks["held"], "every": 1, "options": {"n": 1}},
        "gate": {
            "tasks": tasks["gate"],
            "every": 1,
            "margin": 1.0,
            "half_width": 1.0,
            "block": 1,
            "options": {"n": 1},
        },
        "concurrency": 1,
        **changes,
    }


def learner(role: str = "solver", **changes: Any) -> dict[str, Any]:
    return {
        "roles": [role],
        "reward": "evolve_support:Coin",
        "lora": {"rank": 2, "alpha": 4},
        "train": {"learning_rate": 5e-3, "minibatches": 2, "old": "recompute", "tokens": 64},
        **changes,
    }


# --- lives ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """What goes wrong, before or after the `nth` call of a function one of whose arguments is `given`."""

    at: str
    when: str = "before"
    nth: int = 1
    given: Any = None
    what: str = "kill"
    """kill, interrupt, nan (the loss that is returned), full (the disk, from here on)."""


@dataclass
class Life:
    """One process, from its start to its end."""

    pid: int
    status: int
    """Exit status, or minus the signal."""
    said: list[list[Any]] = field(default_factory=list)
    """What the loop told: [kind, numbers]."""
    error: str | None = None

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [numbers for name, numbers in self.said if name == kind]


class Nursery:
    """The parent process, from the test's side."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._said = folder, folder / "said.jsonl"
        self._said.write_text("")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self._hear() == "ready"

    def start(
        self, config: dict[str, Any], memory: Path, faults: Iterable[Fault] = (), later: float = 0.0
    ) -> int:
        """Begin a life; the id of its process.

        Args:
            later: seconds by which its clock is ahead.
        """
        self._said.write_text("")
        return self.order(
            {
                "config": config,
                "memory": str(memory),
                "calls": str(call_log(memory)),
                "said": str(self._said),
                "faults": [asdict(fault) for fault in faults],
                "later": later,
            }
        )

    def order(self, order: dict[str, Any]) -> int:
        """Have something done in a process of its own; its id."""
        return int(self._ask(order))

    def _ask(self, order: dict[str, Any]) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._hear()

    def end(self, pid: int) -> Life:
        """Wait for a life to end."""
        life = Life(pid, int(self._ask({"wait": pid})), self.said())
        errors = life.told("error")
        life.error = errors[-1]["message"] if errors else None
        return life

    def said(self) -> list[list[Any]]:
        """What the loop of the last life told so far."""
        return [json.loads(line) for line in self._said.read_text().splitlines() if line.endswith("]")]

    def live(
        self, config: dict[str, Any], memory: Path, faults: Iterable[Fault] = (), later: float = 0.0
    ) -> Life:
        return self.end(self.start(config, memory, faults, later))

    def command(self, config: dict[str, Any], memory: Path, folder: Path) -> Life:
        """`sparring evolve CONFIG.yaml`; `error` is what it wrote to standard error."""
        file, errors = folder / "config.yaml", folder / "errors.txt"
        file.write_text(json.dumps(config))  # which is YAML too
        words = ["evolve", str(file), "--memory", str(memory), "--quiet"]
        life = self.end(self.order({"words": words, "errors": str(errors)}))
        life.error = errors.read_text()
        return life

    def _hear(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the parent of the lives has died"
        return line.strip()

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


@functools.cache
def nursery() -> Nursery:
    """The one parent of all lives of a test session."""
    made = Nursery(Path(tempfile.mkdtemp()))
    atexit.register(made.__exit__)
    return made


@functools.cache
def model(layers: int = 2) -> str:
    """Engine spec of the model that all lives share, or of another one of that depth."""
    folder = nursery().folder / f"model{layers}"
    folder.mkdir()
    assert nursery().end(nursery().order({"model": str(folder), "layers": layers})).status == 0
    return f"{folder}?dtype=float32"


def grow(memory: Path, *names: str, answer: str | None = "1", question: str | None = None) -> None:
    """Let the user's application ask a question of each name; each gives `SAMPLES` turns."""
    tasks = [
        {"id": name, "question": question or f"{name}?"} | ({"answer": answer} if answer else {})
        for name in names
    ]
    prompt = str(Path(model().split("?")[0]) / "solver.md")
    asked = {"memory": str(memory), "prompt": prompt, "tasks": tasks}
    assert nursery().end(nursery().order({"grow": asked})).status == 0


def call_log(memory: Path) -> Path:
    return memory.with_suffix(".calls")


def calls(memory: Path) -> Counter[str]:
    """How often each (version, seed) was asked of the engine, over all lives."""
    lines = call_log(memory).read_text().split() if call_log(memory).exists() else []
    return Counter(lines)


# --- what is compared -----------------------------------------------------------------------------------


def journaled(memory: Path, run: str = RUN, *, weights: bool = True) -> dict[str, Any]:
    """Everything that two runs of one configuration must have in common, ids and times left out."""
    with Journal.open(str(memory)) as journal:
        places = {
            row.number: (row.run_id, row.name, row.iteration, row.copy)
            for row in journal.read(
                select(Episode.number, Episode.run_id, Task.name, Episode.iteration, Episode.copy).join(
                    Task, Task.id == Episode.task_id
                )
            )
        }
        numbers = {
            row.id: (row.policy, row.number)
            for row in journal.read(select(PolicyVersion.id, PolicyVersion.policy, PolicyVersion.number))
        }
        turns = {
            row.id: (places[row.episode_number], row.key, row.attempt, numbers[row.policy_version_id])
            for row in journal.read(
                select(Turn.id, Turn.episode_number, Turn.key, Turn.attempt, Turn.policy_version_id)
            )
        }
        updates = {row.id: row for row in journal.read(select(Update).where(Update.run_id == run))}
        taken = [
            ((updates[row.update_id].policy, updates[row.update_id].step), turns[row.turn_id])
            for row in journal.read(select(UpdateTurn))
            if row.update_id in updates
        ]
        names = sorted({policy for policy, _ in numbers.values()})
        return {
            "turns": sorted(turns.values()),
            "texts": _texts(journal, turns),
            "updates": sorted(
                (u.policy, u.step, u.status, numbers[u.from_version_id][1], u.metrics)
                for u in updates.values()
            ),
            "taken": sorted(taken),
            "versions": {
                name: [
                    (
                        v.number,
                        numbers[v.parent_id][1] if v.parent_id else None,
                        _weights(v) if weights else None,
                    )
                    for v in versions(journal, name)
                ]
                for name in names
            },
            "heads": {name: {h: v.number for h, v in heads(journal, name).items() if v} for name in names},
            "moves": {
                name: [
                    (m.head, m.move, m.origin and numbers[m.origin], numbers[m.target], m.by, m.reason)
                    for m in history(journal, name)
                ]
                for name in names
            },
            "events": _events(journal, run),
            "status": journal.run_row(run).status,
        }


def _weights(version: Any) -> Any:
    if version.adapter_path is None:
        return None
    verify_adapter(version.adapter_path, version.adapter_hash)
    held = load_file(version.adapter_path / "adapter_model.safetensors")
    return {name: tensor.round(12).tolist() for name, tensor in sorted(held.items())}


def difference(one: Any, other: Any, where: str = "") -> str | None:
    """Where two values differ by more than rounding; None where they do not.

    What an engine said before decides in which order it adds up, so a life that begins anew agrees to
    float32's precision with one that goes on, in its words to the letter.
    """
    if isinstance(one, float) and isinstance(other, float):
        return None if math.isclose(one, other, rel_tol=1e-3, abs_tol=2e-5) else f"{where}: {one} {other}"
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        parts = [(f"{where}.{name}", one[name], other[name]) for name in one]
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        parts = [(f"{where}[{n}]", *pair) for n, pair in enumerate(zip(one, other, strict=True))]
    else:
        return None if one == other else f"{where}: {one} {other}"
    return next((found for at, *pair in parts if (found := difference(*pair, at))), None)


def _texts(journal: Journal, turns: dict[int, Any]) -> dict[str, Any]:
    from sparring.memory.samples import training_turns

    found = training_turns(journal, turn_ids=list(turns)) if turns else []
    return {str(turns[turn.id]): turn.completion_ids.tolist() for turn in found}


TIMES = ("seconds", "elapsed")


def _events(journal: Journal, run: str) -> dict[str, Any]:
    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: timeless(part) for name, part in value.items() if name not in TIMES}
        return value

    query = select(Event.kind, Event.key, Event.payload).where(Event.run_id == run, Event.kind != "head")
    return {f"{row.kind} {row.key}": timeless(row.payload) for row in journal.read(query)}


# --- the process itself ---------------------------------------------------------------------------------


def _arm(fault: Fault) -> None:
    module, _, path = fault.at.partition(":")
    *parents, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for parent in parents:
        owner = getattr(owner, parent)
    inner, seen = getattr(owner, name), 0

    def due(arguments: tuple[Any, ...]) -> bool:
        nonlocal seen
        seen += fault.given is None or fault.given in [one for one in arguments if isinstance(one, str | int)]
        return seen == fault.nth

    def strike(given: tuple[Any, ...], when: str, result: Any = None) -> Any:
        return _HAPPENS[fault.what](result) if fault.when == when and due(given) else result

    if inspect.iscoroutinefunction(inner):

        async def outer(*given: Any, **named: Any) -> Any:
            strike(given, "before")
            return strike(given, "after", await inner(*given, **named))
    else:

        def outer(*given: Any, **named: Any) -> Any:
            strike(given, "before")
            return strike(given, "after", inner(*given, **named))

    setattr(owner, name, outer)


def _kill(result: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def _interrupt(result: Any) -> Any:
    os.kill(os.getpid(), signal.SIGINT)
    return result


def _nan(result: Any) -> Any:
    return replace(result, loss=result.loss * float("nan"))


def _full(result: Any) -> Any:
    """No file can grow beyond what a journal needs: the limit stands in for the end of the disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (FULL_AT, resource.RLIM_INFINITY))
    return result


FULL_AT = 8 << 20
_HAPPENS: dict[str, Callable[[Any], Any]] = {
    "kill": _kill,
    "interrupt": _interrupt,
    "nan": _nan,
    "full": _full,
}


def _logged(path: str) -> None:
    """The engine writes every seed it is asked for to a file of its own, before it answers."""
    from sparring.agents.engines.transformers import TransformersEngine

    inner = TransformersEngine.generate
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def generate(self: Any, request: Any) -> Any:
        os.write(log, "".join(f"{request.version.label}/{seed}\n" for seed in request.seeds).encode())
        return await inner(self, request)

    TransformersEngine.generate = generate  # type: ignore[method-assign]  # a process of its own


class Asked(TypedDict, total=False):
    """The state of a user's own graph."""

    task: dict[str, Any]
    answer: str


async def _grow(memory: str, prompt: str, tasks: list[dict[str, Any]]) -> None:
    """A user's application: a graph that is not ours, one thread a question, answered by a policy."""
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.graph import END, START, StateGraph

    from sparring.graphs.catalogue import make_protocol

    options = {"n": SAMPLES, "answer": "text", "prompts": {"solver": prompt}}
    node = make_protocol("sample", options).node(
        agents="policy:solver",
        memory=memory,
        task=lambda state: state["task"],
        result=lambda outcome: {"answer": outcome["answer"]},
        sampling={"max_tokens": 5},
    )
    graph = StateGraph(Asked).add_node("solve", node).add_edge(START, "solve").add_edge("solve", END)
    app = graph.compile(checkpointer=InMemorySaver())
    for task in tasks:
        await app.ainvoke({"task": task}, {"configurable": {"thread_id": task["id"]}})
    await node.aclose()


def _live(order: dict[str, Any]) -> int:
    if "model" in order:
        save_model(Path(order["model"]), order["layers"])
        return 0
    if "words" in order:
        from sparring.cli import main

        os.dup2(os.open(order["errors"], os.O_WRONLY | os.O_CREAT), 2)
        return main(order["words"])
    if "grow" in order:
        asyncio.run(_grow(**order["grow"]))
        return 0
    from sparring.errors import SparringError
    from sparring.graphs.console import Incomplete
    from sparring.training.config import load_config
    from sparring.training.evolve import evolve

    said = os.open(order["said"], os.O_WRONLY | os.O_APPEND)

    def told(kind: str, numbers: Any) -> None:
        os.write(said, (json.dumps([kind, dict(numbers)], default=str) + "\n").encode())

    from sparring.training import evolve as loop
    from sparring.training import feed
    from sparring.training.rewards import derive

    ahead = SimpleNamespace(time=lambda: time.time() + order["later"])
    feed.time = ahead  # type: ignore[assignment]  # the clock of the cadence
    loop.draw = lambda journal, story, folder: []  # type: ignore[assignment]  # a second a life
    derive.AT_ONCE = 1  # rewards of an episode are a transaction of their own
    _logged(order["calls"])
    for fault in order["faults"]:
        _arm(Fault(**fault))
    try:
        result = evolve(load_config(order["config"]), order["memory"], told=told)
    except KeyboardInterrupt:
        return 130
    except (SparringError, Incomplete) as error:
        told("error", {"message": f"{type(error).__name__}: {error}"})
        return 2
    return 1 if result.story.stopped else 0


def main() -> None:
    import evolve_support  # noqa: F401 - rewards name it
    import torch

    import sparring.agents.engines.transformers.engine
    import sparring.training.evolve  # noqa: F401 - imported once

    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            _, ended = os.waitpid(order["wait"], 0)
            print(os.waitstatus_to_exitcode(ended), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            _child(order)
        print(pid, flush=True)


def _child(order: dict[str, Any]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    status = 70
    try:
        status = _live(order)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()

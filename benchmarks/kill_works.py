"""What is killed: play, tournament, evolve and swe, each a process that begins a run or goes on with it.

Each run has a folder and a journal of its own and the same name everywhere, so that a disturbed one can be
compared with an undisturbed one row by row. The engines write every call to an append-only log outside the
journal before they answer.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from kill_reader import Needs, Snapshot, dependencies

from sparring.agents.engines.base import Request
from sparring.agents.engines.scripted import ScriptedEngine, digest
from sparring.graphs.play import Play, aplay, plan
from sparring.memory.episode import EpisodeHandle

TESTS = Path(__file__).parents[1] / "tests"
RUN = "killed"
PLACE: ContextVar[str] = ContextVar("place", default="nowhere")


def witness(log: Path, *engines: Any, delay_s: float = 0.0) -> None:
    """From here on the engines note (place, seed, process) of every sample before they make it.

    Args:
        delay_s: How much later they begin, so that kills find calls in flight where answers come at once.
    """
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    fly = EpisodeHandle._fly

    async def placed(self: EpisodeHandle, *given: Any) -> None:
        PLACE.set(f"{self.run.id} {self.task}/{self.iteration}/{self.copy}")
        await fly(self, *given)

    EpisodeHandle._fly = placed  # type: ignore[method-assign]  # this process is to be killed in it
    for engine in engines:
        engine.generate = _noted(engine.generate, out, delay_s)


def _noted(generate: Callable[..., Any], out: int, delay_s: float) -> Callable[..., Any]:
    async def noted(self: Any, request: Request) -> Any:
        rows = [{"place": PLACE.get(), "seed": seed, "pid": os.getpid()} for seed in request.seeds]
        os.write(out, "".join(json.dumps(row) + "\n" for row in rows).encode())  # one write: lines never mix
        await asyncio.sleep(delay_s)
        return await generate(self, request)

    return noted


@dataclass(frozen=True)
class Work:
    """One run, to be brought to its end however often it is killed."""

    folder: Path
    memory: str
    size: int

    name: ClassVar[str]
    in_flight: ClassVar[int]
    """The most samples that can be unanswered or uncommitted in one instant."""
    at_once: ClassVar[int]
    """Episodes that are played side by side."""
    rule: ClassVar[str] = "any"
    """What a turn depends on within its episode (`kill_reader.dependencies`)."""
    shared: ClassVar[tuple[str, ...]] = ()
    """Kinds of events that any episode of a task may have, whichever comes first."""
    preload: ClassVar[tuple[str, ...]] = ("sparring.graphs.play", "sparring.graphs.protocols.debate")
    """Modules that are imported once for all processes: a kill in them would say nothing."""

    def prepare(self) -> None:
        """Write the files that it needs into its folder."""

    def live(self) -> None:
        """The whole of a process: begin, or go on, to the end."""
        raise NotImplementedError

    def _save(self, config: dict[str, Any]) -> None:
        """Keep a configuration without the folder: what names an engine must be the same everywhere."""
        (self.folder / "config.json").write_text(json.dumps(config).replace(f"{self.folder}/", "./"))

    def _config(self) -> dict[str, Any]:
        config: dict[str, Any] = json.loads((self.folder / "config.json").read_text())
        return config

    def calls(self) -> list[dict[str, Any]]:
        """The call log; a line cut off by a kill would be an error here, since each is one write."""
        log = self.folder / "calls.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def needs(self, end: Snapshot) -> Needs:
        return dependencies(self.rule, end)

    def results(self, end: Snapshot) -> Any:
        """What two runs of it must have in common, in the journal and beside it."""
        return end.results()

    def differs(self, one: Any, other: Any) -> str | None:
        """Where two `results` differ."""
        return None if one == other else "other rows or files"

    def early(self, now: Snapshot) -> list[str]:
        """Places whose output is there though the journal has them open."""
        return []


def live(work: Work) -> None:
    """The target of a process."""
    sys.path[:0] = [str(TESTS / room) for room in ("training", "agents", "graphs", "tools", "cli")]
    os.chdir(work.folder)
    os.environ["SPARRING_STORE"] = str(work.folder)
    work.live()


# --- play -----------------------------------------------------------------------------------------------


async def reply(request: Request, seed: int) -> str:
    """A text that every parser of the two protocols accepts, after 5 to 36 ms; some moderators decide."""
    value = digest(request, seed)
    await asyncio.sleep(0.005 + value % 32 / 1000)
    answer = str(value % 5)
    fields = {
        "preference": "Yes" if value % 7 == 0 else "No",
        "side": "none",
        "reason": f"{value:016x}",
        "answer": answer,
        "candidates": [answer],
    }
    return f"{json.dumps(fields)}\nAnswer: {answer}"


class Du(Work):
    """`play` of a debate in which three speak at once."""

    name, in_flight, at_once, rule = "du", 4 * 3, 4, "du"

    def live(self) -> None:
        witness(self.folder / "calls.jsonl", ScriptedEngine)
        result = asyncio.run(aplay(self._play(), self.memory, run=RUN, concurrency=4, durability="full"))
        with self._out.open("w") as file:
            for line in result:
                file.write(json.dumps(line.to_json()) + "\n")

    @property
    def _out(self) -> Path:
        return self.folder / "out.jsonl"

    def _play(self) -> Play:
        tasks = [
            {"id": f"q{n}", "question": f"What is {n}?", "answer": n % 5} for n in range(self.size or 24)
        ]
        return plan(self.name, tasks, rounds=3, engine=ScriptedEngine(reply), seed=7)

    def results(self, end: Snapshot) -> Any:
        return end.results(), self._out.read_text()

    def early(self, now: Snapshot) -> list[str]:
        if not self._out.exists():
            return []
        whole = [line for line in self._out.read_text().splitlines(keepends=True) if line.endswith("\n")]
        rows = [json.loads(line) for line in whole]
        places = [f"{RUN} {row['task_id']}/0/{row['copy']}" for row in rows]
        return [place for place in places if now.episodes.get(place, ("open", None))[0] == "open"]


class Mad(Du):
    """`play` of a debate in which everyone waits for who spoke before."""

    name, in_flight, at_once, rule = "mad", 4, 4, "line"


# --- tournament -------------------------------------------------------------------------------------------


class Tournament(Work):
    """Three players in Swiss rounds, in which later pairings hang on earlier games."""

    name, in_flight, at_once = "tournament", 3, 3
    preload = (*Work.preload, "sparring.training.league.tournament", "openskill.models")

    def prepare(self) -> None:
        from league_support import small

        config = small(self.folder, schedule={"name": "swiss", "rounds": 3}, concurrency=3)
        config["players"] = {name: f"{spec}?delay_s=0.02" for name, spec in config["players"].items()}
        self._save(config)

    def live(self) -> None:
        from sparring.training.league.tournament import tournament

        witness(self.folder / "calls.jsonl", ScriptedEngine)
        tournament(self._config(), self.memory)

    def results(self, end: Snapshot) -> Any:
        from league_support import rows

        return end.results(), rows(self.memory)


# --- evolve -----------------------------------------------------------------------------------------------


class Evolve(Work):
    """Steps of play, reward, training, evaluation and gate of a tiny model; equal to float32's precision."""

    name, in_flight, at_once = "evolve", 4, 1
    preload = (
        *Work.preload,
        "sparring.training.evolve",
        "sparring.training.team",
        "sparring.graphs.protocols.sample",
        "sparring.agents.engines.transformers.engine",
        "peft",
    )

    def prepare(self) -> None:
        from evolve_support import save_model, small

        model = self.folder.parent / "model"  # one for all runs: its weights are what they begin with
        if not model.exists():
            save_model(model)
        (self.folder / "model").symlink_to(model)
        self._save(small(self.folder, f"{self.folder}/model?dtype=float32", steps=self.size or 2))

    def live(self) -> None:
        import torch

        from sparring.agents.engines.transformers import TransformersEngine
        from sparring.training import evolve as loop
        from sparring.training.config import load_config

        torch.set_num_threads(1)
        loop.draw = lambda journal, story, folder: []  # type: ignore[assignment]  # a second a life
        witness(self.folder / "calls.jsonl", TransformersEngine, delay_s=0.02)
        loop.evolve(load_config(self._config()), self.memory)

    def results(self, end: Snapshot) -> Any:
        from evolve_support import journaled

        os.environ["SPARRING_STORE"] = str(self.folder)
        return end.turns_only(), journaled(self.memory)

    def differs(self, one: Any, other: Any) -> str | None:
        from evolve_support import difference

        return "other turns" if one[0] != other[0] else difference(one[1], other[1])


# --- swe --------------------------------------------------------------------------------------------------


class Swe(Work):
    """`sparring swe`: three repositories, two copies, commands in a sandbox, patches graded."""

    name, in_flight, at_once, rule = "swe", 6, 6, "line"
    shared = ("grade",)
    preload = ("sparring.cli", "sparring.graphs.play", "sparring.graphs.protocols.software")

    def prepare(self) -> None:
        from swe_life import prepare

        prepare(self.folder)

    def live(self) -> None:
        from swe_life import run_command

        witness(self.folder / "calls.jsonl", ScriptedEngine, delay_s=0.03)
        run_command(self.memory)

    def results(self, end: Snapshot) -> Any:
        """Events tell how long commands took, so only which there are can be compared."""
        from swe_life import FILES

        statuses = {place: status for place, (status, _) in end.episodes.items()}
        return end.turns_only(), set(end.events), statuses, [(self.folder / n).read_bytes() for n in FILES]


WORKS: dict[str, tuple[type[Work], ...]] = {
    "play": (Du, Mad),
    "tournament": (Tournament,),
    "evolve": (Evolve,),
    "swe": (Swe,),
}

"""What the journal costs a protocol: turns per second with it, without it, and with LangGraph's checkpointer.

    python -m benchmarks.overhead [--episodes 200] [--rounds 5] [--out FILE] [--profile journal-full]

Debate among three peers over three rounds (9 turns an episode), all episodes at once; every turn is 1 kB
of text with 120 completion ids and log-probabilities, answered by a scripted engine from a table that was
filled before the clock starts. Five variants run one after the other, again and again, and medians count:

    null            the same compiled protocol, rendering, parsing and engine; a journal that does nothing
    journal-normal  the journal on SQLite, committed before each node returns, synchronous=NORMAL
    journal-full    the same with synchronous=FULL, the default
    checkpointer    `null` with the graph compiled under LangGraph's AsyncSqliteSaver, its defaults
    empty           the same graph shape with nodes that call nobody

Required (DESIGN section 10): journal-normal at least 0.8 and journal-full at least 0.65 of null, and
each at least 3 times checkpointer. Exit status 1 where one falls short.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import itertools
import pstats
import re
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.runtime import Runtime

from benchmarks.budgets import Row, finish, judged
from sparring.agents.engines.base import Completion, Request, Usage
from sparring.agents.engines.registry import EnginePool
from sparring.agents.engines.scripted import ScriptedEngine
from sparring.graphs.context import Context
from sparring.graphs.play import Play, plan
from sparring.graphs.player import Player
from sparring.graphs.protocols.debate import Debate
from sparring.graphs.protocols.debate_views import DebateState
from sparring.memory.journal import Journal
from sparring.memory.records import Ask, Place, TaskRecord, Turn, VersionRecord

PEERS, ROUNDS = 3, 3
TURNS = PEERS * ROUNDS
TOKENS, TEXT_BYTES = 120, 1000
FILLER = "It follows from what is given, and each step can be checked by whoever reads it. " * 13
KINDS = ("null", "journal-normal", "journal-full", "checkpointer", "empty")
RATIOS = {
    "journal, NORMAL / no journal": ("journal-normal", "null"),
    "journal, FULL / no journal": ("journal-full", "null"),
    "journal, NORMAL / LangGraph's checkpointer": ("journal-normal", "checkpointer"),
    "journal, FULL / LangGraph's checkpointer": ("journal-full", "checkpointer"),
}


# --- the engine: a table of completions -------------------------------------------------------------


def table(episodes: int) -> dict[str, list[Completion]]:
    """Key -> completions. A first round's key is the question, a later one's the speaker's last text.

    Prompt ids have the prefixes they would have: a speaker's prompt continues its last prompt and
    completion with the other two's completions.
    """
    rng = np.random.default_rng(0)
    answers: dict[str, list[Completion]] = {}
    for episode in range(episodes):
        question = rng.integers(0, 50_000, 60, dtype=np.int32)
        prompts = [question] * PEERS
        keys = [f"item {episode}"] * PEERS
        for number in range(ROUNDS):
            said = [_completion(rng, (episode, number, place), prompts[place]) for place in range(PEERS)]
            for place in range(PEERS):
                answers.setdefault(keys[place], []).append(said[place])
                keys[place] = said[place].text
                others = [said[other].completion_ids for other in range(PEERS) if other != place]
                prompts[place] = np.concatenate([prompts[place], said[place].completion_ids, *others])
    return answers


def _completion(rng: np.random.Generator, place: tuple[int, int, int], prompt: Any) -> Completion:
    text = f"Statement {place[0]}/{place[1]}/{place[2]}. {FILLER}"[: TEXT_BYTES - 12].rstrip()
    text += "\nAnswer: 42"
    return Completion(
        text + " " * (TEXT_BYTES - len(text)),
        "stop",
        Usage(len(prompt), TOKENS),
        prompt_ids=prompt,
        completion_ids=rng.integers(0, 50_000, TOKENS, dtype=np.int32),
        logprobs=-rng.random(TOKENS, dtype=np.float32),
        logprob_kind="tempered",
    )


class Replies:
    """The reply function of one run; the peers of a first round take the entries in turn."""

    def __init__(self, answers: dict[str, list[Completion]]) -> None:
        self._answers = {key: itertools.cycle(said) for key, said in answers.items()}

    def __call__(self, request: Request, seed: int) -> Completion:
        if len(request.messages) == 1:
            found = re.match(r"item [0-9]+", str(request.messages[0]["content"]))
            assert found is not None
            return next(self._answers[found[0]])
        return next(self._answers[str(request.messages[-2]["content"])])


# --- a journal that does nothing --------------------------------------------------------------------


class NullEpisode:
    """The interface of `EpisodeHandle`; remembers and writes nothing, so nothing is replayed."""

    def __init__(self, number: int, seats: dict[str, Any]) -> None:
        self.id, self.seats = str(number), seats

    async def __aenter__(self) -> NullEpisode:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    def turn(self, key: str) -> None: ...

    async def turns(self, keys: Sequence[str], ask: Ask, produce: Any) -> list[Turn]:
        made = await produce([Place(key, 0, 0) for key in keys])
        return [
            Turn(
                0,
                key,
                0,
                m.status,
                m.text or "",
                m.parsed,
                m.error,
                m.prompt_tokens,
                m.completion_tokens,
                m.cost,
            )
            for key, m in zip(keys, made, strict=True)
        ]

    async def event(self, kind: str, key: str, payload: dict[str, Any]) -> dict[str, Any]:
        return payload

    async def close(self, *_: Any) -> None: ...


class NullRun:
    """The interface of `RunHandle` and of its journal, as far as `Player` uses them."""

    id, seed = "null", 0

    def __init__(self) -> None:
        self.journal, self._numbers = self, itertools.count()

    def state(self, *_: Any) -> None: ...

    def decided(self, *_: Any) -> None: ...

    def episode(self, *_: Any, seats: dict[str, Any], fork: Any) -> NullEpisode:
        return NullEpisode(next(self._numbers), seats)

    def version(self, record: VersionRecord) -> int:
        return 1

    def version_row(self, version_id: int) -> Any:
        return argparse.Namespace(number=0)


# --- the variants -----------------------------------------------------------------------------------


@dataclass
class Swapped:
    """A debate played on another graph than its own compiled one."""

    debate: Debate
    graph: Any
    configs: Iterator[dict[str, Any]]
    name = "du"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.debate, name)

    async def run(self, question: Any, context: Context) -> Any:
        config = {**next(self.configs), "recursion_limit": self.debate.recursion_limit}
        state = await self.graph.ainvoke({"question": question}, config, context=context)
        return state["outcome"]


class EmptyNodes(Debate):
    """The same chair and the same fan-out; nobody is asked."""

    async def speak(self, state: DebateState, runtime: Runtime[Context]) -> DebateState:
        seat = state["seat"]
        place = self.speakers.index(seat)
        said = {"round": state["round"], "place": place, "seat": seat, "role": "solver"}
        return {"statements": [{**said, "text": "", "answer": "42", "confidence": None}]}  # type: ignore[typeddict-item]  # spelled out above

    async def vote(self, state: DebateState, runtime: Runtime[Context]) -> DebateState:
        return {"outcome": {"answer": "42"}}


async def play_once(kind: str, play: Play, folder: Path) -> tuple[float, float]:
    """Wall and CPU seconds of all episodes, from the first opened to the last closed."""
    if kind.startswith("journal"):
        with Journal.open(folder / "journal.db", kind.removeprefix("journal-")) as journal:  # type: ignore[arg-type]  # full or normal
            run = journal.drive("r", kind="play", protocol="du", config={}, seed=0)
            try:
                return await _timed(play, run)
            finally:
                run.release()
    if kind == "checkpointer":
        async with AsyncSqliteSaver.from_conn_string(str(folder / "checkpoints.db")) as saver:
            threads = ({"configurable": {"thread_id": str(number)}} for number in itertools.count())
            debate = Debate(agents=PEERS, rounds=ROUNDS)
            return await _timed(
                play, NullRun(), Swapped(debate, debate.graph().compile(checkpointer=saver), threads)
            )
    if kind == "empty":
        debate = EmptyNodes(agents=PEERS, rounds=ROUNDS)
        return await _timed(play, NullRun(), Swapped(debate, debate.compile(), itertools.repeat({})))
    return await _timed(play, NullRun())


async def _timed(play: Play, run: Any, protocol: Any = None) -> tuple[float, float]:
    async with EnginePool() as pool:
        player = Player(play, run, pool, concurrency=len(play.tasks))
        player.protocol = protocol or player.protocol
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        await player()
        spent = time.perf_counter() - wall, time.process_time() - cpu
    if player.failed or player.done != len(play.tasks):
        raise SystemExit(f"{player.failed} of {len(play.tasks)} episodes failed: nothing was measured")
    return spent


def once(kind: str, answers: dict[str, list[Completion]], episodes: int) -> tuple[float, float]:
    """One timed pass in a fresh folder; for the journal, every turn must be there afterwards."""
    tasks = [
        TaskRecord(f"t{number}", f"item {number} of the set: what follows?") for number in range(episodes)
    ]
    play = plan("du", tasks, agents=PEERS, rounds=ROUNDS, engine=ScriptedEngine(Replies(answers), ids=False))
    with tempfile.TemporaryDirectory() as name:
        spent = asyncio.run(play_once(kind, play, Path(name)))
        if kind.startswith("journal"):
            with sqlite3.connect(Path(name) / "journal.db") as connection:
                found = connection.execute("SELECT count(*) FROM turns").fetchone()[0]
            if found != episodes * TURNS:
                raise SystemExit(f"the journal holds {found} turns instead of {episodes * TURNS}")
    return spent


def measure(episodes: int, rounds: int) -> dict[str, dict[str, float]]:
    """Medians of interleaved passes, after one pass of each that does not count."""
    answers = table(episodes)
    passes: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    for number in range(rounds + 1):
        for kind in KINDS:
            spent = once(kind, answers, episodes)
            if number:
                passes[kind].append(spent)
        if number:
            print(f"round {number} of {rounds}", file=sys.stderr)
    turns = episodes * TURNS
    figures = {}
    for kind, spent_all in passes.items():
        wall = statistics.median(wall for wall, _ in spent_all)
        cpu = statistics.median(cpu for _, cpu in spent_all)
        figures[kind] = {"turns_per_s": turns / wall, "ms_per_turn": 1e3 * wall / turns}
        figures[kind] |= {"cpu_ms_per_turn": 1e3 * cpu / turns}
        figures[kind] |= {"best_turns_per_s": turns / min(wall for wall, _ in spent_all)}
    return figures


def judge(figures: dict[str, dict[str, float]]) -> list[Row]:
    """Each budget with its measured ratio."""
    rate = {kind: row["turns_per_s"] for kind, row in figures.items()}
    return judged("overhead", {what: rate[kind] / rate[other] for what, (kind, other) in RATIOS.items()})


def show(figures: dict[str, dict[str, float]]) -> None:
    """The variants."""
    print(f"{'variant':16}{'turns/s':>10}{'ms/turn':>10}{'CPU ms/turn':>13}{'of null':>9}")
    for kind, row in figures.items():
        share = row["turns_per_s"] / figures["null"]["turns_per_s"]
        print(
            f"{kind:16}{row['turns_per_s']:10.0f}{row['ms_per_turn']:10.3f}{row['cpu_ms_per_turn']:13.3f}{share:9.2f}"
        )


def profile(kind: str, episodes: int) -> None:
    """Where one pass spends its time (event loop thread only; the writer is a thread of its own)."""
    answers = table(episodes)
    once(kind, answers, episodes)
    profiler = cProfile.Profile()
    profiler.enable()
    once(kind, answers, episodes)
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(45)


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--profile", choices=KINDS)
    options = parser.parse_args()
    if options.profile:
        profile(options.profile, options.episodes)
        return 0
    figures = measure(options.episodes, options.rounds)
    show(figures)
    settings = {"episodes": options.episodes, "turns": TURNS, "rounds": options.rounds}
    return finish(judge(figures), settings | {"figures": figures}, options.out)


if __name__ == "__main__":
    sys.exit(main())

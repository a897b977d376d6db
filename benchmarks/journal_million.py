"""A journal of 1,000,000 turns: append rate, experience, file size, long episodes (DESIGN section 10).

    python -m benchmarks.journal_million [--turns 1000000] [--durability normal] [--folder FOLDER]
                                         [--out FILE]

Episodes of 30 turns, each answering one agent's growing history with 200 completion ids and
log-probabilities and a text of about 800 characters, 200 episodes at once, through the journal's own
path. Printed as JSON lines:

* fill: turns a second while the journal grows;
* append: the time of a batch of turns in the full journal over the same in an empty one, both timed in
  turn, medians (budget 1.3);
* experience: seconds until 4,096 turns with prompt ids, completion ids and log-probabilities are in
  memory, the newest of one policy version and a random choice of all (budget 1 s);
* size: file bytes over (each distinct text once + 4 per new id + 4 per log-probability) (budget 2);
* long: bytes a turn of 300-turn episodes over those of 30-turn ones (budget 1.2).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.budgets import finish, judged
from sparring.memory.journal import Journal
from sparring.memory.queries import training_turns
from sparring.memory.records import AgentRecord, Ask, Place, Produced, TaskRecord, VersionRecord
from sparring.memory.run import RunHandle

AGENT = AgentRecord("solver", "Solve the problem step by step.", "line", "1", {"temperature": 1.0}, "base")
LENGTH, QUESTION, COMPLETION, CHARACTERS = 30, 30, 200, 800
AT_ONCE = 200
WORDS = [
    "the",
    "answer",
    "first",
    "because",
    "each",
    "total",
    "follows",
    "given",
    "three",
    "sum",
    "per",
    "not",
]
CORPUS = " ".join(random.Random(0).choices(WORDS, k=200_000))


class Player:
    """Plays episodes into a run and counts what they hold."""

    def __init__(self, journal: Journal, name: str, version: int) -> None:
        self.run: RunHandle = journal.drive(name, kind="play", protocol="none", config={}, seed=0)
        self._version, self._chance = version, random.Random(name)
        self._ids = np.random.default_rng(len(name))
        self.ideal = 0
        """Bytes of each distinct text once, 4 a new id, 4 a log-probability."""

    def _say(self, characters: int) -> str:
        start = self._chance.randrange(len(CORPUS) - characters)
        self.ideal += characters
        return f"{self._chance.getrandbits(40):010x} {CORPUS[start : start + characters - 11]}"

    async def play(self, count: int, length: int = LENGTH) -> None:
        """Play `count` episodes of `length` turns, `AT_ONCE` at a time."""
        numbers: Iterator[int] = iter(range(count))

        async def worker() -> None:
            for number in numbers:
                await self._episode(number, length)

        await asyncio.gather(*(worker() for _ in range(AT_ONCE)))

    async def _episode(self, number: int, length: int) -> None:
        episode = self.run.episode(TaskRecord(f"q{number}", "How many are left?", "4"), seats={})
        messages: list[dict[str, Any]] = []
        history = np.empty(0, np.int32)
        for turn in range(length):
            messages.append({"role": "user", "content": self._say(100)})
            history = np.concatenate([history, self._ids.integers(0, 49_000, QUESTION, np.int32)])
            made = self._answer(history)

            async def produce(places: list[Place], made: Produced = made) -> list[Produced]:
                return [made]

            await episode.turns([f"solver/{turn}"], Ask(AGENT, self._version, messages), produce)
            messages.append({"role": "assistant", "content": made.text})
            history = np.concatenate([history, made.completion_ids])
        await episode.close("done", {"answer": "4"}, verdict={"correct": True})

    def _answer(self, history: np.ndarray[Any, Any]) -> Produced:
        self.ideal += 4 * (QUESTION + COMPLETION) + 4 * COMPLETION
        return Produced(
            "ok",
            text=self._say(CHARACTERS),
            parsed={"answer": "4"},
            engine="benchmark",
            finish_reason="stop",
            prompt_tokens=len(history),
            completion_tokens=COMPLETION,
            prompt_ids=history,
            completion_ids=self._ids.integers(0, 49_000, COMPLETION, np.int32),
            logprobs=self._ids.random(COMPLETION, np.float32),
            logprob_kind="tempered",
        )


def play(
    journal: Journal, name: str, episodes: int, policy: str = "base", length: int = LENGTH
) -> tuple[int, float]:
    """Play one run; its ideal bytes and the seconds it took."""
    player = Player(journal, name, journal.version(VersionRecord(policy, "hash", "scripted:none")))
    start = time.perf_counter()
    asyncio.run(player.play(episodes, length))
    seconds = time.perf_counter() - start
    player.run.finish("done")
    player.run.release()
    return player.ideal, seconds


def size(path: Path) -> int:
    """Bytes of a closed journal."""
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


def fill(path: Path, turns: int, durability: str) -> dict[str, Any]:
    """Grow a journal to `turns` turns in ten runs."""
    ideal, rates = 0, []
    for part in range(10):
        with Journal.open(path, durability) as journal:  # type: ignore[arg-type]  # argparse offers only the two
            added, seconds = play(journal, f"part-{part}", turns // LENGTH // 10)
        ideal += added
        rates.append(round(turns // LENGTH // 10 * LENGTH / seconds))
        print(json.dumps({"part": part, "turns_per_s": rates[-1], "bytes": size(path)}), flush=True)
    return {
        "measure": "fill",
        "turns_per_s": rates,
        "bytes_per_turn": round(size(path) / turns),
        "size": round(size(path) / ideal, 3),
    }


def append(path: Path, durability: str, rounds: int = 5, episodes: int = 400) -> dict[str, Any]:
    """The same batch into the full journal and into an empty one, in turn."""
    times: dict[str, list[float]] = {"empty": [], "full": []}
    for number in range(rounds):
        for which in ("empty", "full"):
            target = path if which == "full" else path.with_name(f"empty-{number}.db")
            with Journal.open(target, durability) as journal:  # type: ignore[arg-type]  # argparse offers only the two
                play(journal, f"warm-{number}", 20)
                times[which].append(play(journal, f"append-{number}", episodes)[1])
    ratios = [full / empty for full, empty in zip(times["full"], times["empty"], strict=True)]
    rates = {which: round(episodes * LENGTH / statistics.median(values)) for which, values in times.items()}
    return {"measure": "append", **rates, "ratio": round(statistics.median(ratios), 3)}


def experience(path: Path, durability: str, wanted: int = 4096, rounds: int = 5) -> dict[str, Any]:
    """4,096 turns with everything a trainer needs."""
    with Journal.open(path, durability) as journal:  # type: ignore[arg-type]  # argparse offers only the two
        play(journal, "fresh", -(-wanted // LENGTH), policy="fresh")
        version = journal.version(VersionRecord("fresh", "hash", "scripted:none"))
        with journal.engine.connect() as connection:
            last = connection.exec_driver_sql("SELECT max(id) FROM turns").scalar_one()
            every = connection.exec_driver_sql(f"SELECT id FROM turns WHERE id <= {last}").scalars().all()
        chosen = random.Random(0).sample(list(every), min(wanted, len(every)))
        times: dict[str, list[float]] = {"version": [], "random": []}
        for _ in range(rounds):
            for which, options in (
                ("version", {"policy_version": version}),
                ("random", {"turn_ids": chosen}),
            ):
                start = time.perf_counter()
                rows = training_turns(journal, limit=wanted, **options)  # type: ignore[arg-type]  # one of two
                times[which].append(time.perf_counter() - start)
                assert len(rows) == min(wanted, len(every)) and all(
                    len(r.prompt_ids) >= QUESTION for r in rows
                )
    medians = {which: round(statistics.median(values), 3) for which, values in times.items()}
    return {"measure": "experience", "turns": wanted, "seconds": medians}


def long(folder: Path, durability: str, turns: int = 18_000) -> dict[str, Any]:
    """Bytes a turn of long episodes over those of short ones."""
    per_turn = {}
    for length in (30, 300):
        path = folder / f"long-{length}.db"
        with Journal.open(path, durability) as journal:  # type: ignore[arg-type]  # argparse offers only the two
            play(journal, "r", turns // length, length=length)
        per_turn[length] = size(path) / turns
    ratio = round(per_turn[300] / per_turn[30], 3)
    return {"measure": "long", "bytes_per_turn": {k: round(v) for k, v in per_turn.items()}, "ratio": ratio}


def main() -> int:
    """Run all of it in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--turns", type=int, default=1_000_000)
    parser.add_argument("--durability", choices=("normal", "full"), default="normal")
    parser.add_argument("--folder", help="where to put the temporary folder")
    parser.add_argument("--out", type=Path, help="the figures as JSON")
    options = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="sparring-", dir=options.folder) as name:
        path = Path(name) / "million.db"
        for work in (
            lambda: fill(path, options.turns, options.durability),
            lambda: append(path, options.durability),
            lambda: experience(path, options.durability),
            lambda: long(Path(name), options.durability),
        ):
            result = work()
            found[result["measure"]] = result
            print(json.dumps(result), flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    machine = {"measure": "machine", "cores": os.cpu_count(), "peak_memory_mb": peak, **vars(options)}
    print(json.dumps(machine, default=str))
    figures = {
        "appending, empty / full journal": found["append"]["ratio"],
        "newest 4,096 turns of a policy": found["experience"]["seconds"]["version"],
        "file / (distinct texts + 4 B an id, 4 B a log-probability)": found["fill"]["size"],
        "bytes a turn, 300-turn / 30-turn episodes": found["long"]["ratio"],
    }
    return finish(judged("journal_million", figures), {**found, "machine": machine}, options.out)


if __name__ == "__main__":
    sys.exit(main())

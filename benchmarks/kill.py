"""The kill test: `play` is killed with SIGKILL at random instants, again and again, until it is complete.

    python benchmarks/kill.py [--kills 100] [--seed 0] [--memory postgresql://USER@HOST/NAME] [--out FILE]

Each life is a run of `du` or `mad` in a process of its own: several episodes in flight, durability full,
answered by a scripted engine with small delays whose text depends on the whole request and the seed, and
which writes every call to an append-only log outside the journal before it answers. The process is
killed after a delay drawn uniformly from the wall time of an undisturbed process, and started again, until
the run is complete; lives follow one another until `--kills` kills were made. Meanwhile a reader with a
connection of its own polls the journal.

    lost      a turn, event or closed episode that the reader once saw is missing or changed; or, in anything
              the reader ever saw, one exists without what it depends on (earlier turns of the protocol,
              its messages, its events, its episode); or an output line without a closed episode
    doubled   a key was called in a process that began after the key's final turn was committed, or twice
              in one process
    calls     of a life: at most those of the undisturbed run + kills x calls in flight
    results   equal to the undisturbed run's: texts, seeds, parsed results, events, outcomes, output lines

Every kill is classed by what it hit, from call log and journal: `before-commit` (a call is logged, its turn
is not in the journal), `after-commit` (an open episode whose logged calls are all committed),
`between-episodes` (a place in flight whose last episode is closed and whose next has not called yet),
`start-up` (the process had not called yet). A kill counts once in each class that it hits.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from budgets import BUDGETS, Row, finish, judged
from kill_reader import Key, Reader, Snapshot, dependencies, differences

from sparring.agents.engines.base import Request
from sparring.agents.engines.scripted import ScriptedEngine, digest
from sparring.graphs.play import Play, aplay, plan

CLASSES = ("before-commit", "after-commit", "between-episodes", "start-up")
SPEAK_AT_ONCE = {"du": 3, "mad": 1}
ROUNDS = {"du": 3, "mad": 3}
START = multiprocessing.get_context("forkserver")


# --- the process that is killed ---------------------------------------------------------------------


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


@dataclass(frozen=True)
class Life:
    """One run to be played to its end, however often it is killed."""

    protocol: str
    run: str
    memory: str
    folder: Path
    tasks: int = 24
    concurrency: int = 4

    @property
    def call_log(self) -> Path:
        return self.folder / f"{self.run}.calls"

    @property
    def out(self) -> Path:
        return self.folder / f"{self.run}.jsonl"

    @property
    def in_flight(self) -> int:
        """The most calls that can be unanswered or uncommitted in one instant."""
        return self.concurrency * SPEAK_AT_ONCE[self.protocol]

    def play(self) -> Play:
        tasks = [{"id": f"q{n}", "question": f"What is {n}?", "answer": n % 5} for n in range(self.tasks)]
        engine = ScriptedEngine(reply, call_log=self.call_log)
        return plan(self.protocol, tasks, rounds=ROUNDS[self.protocol], engine=engine, seed=7)

    def calls(self) -> list[dict[str, Any]]:
        """The call log; a line cut off by a kill would be an error here, since each is one write."""
        if not self.call_log.exists():
            return []
        return [json.loads(line) for line in self.call_log.read_text().splitlines()]


def live(life: Life) -> None:
    """The whole of a process: play, or go on playing, then write the output lines."""
    result = asyncio.run(
        aplay(life.play(), life.memory, run=life.run, concurrency=life.concurrency, durability="full")
    )
    with life.out.open("w") as file:
        for line in result:
            file.write(json.dumps(line.to_json()) + "\n")


# --- the one who kills and watches ------------------------------------------------------------------


@dataclass
class Tally:
    """What all lives came to."""

    kills: int = 0
    lives: int = 0
    polls: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Results that differ from the undisturbed run's, and bounds that were passed."""
    calls: int = 0
    undisturbed: int = 0

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.wrong)

    def to_json(self) -> dict[str, Any]:
        counts = {name: self.classes[name] for name in CLASSES}
        extra = self.calls - self.undisturbed
        return {
            "kills": self.kills,
            "lives": self.lives,
            "hit": counts,
            "reader_polls": self.polls,
            "lost": len(self.lost),
            "doubled": len(self.doubled),
            "wrong": len(self.wrong),
            "calls": self.calls,
            "undisturbed_calls": self.undisturbed,
            "extra_calls_a_kill": round(extra / max(1, self.kills), 2),
        }


class Reference:
    """The undisturbed run of a protocol: what must come out, and what each row depends on."""

    def __init__(self, life: Life) -> None:
        started = time.monotonic()
        process = START.Process(target=live, args=(life,))
        process.start()
        process.join()
        if process.exitcode != 0:
            raise SystemExit(f"the undisturbed run of `{life.protocol}` ended with status {process.exitcode}")
        self.seconds = time.monotonic() - started
        with Reader(life.memory) as reader:
            self.end = reader.snapshot(life.run)
        self.needs = dependencies(life.protocol, self.end)
        self.calls = len(life.calls())
        self.lines = output(life)
        self.keys: dict[int, Key] = {turn.seed: key for key, turn in self.end.turns.items()}
        if not len(self.keys) == len(self.end.turns) == self.calls:
            raise SystemExit("the undisturbed run called twice, or two of its turns share a seed")


def output(life: Life) -> list[dict[str, Any]]:
    """Output lines without the episode's id, which depends on the run's name."""
    lines = [json.loads(line) for line in life.out.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "episode"} for line in lines]


def endure(life: Life, reference: Reference, tally: Tally, rng: random.Random, most: int) -> None:
    """Play one life to its end with at most `most` kills, and check everything about it."""
    kills, problems = 0, Problems(life, reference)
    with Reader(life.memory) as reader:
        while True:
            started = time.monotonic()
            process = START.Process(target=live, args=(life,))
            process.start()
            killed = threading.Event()
            timer = threading.Timer(rng.uniform(0, reference.seconds), _kill, (process, killed))
            if kills < most:
                timer.start()
            while process.is_alive():
                problems.see(reader.snapshot(life.run))
                tally.polls += 1
                process.join(0.01)
            timer.cancel()
            if timer.ident is not None:
                timer.join()
            reader.settle()
            seen = reader.snapshot(life.run)
            problems.see(seen)
            if process.exitcode == 0:
                if kills == 0:  # the machine is as busy now as it is: the latest undisturbed time is the best
                    reference.seconds = time.monotonic() - started
                break
            if not killed.is_set() or process.exitcode != -signal.SIGKILL:
                raise SystemExit(f"life {life.run} ended by itself with status {process.exitcode}")
            kills += 1
            tally.classes.update(classify(life, reference, seen, process.pid or 0))
            problems.after_kill(seen, process.pid or 0)
    problems.at_end(seen, kills)
    tally.kills += kills
    tally.lives += 1
    tally.calls += len(life.calls())
    tally.undisturbed += reference.calls
    tally.lost += problems.lost
    tally.doubled += problems.doubled
    tally.wrong += problems.wrong


def _kill(process: Any, killed: threading.Event) -> None:
    killed.set()
    process.kill()


def classify(life: Life, reference: Reference, seen: Snapshot, pid: int) -> set[str]:
    """The classes that a kill of process `pid` hit."""
    keys = [reference.keys.get(call["seed"]) for call in life.calls() if call["pid"] == pid]
    if not keys:
        return {"start-up"}
    called = {key for key in keys if key is not None}
    waiting = {key[0] for key in called - seen.turns.keys()}
    closed = {place for place, (status, _) in seen.episodes.items() if status != "open"}
    resting = {key[0] for key in called} - closed - waiting
    hit = {name for name, places in (("before-commit", waiting), ("after-commit", resting)) if places}
    if len(waiting | resting) < min(life.concurrency, life.tasks - len(closed)):
        hit.add("between-episodes")
    return hit or {"after-commit"}  # all is closed, the process had only its output left to write


class Problems:
    """Everything that is wrong with one life."""

    def __init__(self, life: Life, reference: Reference) -> None:
        self.life, self.reference = life, reference
        self.lost: list[str] = []
        self.doubled: list[str] = []
        self.wrong: list[str] = []
        self._seen = Snapshot()
        self._dead: dict[int, set[Key]] = {}
        """Process -> the keys whose final turn was in the journal when it had been killed."""

    def see(self, now: Snapshot) -> None:
        """What was visible must stay, and nothing is visible without what it depends on."""
        self.lost += [f"{self.life.run}: {what}" for what in differences(self._seen, now)]
        self.lost += [f"{self.life.run}: {what}" for what in now.orphans(self.reference.needs)]
        self._seen = now

    def after_kill(self, now: Snapshot, pid: int) -> None:
        self._dead[pid] = set(now.turns)
        mine = {self.reference.keys.get(call["seed"]) for call in self.life.calls() if call["pid"] == pid}
        if len(open_calls := mine - now.turns.keys()) > self.life.in_flight:
            self.wrong.append(f"{self.life.run}: {len(open_calls)} calls lost by one kill")
        if self.life.out.exists():  # killed while it wrote its last lines: each needs a closed episode
            for line in self.life.out.read_text().splitlines(keepends=True):
                place = line.endswith("\n") and f"{json.loads(line)['task_id']}/{json.loads(line)['copy']}"
                if place and now.episodes.get(place, ("open", None))[0] == "open":
                    self.lost.append(f"{self.life.run}: output line of {place} without its episode")

    def at_end(self, now: Snapshot, kills: int) -> None:
        """The finished life against the undisturbed one."""
        calls = self.life.calls()
        self.doubled += [f"{self.life.run}: {what}" for what in self._doubled(calls, now)]
        if len(calls) > (most := self.reference.calls + kills * self.life.in_flight):
            self.wrong.append(f"{self.life.run}: {len(calls)} calls, at most {most} expected")
        if output(self.life) != self.reference.lines:
            self.wrong.append(f"{self.life.run}: other output lines than the undisturbed run's")
        same = self.reference.end.results() == now.results()
        if not same:
            self.wrong.append(f"{self.life.run}: another journal than the undisturbed run's")

    def _doubled(self, calls: list[dict[str, Any]], now: Snapshot) -> Iterator[str]:
        once: set[tuple[int, Key]] = set()
        done: dict[int, set[Key]] = {}
        """Process -> the keys that were committed before it began."""
        committed: set[Key] = set()
        for pid, keys in self._dead.items():
            done[pid] = committed
            committed = committed | keys
        for call in calls:
            key = self.reference.keys.get(call["seed"])
            if key is None:
                yield f"a call with seed {call['seed']}, which no turn has"
            elif key in done.get(call["pid"], committed):
                yield f"{key} was called again after its turn was committed"
            elif (call["pid"], key) in once:
                yield f"{key} was called twice by process {call['pid']}"
            else:
                once.add((call["pid"], key))


# --- a campaign -------------------------------------------------------------------------------------


def campaign(memory: str, folder: Path, kills: int, seed: int, tasks: int = 24) -> Tally:
    """Lives of the protocols in turn until `kills` kills were made."""
    START.set_forkserver_preload(["sparring.graphs.play", "sparring.graphs.protocols.debate"])
    warm = START.Process(target=time.time)  # the server's own start must not count as play
    warm.start()
    warm.join()
    rng, tally, mark = random.Random(seed), Tally(), f"{time.time_ns():x}"
    references: dict[str, Reference] = {}
    for protocol in ROUNDS:
        life = Life(protocol, f"{protocol}-undisturbed-{mark}", memory, folder, tasks)
        references[protocol] = Reference(life)
    while tally.kills < kills:
        protocol = list(ROUNDS)[tally.lives % len(ROUNDS)]
        life = Life(protocol, f"{protocol}-{tally.lives}-{mark}", memory, folder, tasks)
        endure(life, references[protocol], tally, rng, kills - tally.kills)
        print(f"\r{tally.kills} of {kills} kills, {tally.lives} lives", end="", file=sys.stderr)
    print(file=sys.stderr)
    return tally


def judge(tallies: Sequence[Tally], benchmark: str) -> list[Row]:
    """The budgets, DESIGN section 10; each campaign has to hit every class, which only many kills do."""
    hit: int | str = min(sum(tally.classes[name] > 0 for name in CLASSES[:3]) for tally in tallies)
    if any(tally.kills < 100 for tally in tallies):
        hit = "not run: it takes 100 kills"
    figures = (
        sum(len(tally.lost) for tally in tallies),
        sum(len(tally.doubled) for tally in tallies),
        sum(len(tally.wrong) for tally in tallies),
        hit,
    )
    return judged(benchmark, dict(zip((budget.what for budget in BUDGETS[benchmark]), figures, strict=True)))


def main() -> int:
    """Kill, print, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory", help="journal; by default a SQLite file in a temporary folder")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        memory = options.memory or str(Path(name) / "journal.db")
        tally = campaign(memory, Path(name), options.kills, options.seed)
    print(json.dumps(tally.to_json(), indent=2))
    for problem in (*tally.lost, *tally.doubled, *tally.wrong):
        print(problem, file=sys.stderr)
    rows = judge([tally], "kill postgresql" if options.memory else "kill")
    return finish(rows, {"seed": options.seed, **tally.to_json()}, options.out)


if __name__ == "__main__":
    sys.exit(main())

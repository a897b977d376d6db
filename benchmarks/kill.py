"""The kill test: commands are killed with SIGKILL at random instants, again and again, until they are done.

    python benchmarks/kill.py [--work play,tournament,evolve,swe] [--kills 100] [--seed 0] [--cut]
                              [--memory postgresql://USER@HOST/NAME] [--out FILE]

Each life is a run in a process of its own (`kill_works.py`), whose engines write every call to an append-only
log outside the journal before they answer. The process is killed after a delay drawn uniformly from the wall
time of an undisturbed process, and started again, until the run is complete; lives follow one another until
`--kills` kills were made of each command. Meanwhile a reader with a connection of its own polls the journal
(`kill_reader.py`). `--cut` spares the process and ends its connections instead, on PostgreSQL.

    lost      a turn, event, closed episode, reward, game or version that the reader once saw is missing or
              changed; or, in anything the reader ever saw, one exists without what it depends on (earlier
              turns by the protocol's rule, its messages, its episode); or an output line without a closed
              episode
    doubled   a key was called in a process that began after the key's final turn was committed, or twice
              in one process
    calls     of a life: at most those of the undisturbed run + kills x calls in flight
    results   equal to the undisturbed run's: texts, seeds, parsed results, decisions, ratings, weights, files

Every kill is classed by what it hit, from call log and journal: `before-commit` (a call is logged, its turn
is not in the journal), `after-commit` (an open episode whose logged calls are all committed),
`between-episodes` (an episode that the undisturbed run has is neither closed nor begun to be called by this
process, and there is room for it), `start-up` (the process had not called yet). A kill counts once in each
class that it hits.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from budgets import BUDGETS, Row, finish, judged
from kill_places import place
from kill_reader import Key, Reader, Snapshot, differences
from kill_works import TESTS, WORKS, Work, live

CLASSES = ("before-commit", "after-commit", "between-episodes", "start-up")
START = multiprocessing.get_context("forkserver")
MOST_CUTS = 10
"""Of one life, whose connections are cut."""


@dataclass
class Tally:
    """What all lives of a command came to."""

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
    """The undisturbed run: what must come out, and what each row depends on."""

    def __init__(self, work: Work) -> None:
        work.prepare()
        started = time.monotonic()
        process = START.Process(target=live, args=(work,))
        process.start()
        process.join()
        if process.exitcode != 0:
            raise SystemExit(f"the undisturbed run of `{work.name}` ended with status {process.exitcode}")
        self.seconds = time.monotonic() - started
        with Reader(work.memory, work.shared) as reader:
            self.end = reader.snapshot()
        self.needs = work.needs(self.end)
        calls = work.calls()
        self.calls = len(calls)
        self.results = work.results(self.end)
        self.keys: dict[tuple[str, int], Key] = {(k[0], turn.seed): k for k, turn in self.end.turns.items()}
        if not len(self.keys) == len(self.end.turns) == len({_name(call) for call in calls}) == self.calls:
            raise SystemExit("the undisturbed run called twice, or two turns of an episode share a seed")

    def key(self, call: dict[str, Any]) -> Key | None:
        """The turn that a call was for."""
        return self.keys.get(_name(call))


def _name(call: dict[str, Any]) -> tuple[str, int]:
    return call["place"], call["seed"]


def endure(work: Work, reference: Reference, tally: Tally, rng: random.Random, most: int) -> None:
    """Play one life to its end with at most `most` kills, and check everything about it."""
    work.prepare()
    kills, problems = 0, Problems(work, reference)
    with Reader(work.memory, work.shared) as reader:
        while True:
            started = time.monotonic()
            process = START.Process(target=live, args=(work,))
            process.start()
            killed = threading.Event()
            timer = threading.Timer(rng.uniform(0, reference.seconds), _kill, (process, killed))
            if kills < most:
                timer.start()
            while process.is_alive():
                problems.see(reader.snapshot())
                tally.polls += 1
                process.join(0.01)
            timer.cancel()
            if timer.ident is not None:
                timer.join()
            reader.settle()
            seen = reader.snapshot()
            problems.see(seen)
            if process.exitcode == 0:
                if kills == 0:  # the machine is as busy now as it is: the latest undisturbed time is the best
                    reference.seconds = time.monotonic() - started
                break
            if not killed.is_set() or process.exitcode != -signal.SIGKILL:
                raise SystemExit(f"a life of `{work.name}` ended by itself with status {process.exitcode}")
            kills += 1
            tally.classes.update(classify(work, reference, seen, process.pid or 0))
            problems.after_kill(seen, process.pid or 0)
    problems.at_end(seen, kills)
    problems.count(tally, kills)


def _kill(process: Any, killed: threading.Event) -> None:
    killed.set()
    process.kill()


def sever(work: Work, reference: Reference, tally: Tally, rng: random.Random, most: int) -> None:
    """Play one life whose connections are all cut at random instants, at most `most` times. It must not
    notice: the process lives, so nothing may be lost and no call made twice."""
    work.prepare()
    cuts, problems = 0, Problems(work, reference)
    most = min(most, MOST_CUTS)
    with Reader(work.memory, work.shared) as reader:
        process = START.Process(target=live, args=(work,))
        process.start()
        while process.is_alive():
            process.join(rng.uniform(0, 2 * reference.seconds / most))
            if cuts < most and process.is_alive() and reader.cut():
                cuts += 1
            problems.see(reader.snapshot())
            tally.polls += 1
        reader.settle()
        seen = reader.snapshot()
        problems.see(seen)
        if process.exitcode != 0:
            raise SystemExit(f"a life of `{work.name}` ended with status {process.exitcode}")
    problems.at_end(seen, 0)
    problems.count(tally, cuts)


def classify(work: Work, reference: Reference, seen: Snapshot, pid: int) -> set[str]:
    """The classes that a kill of process `pid` hit."""
    keys = [reference.key(call) for call in work.calls() if call["pid"] == pid]
    if not keys:
        return {"start-up"}
    called = {key for key in keys if key is not None}
    waiting = {key[0] for key in called - seen.turns.keys()}
    closed = {place for place, (status, _) in seen.episodes.items() if status != "open"}
    resting = {key[0] for key in called} - closed - waiting
    hit = {name for name, places in (("before-commit", waiting), ("after-commit", resting)) if places}
    left = len(reference.end.episodes) - len(closed)
    if len(waiting | resting) < min(work.at_once, left):
        hit.add("between-episodes")
    return hit or {"after-commit"}  # all is closed, the process had only its output left to write


class Problems:
    """Everything that is wrong with one life."""

    def __init__(self, work: Work, reference: Reference) -> None:
        self.work, self.reference = work, reference
        self.lost: list[str] = []
        self.doubled: list[str] = []
        self.wrong: list[str] = []
        self._seen = Snapshot()
        self._dead: dict[int, set[Key]] = {}
        """Process -> the keys whose final turn was in the journal when it had been killed."""

    def see(self, now: Snapshot) -> None:
        """What was visible must stay, and nothing is visible without what it depends on."""
        wrong = [*differences(self._seen, now), *now.orphans(self.reference.needs)]
        told = [f"{self.work.name}: {what}" for what in wrong]
        self.lost += [what for what in told if what not in self.lost]  # it is seen again at every look
        self._seen = now

    def after_kill(self, now: Snapshot, pid: int) -> None:
        self._dead[pid] = set(now.turns)
        mine = {self.reference.key(call) for call in self.work.calls() if call["pid"] == pid}
        if len(open_calls := mine - now.turns.keys()) > self.work.in_flight:
            self.wrong.append(f"{self.work.name}: {len(open_calls)} calls lost by one kill")
        early = self.work.early(now)  # killed while it wrote its last lines: each needs a closed episode
        self.lost += [f"{self.work.name}: output line of {place} without its episode" for place in early]

    def at_end(self, now: Snapshot, kills: int) -> None:
        """The finished life against the undisturbed one."""
        calls = self.work.calls()
        self.doubled += [f"{self.work.name}: {what}" for what in self._doubled(calls, now)]
        if len(calls) > (most := self.reference.calls + kills * self.work.in_flight):
            self.wrong.append(f"{self.work.name}: {len(calls)} calls, at most {most} expected")
        where = self.work.differs(self.work.results(now), self.reference.results)
        if where is not None:
            self.wrong.append(f"{self.work.name}: not what the undisturbed run came to: {where}")

    def count(self, tally: Tally, kills: int) -> None:
        """Add this life to the tally of all."""
        tally.kills += kills
        tally.lives += 1
        tally.calls += len(self.work.calls())
        tally.undisturbed += self.reference.calls
        tally.lost += self.lost
        tally.doubled += self.doubled
        tally.wrong += self.wrong

    def _doubled(self, calls: list[dict[str, Any]], now: Snapshot) -> Iterator[str]:
        once: set[tuple[int, Key]] = set()
        done: dict[int, set[Key]] = {}
        """Process -> the keys that were committed before it began."""
        committed: set[Key] = set()
        for pid, keys in self._dead.items():
            done[pid] = committed
            committed = committed | keys
        for call in calls:
            key = self.reference.key(call)
            if key is None:
                yield f"a call at {call['place']} with seed {call['seed']}, which no turn has"
            elif key in done.get(call["pid"], committed):
                yield f"{key} was called again after its turn was committed"
            elif (call["pid"], key) in once:
                yield f"{key} was called twice by process {call['pid']}"
            else:
                once.add((call["pid"], key))


# --- a campaign -------------------------------------------------------------------------------------


def campaign(
    name: str, server: str | None, folder: Path, kills: int, seed: int, size: int = 0, *, cut: bool = False
) -> Tally:
    """Lives of a command's works in turn until `kills` kills (or cuts) were made.

    Args:
        server: URL of a PostgreSQL server that databases can be made in; None is SQLite in `folder`.
        size: tasks, or steps, of a run; 0 is what each work takes by default.
    """
    sys.path[:0] = [p for p in (str(TESTS / room) for room in ROOMS) if p not in sys.path]
    works = WORKS[name]
    START.set_forkserver_preload(["kill_works", *(module for work in works for module in work.preload)])
    warm = START.Process(target=time.time)  # the server's own start must not count as play
    warm.start()
    warm.join()
    rng, tally = random.Random(seed), Tally()
    folder.mkdir(exist_ok=True)
    with ExitStack() as stack:
        references = []
        for kind in works:
            own, memory = stack.enter_context(place(server, folder, f"{kind.name}-undisturbed"))
            references.append(Reference(kind(own, memory, size)))
        while tally.kills < kills:
            which = tally.lives % len(works)
            with place(server, folder, f"{works[which].name}-{tally.lives}") as (own, memory):
                work = works[which](own, memory, size)
                (sever if cut else endure)(work, references[which], tally, rng, kills - tally.kills)
            print(f"\r{name}: {tally.kills} of {kills} kills, {tally.lives} lives", end="", file=sys.stderr)
    print(file=sys.stderr)
    return tally


ROOMS = ("training", "agents", "graphs", "tools", "cli")


def judge(tallies: Sequence[Tally], benchmark: str, cut: bool = False) -> list[Row]:
    """The budgets, DESIGN section 10; each campaign has to hit every class, which only many kills do."""
    hit: int | str = min(sum(tally.classes[name] > 0 for name in CLASSES[:3]) for tally in tallies)
    if any(tally.kills < 100 for tally in tallies):
        hit = "not run: it takes 100 kills"
    if cut:
        hit = "not run: cuts kill nobody"
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
    parser.add_argument("--work", default="play", help=f"some of: {','.join(WORKS)}")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=0)
    parser.add_argument("--cut", action="store_true", help="cut connections instead (PostgreSQL)")
    parser.add_argument("--memory", help="PostgreSQL server; by default SQLite files in a temporary folder")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    names = options.work.split(",")
    if strange := [name for name in names if name not in WORKS]:
        parser.error(f"no such work: {', '.join(strange)}; known: {', '.join(WORKS)}")
    if options.cut and not options.memory:
        parser.error("--cut needs --memory: only a server's connections can be cut")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    tallies: list[Tally] = []
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            asked = (options.kills, options.seed, options.size)
            tally = campaign(name, options.memory, Path(folder) / name, *asked, cut=options.cut)
            told[name] = tally.to_json()
            print(json.dumps({name: told[name]}, indent=2), flush=True)
            for problem in (*tally.lost, *tally.doubled, *tally.wrong):
                print(problem, file=sys.stderr)
            tallies.append(tally)
    rows = judge(tallies, "kill postgresql" if options.memory else "kill", options.cut)
    return finish(rows, {"seed": options.seed, **told}, options.out)


if __name__ == "__main__":
    sys.exit(main())

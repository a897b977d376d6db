"""Experience of 4,096 turns out of 1,000,000 (DESIGN section 10).

    python -m benchmarks.experience [--turns 1000000] [--versions 10] [--journal FILE]

A journal of one policy in several versions, every turn paid by the verifier, all but the newest 4,096 and
as many scattered ones consumed by updates; turns as in `journal_million.py` (30-turn episodes, 200
completion ids and log-probabilities). Printed as JSON lines, medians of 3 with a warm cache:

* experience: seconds until the untrained turns of the five newest versions are in memory with prompt ids,
  completion ids, log-probabilities and rewards, and the same for the oldest 4,096 of them (budget 1 s);
* looks: seconds to count the usable turns and to find the unpaid episodes, as a run that learns from a
  source does at each look;
* derive: turns a second that are paid.

`--journal` names a file that is built if it is not there, and kept.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import text

from benchmarks.budgets import finish, judged
from benchmarks.journal_million import LENGTH, Player
from sparring.memory import policies
from sparring.memory.journal import Journal
from sparring.training.experience import Source, experience, unpaid, usable
from sparring.training.rewards.base import RewardRef
from sparring.training.rewards.derive import derive
from sparring.training.rewards.verifier import Verifier

POLICY, NEAR, UPDATE, SCATTERED = "solver", 5, 4096, 4096


def build(path: Path, turns: int, versions: int) -> dict[str, Any]:
    """Play, pay and consume `turns` turns; how fast they were paid."""
    paid = 0.0
    for number in range(versions):
        with Journal.open(path, "normal") as journal:
            version = policies.register(
                journal, policy=POLICY, base_hash="hash", base_spec="scripted:none", update_id=number + 1
            )
            player = Player(journal, f"part-{number}", version.id)
            start = time.perf_counter()
            asyncio.run(player.play(turns // LENGTH // versions))
            played = time.perf_counter()
            player.run.finish("done")
            player.run.release()
            derive(journal, Verifier(), run=f"part-{number}")
            paid += time.perf_counter() - played
            said = {"part": number, "play_s": round(played - start), "pay_s": round(paid)}
            print(json.dumps(said), flush=True)
    with Journal.open(path, "normal") as journal:
        _consume(journal)
    return {"measure": "derive", "turns_per_s": round(turns / paid)}


def _consume(journal: Journal) -> None:
    """Updates of 4,096 turns over all but the newest and every so many-th."""
    last, every = journal.read(text("SELECT max(id), count(*) FROM turns"))[0]
    spare = max(2, every // SCATTERED)
    with journal.engine.connect().execution_options(sparring_write=True) as connection, connection.begin():
        for number, first in enumerate(range(1, last - UPDATE + 1, UPDATE)):
            row = {"id": number + 1, "policy": POLICY, "step": number}
            connection.execute(
                text(
                    "INSERT INTO updates (id, run_id, policy, step, status, config, created_at) "
                    "VALUES (:id, 'part-0', :policy, :step, 'done', '{}', 0)"
                ),
                row,
            )
            span = {"id": number + 1, "first": first, "end": min(first + UPDATE, last - UPDATE + 1)}
            connection.execute(
                text(
                    "INSERT INTO update_turns (update_id, turn_id) SELECT :id, id FROM turns "
                    f"WHERE id >= :first AND id < :end AND id % {spare} <> 0"
                ),
                span,
            )


def seconds(work: Callable[[], Any], rounds: int = 3) -> tuple[float, Any]:
    """Median time of a piece of work, after one that is not counted, and what it gave."""
    found, times = work(), []
    for _ in range(rounds):
        start = time.perf_counter()
        found = work()
        times.append(time.perf_counter() - start)
    return round(statistics.median(times), 3), found


def measure(path: Path) -> list[dict[str, Any]]:
    """Times of what a trainer and a waiting run ask."""
    reward, source = RewardRef.of(Verifier()), Source()
    with Journal.open(path, "normal") as journal:
        known = [row[0] for row in journal.read(text("SELECT id FROM policy_versions ORDER BY number DESC"))]
        near = {version: staleness for staleness, version in enumerate(known[:NEAR])}
        newest = {known[0]: 0}
        whole, every = seconds(lambda: experience(journal, POLICY, reward, newest, source=source))
        oldest, limited = seconds(lambda: experience(journal, POLICY, reward, near, limit=UPDATE))
        counted, count = seconds(lambda: usable(journal, POLICY, reward, list(near), source))
        owed, episodes = seconds(lambda: unpaid(journal, POLICY, reward, list(near), source))
        total = journal.read(text("SELECT count(*) FROM turns"))[0][0]
    assert len(limited.samples) == UPDATE and len(every.samples) >= UPDATE and not episodes
    return [
        {
            "measure": "experience",
            "of": total,
            "newest_version": {"turns": len(every.samples), "seconds": whole},
            "oldest": {"turns": len(limited.samples), "versions": len(near), "seconds": oldest},
        },
        {"measure": "looks", "usable": {"turns": count, "seconds": counted}, "unpaid": {"seconds": owed}},
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--turns", type=int, default=1_000_000)
    parser.add_argument("--versions", type=int, default=10)
    parser.add_argument("--journal", type=Path, help="journal file, built if it is not there, and kept")
    parser.add_argument("--out", type=Path, help="the figures as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sparring-") as folder:
        path = options.journal or Path(folder) / "million.db"
        found = [] if path.exists() else [build(path, options.turns, options.versions)]
        found += measure(path)
    for each in found:
        print(json.dumps(each), flush=True)
    looked = next(each for each in found if each["measure"] == "experience")
    newest = looked["newest_version"]
    seconds_of = {
        "4,096 untrained turns of the newest version": newest["seconds"] * UPDATE / newest["turns"],
        "oldest 4,096 turns of five versions": looked["oldest"]["seconds"],
    }
    return finish(judged("experience", seconds_of), {"figures": found}, options.out)


if __name__ == "__main__":
    sys.exit(main())

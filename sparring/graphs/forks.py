"""Forks: episodes that begin with the first steps of another one and go their own way from there.

    result = sparring.fork(episode, 4, memory="work.db", copies=8, temperature=1.0)

What was said and done until then is read where it stands in the journal and is neither said, paid nor counted
again. To start an episode again at a step is to fork it there: the old one stays as it is.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import select

from sparring.errors import UserError, unknown
from sparring.graphs.catalogue import make_protocol
from sparring.graphs.console import existing
from sparring.graphs.play import DEFAULT_MEMORY, Play, PlayResult, drive, run_now, split
from sparring.graphs.player import OnProgress
from sparring.memory.journal import Journal
from sparring.memory.replay import fork_at
from sparring.memory.schema import Episode, Task
from sparring.memory.seeds import derive_seed


def planned(journal: Journal, episode: str, at: int, options: dict[str, Any]) -> Play:
    """The play of a fork: that of the episode's run, with its task alone and what `options` changes.

    Args:
        at: how many of the episode's first steps are shared; 0 plays the task anew.
        options: `engine`, `roles`, `seed`, `copies`, `limits`, sampling, options of the protocol.

    Raises:
        UserError: no such episode, it has not come so far, its protocol cannot be forked, a wrong option.
    """
    query = select(Episode.run_id, Task.name).join(Task, Task.id == Episode.task_id)
    rows = journal.read(query.where(Episode.id == episode))
    if not rows:
        known = journal.read(select(Episode.id).order_by(Episode.number.desc()).limit(20))
        raise unknown("episode", episode, (row.id for row in known))
    if at < 0:
        raise UserError(f"a fork shares 0 steps or more, not {at}")
    stored = Play.from_row(journal.run_row(rows[0].run_id))
    given = dict(options)
    changes, sampling = split(given)
    changes["sampling"] = {**stored.sampling, **sampling}
    changes["options"] = {**stored.options, **given}
    if "seed" not in changes:  # the parent's would have the same words follow
        changes["seed"] = derive_seed(stored.seed, "fork", at, 0, episode)
    tasks = tuple(task for task in stored.tasks if task.id == rows[0].name)
    asked = {"episode": episode, "at": at} if at else None
    changes |= {"copies": changes.get("copies", 1), "baseline": None, "kind": "play", "fork": asked}
    play = replace(stored, tasks=tasks, parent=rows[0].run_id, **changes)
    protocol = make_protocol(play.protocol, play.options)
    if at:
        fork_at(journal, episode, *protocol.beginning(at))
    if (engine := play.handed_in) is not None:
        raise UserError(f"the episode's engine was a Python object (`{engine}`): give `engine=` anew")
    play.cast()
    return play


async def afork(
    episode: str,
    at: int,
    memory: str | Path | Journal = DEFAULT_MEMORY,
    *,
    run: str | None = None,
    concurrency: int = 64,
    durability: Any = None,
    on_progress: OnProgress | None = None,
    **options: Any,
) -> PlayResult:
    """Play, or continue, a fork; see `fork`."""
    if not isinstance(memory, Journal):
        existing(str(memory))
    with Journal.at(memory, durability) as journal:
        play = planned(journal, episode, at, options)
        return await drive(journal, run or play.default_name, play, concurrency, on_progress)


def fork(episode: str, at: int, memory: str | Path | Journal = DEFAULT_MEMORY, **options: Any) -> PlayResult:
    """Play new episodes that begin with the first `at` steps of another one, in a run of their own.

    `resume` continues that run from the journal alone; the episode that was forked must stay in it.

    Args:
        episode: its id, in any run of the journal that `play` began.
        at: how many of its steps are shared; 0 plays its task anew.
        options: `run`, `concurrency`, `durability`; and what is to be other than in the episode's run:
            `engine`, `roles`, `seed`, `copies` (1), `limits`, sampling, options of the protocol.

    Raises:
        UserError: no such episode, it has not come so far, or its protocol cannot be forked.
    """
    return run_now(afork(episode, at, memory, **options), "`await sparring.graphs.forks.afork(...)`")

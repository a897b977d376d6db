"""Staged evaluation: which instances a stage has, who goes on to the next, and who gets into the archive.

Ten instances say little: 2 of 10 may be an agent that resolves half of them. So decisions are made by
Wilson's interval (1927) of the share, and of a difference by Newcombe's (1998, method 10), built of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import hypot

import numpy as np

from sparring.errors import UserError
from sparring.graphs.stats import Estimate, wilson
from sparring.memory.records import TaskRecord
from sparring.memory.seeds import derive_seed
from sparring.training.archive.config import ArchiveConfig
from sparring.training.archive.record import Member


def staged(tasks: Sequence[TaskRecord], config: ArchiveConfig) -> list[tuple[TaskRecord, ...]]:
    """What each stage adds to the one before: parts of one random order that the seed fixes.

    Raises:
        UserError: there are fewer instances than the last stage has.
    """
    last = config.stages[-1].instances
    if last > len(tasks):
        raise UserError(
            f"`stages` end with {last} instances, but `{config.tasks}` holds {len(tasks)}: name smaller "
            "`stages`"
        )
    rng = np.random.default_rng(derive_seed(config.seed, "archive", 0, 0, "instances"))
    order = rng.permutation(len(tasks))
    ends = [0, *(stage.instances for stage in config.stages)]
    parts = [order[start:end] for start, end in pairwise(ends)]
    return [tuple(tasks[place] for place in part) for part in parts]


def threshold_of(config: ArchiveConfig, stage: int, earlier: Sequence[Member]) -> float:
    """The share that a stage asks for; with `second_best` that of the second best of those members of earlier
    generations that came through all stages, if it is higher."""
    asked = config.stages[stage]
    whole = sorted(
        (m.accuracy.mean for m in earlier if len(m.evaluations) == len(config.stages)), reverse=True
    )
    return max(asked.threshold, whole[1]) if asked.second_best and len(whole) > 1 else asked.threshold


def passes(hits: int, judged: int, threshold: float, config: ArchiveConfig) -> bool:
    """Whether a result allows the next stage. Of nothing judged nothing can be said, and it does not."""
    if not judged:
        return False
    found = wilson(hits, judged, config.z)
    shares = {"possible": found.high, "sure": found.low, "share": found.mean}
    return shares[config.rule] >= threshold


def entry(member: Member, first: Member | None, config: ArchiveConfig) -> tuple[bool, str]:
    """Whether an agent gets into the archive, and why.

    It must have left one patch and have been judged once. With `keep: better` the difference to the first
    agent, on the instances that both were judged by, must not lie below -margin as a whole interval.
    """
    if first is None:
        return True, "the first"
    if not member.judged:
        return False, "nothing of it could be judged"
    if not any(stage.patched for stage in member.evaluations):
        return False, "no attempt left a patch"
    if config.keep == "all":
        return True, "it works"
    both = member.judged & first.judged
    if not both:
        return False, "it shares no judged instance with the first"
    own, other = (wilson(len(each.resolved & both), len(both), config.z) for each in (member, first))
    found = difference(own, other)
    said = f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}] to the first on {len(both)} instances"
    return found.high >= -config.margin, said


def difference(one: Estimate, other: Estimate) -> Estimate:
    """one - other with Newcombe's interval (1998, Statistics in Medicine 17, method 10), of two Wilson ones.

    It takes the two as independent; of shares on the same instances it is a little too wide.
    """
    mean = one.mean - other.mean
    low = mean - hypot(one.mean - one.low, other.high - other.mean)
    high = mean + hypot(one.high - one.mean, other.mean - other.low)
    return Estimate(mean, max(-1.0, low), min(1.0, high), min(one.n, other.n))

"""What of an agent is to be improved, by its own logs.

As in `self_improve_step.py` of the Darwin Goedel Machine: topics are tried one after the other, each with its
chance where the logs show it, and where none is taken an unresolved instance is. An agent that resolved all
it was given is to do so in fewer commands (the original ends in an error there).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sparring.memory.seeds import derive_seed
from sparring.training.archive.logs import Attempt

Kind = Literal["empty_patches", "format_errors", "stochasticity", "limits"]
CHANCES: dict[Kind, float] = {
    "empty_patches": 0.25,
    "format_errors": 0.25,
    "stochasticity": 0.25,
    "limits": 0.25,
}
"""The paper's: empty patches, stochasticity, and a context that is too long, for which our limits stand;
format errors are ours."""
ABOUT = {
    "empty_patches": "some attempts end without any change of the code",
    "format_errors": "some replies hold no command, or more than one, so that nothing is run",
    "stochasticity": "the same agent comes to different ends on the same issue: what would make it steadier",
    "limits": "attempts or commands are ended by a limit on steps, time or memory",
    "unresolved": "an issue that it did not resolve",
    "economy": "it resolves what it is given: how it could do so in fewer commands",
}


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic, and the instances whose attempts show it."""

    name: str
    instances: tuple[str, ...] = ()

    @property
    def about(self) -> str:
        return ABOUT[self.name]


def choose_topic(
    attempts: Sequence[Attempt],
    chances: Mapping[Kind, float],
    share: float,
    most: int,
    rng: np.random.Generator,
) -> Topic:
    """What is to be improved, and at most `most` instances whose logs are to be read.

    Args:
        share: of the attempts, from which on they show a topic; `stochasticity` needs no sign.
    """
    for name, chance in chances.items():
        signs = [each.instance for each in attempts if name in each.signs]
        if name == "stochasticity":
            signs = [each.instance for each in attempts if not each.resolved]
        if not signs or (name != "stochasticity" and len(signs) < share * len(attempts)):
            continue
        if rng.random() < chance:
            return Topic(name, _some(signs, most, rng))
    unresolved = [each.instance for each in attempts if not each.resolved]
    if unresolved:
        return Topic("unresolved", _some(unresolved, 1, rng))
    longest = sorted(attempts, key=lambda each: -len(each.steps))[:most]
    return Topic("economy", tuple(each.instance for each in longest))


def _some(names: Sequence[str], most: int, rng: np.random.Generator) -> tuple[str, ...]:
    places = rng.permutation(len(names))[:most]
    return tuple(names[place] for place in sorted(places))


def topic_rng(seed: int, generation: int, place: int) -> np.random.Generator:
    """The chance of one child of a generation."""
    return np.random.default_rng(derive_seed(seed, "archive", generation, place, "topic"))

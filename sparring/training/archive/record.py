"""An archive as its journal tells it: who was made of whom and why, how each did, and who got in.

All of it is events of the archive's run:

    agent / AGENT             a configuration, by its hash
    parents / GENERATION      who was to have children, and what was to be improved
    child / GENERATION.PLACE  what came of it: an agent, or why there is none
    evaluation / MEMBER.STAGE which instances were resolved, and whether the next stage was to be played
    entry / MEMBER            whether it got into the archive, and why
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sparring.errors import UserError
from sparring.graphs.stats import Estimate, wilson
from sparring.memory.journal import Journal
from sparring.memory.queries import decisions
from sparring.training.archive.agents import Software
from sparring.training.archive.selection import Candidate

KIND = "archive"
AGENT, PARENTS, CHILD, EVALUATION, ENTRY = "agent", "parents", "child", "evaluation", "entry"
FIRST_CHILD = "0.0"
"""Key of the agent that the archive begins with, which is nobody's child."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a stage added: instances by name."""

    run: str
    resolved: tuple[str, ...]
    unresolved: tuple[str, ...]
    masked: tuple[str, ...]
    """Nobody could judge these, by the world's fault; they are in no share."""
    patched: int
    """Attempts with a patch."""
    passed: bool = False
    """Whether the next stage is played."""
    threshold: float = 0.0

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Evaluation:
        lists = {name: tuple(kept[name]) for name in ("resolved", "unresolved", "masked")}
        return cls(
            kept["run"], patched=kept["patched"], passed=kept["passed"], threshold=kept["threshold"], **lists
        )


@dataclass(frozen=True, slots=True)
class Member:
    """An agent that was made, in the archive or not."""

    id: str
    """That of its configuration; of one that is evaluated again, with a number."""
    agent: Software
    parent: str | None
    generation: int
    topic: str
    instances: tuple[str, ...]
    """Whose logs were read."""
    why: str
    changes: tuple[str, ...]
    evaluations: tuple[Evaluation, ...] = ()
    entered: bool | None = None
    """None: it is being evaluated."""
    reason: str = ""

    @property
    def runs(self) -> list[str]:
        return [stage.run for stage in self.evaluations]

    @property
    def resolved(self) -> frozenset[str]:
        return frozenset(name for stage in self.evaluations for name in stage.resolved)

    @property
    def judged(self) -> frozenset[str]:
        return self.resolved | {name for stage in self.evaluations for name in stage.unresolved}

    @property
    def masked(self) -> int:
        return sum(len(stage.masked) for stage in self.evaluations)

    @property
    def accuracy(self) -> Estimate:
        """Share of the judged instances of all stages that it resolved, with Wilson's 95 % interval."""
        return wilson(len(self.resolved), len(self.judged))


@dataclass(frozen=True, slots=True)
class Failed:
    """A child that came to nothing."""

    parent: str
    generation: int
    topic: str
    failure: str


@dataclass(frozen=True, slots=True)
class Archive:
    """A run of an archive, oldest first."""

    run: str
    status: str
    config: Any
    made: list[Member]
    failed: list[Failed] = field(default_factory=list)

    @property
    def members(self) -> list[Member]:
        """Those that got in, in the order in which they did."""
        return [member for member in self.made if member.entered]

    def before(self, generation: int) -> list[Member]:
        """The members of earlier generations: what a generation is bred from and measured by."""
        return [member for member in self.members if member.generation < generation]

    @property
    def best(self) -> Member | None:
        """The member whose interval ends highest below: 4 of 4 are no better than 11 of 12."""
        return better_of(self.members)

    def to_json(self) -> dict[str, Any]:
        made = []
        for member in self.made:
            plain = asdict(member) | {"accuracy": asdict(member.accuracy), "masked": member.masked}
            made.append(plain | {"agent": member.agent.to_json()})
        best = None if self.best is None else self.best.id
        return {
            "run": self.run,
            "status": self.status,
            "best": best,
            "made": made,
            "failed": [asdict(child) for child in self.failed],
        }


def better_of(members: Iterable[Member]) -> Member | None:
    """The member whose interval has the highest lower end, of equal ones the first; None of nobody."""
    return max(members, key=lambda each: each.accuracy.low, default=None)


def candidates(members: Sequence[Member]) -> list[Candidate]:
    """Members as far as their chances to have children go."""
    born = Counter(member.parent for member in members)
    return [Candidate(each.id, each.accuracy.mean, born[each.id]) for each in members]


def read_archive(journal: Journal, run: str) -> Archive:
    """An archive from its rows.

    Raises:
        UserError: no such run, or one of another kind.
    """
    row = journal.run_row(run)
    if row.kind != KIND:
        raise UserError(f"run `{run}` is of kind `{row.kind}`, not an archive")
    agents = decisions(journal, run, AGENT)
    played = decisions(journal, run, EVALUATION)
    entries = decisions(journal, run, ENTRY)
    made, failed = list[Member](), list[Failed]()
    for _, child in sorted(decisions(journal, run, CHILD).items(), key=lambda item: place_of(item[0])):
        if child["member"] is None:
            failed.append(Failed(child["parent"], child["generation"], child["topic"], child["failure"]))
            continue
        made.append(_member(child, agents, played, entries))
    return Archive(run, row.status, row.config, made, failed)


def place_of(key: str) -> tuple[int, int]:
    """(generation, place) of a child's key."""
    generation, place = key.split(".")
    return int(generation), int(place)


def _member(
    child: Any, agents: Mapping[str, Any], played: Mapping[str, Any], entries: Mapping[str, Any]
) -> Member:
    name = child["member"]
    entry = entries.get(name, {})
    return Member(
        name,
        Software.from_json(agents[child["agent"]]),
        child["parent"],
        child["generation"],
        child["topic"],
        tuple(child["instances"]),
        child["why"],
        tuple(child["changes"]),
        tuple(_stages(name, played)),
        entry.get("entered"),
        entry.get("reason", ""),
    )


def _stages(member: str, played: Mapping[str, Any]) -> Iterable[Evaluation]:
    number = 0
    while (kept := played.get(f"{member}.{number}")) is not None:
        yield Evaluation.from_json(kept)
        number += 1

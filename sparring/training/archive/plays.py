"""The runs that an archive is made of: an agent's stages, and the improvements of a generation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sparring.agents.engines.registry import EnginePool
from sparring.graphs.play import Play
from sparring.graphs.player import FINISHED, OnProgress, taken
from sparring.graphs.protocols.software_tasks import instance, software_tasks
from sparring.graphs.results import Result, read_results
from sparring.memory.journal import Journal
from sparring.memory.records import TaskRecord
from sparring.memory.seeds import derive_seed
from sparring.memory.types import canonical, digest
from sparring.tools.swe.instances import row_of
from sparring.training.archive.agents import KEPT, PROTOCOL, Software, initial, space_text
from sparring.training.archive.config import ArchiveConfig, ImproverConfig
from sparring.training.archive.logs import as_text, read_attempts
from sparring.training.archive.record import Evaluation, Member
from sparring.training.archive.stages import staged
from sparring.training.archive.topics import Topic

IMPROVE = "improve"
TRIES = 2
"""How often attempts that fail by the world's fault are made in one process."""


@dataclass(frozen=True)
class Plan:
    """An archive that can be played."""

    config: ArchiveConfig
    first: Software
    stages: list[tuple[TaskRecord, ...]]
    """What each stage adds."""

    @property
    def instances(self) -> dict[str, object]:
        """The instances, to be told from others: their names by stage, and a hash of what is in them."""
        rows = [row_of(instance(task)) for stage in self.stages for task in stage]
        whole = [{name: value for name, value in row.items() if name != "source"} for row in rows]
        names = [[task.id for task in stage] for stage in self.stages]
        return {"stages": names, "hash": digest(canonical(whole)).hex()}

    def evaluation(self, member: Member, stage: int) -> Play:
        """A stage of an agent's evaluation, an ordinary run of `software`.

        All agents have the same seeds, so that two of them differ in nothing else; one that is evaluated
        again has others.
        """
        config, again = self.config, member.id.partition(".")[2]
        seed = derive_seed(config.seed, "archive", 0, int(again), "again") if again else config.seed
        return Play(
            PROTOCOL,
            self.stages[stage],
            options=member.agent.over(config.options),
            engine=config.engine,
            sampling=dict(member.agent.sampling),
            seed=seed,
            limits=config.caps,
            parent=config.run,
        )

    def improvement(self, improver: ImproverConfig, tasks: Iterable[TaskRecord]) -> Play:
        """The improvements of a generation, a task each."""
        return Play(
            IMPROVE,
            tuple(tasks),
            options={"prompts": improver.prompts},
            engine=improver.engine or self.config.engine,
            roles=improver.roles,
            sampling=improver.sampling,
            seed=self.config.seed,
            parent=self.config.run,
        )


def prepare(config: ArchiveConfig) -> Plan:
    """Check an archive, engines aside.

    Raises:
        UserError: options, settings, prompts or instances that cannot work.
    """
    first = initial(config)
    plan = Plan(config, first, staged(software_tasks(config.tasks, config.limit), config))
    for play in _kinds(plan):
        cast = play.cast()
        for task in play.tasks:
            cast.protocol.accepts(task)
    return plan


def _kinds(plan: Plan) -> list[Play]:
    """One play of each kind, for what is asked of both."""
    first = Member(plan.first.id, plan.first, None, 0, "", (), "", ())
    plays = [plan.evaluation(first, stage) for stage in range(len(plan.stages))]
    return plays if plan.config.improver is None else [*plays, plan.improvement(plan.config.improver, ())]


async def admit(plan: Plan, journal: Journal, pool: EnginePool) -> None:
    """Ask every engine, so that one that is not there fails before the run has a row."""
    for play in _kinds(plan)[-2:]:
        await play.cast().agents(pool, journal)


async def played(
    journal: Journal, name: str, play: Play, pool: EnginePool, concurrency: int, told: OnProgress | None
) -> list[Result]:
    """The results of a child run, played to its end or as far as the world lets it."""
    for _ in range(TRIES):
        async with taken(journal, name, play, pool, concurrency) as player:
            await player(told)
        if not player.failed:
            break
    return read_results(journal, name)


def evaluation_of(run: str, results: Sequence[Result]) -> Evaluation:
    """What a stage came to. An attempt without a verdict is masked: its world failed, or its grader's."""
    judged = [result for result in results if result.status in FINISHED and result.correct is not None]
    right = [result.task_id for result in judged if result.correct]
    wrong = [result.task_id for result in judged if not result.correct]
    masked = [result.task_id for result in results if result not in judged]
    patched = sum(bool((result.answer or "").strip()) for result in judged)
    return Evaluation(run, tuple(right), tuple(wrong), tuple(masked), patched)


def improvement_task(
    name: str, parent: Member, topic: Topic, config: ArchiveConfig, improver: ImproverConfig, journal: Journal
) -> TaskRecord:
    """What is asked about a parent: its configuration and the logs of some of its attempts."""
    attempts = [each for each in read_attempts(journal, parent.runs) if each.instance in topic.instances]
    question = {
        "topic": topic.about,
        "logs": as_text(attempts, improver.characters),
        "agent": parent.agent.shown(),
        "space": space_text(config.free),
        "kept": ", ".join(f"`{{{{ {each} }}}}`" for each in KEPT),
    }
    return TaskRecord(name, question)

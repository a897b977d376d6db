"""The journal's rows (DESIGN section 3).

Rows are appended; what changes after it was written is the state of a run or an episode, the two
heads of a policy, and the id counters. Integer ids come from `counters` in blocks, so that several
processes can write one journal; text ids are deterministic, so that creating a row twice is harmless.
What an episode says refers to it by its number, which grows with time: the unique indexes begin with it,
so that the episodes being played are neighbours there and a commit touches few pages of a large journal.
Times are seconds since 1970 and never decide an order.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from .types import Json, Packed

Key = Annotated[str, mapped_column(Text, primary_key=True)]
# SQLite keeps a row under its key only if the key's type is spelled INTEGER (64 bits there all the same).
BigInt = BigInteger().with_variant(Integer, "sqlite")
Id = Annotated[int, mapped_column(BigInt, primary_key=True, autoincrement=False)]
Big = Annotated[int, mapped_column(BigInt)]
Doc = Annotated[Any, mapped_column(Json)]


class Base(DeclarativeBase):
    type_annotation_map: ClassVar = {str: Text, bytes: LargeBinary}


class Counter(Base):
    """The next free integer id of each table."""

    __tablename__ = "counters"
    name: Mapped[Key]
    next: Mapped[Big]


class Run(Base):
    """One command's worth of episodes. `config` is all that is needed to continue it."""

    __tablename__ = "runs"
    id: Mapped[Key]
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("runs.id"), index=True)
    kind: Mapped[str]
    """play, baseline, embedded; later tournament, evolve, swe."""
    protocol: Mapped[str]
    config: Mapped[Doc]
    seed: Mapped[Big]
    status: Mapped[str]
    """open, done, interrupted, failed."""
    epoch: Mapped[int]
    """Raised at each take-over; a write that carries an older one is refused."""
    driver: Mapped[Doc | None]
    """Host, process id and start of the process that drives or last drove the run."""
    durability: Mapped[str]
    sparring_version: Mapped[str]
    created_at: Mapped[float]
    finished_at: Mapped[float | None]


class Task(Base):
    """A question, by content. It may come from a parent task and the turn that proposed it."""

    __tablename__ = "tasks"
    id: Mapped[Key]
    name: Mapped[str] = mapped_column(index=True)
    question: Mapped[Doc]
    answer: Mapped[Doc | None]
    check: Mapped[str]
    meta: Mapped[Doc | None]
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("tasks.id"), index=True)
    source_turn_id: Mapped[Big | None]


class Agent(Base):
    """Who can speak: role, prompt, parser, sampling and policy name, by content."""

    __tablename__ = "agents"
    id: Mapped[Key]
    role: Mapped[str]
    prompt_hash: Mapped[str]
    prompt: Mapped[Doc]
    """The prompt's source, so that an old turn can be understood without the code of its day."""
    parser: Mapped[str]
    parser_version: Mapped[str]
    sampling: Mapped[Doc]
    policy: Mapped[str]


class Policy(Base):
    """A named set of weights with two heads: `training` is what self-play samples, `live` everyone else."""

    __tablename__ = "policies"
    name: Mapped[Key]
    live_version_id: Mapped[Big | None]
    training_version_id: Mapped[Big | None]
    created_at: Mapped[float]


class PolicyVersion(Base):
    """A base checkpoint (by hash) plus at most one adapter."""

    __tablename__ = "policy_versions"
    id: Mapped[Id]
    policy: Mapped[str] = mapped_column(ForeignKey("policies.name"))
    number: Mapped[int]
    base_hash: Mapped[str]
    base_spec: Mapped[str]
    adapter_path: Mapped[str | None]
    adapter_hash: Mapped[str | None]
    parent_id: Mapped[Big | None] = mapped_column(ForeignKey("policy_versions.id"))
    update_id: Mapped[Big | None]
    metrics: Mapped[Doc | None]
    created_at: Mapped[float]
    __table_args__ = (UniqueConstraint("policy", "number"),)


class Episode(Base):
    """One (run, task, iteration, copy); its id is a hash of the four.

    `number` is for rows of this journal only: another journal gives the same episode another one.
    """

    __tablename__ = "episodes"
    number: Mapped[Id]
    id: Mapped[str] = mapped_column(unique=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id"), index=True)
    iteration: Mapped[int]
    copy: Mapped[int]
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("episodes.id"), index=True)
    forked_from_turn_id: Mapped[Big | None]
    seats: Mapped[Doc]
    """Seat -> {agent, version}: who sat where, with the policy versions the episode began with."""
    status: Mapped[str]
    """open, done, failed, capped, abandoned."""
    outcome: Mapped[Doc | None]
    error: Mapped[str | None]
    started_at: Mapped[float]
    finished_at: Mapped[float | None]
    __table_args__ = (UniqueConstraint("run_id", "task_id", "iteration", "copy"),)


class Message(Base):
    """What was said to an agent, each message once, as a tree: parent 0 begins a conversation."""

    __tablename__ = "messages"
    id: Mapped[Id]
    episode_number: Mapped[Big] = mapped_column(ForeignKey("episodes.number"))
    parent_id: Mapped[Big]
    role: Mapped[str]
    content_hash: Mapped[bytes]
    content: Mapped[Doc]
    """A list of typed parts."""
    __table_args__ = (UniqueConstraint("episode_number", "parent_id", "role", "content_hash"),)


class Blob(Base):
    """Images and files that messages refer to, by hash."""

    __tablename__ = "blobs"
    hash: Mapped[Key]
    media_type: Mapped[str]
    data: Mapped[bytes]


class Turn(Base):
    """One attempt at one model call, committed before the node that made it returns.

    The text is the message `output_id`. Prompt ids are the first `prefix_length` ids of
    (prompt + completion) of turn `prefix_turn_id`, followed by `prompt_tail`.
    """

    __tablename__ = "turns"
    id: Mapped[Id]
    episode_number: Mapped[Big] = mapped_column(ForeignKey("episodes.number"))
    key: Mapped[str]
    attempt: Mapped[int]
    final: Mapped[bool]
    """Whether asking for the key again returns this attempt."""
    agent_id: Mapped[str] = mapped_column(ForeignKey("agents.id"))
    policy_version_id: Mapped[Big] = mapped_column(ForeignKey("policy_versions.id"), index=True)
    engine: Mapped[str]
    seed: Mapped[Big]
    seed_sent: Mapped[bool]
    fingerprint: Mapped[bytes]
    input_id: Mapped[Big]
    """Last message of the conversation it saw."""
    output_id: Mapped[Big | None]
    status: Mapped[str]
    """ok; parse_error, truncated, refused (the model's fault); timeout, engine_error (the world's)."""
    parsed: Mapped[Doc | None]
    error: Mapped[str | None]
    finish_reason: Mapped[str | None]
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    cached_tokens: Mapped[int]
    cost: Mapped[float]
    latency_s: Mapped[float]
    retries: Mapped[int]
    from_cache: Mapped[bool]
    prefix_turn_id: Mapped[Big | None]
    prefix_length: Mapped[int]
    prompt_tail: Mapped[Any | None] = mapped_column(Packed("<i4"))
    completion_ids: Mapped[Any | None] = mapped_column(Packed("<i4"))
    logprobs: Mapped[Any | None] = mapped_column(Packed("<f4"))
    logprob_kind: Mapped[str]
    epoch: Mapped[int]
    created_at: Mapped[float]
    __table_args__ = (UniqueConstraint("episode_number", "key", "attempt"),)


class RecomputedLogprobs(Base):
    """Log-probabilities of a turn's completion under the trainer's arithmetic, beside the engine's."""

    __tablename__ = "recomputed_logprobs"
    turn_id: Mapped[Big] = mapped_column(ForeignKey("turns.id"), primary_key=True, autoincrement=False)
    source: Mapped[Key]
    logprobs: Mapped[Any] = mapped_column(Packed("<f4"))


class Event(Base):
    """A decision that is no model call (vote, gate, break, tool call, verdict), of an episode or a run."""

    __tablename__ = "events"
    id: Mapped[Id]
    run_id: Mapped[str | None] = mapped_column(ForeignKey("runs.id"))
    episode_number: Mapped[Big | None] = mapped_column(ForeignKey("episodes.number"))
    kind: Mapped[str]
    key: Mapped[str]
    payload: Mapped[Doc]
    epoch: Mapped[int]
    created_at: Mapped[float]
    __table_args__ = (
        UniqueConstraint("episode_number", "kind", "key"),
        UniqueConstraint("run_id", "kind", "key"),
        CheckConstraint("(run_id IS NULL) <> (episode_number IS NULL)", name="one_owner"),
    )


class Score(Base):
    """A judgement that is not a reward: reward model, process reward, value, P(True)."""

    __tablename__ = "scores"
    id: Mapped[Id]
    turn_id: Mapped[Big] = mapped_column(ForeignKey("turns.id"), index=True)
    step: Mapped[int | None]
    span_start: Mapped[int | None]
    span_end: Mapped[int | None]
    scorer: Mapped[str]
    version: Mapped[str]
    value: Mapped[float | None]
    evidence: Mapped[Doc | None]


class Reward(Base):
    """One reward of one turn (or token span) under one version of one function; NULL means masked."""

    __tablename__ = "rewards"
    id: Mapped[Id]
    turn_id: Mapped[Big] = mapped_column(ForeignKey("turns.id"))
    span_start: Mapped[int]
    """Token index, -1 for the whole turn."""
    span_end: Mapped[int]
    function: Mapped[str]
    version: Mapped[str]
    config_hash: Mapped[str]
    value: Mapped[float | None]
    reason: Mapped[str]
    read_ids: Mapped[Doc]
    __table_args__ = (
        UniqueConstraint("turn_id", "span_start", "span_end", "function", "version", "config_hash"),
    )


class Update(Base):
    """One step of training: from one version of a policy to the next."""

    __tablename__ = "updates"
    id: Mapped[Id]
    run_id: Mapped[str | None] = mapped_column(ForeignKey("runs.id"))
    policy: Mapped[str] = mapped_column(ForeignKey("policies.name"))
    step: Mapped[int]
    from_version_id: Mapped[Big | None]
    to_version_id: Mapped[Big | None]
    status: Mapped[str]
    config: Mapped[Doc]
    metrics: Mapped[Doc | None]
    created_at: Mapped[float]
    __table_args__ = (UniqueConstraint("run_id", "policy", "step"),)


class UpdateTurn(Base):
    """Which turns trained which update: the lineage from weights down to words."""

    __tablename__ = "update_turns"
    update_id: Mapped[Big] = mapped_column(ForeignKey("updates.id"), primary_key=True, autoincrement=False)
    turn_id: Mapped[Big] = mapped_column(ForeignKey("turns.id"), primary_key=True, autoincrement=False)
    __table_args__ = (Index("ix_update_turns_turn_id", "turn_id"),)


class Match(Base):
    """One pairing of a tournament, in schedule order."""

    __tablename__ = "matches"
    id: Mapped[Id]
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    position: Mapped[int]
    episode_number: Mapped[Big | None] = mapped_column(ForeignKey("episodes.number"), index=True)
    players: Mapped[Doc]
    """Seat -> player."""
    result: Mapped[Doc | None]
    status: Mapped[str]
    __table_args__ = (UniqueConstraint("run_id", "position"),)


class Rating(Base):
    """A player's rating after a match; a pure function of the match rows in schedule order."""

    __tablename__ = "ratings"
    id: Mapped[Id]
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    player: Mapped[str]
    after_position: Mapped[int]
    system: Mapped[str]
    value: Mapped[float]
    deviation: Mapped[float | None]
    __table_args__ = (UniqueConstraint("run_id", "player", "system", "after_position"),)

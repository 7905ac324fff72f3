"""The tables of the queue."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from voxelworks.db import Base
from voxelworks.errors import FailureClass
from voxelworks.protocol.messages import JobState, PriorityClass
from voxelworks.protocol.views import JOB_STATES, AttemptOutcome, Publication

IS_HELD = "state IN ('claimed', 'running', 'cancelling')"
_STATES = ", ".join(f"'{state}'" for state in JOB_STATES)


class WorkerSessionRow(Base):
    """One run of a worker process. A worker that starts anew gets a new one."""

    __tablename__ = "worker_sessions"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(index=True)
    version: Mapped[str]
    protocol: Mapped[int]
    workflows: Mapped[dict[str, Any]]
    """Name -> highest version, of those that its key allows."""
    slots: Mapped[dict[str, Any]]
    """Priority class -> jobs side by side."""
    gpus: Mapped[int]
    gpu_names: Mapped[list[Any] | None]
    """What they are, with their driver; None: it was not told."""
    memory_bytes: Mapped[int | None]
    isolation: Mapped[str]
    leaves_ms: Mapped[int | None]
    """When it must leave; None: it may stay."""
    key_id: Mapped[str | None] = mapped_column(index=True)
    """The worker key that it came with."""
    organization_id: Mapped[str | None]
    """The only organization whose jobs it gets, because its key says so."""
    opened_ms: Mapped[int]
    seen_ms: Mapped[int] = mapped_column(index=True)
    replaced_ms: Mapped[int | None]
    failed_jobs: Mapped[list[Any]]
    """Different jobs that failed on it in a row, oldest first (R15)."""
    paused_ms: Mapped[int | None]
    paused_why: Mapped[str | None]
    drained_ms: Mapped[int | None]
    """When the operator asked it to take no more jobs, or it said that it ends."""


class JobRow(Base):
    """One request. `_transitions.move` alone changes its state."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(f"state IN ({_STATES})", name="state"),
        CheckConstraint("publication IN ('none', 'pending', 'published', 'failed')", name="publication"),
        CheckConstraint("priority_class IN ('short', 'long')", name="priority_class"),
        # The order of giving away (R8): see `_claiming`.
        Index(
            "ix_jobs_queue", "lane", "rank_ms", "id",
            sqlite_where=text("state = 'queued'"), postgresql_where=text("state = 'queued'"),
        ),
        # What the fair share and the limits are counted over (R8, R9).
        Index(
            "ix_jobs_held", "organization_id", "priority_class", "user_id", "workflow",
            sqlite_where=text(IS_HELD), postgresql_where=text(IS_HELD),
        ),
        Index("ix_jobs_newest", "created_ms", "id"),
        Index("ix_jobs_of_organization", "organization_id", "created_ms", "id"),
        Index("ix_jobs_of_user", "user_id", "created_ms", "id"),
        # Also for the numbers of jobs in each state, which it holds without the jobs.
        Index("ix_jobs_states", "organization_id", "state", "created_ms", "id"),
    )  # fmt: skip

    id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str]
    organization_id: Mapped[str]
    workflow: Mapped[str]
    version: Mapped[int]
    params: Mapped[dict[str, Any]]
    places: Mapped[dict[str, Any]]
    """Reference in the params -> place."""
    priority: Mapped[int]
    priority_class: Mapped[PriorityClass] = mapped_column(Text)
    lane: Mapped[str | None]
    """Where it queues: organization, user and workflow. None while it waits for other jobs."""
    rank_ms: Mapped[int]
    """Its place in the lane: when it was submitted, earlier for a higher priority."""
    needs_gpu: Mapped[bool]
    memory_bytes: Mapped[int | None]
    """Memory that the next attempt needs; None: as much as a worker gives to one job."""
    walltime_s: Mapped[int | None]
    group_id: Mapped[str | None] = mapped_column(index=True)
    words: Mapped[str] = mapped_column(Text, server_default="")
    """What it is found by: see `_search`."""
    is_foreign: Mapped[bool]
    """Submitted through the WEBKNOSSOS face."""
    is_free_rerun: Mapped[bool]
    """An operator repeats a failed job at no charge; its owner is not told of a second failure."""
    # No index of its own: SQLite would take it for claims, and sort every queued job each time.
    state: Mapped[JobState] = mapped_column(Text)
    attempt: Mapped[int]
    """Number of the current or last attempt; 0 before the first."""

    created_ms: Mapped[int]
    available_ms: Mapped[int]
    started_ms: Mapped[int | None]
    cancel_requested_ms: Mapped[int | None]
    ended_ms: Mapped[int | None]
    updated_ms: Mapped[int] = mapped_column(index=True)

    infrastructure_failures: Mapped[int]
    resource_failures: Mapped[int]
    lost_leases: Mapped[int]
    failure_class: Mapped[FailureClass | None] = mapped_column(Text)
    code: Mapped[str | None]
    message: Mapped[str | None]

    result: Mapped[dict[str, Any] | None]
    publication: Mapped[Publication] = mapped_column(Text, index=True)
    publish_error: Mapped[str | None]
    publish_token_hash: Mapped[str | None]
    publish_session_id: Mapped[str | None] = mapped_column(ForeignKey("worker_sessions.id"), index=True)
    publish_until_ms: Mapped[int | None]
    """When any worker may be ordered to publish, because the one that should was not heard from."""
    published_ms: Mapped[int | None]
    cleanup_ms: Mapped[int | None] = mapped_column(index=True)
    """When any worker may be ordered to remove what the attempts of an ended job left; None once nothing is left."""

    retried_from: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    reserved_place: Mapped[str | None] = mapped_column(unique=True)
    """Place of the dataset that the job makes, until the dataset exists or never will."""


class DependencyRow(Base):
    """A job waits for another. Always for an older one, so nothing waits in a circle."""

    __tablename__ = "job_dependencies"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    after_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True, index=True)
    position: Mapped[int]
    """In the order in which they were named."""


class JobDatasetRow(Base):
    """The params of a job name a dataset. Not a foreign key: the record outlives the dataset."""

    __tablename__ = "job_datasets"

    dataset_id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True, index=True)


class TurnRow(Base):
    """When an organization was last given a job of a class: whoever waits long is not passed over for ever (R8)."""

    __tablename__ = "organization_turns"

    organization_id: Mapped[str] = mapped_column(primary_key=True)
    priority_class: Mapped[str] = mapped_column(primary_key=True)
    claimed_ms: Mapped[int]


class PauseRow(Base):
    """A class of jobs of which none is given away."""

    __tablename__ = "queue_pauses"

    priority_class: Mapped[PriorityClass] = mapped_column(Text, primary_key=True)
    since_ms: Mapped[int]
    who: Mapped[str]
    why: Mapped[str]


class CountRow(Base):
    """How often something happened since the database was made (R25)."""

    __tablename__ = "queue_counts"

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[int]


class AttemptRow(Base):
    """One try of a job. Rows are never used again (R4)."""

    __tablename__ = "attempts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    session_id: Mapped[str] = mapped_column(ForeignKey("worker_sessions.id"), index=True)
    worker: Mapped[WorkerSessionRow] = relationship(viewonly=True)
    token_hash: Mapped[str]

    claimed_ms: Mapped[int]
    started_ms: Mapped[int | None]
    renewed_ms: Mapped[int]
    lease_end_ms: Mapped[int]
    ended_ms: Mapped[int | None]
    outcome: Mapped[AttemptOutcome | None] = mapped_column(Text)
    failure_class: Mapped[FailureClass | None] = mapped_column(Text)
    code: Mapped[str | None]
    message: Mapped[str | None]
    exit_code: Mapped[int | None]
    peak_memory_bytes: Mapped[int | None]
    memory_bytes_max: Mapped[int | None]
    """What it was given; None: all that its worker gives to one job."""

    progress: Mapped[dict[str, Any] | None]
    samples: Mapped[list[Any]]
    """`[ms, done]` of the current phase, oldest first: see `_progress`."""
    sealed: Mapped[dict[str, Any] | None]
    """The result, if it was sealed before a cancel was recorded (R18)."""

    report_sha256: Mapped[str | None]
    """Of the terminal report that was accepted, and the answer to it, which a repeated report gets again (R10)."""
    answer_state: Mapped[JobState | None] = mapped_column(Text)
    answer_publish: Mapped[bool | None]

    log_received: Mapped[int]
    """Bytes that the worker need not send again."""
    log_stored: Mapped[int]
    """Bytes that can be read: fewer than were received once the log is full."""


class EventRow(Base):
    """What happened to a job. Rows are only added (R25)."""

    __tablename__ = "events"

    # SQLite counts up only in a column of its own type INTEGER.
    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    at_ms: Mapped[int]
    who: Mapped[str]
    attempt: Mapped[int | None]
    from_state: Mapped[JobState | None] = mapped_column(Text)
    to_state: Mapped[JobState] = mapped_column(Text)
    why: Mapped[str]


class IdempotencyKeyRow(Base):
    """A key that a client made for one submission, so that repeating it changes nothing (R24)."""

    __tablename__ = "idempotency_keys"

    user_id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    body_sha256: Mapped[str]
    # Not a foreign key: the key is taken before the job is inserted.
    job_id: Mapped[str]
    """Of a group: its id."""
    created_ms: Mapped[int]


class DatasetLeaseRow(Base):
    """Which attempt, or which request of a person, may change the metadata of a dataset now."""

    __tablename__ = "dataset_leases"
    __table_args__ = (ForeignKeyConstraint(["job_id", "attempt"], ["attempts.job_id", "attempts.number"]),)

    place: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str | None]
    attempt: Mapped[int | None]
    """Both are None while a person changes it."""
    until_ms: Mapped[int]


class SavedParamsRow(Base):
    """Params that somebody keeps under a name."""

    __tablename__ = "saved_params"
    __table_args__ = (UniqueConstraint("organization_id", "user_id", "workflow", "name"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str]
    user_id: Mapped[str]
    workflow: Mapped[str]
    name: Mapped[str]
    version: Mapped[int]
    """Of the workflow that they were checked for."""
    params: Mapped[dict[str, Any]]
    """Some of them; what is left out is filled in when they are used."""
    is_shared: Mapped[bool]
    created_ms: Mapped[int]
    updated_ms: Mapped[int]

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
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from voxelworks.db import Base
from voxelworks.errors import FailureClass
from voxelworks.protocol.messages import JobState
from voxelworks.protocol.views import JOB_STATES, AttemptOutcome, Publication

_STATES = ", ".join(f"'{state}'" for state in JOB_STATES)


class WorkerSessionRow(Base):
    """One run of a worker process. A worker that starts anew gets a new one."""

    __tablename__ = "worker_sessions"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(index=True)
    version: Mapped[str]
    protocol: Mapped[int]
    workflows: Mapped[dict[str, Any]]
    job_slots: Mapped[int]
    opened_ms: Mapped[int]
    seen_ms: Mapped[int]
    replaced_ms: Mapped[int | None]


class JobRow(Base):
    """One request. `_transitions.move` alone changes its state."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(f"state IN ({_STATES})", name="state"),
        CheckConstraint("publication IN ('none', 'pending', 'published', 'failed')", name="publication"),
        # The order of giving away (R8).
        Index(
            "ix_jobs_queue", text("priority DESC"), "created_ms", "id",
            sqlite_where=text("state = 'queued'"), postgresql_where=text("state = 'queued'"),
        ),
        Index("ix_jobs_newest", "created_ms", "id"),
    )  # fmt: skip

    id: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(index=True)
    workflow: Mapped[str]
    version: Mapped[int]
    params: Mapped[dict[str, Any]]
    places: Mapped[dict[str, Any]]
    """Reference in the params -> place."""
    priority: Mapped[int]
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
    reserved_name: Mapped[str | None] = mapped_column(unique=True)
    """Name of the dataset that the job makes, until the dataset exists or never will."""


class AttemptRow(Base):
    """One try of a job. Rows are never used again (R4)."""

    __tablename__ = "attempts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    session_id: Mapped[str] = mapped_column(ForeignKey("worker_sessions.id"), index=True)
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

    owner: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    body_sha256: Mapped[str]
    # Not a foreign key: the key is taken before the job is inserted.
    job_id: Mapped[str]
    created_ms: Mapped[int]


class DatasetLeaseRow(Base):
    """Which attempt may change the metadata of a dataset now."""

    __tablename__ = "dataset_leases"
    __table_args__ = (ForeignKeyConstraint(["job_id", "attempt"], ["attempts.job_id", "attempts.number"]),)

    place: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str]
    attempt: Mapped[int]
    until_ms: Mapped[int]

"""Workers take jobs and keep them: sessions, claims, renewals, lost leases.

Every write locks in the same order, so that no two wait for each other: worker session, job, attempt, dataset lease.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence

from sqlalchemy import ColumnElement, and_, false, literal_column, or_, select, update
from sqlalchemy.orm import Session

from voxelworks.db import Database, now
from voxelworks.errors import LeaseLost
from voxelworks.jobs import _progress, _transitions
from voxelworks.jobs._ending import end_attempt, retry_or_fail, uncount
from voxelworks.jobs._failures import Failure
from voxelworks.jobs._tables import AttemptRow, JobRow, WorkerSessionRow
from voxelworks.protocol.messages import (
    Claim,
    JobState,
    Order,
    Progress,
    RenewAnswer,
    RenewRequest,
    SessionAnswer,
    SessionRequest,
)
from voxelworks.settings import Settings

HELD_STATES: tuple[JobState, ...] = ("claimed", "running", "cancelling")
_is_current = and_(AttemptRow.job_id == JobRow.id, AttemptRow.number == JobRow.attempt)
# Written out, not as a parameter: only then do both databases see that the index of queued jobs serves.
_IS_QUEUED = JobRow.state == literal_column("'queued'")
_EXPIRED = "lease-expired"
_REPLACED = "worker-restarted"


def open_session(session: Session, request: SessionRequest, *, settings: Settings) -> SessionAnswer:
    """Let a worker in. What an earlier session of the same name held is free at once: its process is gone."""
    at_ms = now(session)
    earlier = session.scalars(
        update(WorkerSessionRow)
        .where(WorkerSessionRow.name == request.name, WorkerSessionRow.replaced_ms.is_(None))
        .values(replaced_ms=at_ms)
        .returning(WorkerSessionRow.id),
        execution_options={"synchronize_session": False},
    ).all()
    for job, attempt in _held_by(session, earlier):
        failure = Failure(
            "infrastructure",
            _REPLACED,
            f"worker {request.name} was started anew",
            is_lost_lease=True,
            waits=False,
        )
        _lose(session, job, attempt, failure, at_ms=at_ms, settings=settings)
    session.execute(
        update(JobRow)
        .where(JobRow.publication == "pending", JobRow.publish_session_id.in_(earlier))
        .values(publish_until_ms=at_ms),
        execution_options={"synchronize_session": False},
    )
    row = WorkerSessionRow(
        id=secrets.token_hex(16), name=request.name, version=request.version, protocol=request.protocol,
        workflows=dict(request.workflows), job_slots=request.job_slots, opened_ms=at_ms, seen_ms=at_ms,
    )  # fmt: skip
    session.add(row)
    return SessionAnswer(session_id=row.id, poll_s=settings.poll_s)


def claim(session: Session, session_id: str, *, settings: Settings) -> Claim | None:
    """Give a worker the next job that it can run, if there is one: highest priority first, then the oldest.

    Raises
    ------
    LeaseLost
        If the worker's session was replaced, or is not known.
    """
    worker = lock_worker(session, session_id)
    at_ms = now(session)
    touch(worker, at_ms, settings)
    job = _take(session, worker.workflows, at_ms)
    if job is None:
        return None
    token = secrets.token_urlsafe(16)  # 128 bits
    session.add(
        AttemptRow(
            job_id=job.id, number=job.attempt, session_id=worker.id, token_hash=hash_token(token),
            claimed_ms=at_ms, renewed_ms=at_ms, lease_end_ms=at_ms + milliseconds(settings.lease_s),
            samples=[], log_received=0, log_stored=0,
        )
    )  # fmt: skip
    _transitions.note(
        session, job, at_ms=at_ms, who=f"worker:{worker.name}", why="claimed", from_state="queued"
    )
    return Claim(
        job_id=job.id, attempt=job.attempt, token=token, workflow=job.workflow, version=job.version, params=job.params,
        places=job.places, work_key=job.id, lease_s=settings.lease_s, renew_s=settings.renew_s,
        cancel_grace_s=settings.cancel_grace_s,
    )  # fmt: skip


def _take(session: Session, workflows: Mapping[str, int], at_ms: int) -> JobRow | None:
    """Claim in one statement (R5). PostgreSQL skips jobs that others are claiming; SQLite has one writer."""
    next_id = (
        select(JobRow.id)
        .where(_IS_QUEUED, JobRow.available_ms <= at_ms, can_run(workflows))
        .order_by(JobRow.priority.desc(), JobRow.created_ms, JobRow.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    return session.scalar(
        update(JobRow)
        .where(JobRow.id == next_id, JobRow.state == "queued")
        .values(
            state="claimed",
            attempt=JobRow.attempt + 1,
            updated_ms=at_ms,
            failure_class=None,
            code=None,
            message=None,
        )
        .returning(JobRow),
        execution_options={"populate_existing": True, "synchronize_session": False},
    )


def can_run(workflows: Mapping[str, int]) -> ColumnElement[bool]:
    """Match the jobs that a worker with these workflows (name -> highest version) runs."""
    return or_(
        false(),
        *(and_(JobRow.workflow == name, JobRow.version <= version) for name, version in workflows.items()),
    )


def renew(
    session: Session, job_id: str, number: int, request: RenewRequest, *, settings: Settings
) -> RenewAnswer:
    """Keep an attempt, and take in its progress. The first renewal is the start of its work.

    The answer `lost` means: stop, and publish nothing. After an accepted success it keeps the order to publish.
    """
    try:
        job, attempt = lock_attempt(session, job_id, number, request.token, touching=settings)
    except LeaseLost:
        return _answer("lost", settings)
    at_ms = now(session)
    if job.publication == "pending" and is_publisher(job, request.token):
        job.publish_until_ms = at_ms + milliseconds(settings.lease_s)
        return _answer("continue", settings, attempt)
    if not hold(session, job, attempt, at_ms=at_ms, settings=settings):
        return _answer("lost", settings)
    if job.state == "claimed":
        start(session, job, attempt, at_ms=at_ms)
    _take_progress(job, attempt, request.progress, at_ms)
    return _answer("cancel" if job.state == "cancelling" else "continue", settings, attempt)


def reap_all(database: Database, *, settings: Settings) -> int:
    """End every lease that has run out, each in its own transaction, and count them (R16).

    Several servers may do it at the same time.
    """
    count = 0
    while True:
        with database.session() as session:
            if not reap_next(session, settings=settings):
                return count
        count += 1


def reap_next(session: Session, *, settings: Settings) -> bool:
    """End one lease that has run out, or one cancel that takes too long; False if there is none."""
    at_ms = now(session)
    found = session.execute(
        select(JobRow, AttemptRow)
        .join(AttemptRow, _is_current)
        .where(
            JobRow.state.in_(HELD_STATES),
            or_(
                AttemptRow.lease_end_ms < at_ms,
                and_(
                    JobRow.state == "cancelling",
                    JobRow.cancel_requested_ms < at_ms - milliseconds(settings.cancel_stuck_s),
                ),
            ),
        )
        .order_by(AttemptRow.lease_end_ms)
        .limit(1)
        .with_for_update(skip_locked=True),
        execution_options={"populate_existing": True},
    ).first()
    if found is None:
        return False
    job, attempt = found
    silent_s = (at_ms - attempt.renewed_ms) / 1000
    failure = Failure(
        "infrastructure", _EXPIRED, f"the worker was not heard from for {silent_s:.0f} s", is_lost_lease=True
    )
    if attempt.lease_end_ms >= at_ms:
        failure = Failure("cancelled", "cancel-stuck", "the worker did not stop the job in time")
    _lose(session, job, attempt, failure, at_ms=at_ms, settings=settings)
    return True


def lock_worker(session: Session, session_id: str) -> WorkerSessionRow:
    """Lock a worker's session; `LeaseLost` if it was replaced."""
    worker = session.get(WorkerSessionRow, session_id, with_for_update=True, populate_existing=True)
    if worker is None or worker.replaced_ms is not None:
        raise LeaseLost("this worker session was replaced or is not known; open a new one")
    return worker


def lock_attempt(
    session: Session, job_id: str, number: int, token: str, *, touching: Settings | None = None
) -> tuple[JobRow, AttemptRow]:
    """Lock a job and the attempt that a worker speaks for (R6).

    Raises
    ------
    LeaseLost
        If job, number and token do not belong together.
    """
    if touching is not None:
        _touch_worker_of(session, job_id, number, touching)
    job = session.get(JobRow, job_id, with_for_update=True, populate_existing=True)
    attempt = session.get(AttemptRow, (job_id, number), with_for_update=True, populate_existing=True)
    if job is None or attempt is None or not _may_speak(job, attempt, token):
        raise LeaseLost(
            f"attempt {number} of job {job_id} is not held with this token; stop it and publish nothing"
        )
    return job, attempt


def hold(session: Session, job: JobRow, attempt: AttemptRow, *, at_ms: int, settings: Settings) -> bool:
    """Renew the lease of an attempt that is still the current one; False if it is lost.

    An attempt whose lease ran out comes back to life as long as nobody has claimed or cancelled the job since.
    """
    if attempt.number != job.attempt:
        return False
    if attempt.ended_ms is not None and not _revive(session, job, attempt, at_ms):
        return False
    attempt.renewed_ms = at_ms
    attempt.lease_end_ms = at_ms + milliseconds(settings.lease_s)
    return True


def is_revivable(job: JobRow, attempt: AttemptRow) -> bool:
    return job.state == "queued" and job.attempt == attempt.number and attempt.code == _EXPIRED


def _revive(session: Session, job: JobRow, attempt: AttemptRow, at_ms: int) -> bool:
    if not is_revivable(job, attempt):
        return False
    attempt.ended_ms = attempt.outcome = attempt.failure_class = attempt.code = attempt.message = None
    uncount(job)
    _transitions.move(
        session, job, "running", at_ms=at_ms, who=worker_name(session, attempt), why="the worker is heard from again",
        available_ms=job.created_ms, failure_class=None, code=None, message=None,
        started_ms=job.started_ms or at_ms,
    )  # fmt: skip
    attempt.started_ms = attempt.started_ms or at_ms
    return True


def start(session: Session, job: JobRow, attempt: AttemptRow, *, at_ms: int) -> None:
    attempt.started_ms = at_ms
    _transitions.move(
        session, job, "running", at_ms=at_ms, who=worker_name(session, attempt), why="started",
        started_ms=job.started_ms or at_ms,
    )  # fmt: skip


def worker_name(session: Session, attempt: AttemptRow) -> str:
    """Name the worker of an attempt for the events."""
    return f"worker:{session.get_one(WorkerSessionRow, attempt.session_id).name}"


def is_publisher(job: JobRow, token: str) -> bool:
    """Whether the token is that of the worker that publishes, or has published, the job's result."""
    return job.publication != "none" and _matches(job.publish_token_hash, token)


def touch(worker: WorkerSessionRow, at_ms: int, settings: Settings) -> None:
    """Note that a worker was heard from; not at each of its polls, as every note is a write."""
    if at_ms - worker.seen_ms >= milliseconds(min(5.0, settings.silent_after_s / 4)):
        worker.seen_ms = at_ms


def hash_token(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _may_speak(job: JobRow, attempt: AttemptRow, token: str) -> bool:
    is_ordered = job.attempt == attempt.number and _matches(job.publish_token_hash, token)
    return _matches(attempt.token_hash, token) or is_ordered


def _matches(token_hash: str | None, token: str) -> bool:
    return token_hash is not None and hmac.compare_digest(token_hash, hash_token(token))


def _touch_worker_of(session: Session, job_id: str, number: int, settings: Settings) -> None:
    # Before the job is locked: see the order of locks above.
    attempt = session.get(AttemptRow, (job_id, number))
    if attempt is not None:
        worker = session.get_one(WorkerSessionRow, attempt.session_id)
        touch(worker, now(session), settings)
        session.flush()


def _take_progress(job: JobRow, attempt: AttemptRow, told: Progress | None, at_ms: int) -> None:
    known = Progress.model_validate(attempt.progress) if attempt.progress else None
    progress = _progress.newer(known, told)
    if progress is None or progress == known:
        return
    attempt.samples = _progress.add_sample(attempt.samples, known, progress, at_ms)
    attempt.progress = progress.model_dump(mode="json")
    job.updated_ms = at_ms


def _held_by(session: Session, session_ids: Sequence[str]) -> list[tuple[JobRow, AttemptRow]]:
    """Lock the jobs that worker sessions hold, with their attempts, in an order that all callers share."""
    rows = session.execute(
        select(JobRow, AttemptRow)
        .join(AttemptRow, _is_current)
        .where(AttemptRow.session_id.in_(session_ids), JobRow.state.in_(HELD_STATES))
        .order_by(JobRow.id)
        .with_for_update(),
        execution_options={"populate_existing": True},
    )
    return [(job, attempt) for job, attempt in rows]


def _lose(
    session: Session, job: JobRow, attempt: AttemptRow, failure: Failure, *, at_ms: int, settings: Settings
) -> None:
    end_attempt(attempt, "lost", at_ms=at_ms, failure=failure)
    retry_or_fail(session, job, failure, at_ms=at_ms, who="server", settings=settings)


def _answer(order: Order, settings: Settings, attempt: AttemptRow | None = None) -> RenewAnswer:
    if attempt is None:
        return RenewAnswer(order=order, lease_s=0.0, renew_s=settings.renew_s)
    return RenewAnswer(
        order=order, lease_s=settings.lease_s, renew_s=settings.renew_s, log_offset=attempt.log_received
    )

"""Workers keep jobs: renewals, lost leases, and who may speak for an attempt. `_locks` says who locks what first."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence

from sqlalchemy import ColumnElement, and_, bindparam, false, or_, select
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value
from sqlalchemy.orm.util import AliasedClass

from voxelworks.db import now
from voxelworks.errors import LeaseLost
from voxelworks.jobs import _progress, _transitions
from voxelworks.jobs._counts import count
from voxelworks.jobs._ending import end_attempt, retry_or_fail, uncount
from voxelworks.jobs._failures import Failure
from voxelworks.jobs._locks import lock_with_waiting
from voxelworks.jobs._tables import AttemptRow, JobRow, WorkerSessionRow
from voxelworks.protocol.messages import JobState, Order, Progress, RenewAnswer, RenewRequest
from voxelworks.protocol.people import WorkerKeyView
from voxelworks.settings import Settings

LOCK = {"key_share": True}
"""How rows of worker sessions are locked: not against those that only refer to them. PostgreSQL looks up what an
attempt refers to whenever a transaction changes it a second time, and others hold the attempt then."""
HELD_STATES: tuple[JobState, ...] = ("claimed", "running", "cancelling")
is_current = and_(AttemptRow.job_id == JobRow.id, AttemptRow.number == JobRow.attempt)
EXPIRED = "lease-expired"
# Made once: to put a statement together takes longer than to carry it out, and these run most of all. `key_share` as in
# `LOCK`.
_LOCKING_ATTEMPT = (
    select(JobRow, AttemptRow)
    .join(AttemptRow, AttemptRow.job_id == JobRow.id)
    .where(JobRow.id == bindparam("job_id"), AttemptRow.number == bindparam("number"))
    .with_for_update(of=[JobRow, AttemptRow])
)
_FINDING_WORKER_OF = (
    select(WorkerSessionRow)
    .join(AttemptRow, AttemptRow.session_id == WorkerSessionRow.id)
    .where(AttemptRow.job_id == bindparam("job_id"), AttemptRow.number == bindparam("number"))
)
_LOCKING_WORKER_OF = _FINDING_WORKER_OF.with_for_update(of=WorkerSessionRow, key_share=True)
_LOCKING_WORKER = (
    select(WorkerSessionRow)
    .where(WorkerSessionRow.id == bindparam("session_id"))
    .with_for_update(key_share=True)
)


def runs(
    workflows: Mapping[str, int], job: AliasedClass[JobRow] | type[JobRow] = JobRow
) -> ColumnElement[bool]:
    """Match the jobs that a worker with these workflows (name -> highest version) runs."""
    return or_(
        false(),
        *(and_(job.workflow == name, job.version <= version) for name, version in workflows.items()),
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
    usual: Order = "continue" if attempt.worker.drained_ms is None else "drain"
    if job.publication == "pending" and is_publisher(job, request.token):
        job.publish_until_ms = at_ms + milliseconds(settings.lease_s)
        return _answer(usual, settings, attempt)
    if at_ms - attempt.renewed_ms > 2 * milliseconds(settings.renew_s):
        count(session, "late_renewals")
    if not hold(session, job, attempt, at_ms=at_ms, settings=settings):
        return _answer("lost", settings)
    if job.state == "claimed":
        start(session, job, attempt, at_ms=at_ms)
    _take_progress(job, attempt, request.progress, at_ms)
    return _answer("cancel" if job.state == "cancelling" else usual, settings, attempt)


def lock_worker(session: Session, session_id: str, key: WorkerKeyView | None = None) -> WorkerSessionRow:
    """Lock a worker's session; `LeaseLost` if it was replaced, or opened with another key."""
    worker: WorkerSessionRow | None = session.scalar(
        _LOCKING_WORKER, {"session_id": session_id}, execution_options={"populate_existing": True}
    )
    # The id is no secret: what a key may do must not grow by naming the session of another one.
    is_foreign = key is not None and worker is not None and worker.key_id != key.id
    if worker is None or worker.replaced_ms is not None or is_foreign:
        raise LeaseLost("this worker session was replaced or is not known; open a new one")
    return worker


def lock_attempt(
    session: Session,
    job_id: str,
    number: int,
    token: str,
    *,
    touching: Settings | None = None,
    locking_worker: bool = False,
) -> tuple[JobRow, AttemptRow]:
    """Lock a job and the attempt that a worker speaks for (R6).

    Parameters
    ----------
    touching
        Note that its worker was heard from.
    locking_worker
        Lock its worker's session too.

    Raises
    ------
    LeaseLost
        If job, number and token do not belong together.
    """
    # Before the job is locked: see `_locks`.
    worker: WorkerSessionRow | None = None
    if touching is not None or locking_worker:
        worker = _worker_of(session, job_id, number, is_locked=locking_worker)
    if touching is not None and worker is not None:
        touch(worker, now(session), touching)
        session.flush()
    found = session.execute(
        _LOCKING_ATTEMPT, {"job_id": job_id, "number": number}, execution_options={"populate_existing": True}
    ).first()
    if found is None or not _may_speak(*found, token):
        raise LeaseLost(
            f"attempt {number} of job {job_id} is not held with this token; stop it and publish nothing"
        )
    job, attempt = found
    if worker is not None:
        set_committed_value(attempt, "worker", worker)
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
    return job.state == "queued" and job.attempt == attempt.number and attempt.code == EXPIRED


def _revive(session: Session, job: JobRow, attempt: AttemptRow, at_ms: int) -> bool:
    if not is_revivable(job, attempt):
        return False
    attempt.ended_ms = attempt.outcome = attempt.failure_class = attempt.code = attempt.message = None
    uncount(job)
    _transitions.move(
        session, job, "running", at_ms=at_ms, who=worker_name(attempt), why="the worker is heard from again",
        available_ms=job.created_ms, failure_class=None, code=None, message=None,
        started_ms=job.started_ms or at_ms,
    )  # fmt: skip
    attempt.started_ms = attempt.started_ms or at_ms
    return True


def start(session: Session, job: JobRow, attempt: AttemptRow, *, at_ms: int) -> None:
    attempt.started_ms = at_ms
    _transitions.move(
        session, job, "running", at_ms=at_ms, who=worker_name(attempt), why="started",
        started_ms=job.started_ms or at_ms,
    )  # fmt: skip


def worker_name(attempt: AttemptRow) -> str:
    """Name the worker of an attempt for the events."""
    return f"worker:{attempt.worker.name}"


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


def _worker_of(session: Session, job_id: str, number: int, *, is_locked: bool) -> WorkerSessionRow | None:
    worker: WorkerSessionRow | None = session.scalar(
        _LOCKING_WORKER_OF if is_locked else _FINDING_WORKER_OF, {"job_id": job_id, "number": number},
        execution_options={"populate_existing": True},
    )  # fmt: skip
    return worker


def _take_progress(job: JobRow, attempt: AttemptRow, told: Progress | None, at_ms: int) -> None:
    known = Progress.model_validate(attempt.progress) if attempt.progress else None
    progress = _progress.newer(known, told)
    if progress is None or progress == known:
        return
    attempt.samples = _progress.add_sample(attempt.samples, known, progress, at_ms)
    attempt.progress = progress.model_dump(mode="json")
    job.updated_ms = at_ms


def held_by(session: Session, session_ids: Sequence[str]) -> list[tuple[JobRow, AttemptRow]]:
    """Lock the jobs that worker sessions hold, with their attempts, and all that may end with these jobs.

    The results that the sessions publish are locked too. The caller has locked the sessions.
    """
    held = (
        select(JobRow, AttemptRow)
        .join(AttemptRow, is_current)
        .where(AttemptRow.session_id.in_(session_ids), JobRow.state.in_(HELD_STATES))
    )
    published = select(JobRow.id).where(
        JobRow.publication == "pending", JobRow.publish_session_id.in_(session_ids)
    )
    ids = [*session.scalars(held.with_only_columns(JobRow.id)), *session.scalars(published)]
    lock_with_waiting(session, ids)
    rows = session.execute(
        # By organization: that is how the ledger is locked when several of them fail.
        held.order_by(JobRow.organization_id, JobRow.created_ms, JobRow.id).with_for_update(),
        execution_options={"populate_existing": True},
    )
    return [(job, attempt) for job, attempt in rows]


def lose(
    session: Session, job: JobRow, attempt: AttemptRow, failure: Failure, *, at_ms: int, settings: Settings
) -> None:
    count(session, "lost_leases")
    end_attempt(session, attempt, "lost", at_ms=at_ms, failure=failure)
    retry_or_fail(session, job, attempt, failure, at_ms=at_ms, who="server", settings=settings)


def _answer(order: Order, settings: Settings, attempt: AttemptRow | None = None) -> RenewAnswer:
    if attempt is None:
        return RenewAnswer(order=order, lease_s=0.0, renew_s=settings.renew_s)
    return RenewAnswer(
        order=order, lease_s=settings.lease_s, renew_s=settings.renew_s, log_offset=attempt.log_received
    )

"""Results and cancels: seal, finish, cancel."""

from __future__ import annotations

import hashlib

from sqlalchemy.orm import Session

from voxelworks.db import now
from voxelworks.errors import IllegalTransition, LeaseLost, NotAllowed
from voxelworks.jobs import _transitions
from voxelworks.jobs._ending import end_attempt, end_cancelled, end_job, queue_again, retry_or_fail
from voxelworks.jobs._failures import Failure
from voxelworks.jobs._leases import hold, lock_attempt, milliseconds, start, worker_name
from voxelworks.jobs._masking import mask
from voxelworks.jobs._reading import job_view
from voxelworks.jobs._tables import AttemptRow, JobRow
from voxelworks.jobs._visibility import find_job, require_steering
from voxelworks.jobs._workers import judge
from voxelworks.protocol.messages import FinishAnswer, FinishRequest, RenewAnswer, SealedResult, SealRequest
from voxelworks.protocol.people import Principal
from voxelworks.protocol.places import ARTIFACT, MODEL, OWN_PLACES, why_no_file_name
from voxelworks.protocol.views import JobView
from voxelworks.settings import Settings


def seal(
    session: Session, job_id: str, number: int, request: SealRequest, *, settings: Settings
) -> RenewAnswer:
    """Record a complete result before its success is reported.

    The rule for cancels (R18): a success counts if it was recorded here while no cancel was. The answer `cancel`
    means that one was first: the result is not recorded and will not count.

    Raises
    ------
    LeaseLost
        If the attempt is not the current one.
    IllegalTransition
        If the attempt has sealed another result.
    """
    job, attempt = lock_attempt(session, job_id, number, request.token)
    at_ms = now(session)
    _hold_or_refuse(session, job, attempt, at_ms, settings)
    if job.state == "claimed":
        start(session, job, attempt, at_ms=at_ms)
    if attempt.sealed is None and job.state == "running":
        _refuse_foreign_place(job, request.result)
        attempt.sealed = request.result.model_dump(mode="json")
    elif attempt.sealed is not None:
        _same_result(attempt, request.result)
    return RenewAnswer(
        order="cancel" if attempt.sealed is None else "continue",
        lease_s=settings.lease_s, renew_s=settings.renew_s, log_offset=attempt.log_received,
    )  # fmt: skip


def finish(
    session: Session, job_id: str, number: int, request: FinishRequest, *, settings: Settings
) -> FinishAnswer:
    """End an attempt, and with it the job or not, in one transaction (R10).

    The same report, given again with the same token, gets the same answer and changes nothing.

    Raises
    ------
    LeaseLost
        If the attempt is not the current one, or has reported another end.
    IllegalTransition
        If a success has no result, or not the one that was sealed.
    """
    job, attempt = lock_attempt(session, job_id, number, request.token, locking_worker=True)
    report_sha256 = hashlib.sha256(request.model_dump_json(exclude={"token"}).encode()).hexdigest()
    if attempt.report_sha256 is not None:
        return _earlier_answer(attempt, report_sha256)
    at_ms = now(session)
    _hold_or_refuse(session, job, attempt, at_ms, settings)
    attempt.exit_code, attempt.peak_memory_bytes = request.exit_code, request.peak_memory_bytes
    _conclude(session, job, attempt, request, at_ms, settings)
    answer = FinishAnswer(state=job.state, publish=job.publication == "pending")
    attempt.report_sha256 = report_sha256
    attempt.answer_state, attempt.answer_publish = answer.state, answer.publish
    return answer


def cancel(session: Session, job_id: str, *, by: Principal) -> JobView:
    """Cancel a job: a queued one at once, a running one as soon as its worker has stopped it. Repeating is harmless.

    Jobs that wait for it are cancelled with it. All charges are returned when the jobs have ended.

    Raises
    ------
    NotFound
        Also if they may not see it.
    NotAllowed
    IllegalTransition
        If the job has already succeeded or failed.
    """
    job = find_job(session, job_id, by, lock=True)
    require_steering(job, by)
    if job.state in ("succeeded", "failed"):
        raise IllegalTransition(f"job {job_id} has already {job.state}; there is nothing to cancel")
    cancel_locked(session, job, at_ms=now(session), by=by)
    return job_view(session, job)


def require_cancellable(session: Session, job_id: str, *, by: Principal) -> None:
    """Refuse what `cancel` would refuse, and a job that is cancelled already. Reads only.

    Raises
    ------
    NotFound, NotAllowed, IllegalTransition
    """
    job = find_job(session, job_id, by)
    require_steering(job, by)
    if job.state not in ("queued", "claimed", "running"):
        has_ended = "is being" if job.state == "cancelling" else "has already"
        word = {"cancelling": "cancelled", "cancelled": "been cancelled"}.get(job.state, job.state)
        raise IllegalTransition(f"job {job_id} {has_ended} {word}; there is nothing to cancel")


def cancel_locked(session: Session, job: JobRow, *, at_ms: int, by: Principal) -> None:
    """Cancel a job whose row the caller has locked; nothing happens to one that has ended."""
    why = f"cancelled by {by.name}"
    if job.state == "queued":
        end_cancelled(session, job, at_ms=at_ms, who=by.who, why=why)
    elif job.state in ("claimed", "running"):
        _transitions.move(
            session, job, "cancelling", at_ms=at_ms, who=by.who, why=why, cancel_requested_ms=at_ms
        )


def _conclude(
    session: Session, job: JobRow, attempt: AttemptRow, request: FinishRequest, at_ms: int, settings: Settings
) -> None:
    who = worker_name(attempt)
    if request.outcome == "succeeded":
        _succeed(session, job, attempt, request.result, at_ms, settings)
    elif job.state == "cancelling":
        failure = _failure(request) if request.outcome == "failed" else None
        end_attempt(session, attempt, request.outcome, at_ms=at_ms, failure=failure)
        end_cancelled(session, job, at_ms=at_ms, who=who, why="stopped by the worker")
    elif request.outcome == "interrupted":
        end_attempt(session, attempt, "interrupted", at_ms=at_ms)
        queue_again(
            session, job, at_ms=at_ms, who=who, why="the worker was asked to stop; the job goes on elsewhere"
        )
    else:
        failure = _failure(request)
        judge(attempt, failure, at_ms=at_ms, settings=settings)
        end_attempt(session, attempt, "failed", at_ms=at_ms, failure=failure)
        retry_or_fail(session, job, attempt, failure, at_ms=at_ms, who=who, settings=settings)


def _succeed(
    session: Session,
    job: JobRow,
    attempt: AttemptRow,
    told: SealedResult | None,
    at_ms: int,
    settings: Settings,
) -> None:
    who = worker_name(attempt)
    if job.state == "cancelling" and attempt.sealed is None:
        end_attempt(session, attempt, "cancelled", at_ms=at_ms)
        end_cancelled(session, job, at_ms=at_ms, who=who, why="cancelled before its result was sealed")
        return
    result = _same_result(attempt, told)
    _refuse_foreign_place(job, result)
    if job.state == "claimed":
        start(session, job, attempt, at_ms=at_ms)
    judge(attempt, None, at_ms=at_ms, settings=settings)
    end_attempt(session, attempt, "succeeded", at_ms=at_ms)
    end_job(
        session, job, "succeeded", at_ms=at_ms, who=who, why="succeeded", result=result, publisher=attempt,
        publish_until_ms=at_ms + milliseconds(settings.lease_s),
    )  # fmt: skip


def _hold_or_refuse(
    session: Session, job: JobRow, attempt: AttemptRow, at_ms: int, settings: Settings
) -> None:
    if not hold(session, job, attempt, at_ms=at_ms, settings=settings):
        raise LeaseLost(
            f"attempt {attempt.number} of job {job.id} has lost its lease; the job is {job.state} without it"
        )


def _same_result(attempt: AttemptRow, told: SealedResult | None) -> SealedResult:
    sealed = SealedResult.model_validate(attempt.sealed) if attempt.sealed is not None else told
    if sealed is None:
        raise IllegalTransition(
            f"attempt {attempt.number} of job {attempt.job_id} reports a success without a result"
        )
    if told is not None and told != sealed:
        raise IllegalTransition(f"attempt {attempt.number} of job {attempt.job_id} has sealed another result")
    return sealed


def _refuse_foreign_place(job: JobRow, result: SealedResult) -> None:
    # Workers are a trust boundary: they may change only what the job names, and nothing that it may only read.
    own = tuple(f"{kind}{job.organization_id}/" for kind in OWN_PLACES)
    is_allowed = result.place in job.places.values() and (result.place or "").startswith(own)
    if result.place is not None and not is_allowed:
        raise NotAllowed(f"job {job.id} does not name {result.place!r}; its result cannot be there")
    is_model = (result.place or "").startswith(MODEL)
    if is_model != (result.kind == "model") or (is_model and result.place != job.reserved_place):
        raise NotAllowed(f"the result of job {job.id} is no {result.kind} at {result.place!r}")
    is_artifact = (result.place or "").startswith(ARTIFACT)
    if is_artifact != (result.kind == "artifact") or is_artifact != (result.file is not None):
        raise NotAllowed(f"the result of job {job.id} is no {result.kind} at {result.place!r}")
    if result.file is not None and (reason := why_no_file_name(result.file.name)):
        raise NotAllowed(f"{result.file.name!r} cannot be the name of a file: {reason}")


def _earlier_answer(attempt: AttemptRow, report_sha256: str) -> FinishAnswer:
    if attempt.report_sha256 != report_sha256:
        raise LeaseLost(f"attempt {attempt.number} of job {attempt.job_id} has already reported another end")
    assert attempt.answer_state is not None
    assert attempt.answer_publish is not None
    return FinishAnswer(state=attempt.answer_state, publish=attempt.answer_publish)


def _failure(request: FinishRequest) -> Failure:
    if request.outcome == "cancelled":
        # Nobody asked for it: to the job this is a worker that went away.
        return Failure("infrastructure", "stopped", "the worker stopped the job without being asked to")
    return Failure(
        request.failure_class or "program_error", request.code or "error",
        # Messages may quote the last lines of the log.
        mask((request.message or "the job failed without a message; see its log").encode()).decode(),
    )  # fmt: skip

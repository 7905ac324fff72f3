"""How attempts and jobs end: result, retry decision, ledger, outbox, in the caller's one transaction (R10)."""

from __future__ import annotations

import secrets
from collections import deque

from sqlalchemy.orm import Session

from voxelworks import accounts, credits, notify
from voxelworks.errors import DiskFull
from voxelworks.jobs import _transitions
from voxelworks.jobs._counts import count
from voxelworks.jobs._dependencies import fill_in, is_waiting, lane_of, lock_waiting, waiting_for
from voxelworks.jobs._failures import (
    Failure,
    Failures,
    backoff_s,
    final_message,
    is_our_fault,
    retry_number,
)
from voxelworks.jobs._matching import connected, could_run_with_memory
from voxelworks.jobs._tables import AttemptRow, JobRow
from voxelworks.jobs._telling import job_end
from voxelworks.protocol.messages import JobState, SealedResult
from voxelworks.protocol.views import AttemptOutcome, Publication
from voxelworks.settings import Settings

_random = secrets.SystemRandom()


def end_attempt(
    session: Session,
    attempt: AttemptRow,
    outcome: AttemptOutcome,
    *,
    at_ms: int,
    failure: Failure | None = None,
) -> None:
    attempt.ended_ms = at_ms
    attempt.outcome = outcome
    if failure is not None:
        attempt.failure_class, attempt.code, attempt.message = (
            failure.failure_class,
            failure.code,
            failure.message,
        )
    accounts.end_job_tokens(session, attempt.job_id)


def retry_or_fail(
    session: Session,
    job: JobRow,
    attempt: AttemptRow,
    failure: Failure,
    *,
    at_ms: int,
    who: str,
    settings: Settings,
) -> None:
    """Queue the job again if its failures allow it, otherwise end it. A cancel that is pending goes first (R19)."""
    if job.state == "cancelling":
        end_cancelled(session, job, at_ms=at_ms, who=who, why=failure.message)
        return
    failures = failures_of(job).after(failure)
    _count(job, failures)
    retry = retry_number(failure, failures, settings)
    if retry is None:
        message = final_message(failure, failures, settings)
        final = Failure(failure.failure_class, failure.code, message)
        end_job(session, job, "failed", at_ms=at_ms, who=who, why=message, failure=final)
        return
    if failure.failure_class == "resources" and failure.code != DiskFull.code:
        _ask_for_more_memory(session, job, attempt, at_ms, settings)
    wait_s = backoff_s(retry, _random.random(), settings) if failure.waits else 0.0
    queue_again(session, job, at_ms=at_ms, who=who, why=failure.message, wait_s=wait_s, failure=failure)


def queue_again(
    session: Session,
    job: JobRow,
    *,
    at_ms: int,
    who: str,
    why: str,
    wait_s: float = 0.0,
    failure: Failure | None = None,
) -> None:
    _transitions.move(
        session, job, "queued", at_ms=at_ms, who=who, why=why, available_ms=at_ms + int(wait_s * 1000),
        failure_class=failure and failure.failure_class, code=failure and failure.code,
        message=failure and failure.message,
    )  # fmt: skip


def end_cancelled(
    session: Session, job: JobRow, *, at_ms: int, who: str, why: str, blame: Failure | None = None
) -> None:
    """Cancel a job for good.

    Parameters
    ----------
    blame
        Failure of another job for which this one is cancelled.
    """
    failure = Failure("cancelled", "cancelled", why)
    end_job(session, job, "cancelled", at_ms=at_ms, who=who, why=why, failure=failure, blame=blame)


def end_job(
    session: Session,
    job: JobRow,
    to: JobState,
    *,
    at_ms: int,
    who: str,
    why: str,
    failure: Failure | None = None,
    blame: Failure | None = None,
    result: SealedResult | None = None,
    publisher: AttemptRow | None = None,
    publish_until_ms: int | None = None,
) -> None:
    """Give a job its final state, with all that belongs to it, in one transaction.

    A succeeded job settles what was held for it, every other end returns it; mails and webhooks are written as rows
    that wait for `publication`; jobs that wait for this one go on, or end with it.

    Parameters
    ----------
    publisher
        Attempt whose worker publishes the result now; other workers are asked after `publish_until_ms`.
    """
    waiting = lock_waiting(session, job)
    _end(
        session, job, to, at_ms=at_ms, who=who, why=why, failure=failure, blame=blame, result=result,
        publisher=publisher, publish_until_ms=publish_until_ms,
    )  # fmt: skip
    if to != "succeeded":
        end_waiting(session, job, waiting, at_ms=at_ms, blame=blame or failure)
    elif job.publication == "none":
        go_on(session, job, waiting, at_ms=at_ms)


def _end(
    session: Session,
    job: JobRow,
    to: JobState,
    *,
    at_ms: int,
    who: str,
    why: str,
    failure: Failure | None,
    blame: Failure | None,
    result: SealedResult | None = None,
    publisher: AttemptRow | None = None,
    publish_until_ms: int | None = None,
) -> None:
    """End a job without those that wait for it."""
    has_files = result is not None and result.place is not None
    publication: Publication = "pending" if has_files else "none"
    _transitions.move(
        session, job, to, at_ms=at_ms, who=who, why=why, ended_ms=at_ms,
        failure_class=failure and failure.failure_class, code=failure and failure.code,
        message=failure and failure.message,
        result=result and result.model_dump(mode="json"), publication=publication,
        publish_token_hash=publisher.token_hash if publisher and has_files else None,
        publish_session_id=publisher.session_id if publisher and has_files else None,
        publish_until_ms=publish_until_ms if has_files else None,
        cleanup_ms=(publish_until_ms or at_ms) if job.attempt else None,
        # The name stays reserved until the dataset is there.
        reserved_place=job.reserved_place if has_files else None,
    )  # fmt: skip
    session.flush()
    _post(session, job, who=who, is_our_fault_=is_our_fault(blame or failure))
    notify.job_ended(session, job_end(session, job), is_waiting=has_files)


def go_on(session: Session, job: JobRow, waiting: list[JobRow], *, at_ms: int) -> None:
    """Let jobs that waited for a job start, if it was the last that they waited for."""
    for other in waiting:
        if other.state != "queued":
            continue  # it ended with one that was gone through before
        failure = fill_in(session, other, [job])
        if failure is not None:
            why = f"it waited for job {job.id}, but {failure.message}"
            final = Failure(failure.failure_class, failure.code, why)
            end_job(session, other, "failed", at_ms=at_ms, who="server", why=why, failure=final)
        elif not is_waiting(session, other):
            other.lane = lane_of(other)
            other.available_ms = other.updated_ms = at_ms
            _transitions.note(
                session,
                other,
                at_ms=at_ms,
                who="server",
                why="what it waited for is there",
                from_state=other.state,
            )


def end_waiting(
    session: Session, job: JobRow, waiting: list[JobRow], *, at_ms: int, blame: Failure | None
) -> None:
    """Cancel the jobs that wait for a job that will have no result, and those that wait for them; return their charges.

    Parameters
    ----------
    waiting
        Those that wait for it directly. The caller has locked the others too.
    """
    # One after another, not each within the one before: a chain may be longer than the stack is deep.
    ending = deque((job, other) for other in waiting)
    while ending:
        cause, other = ending.popleft()
        # It may have waited for two jobs that ended with each other.
        if other.state == "queued":
            why = f"it waited for job {cause.id}, which {_end_in_words(cause)}"
            failure = Failure("cancelled", "cancelled", why)
            _end(
                session, other, "cancelled", at_ms=at_ms, who="server", why=why, failure=failure, blame=blame
            )
            ending.extend((other, following) for following in waiting_for(session, other))


def _end_in_words(job: JobRow) -> str:
    if job.publication == "failed":
        return "made a result that cannot be published"
    return "was cancelled" if job.state == "cancelled" else "failed"


def failures_of(job: JobRow) -> Failures:
    return Failures(job.infrastructure_failures, job.resource_failures, job.lost_leases)


def uncount(job: JobRow) -> None:
    """Take back a lost lease that was none: its worker is there again."""
    _count(job, Failures(job.infrastructure_failures - 1, job.resource_failures, job.lost_leases - 1))


def _count(job: JobRow, failures: Failures) -> None:
    job.infrastructure_failures = failures.infrastructure
    job.resource_failures = failures.resources
    job.lost_leases = failures.lost_leases


def _post(session: Session, job: JobRow, *, who: str, is_our_fault_: bool) -> None:
    """Settle or return what is held for a job."""
    if job.state == "succeeded":
        credits.settle(session, job.id, who=who)
        return
    returned = credits.release(session, job.id, is_our_fault=is_our_fault_, who=who)
    if returned is not None:
        count(session, "refunds")
        count(session, "refunded_millicredits", returned.amount)


def _ask_for_more_memory(
    session: Session, job: JobRow, attempt: AttemptRow, at_ms: int, settings: Settings
) -> None:
    """Ask for a multiple of what was not enough, at most for what the largest worker gives to a job (R14).

    That is one that is there and has all else that the job needs: no other will take it.
    """
    given = attempt.memory_bytes_max or attempt.worker.memory_bytes
    largest = max(
        (
            worker.memory_bytes
            for worker in connected(session, at_ms - round(settings.silent_after_s * 1000))
            if worker.memory_bytes is not None and could_run_with_memory(worker, job, at_ms)
        ),
        default=None,
    )
    if given is None or largest is None:
        return
    job.memory_bytes = max(given, min(round(given * settings.memory_retry_factor), largest))

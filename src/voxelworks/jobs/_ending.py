"""How attempts and jobs end: result, retry decision and events, always in the caller's one transaction (R10)."""

from __future__ import annotations

import secrets

from sqlalchemy.orm import Session

from voxelworks.jobs import _transitions
from voxelworks.jobs._failures import Failure, Failures, backoff_s, final_message, retry_number
from voxelworks.jobs._tables import AttemptRow, JobRow
from voxelworks.protocol.messages import JobState, SealedResult
from voxelworks.protocol.views import AttemptOutcome, Publication
from voxelworks.settings import Settings

_random = secrets.SystemRandom()


def end_attempt(
    attempt: AttemptRow, outcome: AttemptOutcome, *, at_ms: int, failure: Failure | None = None
) -> None:
    attempt.ended_ms = at_ms
    attempt.outcome = outcome
    if failure is not None:
        attempt.failure_class, attempt.code, attempt.message = (
            failure.failure_class,
            failure.code,
            failure.message,
        )


def retry_or_fail(
    session: Session, job: JobRow, failure: Failure, *, at_ms: int, who: str, settings: Settings
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


def end_cancelled(session: Session, job: JobRow, *, at_ms: int, who: str, why: str) -> None:
    end_job(
        session,
        job,
        "cancelled",
        at_ms=at_ms,
        who=who,
        why=why,
        failure=Failure("cancelled", "cancelled", why),
    )


def end_job(
    session: Session,
    job: JobRow,
    to: JobState,
    *,
    at_ms: int,
    who: str,
    why: str,
    failure: Failure | None = None,
    result: SealedResult | None = None,
    publisher: AttemptRow | None = None,
    publish_until_ms: int | None = None,
) -> None:
    """Give a job its final state, with all that belongs to it, in one transaction.

    Parameters
    ----------
    publisher
        Attempt whose worker publishes the result now; other workers are asked after `publish_until_ms`.
    """
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
        reserved_name=job.reserved_name if has_files else None,
    )  # fmt: skip
    # Ledger and outbox join here, in this transaction: a succeeded job settles its hold, every other end releases
    # it, and the mails and webhooks of the end are written as rows that wait for `publication`.


def failures_of(job: JobRow) -> Failures:
    return Failures(job.infrastructure_failures, job.resource_failures, job.lost_leases)


def uncount(job: JobRow) -> None:
    """Take back a lost lease that was none: its worker is there again."""
    _count(job, Failures(job.infrastructure_failures - 1, job.resource_failures, job.lost_leases - 1))


def _count(job: JobRow, failures: Failures) -> None:
    job.infrastructure_failures = failures.infrastructure
    job.resource_failures = failures.resources
    job.lost_leases = failures.lost_leases

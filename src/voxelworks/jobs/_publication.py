"""Results become visible: publish orders, confirmations, and the lease on a dataset that is added to."""

from __future__ import annotations

import secrets
from pathlib import Path

from sqlalchemy import ColumnElement, delete, or_, select, true
from sqlalchemy.orm import Session

from voxelworks import catalog, credits, notify
from voxelworks.db import insert_into, now
from voxelworks.errors import LeaseLost, NotAllowed, VoxelworksError
from voxelworks.jobs import _transitions
from voxelworks.jobs._counts import count
from voxelworks.jobs._dependencies import lock_waiting
from voxelworks.jobs._describe import describe_dataset, describe_previews
from voxelworks.jobs._ending import end_waiting, go_on
from voxelworks.jobs._failures import Failure
from voxelworks.jobs._leases import (
    hash_token,
    is_publisher,
    lock_attempt,
    lock_worker,
    milliseconds,
    runs,
    touch,
)
from voxelworks.jobs._tables import AttemptRow, DatasetLeaseRow, JobRow, WorkerSessionRow
from voxelworks.jobs._telling import job_end
from voxelworks.protocol.messages import (
    CleanedRequest,
    CleanupOrder,
    DatasetLeaseAnswer,
    DatasetLeaseRequest,
    PublishedRequest,
    PublishOrder,
    SealedResult,
)
from voxelworks.protocol.models import read_facts
from voxelworks.protocol.people import WorkerKeyView
from voxelworks.protocol.places import Places
from voxelworks.protocol.uploads import UPLOAD_REF
from voxelworks.protocol.views import DatasetSummary, DatasetView
from voxelworks.settings import Settings


def take_publish_order(
    session: Session, session_id: str, *, key: WorkerKeyView | None = None, settings: Settings
) -> PublishOrder | None:
    """Give a worker an accepted result whose publisher was not heard from, if there is one.

    Parameters
    ----------
    key
        That the worker has shown; None inside the server.

    Raises
    ------
    LeaseLost
        If the worker's session was replaced, or opened with another key.
    """
    worker = lock_worker(session, session_id, key)
    at_ms = now(session)
    touch(worker, at_ms, settings)
    job = session.scalar(
        select(JobRow)
        .where(JobRow.publication == "pending", JobRow.publish_until_ms <= at_ms, _is_for(worker))
        .order_by(JobRow.ended_ms)
        .limit(1)
        .with_for_update(skip_locked=True),
        execution_options={"populate_existing": True},
    )
    if job is None:
        return None
    token = secrets.token_urlsafe(16)
    job.publish_token_hash, job.publish_session_id = hash_token(token), worker.id
    job.publish_until_ms = at_ms + milliseconds(settings.lease_s)
    _note(
        session,
        job,
        at_ms,
        f"worker:{worker.name}",
        "publishes the result in place of a worker that went away",
    )
    return PublishOrder(
        job_id=job.id, attempt=job.attempt, token=token, work_key=job.id,
        result=SealedResult.model_validate(job.result),
    )  # fmt: skip


def take_cleanup_order(
    session: Session, session_id: str, *, key: WorkerKeyView | None = None, settings: Settings
) -> CleanupOrder | None:
    """Give a worker an ended job whose attempts may have left something, if there is one.

    Parameters
    ----------
    key
        That the worker has shown; None inside the server.

    Raises
    ------
    LeaseLost
        If the worker's session was replaced, or opened with another key.
    """
    worker = lock_worker(session, session_id, key)
    at_ms = now(session)
    touch(worker, at_ms, settings)
    job = session.scalar(
        select(JobRow)
        .where(
            JobRow.cleanup_ms <= at_ms,
            JobRow.publication != "pending",
            runs(worker.workflows),
            _is_for(worker),
        )
        .order_by(JobRow.cleanup_ms)
        .limit(1)
        .with_for_update(skip_locked=True),
        execution_options={"populate_existing": True},
    )
    if job is None:
        return None
    token = secrets.token_urlsafe(16)
    job.publish_token_hash = hash_token(token)
    job.cleanup_ms = at_ms + milliseconds(settings.lease_s)
    return CleanupOrder(
        job_id=job.id, attempt=job.attempt, token=token, workflow=job.workflow, params=job.params, places=job.places,
        work_key=job.id,
    )  # fmt: skip


def cleaned(session: Session, job_id: str, number: int, request: CleanedRequest) -> None:
    """Take in that nothing is left of an ended job but its published result. Repeating is harmless.

    Raises
    ------
    LeaseLost
        If another worker was ordered to clean up meanwhile.
    """
    job, attempt = lock_attempt(session, job_id, number, request.token)
    if job.attempt == attempt.number:
        job.cleanup_ms = None


def published(
    session: Session, job_id: str, number: int, request: PublishedRequest, *, places: Places
) -> None:
    """Take in that a result can be seen now, and enter its dataset into the catalog; or that it never will.

    Repeating is harmless.

    Raises
    ------
    LeaseLost
        If another worker was ordered to publish meanwhile.
    """
    job, attempt = _lock_publication(session, job_id, number, request.token)
    if job.publication != "pending":
        return
    waiting = lock_waiting(session, job)
    at_ms = now(session)
    worker = session.get_one(WorkerSessionRow, job.publish_session_id)
    result = SealedResult.model_validate(job.result)
    if request.error is not None:
        job.publication, job.publish_error = "failed", request.error
        why = f"the result cannot be published: {request.error}"
    else:
        job.publication, job.published_ms = "published", at_ms
        why = "the result is published" + _enter_into_catalog(session, job, result, places)
        for place in job.places.values():
            if place.startswith(UPLOAD_REF):
                catalog.note_converted(session, place)
    job.reserved_place = None
    job.publish_until_ms = None
    if job.publish_session_id != attempt.session_id:
        job.cleanup_ms = at_ms  # the worker that made the files is gone
    job.updated_ms = at_ms
    _delete_dataset_lease(session, attempt, result.place)
    _note(session, job, at_ms, f"worker:{worker.name}", why)
    session.flush()
    if request.error is None:
        notify.job_published(session, job.id)
        go_on(session, job, waiting, at_ms=at_ms)
    else:
        _refund(session, job)
        notify.job_not_published(session, job.id, job_end(session, job))
        blame = Failure("infrastructure", "not-published", request.error)
        end_waiting(session, job, waiting, at_ms=at_ms, blame=blame)


def lease_dataset(
    session: Session, job_id: str, number: int, request: DatasetLeaseRequest, *, settings: Settings
) -> DatasetLeaseAnswer:
    """Try to get or keep the right to change a dataset's metadata; one publisher has it at a time.

    Raises
    ------
    LeaseLost
        If another worker was ordered to publish meanwhile, or the result is published.
    NotAllowed
        If the job's result is not in this dataset.
    """
    job, _ = _lock_publication(session, job_id, number, request.token)
    if job.publication != "pending":
        raise LeaseLost(f"the result of job {job_id} is {job.publication}; there is nothing left to change")
    if SealedResult.model_validate(job.result).place != request.place:
        raise NotAllowed(f"the result of job {job_id} is not in {request.place!r}; ask for its own place")
    at_ms = now(session)
    job.publish_until_ms = at_ms + milliseconds(settings.lease_s)
    until_ms = at_ms + milliseconds(settings.dataset_lease_s)
    taking = insert_into(session, DatasetLeaseRow).values(
        place=request.place, job_id=job_id, attempt=number, until_ms=until_ms
    )
    is_free = or_(DatasetLeaseRow.until_ms < at_ms, DatasetLeaseRow.job_id == job_id)
    taken = session.execute(
        taking.on_conflict_do_update(
            index_elements=[DatasetLeaseRow.place],
            set_={"job_id": job_id, "attempt": number, "until_ms": until_ms},
            where=is_free,
        ).returning(DatasetLeaseRow.place)
    ).first()
    if taken is not None:
        return DatasetLeaseAnswer(held=True, lease_s=settings.dataset_lease_s)
    others_until_ms = session.scalar(
        select(DatasetLeaseRow.until_ms).where(DatasetLeaseRow.place == request.place)
    )
    return DatasetLeaseAnswer(held=False, lease_s=max(0, (others_until_ms or at_ms) - at_ms) / 1000)


def release_dataset(session: Session, job_id: str, number: int, request: DatasetLeaseRequest) -> None:
    """Give a dataset lease back early; harmless if it is not held."""
    _, attempt = _lock_publication(session, job_id, number, request.token)
    _delete_dataset_lease(session, attempt, request.place)


def _is_for(worker: WorkerSessionRow) -> ColumnElement[bool]:
    """Match the jobs of the organization that a worker's key is for, or all."""
    return true() if worker.organization_id is None else JobRow.organization_id == worker.organization_id


def _lock_publication(session: Session, job_id: str, number: int, token: str) -> tuple[JobRow, AttemptRow]:
    job, attempt = lock_attempt(session, job_id, number, token)
    if job.attempt != number or not is_publisher(job, token):
        raise LeaseLost(f"another worker publishes the result of job {job_id}; leave it to that one")
    return job, attempt


def _delete_dataset_lease(session: Session, attempt: AttemptRow, place: str | None) -> None:
    session.execute(
        delete(DatasetLeaseRow).where(
            DatasetLeaseRow.place == place, DatasetLeaseRow.job_id == attempt.job_id
        )
    )


def _enter_into_catalog(session: Session, job: JobRow, result: SealedResult, places: Places) -> str:
    """Register what was made; gives a remark for the event if its metadata cannot be read here."""
    assert result.place is not None
    if result.kind == "artifact":
        assert result.file is not None
        catalog.register_artifact(session, job.id, result.file, organization_id=job.organization_id)
        return ""
    if result.kind == "model":
        return _enter_model(session, job, result, places)
    known = catalog.find_by_place(session, result.place)
    if result.kind == "previews":
        return _enter_previews(session, known, result.place, places)
    remark = ""
    try:
        summary = describe_dataset(result.place, places)
    except (VoxelworksError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        # The files are there, or the worker would not have said so: the job must not fail for our view of them.
        summary = known.summary if known else DatasetSummary(voxel_size=None, layers=())
        remark = f", but the server cannot read its metadata ({reason})"
    name = result.place.rpartition("/")[2]
    catalog.register(
        session, organization_id=job.organization_id, user_id=job.user_id, name=known.name if known else name,
        place=result.place, summary=summary, size_bytes=result.size_bytes,
        made_by_job=job.id if result.kind == "dataset" else None,
    )  # fmt: skip
    return remark


def _enter_model(session: Session, job: JobRow, result: SealedResult, places: Places) -> str:
    """Enter a version of a model; gives a remark for the event if it cannot be read here."""
    assert result.place is not None
    try:
        facts = read_facts(Path(places.locate(result.place)))
    except VoxelworksError as error:
        # Made by a worker that knows more of models than this server, or harmed since.
        return f", but the server cannot read what the model is ({error})"
    catalog.register_model(
        session, result.place, facts, user_id=job.user_id, size_bytes=result.size_bytes, made_by_job=job.id
    )
    return ""


def _enter_previews(session: Session, dataset: DatasetView | None, place: str, places: Places) -> str:
    """Remember which pictures a dataset has; gives a remark for the event if they cannot be read here."""
    if dataset is None:
        return ", but the dataset is gone"
    try:
        previews = describe_previews(place, places)
    except VoxelworksError as error:
        return f", but the server cannot read it ({error})"
    catalog.set_previews(session, dataset.id, previews)
    return ""


def _refund(session: Session, job: JobRow) -> None:
    """Give back the charge of a job whose result nobody will ever see: it was settled when the job succeeded."""
    returned = credits.refund(session, job.id, who="server")
    if returned is not None:
        count(session, "refunds")
        count(session, "refunded_millicredits", returned.amount)


def _note(session: Session, job: JobRow, at_ms: int, who: str, why: str) -> None:
    _transitions.note(session, job, at_ms=at_ms, who=who, why=why, from_state=job.state)

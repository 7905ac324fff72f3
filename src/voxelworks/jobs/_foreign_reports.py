"""What workers that speak WEBKNOSSOS' job protocol say of their runs (`_foreign_runs`), and what follows from it."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace

from sqlalchemy import update
from sqlalchemy.orm import Session

from voxelworks import catalog
from voxelworks.db import SecretBox, now
from voxelworks.errors import DatasetNotFound, LeaseLost, NotFound, VoxelworksError
from voxelworks.jobs import _transitions
from voxelworks.jobs._claiming import hand_over
from voxelworks.jobs._failures import Failure
from voxelworks.jobs._finishing import finish
from voxelworks.jobs._foreign_remains import MadeDataset, Remains, is_reserved, remains_at, remains_before
from voxelworks.jobs._foreign_runs import (
    ForeignRunRow,
    ForeignWorker,
    keep,
    lock_session,
    new_place,
    note_run,
    run_told_of,
)
from voxelworks.jobs._leases import lock_attempt, lose, renew, touch, worker_name
from voxelworks.jobs._masking import mask
from voxelworks.jobs._publication import published
from voxelworks.jobs._submission import upgraded
from voxelworks.jobs._tables import AttemptRow, JobRow, WorkerSessionRow
from voxelworks.protocol.foreign import TERMINAL_WIRE_STATES, ForeignReport, failure_text
from voxelworks.protocol.messages import (
    Claim,
    FinishRequest,
    Json,
    PublishedRequest,
    RenewRequest,
    SealedResult,
)
from voxelworks.protocol.places import Places, dataset_place
from voxelworks.protocol.views import TERMINAL_STATES
from voxelworks.settings import Settings
from voxelworks.workflows import ForeignResult, get_workflow

ERROR_DETAILS_BYTES_MAX = 64 * 2**10
"""Longer details of a failure are stored as their message alone."""


def report_foreign(
    session: Session,
    worker: ForeignWorker,
    root_id: str,
    told: ForeignReport,
    *,
    made: MadeDataset | None,
    box: SecretBox,
    places: Places,
    settings: Settings,
) -> Remains | None:
    """Take in what a worker says of a job. Saying the same end again is harmless.

    Parameters
    ----------
    made
        What lies at `awaited_place`; None if nothing can be read there, or nothing is awaited.

    Returns
    -------
    Remains or None
        What must be put away, before the name is free or the worker begins, if the job has ended or starts anew.

    Raises
    ------
    NotFound
        If the worker never had the job.
    LeaseLost
        If the run is not, or no longer, the one that counts.
    """
    run = run_told_of(session, worker.key, root_id, told.latest_run_id)
    row = lock_session(session, worker.key, None, settings)
    job, attempt = lock_attempt(session, run.job_id, run.number, worker.token(run.job_id, run.number))
    at_ms = now(session)
    touch(row, at_ms, settings)
    is_held = keep(session, job, attempt, box, at_ms=at_ms, settings=settings)
    was_done = run.is_done
    if told.state == "CANCELLED":
        _take_stop(session, worker, run, job, attempt, told, is_held=is_held, settings=settings)
    elif not is_held:
        _refuse_unless_repeated(run, job, told)
    elif told.state in TERMINAL_WIRE_STATES:
        _take_end(session, worker, run, job, told, made=made, places=places, settings=settings)
    elif told.state == "STARTED" and _is_same_run(run, told):
        _take_start(session, worker, run, told, settings)
    elif told.state == "STARTED":
        _lose_to_restart(session, worker, job, attempt, at_ms=at_ms, settings=settings)
        again = _take_again(session, row, job, at_ms=at_ms, settings=settings)
        if again is not None:
            _take_start(session, worker, note_run(session, worker, again, box), told, settings)
            before = remains_before(session, again)
            return None if before is None else replace(before, has_links=False)
    place = new_place(job)
    # What lies there when an end is told again is not of this run.
    if place is None or was_done or job.state not in TERMINAL_STATES or is_reserved(session, place):
        return None
    return remains_at(session, place)


def attach_foreign_workflow(
    session: Session, worker: ForeignWorker, root_id: str, workflow_hash: str
) -> None:
    """Note the name that a worker gives to its own report of a job.

    Raises
    ------
    NotFound
        If the worker never had the job.
    """
    run_told_of(session, worker.key, root_id, None).workflow_hash = workflow_hash


def attach_foreign_dataset(session: Session, worker: ForeignWorker, root_id: str, name: str) -> None:
    """Note which dataset an inference made.

    Raises
    ------
    NotFound
        If the worker never had the job, or it is no inference.
    DatasetNotFound
        If the organization of the job has no dataset of this name.
    """
    run = run_told_of(session, worker.key, root_id, None)
    job = session.get_one(JobRow, run.job_id)
    commands = [foreign.command for foreign in get_workflow(job.workflow).foreign]
    if not any(command.startswith("infer_") for command in commands):
        raise NotFound(f"job {root_id} is no inference; a dataset can be attached to inferences only")
    dataset = catalog.find_by_place(session, dataset_place(job.organization_id, name))
    if dataset is None:
        raise DatasetNotFound(f"organization {job.organization_id!r} has no dataset {name!r}")
    run.dataset_id = dataset.id


def _is_same_run(run: ForeignRunRow, told: ForeignReport) -> bool:
    return None in (run.run_id, told.latest_run_id) or run.run_id == told.latest_run_id


def _require_same_run(run: ForeignRunRow, told: ForeignReport) -> None:
    if not _is_same_run(run, told):
        raise LeaseLost(
            f"run {told.latest_run_id!r} of job {run.root_id} does not count any more: {run.run_id!r} does"
        )


def _take_start(
    session: Session, worker: ForeignWorker, run: ForeignRunRow, told: ForeignReport, settings: Settings
) -> None:
    run.run_id = told.latest_run_id or run.run_id
    run.told_state = "STARTED"
    request = RenewRequest(token=worker.token(run.job_id, run.number))
    renew(session, run.job_id, run.number, request, settings=settings)


def _lose_to_restart(
    session: Session,
    worker: ForeignWorker,
    job: JobRow,
    attempt: AttemptRow,
    *,
    at_ms: int,
    settings: Settings,
) -> None:
    """End the attempt of a worker that was started anew.

    It counts as a lost worker: a job that brings its worker down is not started for ever.
    """
    why = f"worker {worker.key.name} was started anew"
    failure = Failure("infrastructure", "worker-restarted", why, is_lost_lease=True, waits=False)
    lose(session, job, attempt, failure, at_ms=at_ms, settings=settings)
    session.flush()


def _take_again(
    session: Session, row: WorkerSessionRow, job: JobRow, *, at_ms: int, settings: Settings
) -> Claim | None:
    """Give a worker the job that it had until now. None if that was given up: the next poll says so."""
    again = session.scalar(
        update(JobRow)
        .where(JobRow.id == job.id, JobRow.state == "queued")
        .values(
            state="claimed", attempt=JobRow.attempt + 1, updated_ms=at_ms, failure_class=None, code=None, message=None
        )
        .returning(JobRow),
        execution_options={"populate_existing": True, "synchronize_session": False},
    )  # fmt: skip
    return None if again is None else hand_over(session, row, again, at_ms, settings)


def _take_end(
    session: Session,
    worker: ForeignWorker,
    run: ForeignRunRow,
    job: JobRow,
    told: ForeignReport,
    *,
    made: MadeDataset | None,
    places: Places,
    settings: Settings,
) -> None:
    _require_same_run(run, told)
    _write_down(run, told)
    token = worker.token(run.job_id, run.number)
    answer = finish(session, run.job_id, run.number, _end_of(job, told, made, token), settings=settings)
    if answer.publish:
        published(session, run.job_id, run.number, PublishedRequest(token=token), places=places)
    # After a cancel only CANCELLED ends the conversation.
    run.is_done = answer.state != "cancelled"


def _end_of(job: JobRow, told: ForeignReport, made: MadeDataset | None, token: str) -> FinishRequest:
    message = failure_text(told.error_details)
    if told.state == "SUCCESS":
        try:
            return FinishRequest(token=token, outcome="succeeded", result=_result_of(job, told, made))
        except VoxelworksError as error:
            message = f"the worker reported a success, but {error.message}"
    return FinishRequest(
        token=token, outcome="failed", failure_class="program_error", code="worker-failed", message=message
    )


def _result_of(job: JobRow, told: ForeignReport, made: MadeDataset | None) -> SealedResult:
    declared = get_workflow(job.workflow)
    assert declared.foreign, f"{job.workflow} was given to a worker of WEBKNOSSOS"
    outcome_of = declared.foreign[0].outcome_of
    assert outcome_of is not None, f"{job.workflow} is not for workers of WEBKNOSSOS"
    outcome = outcome_of(
        declared.parse(upgraded(job, declared)),
        ForeignResult(told.return_value, made.summary if made else None),
    )
    value = outcome.model_dump(mode="json")
    place = new_place(job)
    if place is None:
        # What such a worker adds to a dataset it enters there by itself: there is nothing to publish.
        return SealedResult(kind="value", value=value)
    return SealedResult(kind="dataset", place=place, value=value, size_bytes=made.size_bytes if made else 0)


def _take_stop(
    session: Session,
    worker: ForeignWorker,
    run: ForeignRunRow,
    job: JobRow,
    attempt: AttemptRow,
    told: ForeignReport,
    *,
    is_held: bool,
    settings: Settings,
) -> None:
    """Take in that a run was stopped: because it was told to, or by the worker's own decision."""
    is_asked = job.state == "cancelling"
    if is_held and not is_asked:
        _require_same_run(run, told)
    _write_down(run, told)
    run.is_done = True
    if not is_held:
        return
    if not is_asked:
        at_ms = now(session)
        _transitions.move(
            session, job, "cancelling", at_ms=at_ms, who=worker_name(attempt),
            why="the worker stopped the job", cancel_requested_ms=at_ms,
        )  # fmt: skip
    request = FinishRequest(token=worker.token(run.job_id, run.number), outcome="cancelled")
    finish(session, run.job_id, run.number, request, settings=settings)


def _refuse_unless_repeated(run: ForeignRunRow, job: JobRow, told: ForeignReport) -> None:
    is_repeated = (
        told.state in TERMINAL_WIRE_STATES
        and told.state == run.told_state
        and _is_same_run(run, told)
        and told.return_value == run.return_value
    )
    if not is_repeated:
        raise LeaseLost(f"this worker no longer has job {run.root_id}, which is {job.state}; stop it")


def _write_down(run: ForeignRunRow, told: ForeignReport) -> None:
    run.run_id = told.latest_run_id or run.run_id
    run.told_state = told.state
    run.return_value = told.return_value
    run.error_details = _stored_details(told.error_details)


def _stored_details(details: Json | None) -> Json | None:
    if details is None:
        return None
    # Details may quote the last lines of a log.
    text = mask(json.dumps(details).encode())
    if len(text) <= ERROR_DETAILS_BYTES_MAX:
        with suppress(ValueError):  # masked across a quotation mark
            stored: Json = json.loads(text)
            return stored
    return {"message": mask(failure_text(details).encode()).decode()}

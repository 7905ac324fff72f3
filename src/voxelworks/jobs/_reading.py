"""What pages and programs see of the queue. Reads only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, Text, and_, cast, exists, func, inspect, select, tuple_
from sqlalchemy.orm import Session

from voxelworks import accounts, catalog, credits
from voxelworks.db import among, now, texts
from voxelworks.errors import FailureClass, InvalidInput, NotFound
from voxelworks.jobs import _progress
from voxelworks.jobs._dependencies import awaited_by
from voxelworks.jobs._leases import HELD_STATES, is_current
from voxelworks.jobs._provenance import worked_on
from voxelworks.jobs._search import found_by, works_on
from voxelworks.jobs._tables import AttemptRow, EventRow, JobRow, WorkerSessionRow
from voxelworks.jobs._totals import totals
from voxelworks.jobs._visibility import find_job, is_outside, seen_by, sight
from voxelworks.jobs._waiting import COUNTED_MAX, waits_of
from voxelworks.protocol.messages import JobState, Picture, Progress, SealedResult
from voxelworks.protocol.people import Principal
from voxelworks.protocol.places import MODEL
from voxelworks.protocol.views import (
    TERMINAL_STATES,
    AttemptView,
    DatasetView,
    EtaView,
    EventView,
    JobDetail,
    JobPage,
    JobView,
    ModelView,
    WaitView,
    WorkerView,
)
from voxelworks.settings import Settings
from voxelworks.workflows import workflows

_DAY_MS = 86_400_000


def show(session: Session, job_id: str, *, by: Principal, settings: Settings) -> JobDetail:
    """Give a job with its attempts and events.

    Raises
    ------
    NotFound
        Also if they may not see it.
    """
    job = find_job(session, job_id, by)
    (view,) = _views(session, [job], settings, counted_max=None)
    attempts = session.execute(
        select(AttemptRow, WorkerSessionRow.name)
        .join(WorkerSessionRow, WorkerSessionRow.id == AttemptRow.session_id)
        .where(AttemptRow.job_id == job_id)
        .order_by(AttemptRow.number)
    )
    retries = session.scalars(
        select(JobRow.id).where(JobRow.retried_from == job_id, seen_by(by)).order_by(JobRow.created_ms)
    )
    return JobDetail(
        job=view, attempts=tuple(_attempt_view(attempt, name) for attempt, name in attempts),
        events=list_events(session, job_id=job_id, limit=None), retries=tuple(retries),
        artifact=None if is_outside(job, by) else catalog.find_artifact(session, job_id, settings=settings),
    )  # fmt: skip


def find_picture(session: Session, job_id: str, *, by: Principal) -> Picture:
    """Give the latest picture of a job.

    Raises
    ------
    NotFound
        Also if they may not see the job.
    """
    job = find_job(session, job_id, by)
    told = session.scalar(
        select(AttemptRow.progress).where(AttemptRow.job_id == job.id, AttemptRow.number == job.attempt)
    )
    picture = Progress.model_validate(told).picture if told else None
    if picture is None or is_outside(job, by):  # it is a piece of their data
        raise NotFound(f"job {job_id} has no picture")
    return picture


def list_jobs(
    session: Session,
    *,
    by: Principal,
    settings: Settings,
    states: Sequence[JobState] = (),
    workflow: str | None = None,
    owner: str | None = None,
    organization_id: str | None = None,
    group: str | None = None,
    failure_class: FailureClass | None = None,
    dataset: str | None = None,
    since_ms: int | None = None,
    until_ms: int | None = None,
    is_charged: bool = False,
    text: str = "",
    after: str | None = None,
    limit: int = 50,
    everybody: bool = True,
) -> JobPage:
    """List the jobs that somebody may see, newest first.

    Parameters
    ----------
    owner
        Id or mail address of who submitted them.
    dataset
        Name or id of a dataset that they read, change or make.
    since_ms, until_ms
        Submitted then or later, and before.
    is_charged
        Only what was charged for, also if it was returned.
    text
        Words that must all be found in the params, the workflow, the group, the failure or the owner's name of a job,
        or begin its id.
    after
        `next_after` of the page before; pages stay whole while jobs come in.
    everybody
        Also those of others.

    Raises
    ------
    InvalidInput
        If `after` is no place in the list, the text is too long, or what looks like a mail address is none.
    """
    filters = {
        JobRow.workflow: workflow, JobRow.organization_id: organization_id, JobRow.group_id: group,
        JobRow.failure_class: failure_class,
    }  # fmt: skip
    matching = and_(seen_by(by), *(column == value for column, value in filters.items() if value))
    if owner:
        matching = and_(matching, JobRow.user_id == _user_id(session, owner))
    if dataset:
        matching = and_(matching, works_on(session, dataset, by))
    if since_ms is not None:
        matching = and_(matching, JobRow.created_ms >= since_ms)
    if until_ms is not None:
        matching = and_(matching, JobRow.created_ms < until_ms)
    if is_charged:
        matching = and_(matching, credits.is_charged(JobRow.id))
    if not everybody:
        matching = and_(matching, JobRow.user_id == by.user_id, JobRow.organization_id == by.organization_id)
    if text:
        matching = and_(matching, found_by(session, text))
    same = (
        sight(by) if everybody else (by.organization_id, by.user_id), *filters.values(), owner, dataset, since_ms,
        until_ms, is_charged, text,
    )  # fmt: skip
    wanted = matching if not states else and_(matching, JobRow.state.in_(states))
    if after is not None:
        wanted = and_(wanted, _is_after(after))
    newest = (
        select(*_SHOWN).where(wanted).order_by(JobRow.created_ms.desc(), JobRow.id.desc()).limit(limit + 1)
    )
    rows = session.execute(newest).all()
    page = rows[:limit]
    last = page[-1] if len(rows) > limit else None
    return JobPage(
        jobs=_views(session, page, settings, counted_max=COUNTED_MAX), counts={**totals(session, matching, same)},
        next_after=None if last is None else f"{last.created_ms}.{last.id}",
    )  # fmt: skip


def jobs_of_dataset(
    session: Session, dataset: DatasetView, *, by: Principal, settings: Settings, limit: int
) -> tuple[JobView, ...]:
    """Give the jobs that made a dataset, read it or added to it, as far as somebody may see them, newest first."""
    newest = (
        select(*_SHOWN)
        .where(worked_on(dataset), seen_by(by))
        .order_by(JobRow.created_ms.desc(), JobRow.id.desc())
        .limit(limit)
    )
    return _views(session, session.execute(newest).all(), settings, counted_max=COUNTED_MAX)


def jobs_of_annotation(
    session: Session, annotation_id: str, *, by: Principal, settings: Settings, limit: int
) -> tuple[JobView, ...]:
    """Give the jobs that took an annotation, as far as somebody may see them, newest first."""
    takers = [
        name for name, item in workflows().items() if any(field.kind == "annotation" for field in item.fields)
    ]
    newest = (
        select(*_SHOWN)
        .where(
            JobRow.workflow.in_(takers), seen_by(by),
            cast(JobRow.params, Text).contains(json.dumps(annotation_id), autoescape=True),
        )
        .order_by(JobRow.created_ms.desc(), JobRow.id.desc())
        .limit(limit)
    )  # fmt: skip
    return _views(session, session.execute(newest).all(), settings, counted_max=COUNTED_MAX)


def is_annotation_in_use(session: Session, annotation_id: str) -> bool:
    """Whether a job of anybody that has not ended takes an annotation."""
    taken = exists().where(
        JobRow.state.not_in(TERMINAL_STATES),
        cast(JobRow.places, Text).contains(f"/{annotation_id}.", autoescape=True),
    )
    return bool(session.scalar(select(taken)))


def jobs_of_model(
    session: Session, model: ModelView, *, by: Principal, settings: Settings, limit: int
) -> tuple[JobView, ...]:
    """Give the jobs that made a version of a model or took one, as far as somebody may see them, newest first."""
    newest = (
        select(*_SHOWN)
        .where(_names_model(model.versions[0].place, is_any_version=True), seen_by(by))
        .order_by(JobRow.created_ms.desc(), JobRow.id.desc())
        .limit(limit)
    )
    return _views(session, session.execute(newest).all(), settings, counted_max=COUNTED_MAX)


def is_model_in_use(session: Session, model: ModelView, *, number: int | None = None) -> bool:
    """Whether a job of anybody that has not ended takes a version of a model, or makes one."""
    version = model.version(number)
    assert version is not None, "it is there"
    is_open = JobRow.state.not_in(TERMINAL_STATES) | (JobRow.publication == "pending")
    named = exists().where(is_open, _names_model(version.place, is_any_version=number is None))
    return bool(session.scalar(select(named)))


def _names_model(place: str, *, is_any_version: bool) -> ColumnElement[bool]:
    is_version = is_any_version and place.startswith(MODEL)
    text = json.dumps(place.rpartition("/")[0] + "/" if is_version else place).rstrip('"')
    return cast(JobRow.places, Text).contains(text if is_version else f'{text}"', autoescape=True)


def job_view(session: Session, job: JobRow, *, settings: Settings | None = None) -> JobView:
    """Give the view of one job, and with the settings also why it waits."""
    return job_views(session, [job], settings=settings)[0]


def job_views(
    session: Session, jobs: Sequence[JobRow], *, settings: Settings | None = None
) -> tuple[JobView, ...]:
    """Give the views of jobs, and with the settings also why they wait.

    Who submits holds locks meanwhile: as in lists, nobody counts a long queue.
    """
    session.flush()
    return _views(session, jobs, settings, counted_max=COUNTED_MAX)


def list_events(
    session: Session, *, after_id: int = 0, job_id: str | None = None, limit: int | None = 1000
) -> tuple[EventView, ...]:
    """Give events in the order in which they were noted."""
    wanted = select(EventRow).where(EventRow.id > after_id).order_by(EventRow.id).limit(limit)
    if job_id is not None:
        wanted = wanted.where(EventRow.job_id == job_id)
    return tuple(_event_view(row) for row in session.scalars(wanted))


def revision(session: Session, job_id: str | None = None) -> str:
    """Give a text that changes whenever a job changes (or the one job): cheap to ask for, to know when to look."""
    events = select(func.max(EventRow.id))
    updated = select(func.max(JobRow.updated_ms))
    if job_id is not None:
        events, updated = events.where(EventRow.job_id == job_id), updated.where(JobRow.id == job_id)
    return f"{session.scalar(events) or 0}.{session.scalar(updated) or 0}"


def list_workers(session: Session, *, settings: Settings) -> tuple[WorkerView, ...]:
    """List the workers that were heard from within a day, by name."""
    at_ms = now(session)
    workers = session.scalars(
        select(WorkerSessionRow)
        .where(WorkerSessionRow.replaced_ms.is_(None), WorkerSessionRow.seen_ms > at_ms - _DAY_MS)
        .order_by(WorkerSessionRow.name, WorkerSessionRow.opened_ms)
    ).all()
    held = session.execute(
        select(AttemptRow.session_id, JobRow.id)
        .join(AttemptRow, is_current)
        .where(JobRow.state.in_(HELD_STATES))
        .order_by(JobRow.created_ms)
    ).all()
    return tuple(
        WorkerView(
            session_id=worker.id, name=worker.name, version=worker.version, workflows=worker.workflows,
            protocol=worker.protocol, job_slots=sum(worker.slots.values()), slots=worker.slots, gpus=worker.gpus,
            gpu_names=tuple(worker.gpu_names or ()),
            memory_bytes=worker.memory_bytes, isolation=worker.isolation, organization_id=worker.organization_id,
            failures_in_a_row=len(worker.failed_jobs), paused_ms=worker.paused_ms, paused_why=worker.paused_why,
            is_draining=worker.drained_ms is not None, opened_ms=worker.opened_ms,
            heard_s=_seconds_between(worker.seen_ms, at_ms), is_online=_is_online(worker, at_ms, settings),
            job_ids=tuple(job_id for session_id, job_id in held if session_id == worker.id),
        )
        for worker in workers
    )  # fmt: skip


_SHOWN = tuple(
    getattr(JobRow, column.key)
    for column in inspect(JobRow).column_attrs
    if column.key in JobView.model_fields
    or column.key in ("group_id", "lane", "rank_ms", "needs_gpu", "memory_bytes", "walltime_s")
)
"""What `_view` and `waits_of` read: a list of rows takes half the time of a list of whole jobs."""

_FINDING_ATTEMPTS = (
    select(AttemptRow, WorkerSessionRow.name)
    .join(JobRow, is_current)
    .join(WorkerSessionRow, WorkerSessionRow.id == AttemptRow.session_id)
    .where(among(JobRow.id, texts("job_ids")))
)


def _user_id(session: Session, owner: str) -> str:
    """Give the id of whom a list names by id or mail address. Of strangers nobody has jobs that can be seen."""
    found = accounts.find_user_by_email(session, owner) if "@" in owner else None
    return owner if found is None else found.id


def _is_after(after: str) -> ColumnElement[bool]:
    created_ms, _, job_id = after.partition(".")
    if not (created_ms.isdecimal() and len(created_ms) < 18 and job_id):  # an integer of the column
        raise InvalidInput(f"{after!r} is not a place in the list; take `next_after` of the page before")
    return tuple_(JobRow.created_ms, JobRow.id) < (int(created_ms), job_id)


def _views(
    session: Session,
    jobs: Sequence[JobRow] | Sequence[Row[Any]],
    settings: Settings | None,
    *,
    counted_max: int | None,
) -> tuple[JobView, ...]:
    """Give the views of jobs, or of rows with the columns that are shown."""
    at_ms = now(session)
    tried = [job.id for job in jobs if job.attempt]
    found = session.execute(_FINDING_ATTEMPTS, {"job_ids": tried}) if tried else ()
    attempts = {attempt.job_id: (attempt, name) for attempt, name in found}
    ids = [job.id for job in jobs]
    owners = accounts.find_users(session, sorted({job.user_id for job in jobs}))
    charges, awaited = credits.charges_of(session, ids), awaited_by(session, ids)
    waits: dict[str, WaitView] = {}
    if settings is not None:
        queued = [job for job in jobs if job.state == "queued"]
        waits = waits_of(session, queued, at_ms, settings, counted_max=counted_max)
    return tuple(
        _view(
            job, *attempts.get(job.id, (None, None)), at_ms=at_ms, settings=settings, after=awaited.get(job.id, ()),
            owner=owners[job.user_id].name if job.user_id in owners else job.user_id, charge=charges.get(job.id),
            wait=waits.get(job.id), is_alone=counted_max is None,
        )
        for job in jobs
    )  # fmt: skip


def _shortened(progress: Progress, *, is_alone: bool) -> Progress:
    """Leave out what views would become long of: lists show no curves, and pictures are fetched one by one."""
    if not is_alone:
        return progress.model_copy(update={"curves": (), "picture": None})
    if progress.picture is None:
        return progress
    return progress.model_copy(update={"picture": progress.picture.model_copy(update={"png": ""})})


def _view(
    job: JobRow | Row[Any],
    attempt: AttemptRow | None,
    worker: str | None,
    *,
    at_ms: int,
    settings: Settings | None,
    after: tuple[str, ...],
    owner: str,
    charge: credits.ChargeView | None,
    wait: WaitView | None,
    is_alone: bool,
) -> JobView:
    progress = Progress.model_validate(attempt.progress) if attempt is not None and attempt.progress else None
    if progress is not None:
        progress = _shortened(progress, is_alone=is_alone)
    is_held = job.state in HELD_STATES and attempt is not None
    heard_s = _seconds_between(attempt.renewed_ms, at_ms) if is_held and attempt is not None else None
    eta: EtaView | None = None
    if job.state == "running" and attempt is not None and progress is not None:
        eta = _progress.eta(progress, attempt.samples)
    return JobView(
        id=job.id, owner=owner, user_id=job.user_id, organization_id=job.organization_id,
        workflow=job.workflow, version=job.version, params=job.params, state=job.state,
        priority=job.priority, priority_class=job.priority_class, attempt=job.attempt,
        created_ms=job.created_ms, available_ms=job.available_ms, started_ms=job.started_ms, ended_ms=job.ended_ms,
        updated_ms=job.updated_ms, as_of_ms=at_ms,
        cancel_requested_ms=job.cancel_requested_ms, failure_class=job.failure_class, code=job.code,
        message=job.message, result=SealedResult.model_validate(job.result) if job.result else None,
        publication=job.publication, publish_error=job.publish_error, published_ms=job.published_ms,
        retried_from=job.retried_from, after=after, group=job.group_id, is_foreign=job.is_foreign,
        charge_millicredits=None if charge is None else charge.amount,
        refunded_millicredits=None if charge is None else charge.refunded,
        progress=progress, eta=eta, worker=worker if is_held else None, heard_s=heard_s, wait=wait,
        is_silent=settings is not None and heard_s is not None and heard_s > settings.silent_after_s,
    )  # fmt: skip


def _attempt_view(attempt: AttemptRow, worker: str) -> AttemptView:
    return AttemptView(
        number=attempt.number, worker=worker, claimed_ms=attempt.claimed_ms, started_ms=attempt.started_ms,
        renewed_ms=attempt.renewed_ms, ended_ms=attempt.ended_ms, outcome=attempt.outcome,
        failure_class=attempt.failure_class, code=attempt.code, message=attempt.message, exit_code=attempt.exit_code,
        peak_memory_bytes=attempt.peak_memory_bytes, memory_bytes_max=attempt.memory_bytes_max,
        log_bytes=attempt.log_stored,
    )  # fmt: skip


def _event_view(row: EventRow) -> EventView:
    return EventView(
        id=row.id, job_id=row.job_id, at_ms=row.at_ms, who=row.who, attempt=row.attempt,
        from_state=row.from_state, to_state=row.to_state, why=row.why,
    )  # fmt: skip


def _is_online(worker: WorkerSessionRow, at_ms: int, settings: Settings) -> bool:
    return at_ms - worker.seen_ms <= settings.silent_after_s * 1000


def _seconds_between(start_ms: int, stop_ms: int) -> float:
    return max(0, stop_ms - start_ms) / 1000

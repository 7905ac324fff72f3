"""Jobs that belong together: submitted, quoted and cancelled as one."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from voxelworks import accounts
from voxelworks.db import now
from voxelworks.errors import InvalidInput, NotFound
from voxelworks.jobs._dependencies import lock_awaited, with_jobs
from voxelworks.jobs._finishing import cancel_locked
from voxelworks.jobs._locks import lock_with_waiting
from voxelworks.jobs._reading import job_views
from voxelworks.jobs._references import named_jobs
from voxelworks.jobs._submission import (
    NewOrder,
    Placed,
    charge,
    digest,
    digest_of_one,
    new_id,
    place,
    quote_params,
    require_priority,
    take_key,
)
from voxelworks.jobs._tables import IdempotencyKeyRow, JobRow
from voxelworks.jobs._visibility import require_steering, seen_by
from voxelworks.protocol.messages import NewJob
from voxelworks.protocol.people import Principal
from voxelworks.protocol.places import Places
from voxelworks.protocol.views import GroupQuote, JobView
from voxelworks.settings import Settings
from voxelworks.workflows import get_workflow

_JOBS_MAX = 1000


def submit_group(
    session: Session,
    *,
    by: Principal,
    jobs: Sequence[NewJob],
    places: Places,
    settings: Settings,
    idempotency_key: str | None = None,
    is_foreign: bool = False,
) -> tuple[JobView, ...]:
    """Queue several jobs, or none of them.

    Parameters
    ----------
    jobs
        In such an order that each comes after those that it waits for. `job:KEY` in the params, and a key in `after`,
        name another job of the group.

    Raises
    ------
    InvalidInput
        Naming the job that cannot be submitted, as `submit` would.
    NotAllowed, NotEnoughCredits, StaleQuote, QuotaExceeded
    """
    _refuse_unordered(jobs)
    for job in jobs:
        require_priority(by, job.priority)
    group = new_id()
    if idempotency_key is not None:
        earlier = take_key(session, by, idempotency_key, _digest_of(jobs), group)
        if earlier is not None:
            first = [job for job in _members(session, earlier, by) if job.retried_from is None]
            return job_views(session, first, settings=settings)
    ids: dict[str, str] = {}
    # Before anything is held: see `_locks`.
    lock_awaited(session, _awaited_outside(jobs), by)
    placed: list[Placed] = []
    for job in jobs:
        declared = get_workflow(job.workflow)
        order = NewOrder(
            declared, with_jobs(declared, job.params, ids), group=group, quote_id=job.quote_id,
            after=tuple(ids.get(name, name) for name in job.after), is_foreign=is_foreign, priority=job.priority,
        )  # fmt: skip
        job_id = new_id()
        placed.append(place(session, order, job_id, by=by, places=places, settings=settings))
        ids[job.key or job_id] = job_id
    for new in placed:
        charge(session, new, settings=settings)
    return job_views(session, _members(session, group, by), settings=settings)


def find_submitted(
    session: Session, *, by: Principal, jobs: Sequence[NewJob], idempotency_key: str
) -> tuple[str, ...]:
    """Give the ids of the jobs that the same submission, alone or as a group, has made before; none if it is new."""
    known = session.get(IdempotencyKeyRow, (by.user_id, by.organization_id, idempotency_key))
    if known is None:
        return ()
    if len(jobs) > 1:
        if known.body_sha256 != _digest_of(jobs):
            return ()
        return tuple(job.id for job in _members(session, known.job_id, by) if job.retried_from is None)
    [only] = jobs
    declared = get_workflow(only.workflow)
    body = digest_of_one(declared, declared.parse(only.params), only.after)
    return (known.job_id,) if known.body_sha256 == body else ()


def quote_group(
    session: Session, *, by: Principal, jobs: Sequence[NewJob], places: Places, settings: Settings
) -> GroupQuote:
    """Say what the jobs of a group would cost together. Give each `quote_id` with its job when they are submitted.

    Raises
    ------
    InvalidInput
        Also if the size of a job is not known before another has ended.
    NotAllowed
    """
    _refuse_unordered(jobs)
    accounts.require(by, accounts.Action.SUBMIT_JOB)
    # Before the ledger, which a quote may write to: see `_locks`.
    lock_awaited(session, _awaited_outside(jobs), by)
    orders = [(get_workflow(job.workflow), job.params) for job in jobs]
    quotes = tuple(
        quote_params(session, declared, declared.parse(params), by=by, places=places, settings=settings)
        for declared, params in orders
    )
    known = [found for found in quotes if found is not None]
    total = sum(found.amount for found in known)
    available = min((found.available for found in known), default=None)
    return GroupQuote(
        quotes=quotes, amount=total, available=available, has_enough=available is None or total <= available
    )


def cancel_group(session: Session, group: str, *, by: Principal) -> tuple[JobView, ...]:
    """Cancel all jobs of a group that have not ended, and give all its jobs.

    Raises
    ------
    NotFound
        Also if they may not see it.
    NotAllowed
    InvalidInput
        If the groups of several other organizations have this name.
    """
    ids = {job.id for job in _members(session, group, by)}
    members = [job for job in lock_with_waiting(session, ids) if job.id in ids]
    for job in members:
        require_steering(job, by)
    at_ms = now(session)
    for job in members:
        cancel_locked(session, job, at_ms=at_ms, by=by)
    return job_views(session, members)


def _members(session: Session, group: str, by: Principal) -> list[JobRow]:
    """Give the jobs of a group, oldest first."""
    members = list(
        session.scalars(
            select(JobRow).where(JobRow.group_id == group, seen_by(by)).order_by(JobRow.created_ms, JobRow.id)
        )
    )
    if not members:
        raise NotFound(f"there is no group of jobs {group!r}; see the list of jobs")
    # Operators see the jobs of all organizations, each of which chooses its own names.
    own = [job for job in members if job.organization_id == by.organization_id]
    if not own and len({job.organization_id for job in members}) > 1:
        raise InvalidInput(f"several organizations have a group {group!r}; name its jobs one by one")
    return own or members


def _digest_of(jobs: Sequence[NewJob]) -> str:
    return digest([job.model_dump(mode="json", exclude={"quote_id"}) for job in jobs])


def _awaited_outside(jobs: Sequence[NewJob]) -> list[str]:
    """Give the ids of the jobs that a group waits for."""
    keys = {job.key for job in jobs}
    named = [
        name
        for job in jobs
        for name in (*job.after, *named_jobs(get_workflow(job.workflow).parse(job.params)))
    ]
    return [name for name in named if name not in keys]


def _refuse_unordered(jobs: Sequence[NewJob]) -> None:
    if not 1 <= len(jobs) <= _JOBS_MAX:
        raise InvalidInput(f"a group of {len(jobs)} jobs cannot be submitted; give 1 to {_JOBS_MAX}")
    keys = [job.key for job in jobs if job.key is not None]
    if len(set(keys)) < len(keys):
        raise InvalidInput("two jobs of the group have the same key; give each its own")
    for position, job in enumerate(jobs):
        later = {other.key for other in jobs[position:] if other.key is not None}
        waits_for = {*job.after, *named_jobs(get_workflow(job.workflow).parse(job.params))}
        named = later & waits_for
        if named:
            raise InvalidInput(
                f"job {position + 1} of the group waits for {', '.join(sorted(named))}, which does not come before it"
            )

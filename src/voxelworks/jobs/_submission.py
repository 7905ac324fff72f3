"""Jobs come in: params and references are checked, the price is held, and the job is queued."""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from voxelworks import accounts, catalog, credits
from voxelworks.db import insert_into, now
from voxelworks.errors import IllegalTransition, InvalidInput, InvalidParams, QuotaExceeded, TargetExists
from voxelworks.jobs import _transitions
from voxelworks.jobs._dependencies import (
    awaited_by,
    fill_in,
    is_done,
    lane_of,
    lock_awaited,
    wait_for,
    with_jobs,
)
from voxelworks.jobs._leases import milliseconds
from voxelworks.jobs._locks import lock_jobs
from voxelworks.jobs._pricing import Priced, priced
from voxelworks.jobs._provenance import note_dataset
from voxelworks.jobs._reading import job_view
from voxelworks.jobs._references import Resolved, named_jobs, resolve
from voxelworks.jobs._repeats import chain_of
from voxelworks.jobs._search import words_of
from voxelworks.jobs._tables import IdempotencyKeyRow, JobRow
from voxelworks.jobs._visibility import find_job, is_outside, require_steering
from voxelworks.protocol.credits import PriceView, QuoteView
from voxelworks.protocol.messages import Json
from voxelworks.protocol.people import Principal
from voxelworks.protocol.places import ARTIFACT, MODEL, Places, artifact_place
from voxelworks.protocol.uploads import UPLOAD_REF
from voxelworks.protocol.views import JobPrice, JobView
from voxelworks.settings import Settings
from voxelworks.sizes import size_text
from voxelworks.workflows import Params, Workflow, get_workflow

log = logging.getLogger(__name__)

_KEY_LIFETIME_MS = 24 * 3_600_000


def submit(
    session: Session,
    *,
    by: Principal,
    workflow: str,
    params: Mapping[str, Any],
    places: Places,
    settings: Settings,
    idempotency_key: str | None = None,
    after: Sequence[str] = (),
    group: str | None = None,
    quote_id: str | None = None,
    is_foreign: bool = False,
    priority: int = 0,
) -> JobView:
    """Queue a job, and hold what it costs, in one transaction.

    Parameters
    ----------
    by
        Who it belongs to, with the organization that it is charged to.
    params
        As a person or program gave them. Everything that they name must exist here, except the dataset to make and
        what other jobs will make: `job:ID` in place of a dataset waits for that job and takes its dataset.
    idempotency_key
        Made by the client: the same key and content give the same job again for 24 hours (R24).
    after
        Ids of jobs that must have succeeded and be published before this one starts. If one fails or is cancelled,
        this job is cancelled and its charge returned.
    group
        Id of the group that it belongs to.
    quote_id
        The quote that its submitter has seen: the charge is that, or the job is refused with the new price.
    is_foreign
        It came through the WEBKNOSSOS face.
    priority
        Each step counts like having been submitted `ageing_s` earlier. Only who may steer the jobs of all may let one
        go before theirs.

    Raises
    ------
    NotAllowed
    InvalidInput
        A subclass that says which value is wrong: unknown workflow or parameter, path in place of a reference,
        missing source, dataset or layer, name that is taken; or a key that was used for other content.
    NotEnoughCredits, StaleQuote, QuotaExceeded
    """
    require_priority(by, priority)
    declared = get_workflow(workflow)
    checked = declared.parse(params)
    job_id = new_id()
    if idempotency_key is not None:
        earlier = take_key(session, by, idempotency_key, digest_of_one(declared, checked, after), job_id)
        if earlier is not None:
            return job_view(session, session.get_one(JobRow, earlier), settings=settings)
    order = NewOrder(
        declared, checked, after=tuple(after), group=group, quote_id=quote_id, is_foreign=is_foreign, priority=priority
    )  # fmt: skip
    return insert(session, order, job_id, by=by, places=places, settings=settings)


def quote(
    session: Session,
    *,
    by: Principal,
    workflow: str,
    params: Mapping[str, Any],
    places: Places,
    settings: Settings,
) -> QuoteView | None:
    """Say what a job would cost, for 15 minutes; None if it costs nothing. Nothing is submitted.

    Raises
    ------
    NotAllowed
    InvalidInput
        As `submit` would.
    """
    declared = get_workflow(workflow)
    checked = declared.parse(params)
    accounts.require(by, accounts.Action.SUBMIT_JOB)
    lock_awaited(session, named_jobs(checked), by)
    return quote_params(session, declared, checked, by=by, places=places, settings=settings)


def price(
    session: Session,
    *,
    by: Principal,
    workflow: str,
    params: Mapping[str, Any],
    places: Places,
    settings: Settings,
) -> JobPrice:
    """Say what a job would cost now, for a page: `quote` without a promise. Reads only.

    Raises
    ------
    NotAllowed
    InvalidInput
        As `submit` would.
    """
    declared = get_workflow(workflow)
    checked = declared.parse(params)
    accounts.require(by, accounts.Action.SUBMIT_JOB)
    return _price_params(session, declared, checked, by=by, places=places, settings=settings)


def retry(
    session: Session,
    job_id: str,
    *,
    by: Principal,
    places: Places,
    settings: Settings,
    is_free: bool = False,
    is_first: bool = False,
    quote_id: str | None = None,
) -> JobView:
    """Queue a job that repeats one that failed, was cancelled, or whose result could not be published.

    It stays with its owner, its organization and its group, whoever repeats it: what its params name is looked up
    there, and the history says who asked. If its owner is no longer a member, it belongs to the member who repeats it.
    Where it waited for other jobs, it waits for their latest repeats. It is charged anew, at the present price.

    Parameters
    ----------
    is_free
        An operator repeats it at no charge, once, and its owner is not told of a second failure. This is so in any case
        for an operator who asks from another organization: nobody spends the credits of an organization from outside.
        The audit log tells of it.
    is_first
        Refuse a job that was repeated already.

    Raises
    ------
    NotFound
        Also if they may not see it.
    NotAllowed
    IllegalTransition
        If the job has not ended, or its result is there; if its owner is gone, and an operator asks from outside; or if
        it was repeated already, and shall be at no charge or for the first time.
    InvalidInput
        If what its params name is no longer there, or what it waited for will have no result.
    NotEnoughCredits, StaleQuote, QuotaExceeded
    """
    job, owner = _find_repeatable(session, job_id, by)
    declared, params, latest = _as_repeated(session, job)
    is_free = is_free or is_outside(job, by)
    if is_free:
        accounts.require(by, accounts.Action.OPERATE)
    if is_free or is_first:
        _require_first_repeat(session, job, latest.values())
    may_raise = accounts.is_allowed(by, accounts.Action.STEER_ALL_JOBS)
    order = NewOrder(
        declared, params, after=tuple(latest.values()), group=job.group_id, quote_id=quote_id,
        is_foreign=job.is_foreign, priority=job.priority if may_raise else min(job.priority, 0),
        retried_from=job.id, is_free=is_free,
    )  # fmt: skip
    made = insert(session, order, new_id(), by=owner, who=by.who, places=places, settings=settings)
    if is_free:
        accounts.audit(
            session,
            by,
            "job.repeated_free",
            f"job:{job_id}",
            organization_id=made.organization_id,
            repeat=made.id,
        )
    return made


def quote_retry(
    session: Session,
    job_id: str,
    *,
    by: Principal,
    places: Places,
    settings: Settings,
    is_first: bool = False,
) -> QuoteView | None:
    """Say what it would cost to repeat a job, for 15 minutes; None if it costs nothing.

    Raises
    ------
    NotFound
    NotAllowed
    IllegalTransition
    InvalidInput
        As `retry` would.
    """
    job, owner = _find_repeatable(session, job_id, by)
    if is_first:
        _refuse_repeated(session, job)
    if is_outside(job, by):
        return None
    declared, params, latest = _as_repeated(session, job)
    lock_awaited(session, latest.values(), owner)
    return quote_params(session, declared, params, by=owner, places=places, settings=settings)


def price_retry(
    session: Session,
    job_id: str,
    *,
    by: Principal,
    places: Places,
    settings: Settings,
    is_first: bool = False,
) -> PriceView | None:
    """Say what it would cost to repeat a job now, for a page: `quote_retry` without a promise. Reads only."""
    job, owner = _find_repeatable(session, job_id, by)
    if is_first:
        _refuse_repeated(session, job)
    if is_outside(job, by):
        return None
    declared, params, _ = _as_repeated(session, job)
    return _price_params(session, declared, params, by=owner, places=places, settings=settings).price


def quote_params(
    session: Session, declared: Workflow, params: Params, *, by: Principal, places: Places, settings: Settings
) -> QuoteView | None:
    """Quote checked params. The caller has locked the jobs that they name."""
    found = priced(declared, params, resolve(session, declared, params, by=by, places=places))
    if found is None:
        return None
    return credits.quote(
        session, organization_id=by.organization_id, user_id=by.user_id, price_name=found.price_name,
        quantity=found.quantity, settings=settings,
    )  # fmt: skip


def _price_params(
    session: Session, declared: Workflow, params: Params, *, by: Principal, places: Places, settings: Settings
) -> JobPrice:
    found = priced(declared, params, resolve(session, declared, params, by=by, places=places))
    if found is None:
        return JobPrice(price=None, size=None, mag=None)
    told = credits.price(
        session, organization_id=by.organization_id, price_name=found.price_name, quantity=found.quantity,
        settings=settings,
    )  # fmt: skip
    if found.region is None:
        return JobPrice(price=told, size=None, mag=None)
    box, mag = found.region
    return JobPrice(price=told, size=",".join(map(str, box.size)), mag=str(mag))


def _find_repeatable(session: Session, job_id: str, by: Principal) -> tuple[JobRow, Principal]:
    """Find a job that somebody may repeat, and give whom the repeat belongs to, with the rights of who asks."""
    job = find_job(session, job_id, by)
    require_steering(job, by)
    if not (job.state in ("failed", "cancelled") or job.publication == "failed"):
        raise IllegalTransition(
            f"job {job_id} is {job.state}; only failed and cancelled jobs can be repeated"
        )
    if accounts.find_principal(session, job.user_id, job.organization_id) is not None:
        return job, replace(by, user_id=job.user_id, organization_id=job.organization_id)
    if is_outside(job, by):
        raise IllegalTransition(
            f"whoever submitted job {job_id} is no member of {job.organization_id!r} any more; let a member repeat it"
        )
    return job, by


def _require_first_repeat(session: Session, job: JobRow, awaited: Iterable[str]) -> None:
    """Lock a job, with those that its repeat will wait for, and refuse it if it was repeated already."""
    # All at once, for the order of `_locks`. Of two that repeat it at the same time, the second one sees the first.
    lock_jobs(session, JobRow.id.in_({job.id, *awaited}))
    _refuse_repeated(session, job)


def _refuse_repeated(session: Session, job: JobRow) -> None:
    repeat_id = session.scalar(select(JobRow.id).where(JobRow.retried_from == job.id).limit(1))
    if repeat_id is not None:
        raise IllegalTransition(f"job {job.id} was repeated already, as job {repeat_id}; look at that one")


def _as_repeated(session: Session, job: JobRow) -> tuple[Workflow, Params, dict[str, str]]:
    """Give workflow and params as a repeat has them, and the latest repeat of each job that the job waited for."""
    declared = get_workflow(job.workflow)
    awaited = awaited_by(session, [job.id]).get(job.id, ())
    latest = {other: chain_of(session, other).job_ids[0] for other in awaited}
    return declared, with_jobs(declared, upgraded(job, declared), latest), latest


def require_priority(by: Principal, priority: int) -> None:
    """Refuse whoever may not let a job go before those of others.

    Raises
    ------
    NotAllowed
    """
    if priority > 0:
        accounts.require(by, accounts.Action.STEER_ALL_JOBS)


@dataclass(frozen=True)
class NewOrder:
    """A job that is about to be inserted: its workflow is known and its params are checked."""

    declared: Workflow
    params: Params
    after: tuple[str, ...] = ()
    group: str | None = None
    quote_id: str | None = None
    is_foreign: bool = False
    priority: int = 0
    retried_from: str | None = None
    is_free: bool = False


def insert(
    session: Session,
    order: NewOrder,
    job_id: str,
    *,
    by: Principal,
    places: Places,
    settings: Settings,
    who: str | None = None,
) -> JobView:
    """Resolve, reserve, queue and hold: see `submit`."""
    placed = place(session, order, job_id, by=by, places=places, settings=settings, who=who)
    charge(session, placed, settings=settings)
    return job_view(session, placed.job, settings=settings)


@dataclass(frozen=True)
class Placed:
    """A job that was inserted, and is to be charged before the transaction ends."""

    job: JobRow
    price: Priced | None
    quote_id: str | None
    who: str


def place(
    session: Session,
    order: NewOrder,
    job_id: str,
    *,
    by: Principal,
    places: Places,
    settings: Settings,
    who: str | None = None,
) -> Placed:
    """Insert a job. Whoever inserts several charges them after the last: the ledger is locked after all jobs."""
    declared = order.declared
    awaited = lock_awaited(session, [*order.after, *named_jobs(order.params)], by)
    at_ms = now(session)
    # Younger than all that it waits for, by the clock of a millisecond too: the order of locks.
    created_ms = max([at_ms, *(other.created_ms + 1 for other in awaited)])
    resolved = resolve(session, declared, order.params, by=by, places=places)
    price = None if order.is_free else priced(declared, order.params, resolved)
    _require_permission(declared, by, resolved, is_paid=price is not None and settings.credits_enabled)
    check_room(session, declared, order.params, resolved, by.organization_id, settings)
    params = resolved.pinned(declared, order.params.model_dump(mode="json"))
    needs = declared.needs_of(order.params)
    job = JobRow(
        id=job_id, user_id=by.user_id, organization_id=by.organization_id, workflow=declared.name,
        version=declared.version, params=params, places={**resolved.places, **_own_places(declared, by, job_id)},
        priority=order.priority, priority_class=declared.priority_class,
        rank_ms=created_ms - order.priority * milliseconds(settings.ageing_s),
        needs_gpu=needs.gpu, memory_bytes=needs.memory_bytes, walltime_s=needs.walltime_s,
        group_id=order.group, words=words_of(declared.name, params, order.group),
        is_foreign=order.is_foreign, is_free_rerun=order.is_free,
        state="queued", attempt=0, created_ms=created_ms, available_ms=created_ms,
        updated_ms=at_ms, infrastructure_failures=0, resource_failures=0, lost_leases=0, publication="none",
        retried_from=order.retried_from,
    )  # fmt: skip
    session.add(job)
    session.flush()
    for upload in resolved.places.values():
        if upload.startswith(UPLOAD_REF):
            catalog.hold_upload(session, upload)
    _reserve(session, job, resolved)
    for dataset in resolved.datasets.values():
        note_dataset(session, job, dataset)
    wait_for(session, job, awaited)
    failure = fill_in(session, job, [other for other in awaited if is_done(other)])
    if failure is not None:
        raise InvalidInput(failure.message)
    if all(is_done(other) for other in awaited):
        job.lane = lane_of(job)
    why = "submitted" if order.retried_from is None else f"submitted to repeat job {order.retried_from}"
    who = who or by.who
    _transitions.note(session, job, at_ms=created_ms, who=who, why=why, from_state=None)
    session.flush()
    return Placed(job, price, order.quote_id, who)


def charge(session: Session, placed: Placed, *, settings: Settings) -> None:
    """Hold what a job costs."""
    job, price = placed.job, placed.price
    if price is None:
        return
    credits.hold(
        session, organization_id=job.organization_id, job_id=job.id, price_name=price.price_name,
        quantity=price.quantity, quote_id=placed.quote_id, settings=settings, who=placed.who,
    )  # fmt: skip


def new_id() -> str:
    return secrets.token_hex(8)


def digest_of_one(declared: Workflow, params: Params, after: Sequence[str]) -> str:
    return digest([declared.name, params.model_dump(mode="json"), *([list(after)] if after else [])])


def digest(body: object) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def take_key(session: Session, by: Principal, key: str, body_sha256: str, new: str) -> str | None:
    """Take an idempotency key for a new job or group, or give the id of the one that it was used for.

    Raises
    ------
    InvalidInput
        If it was used for other content.
    """
    at_ms = now(session)
    session.execute(delete(IdempotencyKeyRow).where(IdempotencyKeyRow.created_ms < at_ms - _KEY_LIFETIME_MS))
    owner = {"user_id": by.user_id, "organization_id": by.organization_id, "key": key}
    # If another request is submitting with the same key, this waits until that one has ended.
    taken = session.execute(
        insert_into(session, IdempotencyKeyRow)
        .values(**owner, body_sha256=body_sha256, job_id=new, created_ms=at_ms)
        .on_conflict_do_nothing()
        .returning(IdempotencyKeyRow.key)
    ).first()
    if taken is not None:
        return None
    known = session.get_one(IdempotencyKeyRow, tuple(owner.values()), populate_existing=True)
    if known.body_sha256 != body_sha256:
        raise InvalidInput(
            f"the idempotency key {key!r} was used for another job; make a new key for each job"
        )
    return known.job_id


def _require_permission(declared: Workflow, by: Principal, resolved: Resolved, *, is_paid: bool) -> None:
    action = accounts.Action
    accounts.require(by, action.SUBMIT_PAID_JOB if is_paid else action.SUBMIT_JOB)
    if resolved.new_place is not None:
        is_model = declared.outcome_type.kind == "model"
        accounts.require(by, action.MAKE_MODEL if is_model else action.MAKE_DATASET)
    elif declared.outcome_type.kind in ("addition", "previews"):
        accounts.require(by, action.ADD_TO_DATASET)


def check_room(
    session: Session,
    declared: Workflow,
    params: Params,
    resolved: Resolved,
    organization_id: str,
    settings: Settings,
) -> None:
    """Refuse a job whose result the organization has no room for, as far as its size can be told before.

    Raises
    ------
    QuotaExceeded
    """
    if declared.outcome_type.kind in ("previews", "value"):
        return
    most = settings.artifact_bytes_max if declared.outcome_type.kind == "artifact" else None
    if most is None and catalog.storage_usage(session, organization_id, settings=settings).max_bytes is None:
        return  # nothing to measure for
    estimate = declared.result_bytes
    try:
        more_bytes = 0 if estimate is None else estimate(params, resolved)
    except InvalidInput:  # another job makes its input; when that has ended, the claim looks again
        more_bytes = 0
    except Exception:  # of a workflow from elsewhere: nobody could take a job any more
        log.exception("what %s makes cannot be measured, and is not held against the quota", declared.name)
        more_bytes = 0
    if most is not None and more_bytes > most:
        raise QuotaExceeded(
            f"the file takes about {size_text(more_bytes)}, and files of at most {size_text(most)} are made here; "
            "choose a smaller box or a coarser mag"
        )
    catalog.check_quota(session, organization_id, more_bytes, settings=settings)


def upgraded(job: JobRow, declared: Workflow) -> Json:
    """Give the params of a job as the installed version of its workflow reads them."""
    if job.version == declared.version:
        return job.params
    if job.version == declared.version - 1 and declared.upgrade is not None:
        return declared.upgrade(job.params)
    raise InvalidParams(
        f"job {job.id} is of version {job.version} of {declared.name}, installed is {declared.version}; submit it anew"
    )


def _own_places(declared: Workflow, by: Principal, job_id: str) -> dict[str, str]:
    """Give the places that a job has beside those of what its params name."""
    if declared.outcome_type.kind != "artifact":
        return {}
    return {ARTIFACT: artifact_place(by.organization_id, job_id)}


def _reserve(session: Session, job: JobRow, resolved: Resolved) -> None:
    """Keep the name of the new dataset, or the version of the model, from all other jobs until this one has ended."""
    if resolved.new_place is None:
        return
    job.reserved_place = resolved.new_place
    try:
        session.flush()
    except IntegrityError as error:
        if resolved.new_place.startswith(MODEL):
            raise TargetExists(
                "another job for a version of this model was submitted in this moment; submit yours again"
            ) from error
        name = resolved.new_place.rpartition("/")[2]
        raise TargetExists(f"the name {name!r} is taken (a job is making it); choose another name") from error

"""Jobs come in: params and references are checked, and the job is queued."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from voxelworks import catalog
from voxelworks.db import insert_into, now
from voxelworks.errors import (
    IllegalTransition,
    InvalidInput,
    InvalidParams,
    LayerNotFound,
    NotFound,
    SourceNotFound,
    TargetExists,
    UnsafeReference,
)
from voxelworks.jobs import _transitions
from voxelworks.jobs._reading import job_view
from voxelworks.jobs._tables import IdempotencyKeyRow, JobRow
from voxelworks.protocol.messages import Json
from voxelworks.protocol.places import Places, is_remote
from voxelworks.protocol.views import DatasetView, JobView
from voxelworks.workflows import (
    DatasetRef,
    LayerRef,
    NewDatasetRef,
    Params,
    Ref,
    SourceRef,
    check_name,
    get_workflow,
    references,
)

_KEY_LIFETIME_MS = 24 * 3_600_000


def submit(
    session: Session,
    *,
    owner: str,
    workflow: str,
    params: Mapping[str, Any],
    places: Places,
    idempotency_key: str | None = None,
    priority: int = 0,
) -> JobView:
    """Queue a job.

    Parameters
    ----------
    params
        As a person or program gave them. Everything that they name must exist here, except the dataset to make.
    idempotency_key
        Made by the client: the same key and content give the same job again for 24 hours (R24).
    priority
        Larger ones go first.

    Raises
    ------
    InvalidInput
        A subclass that says which value is wrong: unknown workflow or parameter, path in place of a reference,
        missing source, dataset or layer, name that is taken; or a key that was used for other content.
    """
    return _submit(
        session, owner=owner, workflow=workflow, params=params, places=places, idempotency_key=idempotency_key,
        priority=priority, retried_from=None,
    )  # fmt: skip


def retry(session: Session, job_id: str, *, owner: str, places: Places) -> JobView:
    """Queue a job that repeats one that failed, was cancelled, or whose result could not be published.

    Raises
    ------
    NotFound
    IllegalTransition
        If the job has not ended, or its result is there.
    InvalidInput
        If what its params name is no longer there.
    """
    job = session.get(JobRow, job_id)
    if job is None:
        raise NotFound(f"there is no job {job_id!r}; see the list of jobs")
    if not (job.state in ("failed", "cancelled") or job.publication == "failed"):
        raise IllegalTransition(
            f"job {job_id} is {job.state}; only failed and cancelled jobs can be repeated"
        )
    return _submit(
        session, owner=owner, workflow=job.workflow, params=_upgraded(job), places=places, idempotency_key=None,
        priority=job.priority, retried_from=job.id,
    )  # fmt: skip


def _submit(
    session: Session,
    *,
    owner: str,
    workflow: str,
    params: Mapping[str, Any],
    places: Places,
    idempotency_key: str | None,
    priority: int,
    retried_from: str | None,
) -> JobView:
    declared = get_workflow(workflow)
    checked = declared.parse(params)
    at_ms = now(session)
    job_id = secrets.token_hex(8)
    if idempotency_key is not None:
        earlier = _take_key(session, owner, idempotency_key, _digest(declared.name, checked), job_id, at_ms)
        if earlier is not None:
            return job_view(session, earlier)
    found = _resolve(session, checked, places)
    job = JobRow(
        id=job_id, owner=owner, workflow=declared.name, version=declared.version,
        params=checked.model_dump(mode="json"),
        places=found, priority=priority, state="queued", attempt=0, created_ms=at_ms, available_ms=at_ms,
        updated_ms=at_ms, infrastructure_failures=0, resource_failures=0, lost_leases=0, publication="none",
        retried_from=retried_from,
    )  # fmt: skip
    session.add(job)
    session.flush()
    _reserve_name(session, job, checked)
    why = "submitted" if retried_from is None else f"submitted to repeat job {retried_from}"
    _transitions.note(session, job, at_ms=at_ms, who=f"user:{owner}", why=why, from_state=None)
    # The quote is held here, in this transaction, once there are credits.
    return job_view(session, job)


def _upgraded(job: JobRow) -> Json:
    """Give the params of a job as the installed version of its workflow reads them."""
    declared = get_workflow(job.workflow)
    if job.version == declared.version:
        return job.params
    if job.version == declared.version - 1 and declared.upgrade is not None:
        return declared.upgrade(job.params)
    raise InvalidParams(
        f"job {job.id} is of version {job.version} of {declared.name}, installed is {declared.version}; submit it anew"
    )


def _take_key(
    session: Session, owner: str, key: str, body_sha256: str, job_id: str, at_ms: int
) -> JobRow | None:
    """Take an idempotency key for a new job, or give the job that it was used for."""
    session.execute(delete(IdempotencyKeyRow).where(IdempotencyKeyRow.created_ms < at_ms - _KEY_LIFETIME_MS))
    # If another request is submitting with the same key, this waits until that one has ended.
    taken = session.execute(
        insert_into(session, IdempotencyKeyRow)
        .values(owner=owner, key=key, body_sha256=body_sha256, job_id=job_id, created_ms=at_ms)
        .on_conflict_do_nothing()
        .returning(IdempotencyKeyRow.key)
    ).first()
    if taken is not None:
        return None
    known = session.get_one(IdempotencyKeyRow, (owner, key), populate_existing=True)
    if known.body_sha256 != body_sha256:
        raise InvalidInput(
            f"the idempotency key {key!r} was used for another job; make a new key for each job"
        )
    return session.get_one(JobRow, known.job_id)


def _digest(workflow: str, params: Params) -> str:
    text = json.dumps([workflow, params.model_dump(mode="json")], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _resolve(session: Session, params: Params, places: Places) -> dict[str, str]:
    """Find the place of every reference, and refuse what is not there."""
    found = {str(ref): _place(session, ref, places) for ref in references(params)}
    for layer in _layer_refs(params):
        _refuse_unfit_layer(catalog.find(session, layer.dataset), layer)
    return found


def _place(session: Session, ref: Ref, places: Places) -> str:
    if isinstance(ref, SourceRef):
        return _source_place(ref, places)
    _refuse_path(ref)
    if isinstance(ref, DatasetRef):
        return catalog.find(session, ref).place
    assert isinstance(ref, NewDatasetRef), f"{type(ref).__name__} has no places yet"
    return _new_dataset_place(session, check_name("dataset", ref), places)


def _source_place(ref: SourceRef, places: Places) -> str:
    if ref.startswith("data:"):
        raise UnsafeReference(
            f"{ref!r} is not a source; name images below an import root, as root:NAME/folder"
        )
    located = places.locate(ref)
    if not is_remote(ref) and not Path(located).exists():
        raise SourceNotFound(f"there is nothing at {ref!r}; look at the folders below the import root")
    return str(ref)


def _new_dataset_place(session: Session, name: str, places: Places) -> str:
    place = f"data:{name}"
    located = Path(places.data_dir / name)
    is_taken = located.exists() or located.is_symlink() or catalog.find_by_place(session, place) is not None
    reserved_by = session.scalar(select(JobRow.id).where(JobRow.reserved_name == name))
    if is_taken or reserved_by is not None:
        why = f"job {reserved_by} is making it" if reserved_by else "it exists"
        raise TargetExists(f"the name {name!r} is taken ({why}); choose another name")
    return place


def _refuse_path(ref: Ref) -> None:
    if any(part in ref for part in ("/", "\\", "~", ":")) or ref in (".", ".."):
        raise UnsafeReference(f"{str(ref)!r} is a path or address; on a server give the name of the dataset")


def _refuse_unfit_layer(dataset: DatasetView, ref: LayerRef) -> None:
    known = {item.name: item.category for item in dataset.summary.layers}
    if ref.layer not in known:
        raise LayerNotFound(
            f"dataset {dataset.name!r} has no layer {ref.layer!r}; it has {', '.join(known) or 'none'}"
        )
    ref.require_category(known[ref.layer])


def _layer_refs(value: object) -> Iterator[LayerRef]:
    if isinstance(value, LayerRef):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _layer_refs(getattr(value, name))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _layer_refs(item)


def _reserve_name(session: Session, job: JobRow, params: Params) -> None:
    """Keep the name of the new dataset from all other jobs until this one has ended."""
    names = [str(ref) for ref in references(params) if isinstance(ref, NewDatasetRef)]
    assert len(names) <= 1, "a job makes at most one dataset"
    if not names:
        return
    job.reserved_name = names[0]
    try:
        session.flush()
    except IntegrityError as error:
        raise TargetExists(
            f"the name {names[0]!r} is taken (a job is making it); choose another name"
        ) from error

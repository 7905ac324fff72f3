"""Jobs that wait for others, and take what these have made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import and_, select
from sqlalchemy.orm import Session

from voxelworks import catalog
from voxelworks.db import among, texts
from voxelworks.errors import InvalidInput, NotFound, VoxelworksError
from voxelworks.jobs._failures import Failure
from voxelworks.jobs._locks import lock_jobs, lock_with_waiting, waiting_ids
from voxelworks.jobs._provenance import note_dataset
from voxelworks.jobs._references import JOB_REF, refuse_unfit_layers
from voxelworks.jobs._tables import DependencyRow, JobRow
from voxelworks.jobs._visibility import seen_by
from voxelworks.protocol.messages import Json, SealedResult
from voxelworks.protocol.people import Principal
from voxelworks.protocol.places import PREVIEWS_OF
from voxelworks.protocol.views import DatasetView
from voxelworks.workflows import Params, Workflow, get_workflow

_FINDING_AWAITED = (
    select(DependencyRow.job_id, DependencyRow.after_id)
    .where(among(DependencyRow.job_id, texts("job_ids")))
    .order_by(DependencyRow.job_id, DependencyRow.position)
)

_IS_DONE = and_(JobRow.state == "succeeded", JobRow.publication.in_(("none", "published")))
"""`is_done`, for statements."""
_FINDING_UNFINISHED = _FINDING_AWAITED.join(JobRow, JobRow.id == DependencyRow.after_id).where(~_IS_DONE)


def lane_of(job: JobRow) -> str:
    """Name the lane of a job. Ids and names of workflows hold no slash."""
    return f"{job.organization_id}/{job.user_id}/{job.workflow}"


def is_done(job: JobRow) -> bool:
    """Whether its result can be used."""
    return job.state == "succeeded" and job.publication in ("none", "published")


def is_hopeless(job: JobRow) -> bool:
    """Whether it will never have a result."""
    return job.state in ("failed", "cancelled") or job.publication == "failed"


def lock_awaited(session: Session, job_ids: Iterable[str], by: Principal) -> list[JobRow]:
    """Find the jobs that a new job shall wait for, and keep them from ending meanwhile.

    Raises
    ------
    NotFound
        If one is not there, or of another organization.
    InvalidInput
        If one has failed or was cancelled.
    """
    wanted = list(dict.fromkeys(job_ids))
    if not wanted:
        return []
    rows = lock_jobs(
        session, JobRow.id.in_(wanted), seen_by(by), JobRow.organization_id == by.organization_id
    )
    found = {job.id: job for job in rows}
    for job_id in wanted:
        if job_id not in found:
            raise NotFound(f"there is no job {job_id!r} to wait for; see the list of jobs")
        if is_hopeless(found[job_id]):
            raise InvalidInput(
                f"job {job_id} is {found[job_id].state} and will have no result to wait for; repeat it first"
            )
    return [found[job_id] for job_id in wanted]


def wait_for(session: Session, job: JobRow, awaited: Sequence[JobRow]) -> None:
    for position, other in enumerate(awaited):
        session.add(DependencyRow(job_id=job.id, after_id=other.id, position=position))


def awaited_by(session: Session, job_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Give the jobs that each job waits, or has waited, for."""
    rows = session.execute(_FINDING_AWAITED, {"job_ids": [*job_ids]})
    found: dict[str, tuple[str, ...]] = {}
    for job_id, after_id in rows:
        found[job_id] = (*found.get(job_id, ()), after_id)
    return found


def unfinished_of(session: Session, job_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Give the jobs that each job still waits for."""
    found: dict[str, tuple[str, ...]] = {}
    if not job_ids:
        return found
    for job_id, after_id in session.execute(_FINDING_UNFINISHED, {"job_ids": [*job_ids]}):
        found[job_id] = (*found.get(job_id, ()), after_id)
    return found


def lock_waiting(session: Session, job: JobRow) -> list[JobRow]:
    """Lock all jobs that wait for a job, those that wait for them too; give those that wait for it directly."""
    direct = waiting_ids(session, [job.id])
    if not direct:
        return []
    rows = lock_with_waiting(session, direct)
    return [waiting for waiting in rows if waiting.id in direct and waiting.state == "queued"]


def waiting_for(session: Session, job: JobRow) -> list[JobRow]:
    """Give the queued jobs that wait for a job directly, locked."""
    direct = waiting_ids(session, [job.id])
    return lock_jobs(session, JobRow.id.in_(direct)) if direct else []


def is_waiting(session: Session, job: JobRow) -> bool:
    """Whether any of the jobs that it waits for is not done."""
    return bool(unfinished_of(session, [job.id]))


def fill_in(session: Session, job: JobRow, done: Sequence[JobRow]) -> Failure | None:
    """Put what other jobs have made where the params say `job:ID`; give the reason if that cannot be.

    The params then name datasets, as if they had been there at submission.
    """
    try:
        for other in done:
            _fill_in_one(session, job, other)
    except VoxelworksError as error:
        return Failure("user_input", error.code, str(error))
    return None


def made_by(session: Session, job: JobRow) -> DatasetView:
    """Give the dataset that a finished job made or added to.

    Raises
    ------
    InvalidInput
        If it made none, or it is no longer there.
    """
    result = SealedResult.model_validate(job.result) if job.result else None
    found = catalog.find_by_place(session, result.place) if result and result.place else None
    if found is None:
        raise InvalidInput(f"job {job.id} ({job.workflow}) has left no dataset; name a dataset in its place")
    return found


def with_jobs(declared: Workflow, params: Json, ids: Mapping[str, str]) -> Params:
    """Check params, with other jobs where they name jobs: `job:OLD` becomes `job:NEW`."""
    # Checked first: texts such as `job:OLD/LAYER` are taken apart by that.
    found: Json = declared.parse(params).model_dump(mode="json")
    for old, new in ids.items():
        found = _replaced(found, JOB_REF + old, JOB_REF + new)
    return declared.parse(found)


def _replaced(params: Json, old: str, new: str) -> Json:
    """Replace a text in params wherever it is a whole value."""
    return {key: _replaced_in(value, old, new) for key, value in params.items()}


def _replaced_in(value: object, old: str, new: str) -> object:
    if isinstance(value, dict):
        return _replaced(value, old, new)
    if isinstance(value, list | tuple):
        return [_replaced_in(item, old, new) for item in value]
    return new if value == old else value


def _fill_in_one(session: Session, job: JobRow, other: JobRow) -> None:
    name = JOB_REF + other.id
    params = get_workflow(job.workflow).parse(job.params)
    if _replaced(job.params, name, "") == job.params:
        return  # it only waits for it
    dataset = made_by(session, other)
    refuse_unfit_layers(params, {name: dataset})
    job.params = _replaced(job.params, name, dataset.name)
    job.places = {**job.places, dataset.name: dataset.place}
    if get_workflow(job.workflow).outcome_type.kind == "previews":
        job.places = {**job.places, PREVIEWS_OF + dataset.name: catalog.place_of_previews(dataset)}
    note_dataset(session, job, dataset)

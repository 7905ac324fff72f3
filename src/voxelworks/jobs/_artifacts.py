"""The files that jobs leave for download: who may have them is who may see their jobs."""

from __future__ import annotations

from sqlalchemy.orm import Session

from voxelworks import catalog
from voxelworks.db import now
from voxelworks.errors import NotFound
from voxelworks.jobs import _transitions
from voxelworks.jobs._visibility import find_job, is_outside, require_steering
from voxelworks.protocol.people import Principal
from voxelworks.protocol.views import ArtifactView
from voxelworks.settings import Settings


def find_artifact(session: Session, job_id: str, *, by: Principal, settings: Settings) -> ArtifactView:
    """Find the file of a job that somebody may see.

    Raises
    ------
    NotFound
        Also for the job of another organization, to an operator too, and once the term of the file is over.
    """
    job = find_job(session, job_id, by)
    if is_outside(job, by) or (job.result or {}).get("file") is None:
        raise NotFound(f"job {job_id} has left no file to download")
    found = catalog.find_artifact(session, job_id, settings=settings)
    if found is None:
        raise NotFound(f"job {job_id} has no file to download any more, or not yet; run it again to have one")
    return found


def delete_artifact(session: Session, job_id: str, *, by: Principal, settings: Settings) -> None:
    """Delete the file of a job before its term is over.

    Raises
    ------
    NotFound, NotAllowed
    """
    find_artifact(session, job_id, by=by, settings=settings)
    job = find_job(session, job_id, by, lock=True)
    require_steering(job, by)
    catalog.remove_artifact(session, job_id)
    at_ms = now(session)
    job.updated_ms = at_ms
    _transitions.note(session, job, at_ms=at_ms, who=by.who, why="the file was deleted", from_state=job.state)

"""Who sees which jobs: the one filter that keeps tenants apart (ASVS 8.2)."""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_, select, true
from sqlalchemy.orm import Session

from voxelworks import accounts
from voxelworks.errors import NotFound
from voxelworks.jobs._tables import JobRow
from voxelworks.protocol.people import Principal


def sight(by: Principal) -> tuple[str | None, str | None]:
    """Give the organization and the user whose jobs somebody may see; None for all of them.

    Operators see all, owner and admins their organization's, others their own.
    """
    # The token of an operator is one of an organization, as all tokens, unless it may operate.
    if accounts.is_allowed(by, accounts.Action.OPERATE):
        return None, None
    sees_all = accounts.is_allowed(by, accounts.Action.SEE_ALL_JOBS)
    return by.organization_id, None if sees_all else by.user_id


def seen_by(by: Principal) -> ColumnElement[bool]:
    """Match the jobs that somebody may see."""
    organization_id, user_id = sight(by)
    return and_(
        true(),
        *(() if organization_id is None else (JobRow.organization_id == organization_id,)),
        *(() if user_id is None else (JobRow.user_id == user_id,)),
    )


def find_job(session: Session, job_id: str, by: Principal, *, lock: bool = False) -> JobRow:
    """Find a job that somebody may see; for all others it is not there.

    Raises
    ------
    NotFound
    """
    wanted = select(JobRow).where(JobRow.id == job_id, seen_by(by))
    if lock:
        wanted = wanted.with_for_update()
    job = session.scalar(wanted, execution_options={"populate_existing": lock})
    if job is None:
        raise NotFound(f"there is no job {job_id!r}; see the list of jobs")
    return job


def require_steering(job: JobRow, by: Principal) -> None:
    """Refuse whoever may see a job but not cancel or repeat it.

    Raises
    ------
    NotAllowed
    """
    is_own = job.user_id == by.user_id and job.organization_id == by.organization_id
    if is_own:
        accounts.require(by, accounts.Action.STEER_OWN_JOBS)
    elif is_outside(job, by):
        accounts.require(by, accounts.Action.OPERATE)
    else:
        accounts.require(by, accounts.Action.STEER_ALL_JOBS)


def is_outside(job: JobRow, by: Principal) -> bool:
    """Whether somebody asks from another organization than that of the job."""
    return job.organization_id != by.organization_id

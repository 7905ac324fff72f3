"""What mails and webhooks say of a job that has ended."""

from __future__ import annotations

from sqlalchemy.orm import Session

from voxelworks import accounts, catalog, credits
from voxelworks.errors import UnknownWorkflow
from voxelworks.jobs._tables import JobRow
from voxelworks.notify import JobEnd
from voxelworks.protocol.places import ARTIFACT
from voxelworks.workflows import get_workflow


def job_end(session: Session, job: JobRow) -> JobEnd:
    """Describe the end of a job. A result that cannot be published is a failure to its owner."""
    user = accounts.find_users(session, [job.user_id]).get(job.user_id)
    charge = credits.charge_of(session, job.id)
    is_lost = job.publication == "failed"
    has_failed = job.state == "failed" or is_lost
    return JobEnd(
        job_id=job.id, workflow=job.workflow, title=_title(job.workflow), organization_id=job.organization_id,
        user_id=job.user_id, user_name=user.name if user else job.user_id, email=user.email if user else None,
        state="failed" if has_failed else job.state,
        subject_line=subject_of(job), result_link=None if has_failed else _result_link(session, job),
        failure_class="infrastructure" if is_lost else job.failure_class,
        message=job.publish_error if is_lost else job.message,
        charged=charge.amount if charge else 0, returned=charge.refunded if charge else 0,
        is_foreign=job.is_foreign, is_free_rerun=job.is_free_rerun,
        duration_s=(job.ended_ms - job.started_ms) / 1000 if job.ended_ms and job.started_ms else None,
    )  # fmt: skip


def subject_of(job: JobRow) -> str:
    """Name the dataset that a job is about: params name what it makes after what it works on."""
    names = [place.rpartition("/")[2] for place in job.places.values() if place.startswith("data:")]
    return names[-1] if names else ""


def _result_link(session: Session, job: JobRow) -> str | None:
    place: str | None = (job.result or {}).get("place")
    if place is None:
        return None
    if place.startswith(ARTIFACT):
        return f"/jobs/{job.id}/file"
    # A new one gets the name of its folder; one that was added to may have been renamed since.
    known = catalog.find_by_place(session, place)
    return f"/datasets/{known.name if known else place.rpartition('/')[2]}"


def _title(workflow: str) -> str:
    try:
        return get_workflow(workflow).title
    except UnknownWorkflow:  # uninstalled meanwhile
        return workflow.replace("_", " ").capitalize()

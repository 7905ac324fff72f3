"""Which jobs have worked on a dataset: by its id, as names and places may come to mean another one."""

from __future__ import annotations

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from voxelworks.db import insert_into
from voxelworks.jobs._tables import JobDatasetRow, JobRow
from voxelworks.protocol.views import DatasetView


def note_dataset(session: Session, job: JobRow, dataset: DatasetView) -> None:
    """Remember that the params of a job name a dataset. Repeating changes nothing."""
    session.execute(
        insert_into(session, JobDatasetRow)
        .values(dataset_id=dataset.id, job_id=job.id)
        .on_conflict_do_nothing()
    )


def worked_on(dataset: DatasetView) -> ColumnElement[bool]:
    """Match the jobs that made a dataset, read it or added to it."""
    named = select(JobDatasetRow.job_id).where(JobDatasetRow.dataset_id == dataset.id)
    return or_(JobRow.id.in_(named), JobRow.id == dataset.made_by_job)

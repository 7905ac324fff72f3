"""Datasets that workers of WEBKNOSSOS make: what lies at their places, and what is left of those that failed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Text, cast, exists, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from voxelworks import catalog
from voxelworks.errors import VoxelworksError
from voxelworks.jobs._describe import describe_dataset
from voxelworks.jobs._foreign_runs import ForeignRunRow, ForeignWorker, new_place, run_told_of
from voxelworks.jobs._tables import JobRow
from voxelworks.protocol.foreign import ForeignReport
from voxelworks.protocol.messages import Claim
from voxelworks.protocol.places import Places
from voxelworks.protocol.views import TERMINAL_STATES, DatasetSummary


@dataclass(frozen=True)
class MadeDataset:
    """What lies where a worker should have made a dataset."""

    summary: DatasetSummary
    size_bytes: int


@dataclass(frozen=True)
class Remains:
    """What attempts that are over have left where a job makes, or should have made, a dataset."""

    place: str
    is_half_made: bool
    """What lies at the place is nobody's: it must go before another job can make a dataset there."""
    has_links: bool = True
    """No worker reads the images any more that are linked for one."""


def awaited_place(session: Session, worker: ForeignWorker, root_id: str, told: ForeignReport) -> str | None:
    """Give the place of the dataset that must be there if a report is to count; None for other reports and workflows.

    Raises
    ------
    NotFound
        If the worker never had the job.
    """
    if told.state != "SUCCESS":
        return None
    run = run_told_of(session, worker.key, root_id, told.latest_run_id)
    return new_place(session.get_one(JobRow, run.job_id))


def look_at(place: str, places: Places) -> MadeDataset | None:
    """Describe what lies at a place; None if it is not a dataset. Slow for large ones: not within a transaction."""
    try:
        summary = describe_dataset(place, places)
        size_bytes = sum(
            (Path(parent) / name).lstat().st_size
            for parent, _, names in os.walk(places.locate(place))
            for name in names
        )
    except (VoxelworksError, OSError):
        return None
    return MadeDataset(summary, size_bytes)


@contextmanager
def forgotten_at(session: Session, place: str) -> Iterator[Remains | None]:
    """Say what a worker of WEBKNOSSOS has left at a place, and keep the name from new jobs until the session ends.

    None unless such a worker had a job that was to make a dataset there, and no job is making one now.
    """
    job = _last_job_at(session, place)
    if job is None or not _reserve_again(session, job, place):
        yield None
        return
    yield remains_at(session, place)
    job.reserved_place = None


def remains_before(session: Session, claimed: Claim) -> Remains | None:
    """Say what earlier attempts of workers of WEBKNOSSOS may have left in the way of one that was just given away."""
    if claimed.attempt == 1:
        return None
    earlier = select(ForeignRunRow.number).where(
        ForeignRunRow.job_id == claimed.job_id, ForeignRunRow.number < claimed.attempt
    )
    if session.scalar(earlier.limit(1)) is None:
        return None
    place = new_place(session.get_one(JobRow, claimed.job_id))
    return None if place is None else remains_at(session, place)


def remains_at(session: Session, place: str) -> Remains:
    return Remains(place, is_half_made=not catalog.has_files_at(session, place))


def is_reserved(session: Session, place: str) -> bool:
    return session.scalar(select(JobRow.id).where(JobRow.reserved_place == place)) is not None


def _last_job_at(session: Session, place: str) -> JobRow | None:
    """Find the last job that should have made a dataset at a place and was with a worker of WEBKNOSSOS."""
    organization_id = place.removeprefix("data:").partition("/")[0]
    jobs = session.scalars(
        select(JobRow)
        .where(
            JobRow.organization_id == organization_id, JobRow.state.in_(TERMINAL_STATES),
            cast(JobRow.places, Text).contains(f'"{place}"', autoescape=True),
            exists().where(ForeignRunRow.job_id == JobRow.id),
        )
        .order_by(JobRow.created_ms.desc())
    )  # fmt: skip
    return next((job for job in jobs if new_place(job) == place), None)


def _reserve_again(session: Session, job: JobRow, place: str) -> bool:
    if is_reserved(session, place):
        return False
    try:
        with session.begin_nested():
            job.reserved_place = place
            session.flush()
    except IntegrityError:  # another job was submitted just now
        return False
    return True
